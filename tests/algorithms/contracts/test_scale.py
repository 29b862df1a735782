import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.scale import (
    FRACTION,
    FRACTION_DIFFERENCE,
    MILLIMETRE,
    PERCENT,
    SECOND,
    ends,
    width_at,
)

SCALES = [FRACTION, FRACTION_DIFFERENCE, MILLIMETRE, PERCENT, SECOND]


@pytest.mark.parametrize("scale", SCALES)
@given(share=st.floats(0, 1))
def test_a_value_lies_in_its_step_and_the_middle_half_a_step_away(scale, share):
    value = scale.lower[0] + share * (scale.upper[-1] - scale.lower[0])
    if scale is FRACTION_DIFFERENCE:
        value = round(value, 4)  # its steps are of rounded differences
    (step,) = scale.steps_of([value]).tolist()
    assert scale.lower[step] <= value <= scale.upper[step]
    middle = scale.middle_of(value)
    if middle is not None:
        assert abs(middle - value) <= width_at(scale, value) / 2 + 1e-9


@pytest.mark.parametrize("scale", SCALES)
def test_steps_rise_and_leave_no_gap(scale):
    unit = 1e-4 if scale is FRACTION_DIFFERENCE else 0.0
    for i in range(len(scale) - 1):
        assert scale.upper[i] < scale.upper[i + 1]
        assert scale.lower[i + 1] == pytest.approx(scale.upper[i] + unit, abs=1e-12)


def test_nothing_and_no_difference_are_steps_by_themselves():
    for scale in SCALES:
        (step,) = scale.steps_of([0.0]).tolist()
        assert (scale.lower[step], scale.upper[step]) == (0.0, 0.0)
    below, at, above = FRACTION_DIFFERENCE.steps_of([-0.0001, 0.0, 0.0001]).tolist()
    assert FRACTION_DIFFERENCE.landmarks == (at, above)
    assert (at - below, above - at) == (1, 1)


def test_the_bins_of_the_revision_degree_are_landmarks():
    assert [PERCENT.upper[i - 1] for i in PERCENT.landmarks] == [5.0, 10.0, 15.0]


def test_an_open_top_holds_what_is_beyond_and_has_no_middle():
    last = len(MILLIMETRE) - 1
    assert MILLIMETRE.steps_of([199.0, 1e5]).tolist() == [last, last]
    assert MILLIMETRE.middle_of(1e5) is None
    for scale, value in ((FRACTION, 1.01), (FRACTION, -0.1), (SECOND, math.nan)):
        with pytest.raises(ValueError, match="off the scale"):
            scale.steps_of([value])


def test_bins_reach_from_end_to_end():
    assert ends(PERCENT, (10, len(PERCENT) - 1)) == [(0.0, 5.0), (5.0, 100.0)]
