from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from palyno.app.bench_collection import _Draws, bench_collection
from palyno.app.cli import cli
from palyno.errors import UsageError


def test_small_collections_are_searched_exactly_and_files_are_removed(tmp_path):
    out = tmp_path / "figures.json"
    arguments = ["bench", "collection", "--vectors", "2000", "--dim", "16", "--queries", "12", "--threads", "1"]
    done = CliRunner().invoke(cli, [*arguments, "--folder", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    figures = json.loads(out.read_text())
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]
    assert figures["index"]["index"] == "Flat" and figures["vectors"] == 2000
    assert [row["recall_at_10"] for row in figures["searches"]] == [1.0] * 5
    passing = [row["passing"] for row in figures["searches"]]
    assert passing[0] == 2000 and 900 < passing[1] < 1100 and 300 < passing[2] < 500 and 50 < passing[3] < 150
    assert all("all" in row["how"] and row["p50_ms"] > 0 for row in figures["searches"])
    assert done.stdout.count("\n") == 7 and "| no filter | 2,000 |" in done.stdout
    again = CliRunner().invoke(cli, [*arguments, "--out", str(out)])
    assert again.exit_code == 2 and "--overwrite" in again.output


def test_drawn_vectors_are_unit_vectors_in_clusters():
    taxa, vectors = _Draws(64, 0).draw(4000, np.random.default_rng(1))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    same = taxa[:, None] == taxa[None]
    np.fill_diagonal(same, False)
    cosines = vectors @ vectors.T
    assert cosines[same].mean() > 0.5 and abs(cosines[~same].mean()) < 0.05
    again = _Draws(64, 0).draw(4000, np.random.default_rng(1))[1]
    assert np.array_equal(vectors, again)


def test_too_few_vectors_are_refused():
    with pytest.raises(UsageError, match="1,000 vectors or more"):
        bench_collection(10)
