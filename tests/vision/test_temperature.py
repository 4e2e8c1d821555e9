"""The temperature of names: the one that names were drawn with is found again, and only names change with it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from palyno import load
from palyno.app.cli import cli
from palyno.errors import UsageError
from palyno.vision.detector import Detector
from palyno.vision.naming import shares
from palyno.vision.temperature import fit_temperature, likeliest_temperature, with_temperature
from palyno.vision.validate import read_split
from palyno.vision.weights import find_model, load_weights, read_metadata
from scipy.optimize import minimize_scalar


def drawn(temperature, n=20_000, classes=8, seed=0):
    """Log odds, and true classes drawn from their shares at a temperature."""
    random = np.random.default_rng(seed)
    z = random.normal(0, 3, (n, classes))
    chosen = (shares(z, temperature).cumsum(1) < random.random((n, 1))).sum(1)
    return z, chosen.clip(max=classes - 1)


@pytest.mark.parametrize("temperature", [0.5, 1, 2.5])
def test_the_temperature_that_names_were_drawn_with_is_found(temperature):
    z, right = drawn(temperature)
    assert likeliest_temperature(z, right) == pytest.approx(temperature, rel=0.03)


def test_it_is_the_greatest_likelihood_as_another_optimiser_finds_it():
    z, right = drawn(1.7, n=300)

    def loss(t):
        return -np.log(shares(z, t)[np.arange(len(z)), right]).mean()

    best = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8})
    assert likeliest_temperature(z, right) == pytest.approx(best.x, rel=1e-4)


def test_where_no_temperature_is_best_it_stays_within_its_limits():
    z = np.array([[2.0, 0], [3, 1]])
    assert likeliest_temperature(z, np.array([0, 0])) == 0.1
    assert likeliest_temperature(z, np.array([1, 1])) == 10
    # A name that is the only one is right at any temperature.
    assert likeliest_temperature(z[:, :1], np.array([0, 0])) == 1
    with pytest.raises(UsageError, match="got none"):
        likeliest_temperature(np.empty((0, 2)), np.empty(0, int))


@pytest.fixture(scope="module")
def scene(samples):
    """A composed scene of 22 grains with their names."""
    return read_split(samples / "truth.json", "", "composed*")


@pytest.fixture(scope="module")
def detector(shipped_model):
    return load(shipped_model, device="cpu")


def test_the_temperature_that_a_detector_has_does_not_change_the_one_that_fits(detector, scene):
    fit = fit_temperature(detector, *scene)
    assert 15 <= fit.grains <= 22
    assert fit.likelihood[1] >= fit.likelihood[0] and 0 < fit.temperature < 10
    assert (
        fit_temperature(Detector(detector.network, replace(detector.metadata, naming_temperature=7.0)), *scene) == fit
    )


def test_one_pass_serves_a_threshold_too(detector, scene):
    """What is handed on is what `detect` finds from 0.05 up, and the fit is that of the pass without it."""
    seen = []
    assert fit_temperature(detector, *scene, seen=seen.append) == fit_temperature(detector, *scene)
    (one,), expected = seen, detector.detect(scene[0][0], conf=0.05)
    assert len(one) > len(expected.above(0.25))
    assert np.array_equal(one.boxes, expected.boxes) and np.array_equal(one.confidence, expected.confidence)


def test_grains_whose_names_it_does_not_have_are_left_out(detector, scene):
    (image,), (truth,) = scene
    foreign = replace(truth, labels=("Welwitschia mirabilis",) * len(truth))
    fit = fit_temperature(detector, [image], [foreign])
    assert (fit.temperature, fit.grains) == (1.0, 0)


def test_boxes_confidence_and_the_order_of_classes_stay_and_a_hot_detector_is_less_sure(detector, scene):
    image = scene[0][0]
    cold, hot = (
        Detector(detector.network, replace(detector.metadata, naming_temperature=t)).detect(image) for t in (1.0, 4.0)
    )
    assert np.array_equal(cold.boxes, hot.boxes) and np.array_equal(cold.confidence, hot.confidence)
    known = set(detector.classes)
    best = [[max((p, n) for n, p in c if n in known) for c in result.candidates] for result in (cold, hot)]
    assert [n for _, n in best[0]] == [n for _, n in best[1]]
    assert all(sure >= less for (sure, _), (less, _) in zip(*best, strict=True))
    assert sum(t == "unknown" for t in hot.taxa) > sum(t == "unknown" for t in cold.taxa)


def test_a_file_with_another_temperature_has_the_same_numbers(tmp_path, shipped_model):
    file = find_model(shipped_model)[0]
    new = with_temperature(file, tmp_path / "new.safetensors", 3.5, naming_threshold=0.9)
    before, after = read_metadata(file), read_metadata(new)
    assert after == replace(before, naming_temperature=3.5, naming_threshold=0.9, sha256=after.sha256)
    ours, theirs = (load_weights(path)[0].state_dict() for path in (file, new))
    assert ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)


def test_a_file_from_before_there_was_a_temperature_is_read_as_it_was(tmp_path, shipped_model):
    data = find_model(shipped_model)[0].read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    said = json.loads(header["__metadata__"]["palyno"])
    said.pop("naming_temperature", None)
    header["__metadata__"]["palyno"] = json.dumps(said)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    old = tmp_path / "old.safetensors"
    old.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    assert load_weights(old)[1].naming_temperature == 1


def test_the_command_writes_what_the_function_finds_and_refuses_to_write_over(
    tmp_path, samples, shipped_model, scene, detector
):
    out = tmp_path / "calibrated.safetensors"
    call = ["models", "calibrate", shipped_model, str(samples / "truth.json"), "--only", "composed*", "--out", str(out)]
    done = CliRunner().invoke(cli, [*call, "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    fit = fit_temperature(detector, *scene)
    assert told["grains"] == fit.grains and told["temperature"] == pytest.approx(fit.temperature)
    assert read_metadata(out).naming_temperature == round(fit.temperature, 3)
    before = out.read_bytes()
    assert CliRunner().invoke(cli, call).exit_code != 0 and out.read_bytes() == before
    # What is compared with is temperature 1, not the one that the weights had.
    again = CliRunner().invoke(cli, ["models", "calibrate", str(out), *call[3:-1], str(tmp_path / "again.safetensors")])
    assert f"{100 * fit.ece[0]:.1f} % at 1, {100 * fit.ece[1]:.1f} % at this one" in again.output
