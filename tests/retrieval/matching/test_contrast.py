import math

import numpy as np
import pytest
import torch
from palyno.retrieval.matching.contrast import InfoNCE, SigLIP


def batch(seed, n=9, dim=5, taxa=3):
    rng = np.random.default_rng(seed)
    vectors = [torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in rng.normal(size=(2, n, dim))]
    return (*vectors, torch.from_numpy(rng.integers(0, taxa, n)))


def counts(k, m, taxa, masked):
    return k == m or not masked or taxa[k] != taxa[m]


@pytest.mark.parametrize("masked", [True, False])
def test_infonce_is_its_definition(masked):
    images, texts, taxa = batch(0)
    scale, n, total = 7.0, len(images), 0.0
    for k in range(n):
        for a, b in ((images, texts), (texts, images)):
            terms = [math.exp(scale * float(a[k] @ b[m])) for m in range(n) if counts(k, m, taxa, masked)]
            total -= math.log(math.exp(scale * float(a[k] @ b[k])) / sum(terms)) / (2 * n)
    assert InfoNCE(scale, masked)(images, texts, taxa).item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("masked", [True, False])
def test_siglip_is_its_definition(masked):
    images, texts, taxa = batch(1)
    n, total = len(images), 0.0
    for k in range(n):
        for m in range(n):
            if counts(k, m, taxa, masked):
                z = 1 if k == m else -1
                total += math.log1p(math.exp(-z * (5 * float(images[k] @ texts[m]) - 2))) / n
    assert SigLIP(5.0, -2.0, masked)(images, texts, taxa).item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("loss", [InfoNCE(), SigLIP()])
def test_negatives_by_taxon_are_the_mask_of_the_taxa(loss):
    images, texts, taxa = batch(3)
    wrong = taxa[:, None] != taxa[None]
    assert loss(images, texts, taxa, wrong=wrong).item() == pytest.approx(loss(images, texts, taxa).item(), rel=1e-9)
    # The more is wrong, the more it costs.
    every = ~torch.eye(len(taxa), dtype=torch.bool)
    assert loss(images, texts, taxa, wrong=every).item() > loss(images, texts, taxa).item()


def test_infonce_without_scale_cannot_become_small():
    # Sixty-four perfect, mutually orthogonal pairs: ln(1 + 63 / e).
    vectors, taxa = torch.eye(64), torch.arange(64)
    assert InfoNCE(1.0)(vectors, vectors, taxa).item() == pytest.approx(math.log(1 + 63 / math.e), rel=1e-5)
    assert InfoNCE(20.0)(vectors, vectors, taxa).item() < 1e-6


@pytest.mark.parametrize("loss", [InfoNCE(), SigLIP()])
def test_the_order_of_pairs_and_the_roles_do_not_matter(loss):
    images, texts, taxa = batch(2)
    order = torch.randperm(len(taxa), generator=torch.Generator().manual_seed(0))
    value = loss(images, texts, taxa).item()
    assert loss(images[order], texts[order], taxa[order]).item() == pytest.approx(value, rel=1e-6)
    assert loss(texts, images, taxa).item() == pytest.approx(value, rel=1e-6)
