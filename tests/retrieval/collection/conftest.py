from __future__ import annotations

import shutil

import numpy as np
import pytest
from palyno.retrieval.collection import Collection, Record

TAXA = ("Betula", "Alnus glutinosa", "Salix × rubens", "Prunus dulcis var. süß")


@pytest.fixture(scope="session")
def unit():
    """Random unit vectors, the same for the same seed."""

    def make(n, dim=16, seed=0):
        vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return make


@pytest.fixture(scope="session")
def grains():
    """Records of grains that differ in every column."""

    def make(n, first=0):
        return [
            Record(
                kind="grain",
                taxon=TAXA[i % 4],
                slide=f"slide {i % 3}.tif",
                box=(i, 0, i + 20, 30),
                width_um=20.0 + i,
                height_um=None if i % 2 else 30.0,
                confidence=(i % 10) / 10,
                key=f"grain {i}",
                extra={"depth_cm": i / 10, "core": {"site": f"bog {i % 2}"}, "checked": i % 2 == 0},
            )
            for i in range(first, first + n)
        ]

    return make


@pytest.fixture(scope="session")
def _filled(tmp_path_factory, unit, grains):
    path = tmp_path_factory.mktemp("collection") / "filled"
    with Collection.create(path, exact_below=50) as collection:
        collection.add(grains(60), "pictures", vectors=unit(60), modality="image")
        texts = [Record(kind="text", text=f"passage {i}") for i in range(40)]
        collection.add(texts, "words", vectors=unit(40, dim=8), modality="text")
        collection.delete([7])
    return path


@pytest.fixture
def filled(_filled, tmp_path):
    """A closed collection of 60 grains with an index, 40 texts in a second space, and a deleted record."""
    return shutil.copytree(_filled, tmp_path / "filled")
