import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.agreement import (
    agreement_matrix,
    agreement_table,
    cohen_kappa,
    fleiss_kappa,
    icc_2_1,
    icc_3_1,
    mean_agreement,
    mean_and_sd,
    rater_agreement,
)
from evaluation.overlap import dice


def bars(*widths: int) -> list[np.ndarray]:
    masks = np.zeros((len(widths), 1, 10), dtype=bool)
    for mask, width in zip(masks, widths, strict=True):
        mask[0, :width] = True
    return list(masks)


def test_closed_form_of_bars() -> None:
    """Dice of bars of lengths a and b is 2 min(a, b) / (a + b)."""
    found = agreement_matrix([bars(4, 2), bars(2, 2)])
    np.testing.assert_allclose(found, [[1.0, (2 / 3 + 1) / 2], [(2 / 3 + 1) / 2, 1.0]])
    assert mean_agreement(found) == pytest.approx(5 / 6)


def test_models_are_compared_with_raters() -> None:
    found = agreement_matrix([bars(4)], [bars(4), bars(2), bars(0)])
    np.testing.assert_allclose(found, [[1.0, 2 / 3, 0.0]])


def test_patients_without_any_target_say_nothing() -> None:
    np.testing.assert_allclose(agreement_matrix([bars(0, 3)], [bars(0, 3)]), [[1.0]])
    assert np.isnan(agreement_matrix([bars(0)], [bars(0)])[0, 0])


@given(st.lists(st.lists(st.integers(1, 10), min_size=3, max_size=3), min_size=2, max_size=4))
def test_agreement_is_symmetric_and_that_of_the_overlap(widths) -> None:
    raters = [bars(*row) for row in widths]
    found = agreement_matrix(raters)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 1.0)
    pairs = [dice(a, b) for a, b in zip(raters[0], raters[1], strict=True)]
    assert found[0, 1] == pytest.approx(float(np.mean(pairs)))


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="every patient"):
        agreement_matrix([bars(1, 2), bars(1)])
    with pytest.raises(ValueError, match="two raters"):
        mean_agreement(np.ones((1, 1)))


# -- raters, patient by patient -----------------------------------------------------------------


def rods(*lengths):
    """One patient per length: a rod along x."""
    masks = np.zeros((len(lengths), 2, 3, 40), dtype=bool)
    for mask, length in zip(masks, lengths, strict=True):
        mask[0, 0, :length] = True
    return list(masks)


SPACINGS = [(3.0, 1.0, 0.5), (3.0, 1.0, 2.0)]


def test_raters_are_compared_per_patient_with_their_own_spacing():
    found = rater_agreement({"a": rods(20, 20), "b": rods(10, 20)}, SPACINGS)
    np.testing.assert_allclose(found.dsc[0, 1], [2 / 3, 1.0])
    # The 20 distances are 0 for the shared ten, then 0.5 to 5 mm; the 95th percentile of them.
    expected = np.percentile([0.0] * 10 + [0.5 * k for k in range(1, 11)], 95)
    np.testing.assert_allclose(found.hd95_mm[0, 1], [expected, 0.0])
    np.testing.assert_array_equal(found.dsc[1, 0], found.dsc[0, 1])
    np.testing.assert_array_equal(found.dsc[0, 0], 1.0)
    mean, sd = mean_and_sd(found.dsc)
    assert mean[0, 1] == pytest.approx(5 / 6)
    assert sd[0, 1] == pytest.approx(np.std([2 / 3, 1], ddof=1))


def test_without_any_distance_the_table_says_so():
    found = rater_agreement({"a": rods(20), "b": rods(0)}, SPACINGS[:1])
    assert agreement_table(found).splitlines()[2:4] == [
        "| a | - | not defined |",
        "| b | 0.00 | - |",
    ]


def test_the_table_has_dice_below_and_distance_above_the_diagonal_and_counts_failures():
    raters = {"a": rods(20, 20), "b": rods(10, 0), "c": rods(20, 0)}
    found = rater_agreement(raters, SPACINGS)
    lines = agreement_table(found).splitlines()
    assert lines[0] == "| | a | b | c |"
    assert lines[3] == "| b | 33.33 ± 47.14 | - | 4.53 |"  # of the one patient who has an HD95
    assert "a, b" not in "\n".join(lines[5:])
    assert lines[6].startswith("b, a: 1 of 2 patients share nothing")
    assert "1 without an HD95" in lines[6]
    np.testing.assert_array_equal(found.failures()[0], [0, 1, 1])
    np.testing.assert_array_equal(found.undefined()[1], [1, 1, 1])


def test_a_second_sitting_shows_how_well_raters_repeat_themselves():
    first, again = {"a": rods(20, 20), "b": rods(10, 10)}, {"a": rods(20, 10), "b": rods(10, 10)}
    found = rater_agreement(first, SPACINGS, second=again)
    np.testing.assert_allclose(found.dsc[0, 0], [1.0, 2 / 3])
    np.testing.assert_allclose(found.dsc[1, 1], 1.0)
    np.testing.assert_allclose(found.dsc[1, 0], [2 / 3, 1.0])
    assert agreement_table(found).splitlines()[2].startswith("| a | 83.33 ± 23.57 / ")
    one = rater_agreement({"a": first["a"]}, SPACINGS, second={"a": again["a"]})
    np.testing.assert_allclose(one.dsc, [[[1.0, 2 / 3]]])


def test_raters_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="two raters"):
        rater_agreement({"a": rods(1, 1)}, SPACINGS)
    with pytest.raises(ValueError, match="same raters"):
        rater_agreement({"a": rods(1, 1)}, SPACINGS, second={"b": rods(1, 1)})
    with pytest.raises(ValueError, match="every patient"):
        rater_agreement({"a": rods(1, 1), "b": rods(1)}, SPACINGS)


# -- reliability --------------------------------------------------------------------------------

# Shrout and Fleiss 1979, table 2: four judges rate six targets.
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]],
    dtype=float,
)


def test_the_example_of_shrout_and_fleiss():
    two, three = icc_2_1(SHROUT_FLEISS), icc_3_1(SHROUT_FLEISS)
    assert (round(two.value, 2), round(three.value, 2)) == (0.29, 0.71)
    # Intervals as R's psych::ICC prints them for this example.
    assert (round(two.low, 3), round(two.high, 2)) == (0.019, 0.76)
    assert (round(three.low, 2), round(three.high, 2)) == (0.34, 0.95)


@given(st.integers(0, 10**6), st.floats(0.1, 9), st.floats(-50, 50))
def test_consistency_forgives_offsets_and_both_forgive_a_change_of_unit(seed, scale, offset):
    ratings = np.random.default_rng(seed).normal(size=(7, 1)) + np.random.default_rng(
        seed + 1
    ).normal(0, 0.5, (7, 3))
    moved = ratings + np.array([0.0, offset, 0.0])
    assert icc_3_1(moved).value == pytest.approx(icc_3_1(ratings).value, abs=1e-6)
    for icc in (icc_2_1, icc_3_1):
        found = icc(ratings)
        assert icc(scale * ratings).value == pytest.approx(found.value)
        assert found.low <= found.value <= found.high <= 1.0


def test_perfect_and_pointless_ratings():
    perfect = np.array([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]])
    assert icc_2_1(perfect).value == icc_3_1(perfect).value == icc_3_1(perfect).low == 1.0
    assert icc_3_1(perfect + np.array([0.0, 0.1])).value == 1.0
    assert icc_2_1(perfect + np.array([0.0, 1.0])).value < 1.0
    assert np.isnan(icc_3_1(np.ones((3, 2))).value)
    assert np.isnan(icc_2_1(np.ones((3, 2))).value)
    with pytest.raises(ValueError, match="two targets"):
        icc_2_1(perfect[:1])
    with pytest.raises(ValueError, match="every target"):
        icc_3_1(np.array([[1.0, np.nan], [1.0, 2.0]]))


def expand(table):
    """Two raters' categories from a table of counts."""
    pairs = [(i, j) for (i, j), count in np.ndenumerate(table) for _ in range(count)]
    return [list(side) for side in zip(*pairs, strict=True)]


def test_targets_that_are_all_alike_leave_no_interval():
    for ratings in ([[1.2, 1.3], [1.2, 1.3]], [[1.0, 1, 1], [1, 2, 0], [1, 0, 2]]):
        found = icc_2_1(np.array(ratings))
        assert found.value <= 0.0
        assert math.isnan(found.low)
        assert math.isnan(found.high)


def test_cohens_kappa_of_a_known_table():
    # Two readers of fifty proposals: 20 twice yes, 15 twice no: (0.7 - 0.5) / (1 - 0.5).
    assert cohen_kappa(*expand([[20, 5], [10, 15]])) == pytest.approx(0.4)


def test_the_example_of_cohen_1968():
    # Table 1: the diagnoses of two psychiatrists on 200 patients; unweighted kappa .492.
    table = [[88, 10, 2], [14, 40, 6], [18, 10, 12]]
    assert cohen_kappa(*expand(table)) == pytest.approx(0.492, abs=5e-4)


@settings(deadline=None)  # the first call imports
@given(st.integers(0, 10**6), st.sampled_from(["none", "linear", "quadratic"]))
def test_cohens_kappa_is_scikit_learns(seed, weights):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 4, 30)
    second = np.where(rng.random(30) < 0.6, first, rng.integers(0, 4, 30))
    expected = metrics.cohen_kappa_score(
        first, second, labels=[0, 1, 2, 3], weights=None if weights == "none" else weights
    )
    found = cohen_kappa(first.tolist(), second.tolist(), categories=range(4), weights=weights)
    assert found == pytest.approx(expected)


# Fleiss 1971, table 1: six psychiatrists give 30 patients one of five diagnoses.
FLEISS = """0 0 0 6 0  0 3 0 0 3  0 1 4 0 1  0 0 0 0 6  0 3 0 3 0  2 0 4 0 0  0 0 4 0 2  2 0 3 1 0
2 0 0 4 0  0 0 0 0 6  1 0 0 5 0  1 1 0 4 0  0 3 3 0 0  1 0 0 5 0  0 2 0 3 1  0 0 5 0 1  3 0 0 1 2
5 1 0 0 0  0 2 0 4 0  1 0 2 0 3  0 0 0 0 6  0 1 0 5 0  0 2 0 1 3  2 0 0 4 0  1 0 0 4 1  0 5 0 1 0
4 0 0 0 2  0 2 0 4 0  1 0 5 0 0  0 0 0 0 6"""


def test_the_example_of_fleiss():
    votes = np.array(FLEISS.split(), dtype=int).reshape(30, 5)
    ratings = np.array([np.repeat(np.arange(5), row) for row in votes]).T
    assert fleiss_kappa(ratings.tolist()) == pytest.approx(0.430, abs=5e-4)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_fleiss_kappa_is_statsmodels(seed, raters):
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    rng = np.random.default_rng(seed)
    ratings = rng.integers(0, 3, (raters, 12))
    ratings[:, 0], ratings[:, 1] = 0, 1
    counts = inter_rater.aggregate_raters(ratings.T)[0]
    assert fleiss_kappa(ratings.tolist()) == pytest.approx(inter_rater.fleiss_kappa(counts))


def test_kappa_of_one_category_is_undefined_and_mistakes_are_refused():
    assert np.isnan(cohen_kappa("aaa", "aaa"))
    assert np.isnan(fleiss_kappa(["aa", "aa", "aa"]))
    for broken in (lambda: cohen_kappa("ab", "a"), lambda: fleiss_kappa(["", ""])):
        with pytest.raises(ValueError, match="every item"):
            broken()
    with pytest.raises(ValueError, match="not among"):
        cohen_kappa("ab", "ac", categories="ab")
    with pytest.raises(ValueError, match="two raters"):
        fleiss_kappa(["ab"])
