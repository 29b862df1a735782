import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluation.overlap import dice, jaccard, volume_ml

masks = hnp.arrays(np.bool_, (3, 4, 5))


def test_half_of_a_mask_has_dice_two_thirds():
    reference = np.ones((2, 4), dtype=bool)
    predicted = reference.copy()
    predicted[0] = False
    assert dice(reference, predicted) == pytest.approx(2 / 3)
    assert jaccard(reference, predicted) == pytest.approx(1 / 2)


@given(masks, masks)
def test_jaccard_is_dice_over_two_minus_dice_and_both_are_symmetric(a, b):
    if not (a.any() or b.any()):
        assert math.isnan(dice(a, b))
        assert math.isnan(jaccard(a, b))
        return
    assert jaccard(a, b) == pytest.approx(dice(a, b) / (2 - dice(a, b)))
    assert dice(a, b) == dice(b, a)


@given(masks, st.tuples(*[st.floats(0.1, 5)] * 3))
def test_volume_is_voxels_times_spacing(mask, spacing):
    expected = mask.sum() * spacing[0] * spacing[1] * spacing[2] / 1000
    assert volume_ml(mask, spacing) == pytest.approx(expected)


def test_a_slice_of_unknown_thickness_has_no_volume():
    assert math.isnan(volume_ml(np.ones((3, 3), dtype=bool), (1.0, 1.0)))


def test_masks_of_another_type_or_shape_are_refused():
    mask = np.ones((2, 2), dtype=bool)
    with pytest.raises(TypeError, match="bool"):
        dice(mask, mask.astype(np.uint8))
    with pytest.raises(ValueError, match="differ"):
        jaccard(mask, np.ones((2, 3), dtype=bool))
