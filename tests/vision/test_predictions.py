"""Predictions in a file give the figures again that the detector's results gave."""

import numpy as np
import pytest
from palyno.data.annotations import LabelledImage
from palyno.errors import InputError
from palyno.vision.predictions import read_predictions, write_predictions
from palyno.vision.results import Provenance, SlideResult
from palyno.vision.validate import evaluate

CLASSES = ("Betula", "Corylus", "Gänseblümchen")


def made(seed=0, images=4):
    rng = np.random.default_rng(seed)
    results, truth = [], []
    for i in range(images):
        n = int(rng.integers(0, 9))
        corner = rng.uniform(0, 400, (n, 2))
        boxes = np.hstack([corner, corner + rng.uniform(20, 90, (n, 2))]).astype(np.float32)
        confidence = rng.uniform(0.05, 1, n).astype(np.float32)
        names = [CLASSES[k] for k in rng.integers(0, 3, n)]
        candidates = tuple(
            ((name, float(c) * 0.9), (CLASSES[0], float(c) * 0.1)) for name, c in zip(names, confidence, strict=True)
        )
        results.append(
            SlideResult(
                f"slide_{i}.jpg",
                512,
                512,
                boxes,
                confidence,
                tuple(names),
                Provenance("m", "0" * 64, "1", {"conf": 0.05}),
                candidates=candidates,
                conf=0.05,
            )
        )
        shifted = boxes + rng.normal(0, 4, boxes.shape).astype(np.float32)
        truth.append(LabelledImage(f"slide_{i}.jpg", 512, 512, shifted, tuple(names)))
    return results, truth


def test_the_figures_are_the_same(tmp_path):
    results, truth = made()
    write_predictions(tmp_path / "p.json.gz", results, CLASSES)
    again, classes = read_predictions(tmp_path / "p.json.gz")
    assert classes == CLASSES
    one, other = evaluate(truth, results, CLASSES), evaluate(truth, again, classes)
    assert one["mAP50"] > 0.2
    for key in ("mAP50", "mAP50-95", "AR", "AP50_any"):
        assert other[key] == pytest.approx(one[key], abs=1e-4)
    assert other["counts"] == one["counts"]
    assert other["names"] == one["names"]
    assert again[0].provenance == results[0].provenance


def test_the_same_results_give_the_same_bytes(tmp_path):
    results, _ = made(1)
    for name in "ab":
        write_predictions(tmp_path / name, results, CLASSES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_image_is_a_file_too(tmp_path):
    write_predictions(tmp_path / "p", [], CLASSES)
    assert read_predictions(tmp_path / "p") == ([], CLASSES)


@pytest.mark.parametrize("content", [b"", b"no gzip", b"\x1f\x8b"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "p.json.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"p\.json\.gz: expected predictions"):
        read_predictions(path)
