import numpy as np
import pytest
from palyno.errors import UsageError
from palyno.retrieval.matching.sizes import SizeRange, size_evidence, stated_size
from scipy.integrate import quad
from scipy.stats import lognorm, norm

STATED = {
    "small spheroidal triporate grain, psilate thin exine, 25-33 µm": (25, 33),
    "isopolar monads 17–21 μm in diameter": (17, 21),  # Greek mu
    "ranging from 14 to 50 microns": (14, 50),
    "Durchmesser 20 bis 25 µm": (20, 25),
    "granos de 30 a 40 µm": (30, 40),
    "30 µm to 35 µm": (30, 35),
    "12,5-14,5 µm": (12.5, 14.5),
    "very large bisaccate grain >100 µm": (100, 250),
    "grains under 10 µm": (4, 10),
    "about 30 µm across": (30, 30),
    # The longest axis is meant, and a remark in brackets does not go before it.
    "polar axis 30-40 µm, equatorial axis 20-25 µm": (30, 40),
    "25–33 µm in diameter (some shrubs 22-28 µm)": (25, 33),
    # Parts of the grain are not the grain.
    "echinate, with spines 3-5 µm long; grains 30 to 40 µm": (30, 40),
    "grains 40-50 µm, exine 2.5 µm thick": (40, 50),
    "small": (10, 25),
    "large echinate grain": (50, 100),
    "small to medium, spheroidal": (10, 50),
    "sehr großer Pollen": (100, 250),
    "très petit pollen lisse": (4, 10),
    "polen mediano": (25, 50),
    "very large, about 60 µm": (60, 60),
}


@pytest.mark.parametrize(("text", "expected"), STATED.items(), ids=list(STATED))
def test_sizes_are_read_in_four_languages_and_of_the_grain_alone(text, expected):
    found = stated_size(text)
    assert found is not None and (found.low, found.high) == expected


@pytest.mark.parametrize(
    "text",
    [
        "triporate, psilate",
        "25-70 pores",
        "with small pores",
        "large spines",
        "spines 3-5 µm long",
        "mesh 1 µm",
        "",
        "40x",
    ],
)
def test_what_is_not_the_size_of_a_grain_is_not_read_as_one(text):
    assert stated_size(text) is None


def test_evidence_is_the_logarithm_of_a_ratio_of_densities():
    stated = SizeRange(20, 40)
    low, high = np.log(20), np.log(40)

    def blurred(at):
        return quad(lambda x: norm.pdf(at, x, 0.15) / (high - low), low, high)[0]

    for length in (15.0, 20.0, 28.0, 55.0):
        ratio = blurred(np.log(length)) / (lognorm.pdf(length, 0.6, scale=33) * length)
        assert size_evidence(stated, np.array([length]))[0] == pytest.approx(np.log(0.95 * ratio + 0.05), abs=1e-6)
    # Both are densities of the same length, so that the ratio's mean over pollen of all kinds is 1.
    lengths = 33 * np.exp(0.6 * norm.ppf((np.arange(20000) + 0.5) / 20000))
    assert np.exp(size_evidence(stated, lengths)).mean() == pytest.approx(1, abs=1e-3)


def test_evidence_says_nothing_of_what_is_not_known_and_never_all():
    lengths = np.array([1e-3, 29.0, 500.0, np.nan])
    found = size_evidence(SizeRange(25, 33), lengths)
    assert found[3] == 0 and found[1] > 1 and found[[0, 2]] == pytest.approx(np.log(0.05))
    assert np.array_equal(size_evidence(None, lengths), np.zeros(4))
    narrow, wide = (size_evidence(SizeRange(*r), np.array([30.0]))[0] for r in ((27, 33), (10, 90)))
    assert narrow > wide
    assert np.isfinite(size_evidence(SizeRange(30, 30), lengths)).all()


def test_sizes_that_cannot_be_are_refused():
    for low, high in ((0, 3), (5, 4), (3, float("inf"))):
        with pytest.raises(UsageError, match="expected micrometres"):
            SizeRange(low, high)
    with pytest.raises(UsageError, match="length_um"):
        size_evidence(SizeRange(1, 2), np.array([0.0]))
