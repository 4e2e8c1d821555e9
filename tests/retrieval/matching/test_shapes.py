import cv2
import numpy as np
import pytest
from palyno.errors import UsageError
from palyno.retrieval.encoders.image.grains import CLEAR
from palyno.retrieval.matching.shapes import NUMBERS, describe

OUTLINE, RINGS, WAVES = slice(0, 5), slice(11, 27), slice(27, 81)


def grain(petals=0, *, pores=0, stain=(0.5, 0.9, 0.6), strength=1.0, turned=0.0, spines=0):
    """A canvas with a grain: `petals` lobes, `pores` pale spots near the rim."""
    y, x = np.mgrid[-1.18:1.18:160j, -1.18:1.18:160j]
    angle = np.arctan2(y, x) - turned
    rim = 0.9 + 0.08 * np.cos(petals * angle) * (petals > 0) + 0.06 * np.cos(spines * angle) * (spines > 0)
    inside = np.clip((rim - np.hypot(x, y)) * 40, 0, 1)
    density = inside * (0.7 + 0.3 * np.hypot(x, y) ** 2)
    for i in range(pores):
        at = turned + 2 * np.pi * i / pores
        density *= 1 - 0.8 * np.exp(-((x - 0.65 * np.cos(at)) ** 2 + (y - 0.65 * np.sin(at)) ** 2) / 0.01)
    return np.uint8(np.clip(np.exp(-strength * density[..., None] * np.array(stain)) * CLEAR, 0, 255))


def test_turning_and_mirroring_change_little_beside_what_grains_differ_in():
    kinds = [grain(), grain(3), grain(5), grain(pores=3), grain(pores=6), grain(spines=24)]
    plain = describe(np.stack(kinds))
    spread = plain.std(0) + 0.05
    for change in (lambda c: np.rot90(c), lambda c: c[:, ::-1], lambda c: c.transpose(1, 0, 2)):
        moved = describe(np.stack([change(c) for c in kinds]))
        # Each is nearer to itself than to any other.
        apart = np.linalg.norm((moved[:, None] - plain[None]) / spread, axis=2)
        assert (apart.argmin(1) == np.arange(len(kinds))).all()
        assert np.diag(apart).max() < 0.5 * np.sort(apart, axis=1)[:, 1].min()


def test_stain_and_its_strength_hardly_matter():
    one, other, third = describe(np.stack([grain(3), grain(3, stain=(0.9, 0.4, 0.5)), grain(5)]))
    assert np.linalg.norm(one - other) < 0.3 * np.linalg.norm(one - third)


@pytest.mark.parametrize("petals", [3, 4, 5])
def test_lobes_are_in_the_harmonic_of_their_number(petals):
    harmonics = describe(grain(petals)[None])[0, OUTLINE]
    assert 2 + harmonics.argmax() == petals
    assert np.exp(harmonics.max()) == pytest.approx(0.08 / 0.9 + 3e-3, rel=0.1)


@pytest.mark.parametrize("pores", [1, 2, 3, 4])
def test_pores_are_in_the_waves_of_their_number(pores):
    rings = describe(grain(pores=pores)[None])[0, WAVES].reshape(6, 9)
    # The ring with the pores: the fourth of those with waves holds 0.63 to 0.74 of the radius.
    assert 1 + rings[3, :4].argmax() == pores


def test_numbers_are_finite_and_an_empty_canvas_has_none():
    clear = np.full((160, 160, 3), CLEAR, np.uint8)
    speck = clear.copy()
    cv2.circle(speck, (80, 80), 1, (60, 60, 60), -1)
    black = np.zeros_like(clear)
    noise = np.random.default_rng(0).integers(0, 256, clear.shape, dtype=np.uint8)
    found = describe(np.stack([clear, speck, black, noise]))
    assert found.shape == (4, NUMBERS) and np.isfinite(found).all()
    assert not found[0].any()
    assert describe(np.empty((0, 160, 160, 3), np.uint8)).shape == (0, NUMBERS)
    with pytest.raises(UsageError, match="expected uint8"):
        describe(clear[None].astype(np.float32))
