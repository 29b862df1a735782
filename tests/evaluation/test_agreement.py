import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.agreement import agreement_matrix, mean_agreement
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
