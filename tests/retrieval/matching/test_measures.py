import numpy as np
import pytest
from palyno.data.grains import CutGrain
from palyno.errors import UsageError
from palyno.retrieval.matching.measures import COLOURS, OUTLINES, SIZES, Measures, measure


def cut(outline, density=(0.3, 0.3, 0.3), size=160):
    """A grain whose outline is r(bearing), as a share of half the picture."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    mask = (np.hypot(x, y) < outline(np.arctan2(y, x))).astype(np.float32)
    return CutGrain(1 - mask[..., None] * (1 - np.exp(-np.float32(density))), mask)


def ellipse(a, b):
    return lambda t: a * b / np.hypot(b * np.cos(t), a * np.sin(t))


SHAPES = {
    "round": lambda t: 0.8 + 0 * t,
    "elongated": ellipse(0.9, 0.5),
    "triangular": lambda t: 0.75 + 0.12 * np.cos(3 * t),
    "lobed": lambda t: 0.75 + 0.12 * np.cos(5 * t),
}


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_are_told_at_every_angle(name):
    for turned in (0.0, 0.4, 1.1):
        assert measure(cut(lambda t, by=turned: SHAPES[name](t + by))).outline == name


def test_diameters_of_an_ellipse_are_its_axes():
    found = measure(cut(ellipse(0.9, 0.5)), um_per_px=0.5)
    assert found.length_px == pytest.approx(0.9 * 160, rel=0.02)
    assert found.width_px == pytest.approx(0.5 * 160, rel=0.04)
    assert found.length_um == pytest.approx(found.length_px / 2)


def test_the_third_harmonic_of_a_three_cornered_outline_is_its_amplitude():
    assert measure(cut(SHAPES["triangular"])).harmonics[1] == pytest.approx(0.12 / 0.75, rel=0.08)


@pytest.mark.parametrize(
    ("density", "colour"),
    [
        ((0.02, 0.02, 0.02), "colourless"),
        ((0.9, 0.9, 0.9), "grey"),
        ((0.05, 0.2, 0.9), "yellow"),
        ((0.5, 0.75, 1.6), "brown"),
        ((0.1, 0.7, 0.3), "pink"),
        ((0.3, 0.7, 0.1), "purple"),
        ((0.9, 0.4, 0.1), "blue"),
        ((0.6, 0.1, 0.6), "green"),
        ((0.1, 1.2, 1.2), "red"),
    ],
)
def test_stains_have_the_names_of_the_light_that_is_left(density, colour):
    found = measure(cut(SHAPES["round"], density))
    assert found.density == pytest.approx(density, abs=1e-3)
    assert found.colour == colour and colour in COLOURS


@pytest.mark.parametrize(("um", "size"), list(zip((9, 20, 40, 80, 150), SIZES, strict=True)))
def test_size_classes_follow_the_longer_axis(um, size):
    assert Measures(10, 9, (0.0,) * 5, (0.1, 0.1, 0.1), um).size == size


def test_without_a_pixel_size_nothing_is_said_of_the_size():
    found = measure(cut(SHAPES["round"]))
    assert found.size is None and found.vector()[-2:].tolist() == [0, 0]
    assert measure(cut(SHAPES["round"]), 0.2).vector().shape == (9,)


def test_an_empty_mask_and_a_pixel_size_of_nothing_are_refused():
    empty = CutGrain(np.ones((9, 9, 3), np.float32), np.zeros((9, 9), np.float32))
    with pytest.raises(UsageError, match="mask"):
        measure(empty)
    with pytest.raises(UsageError, match="um_per_px"):
        measure(cut(SHAPES["round"]), 0)
