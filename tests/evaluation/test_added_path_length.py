import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluation.added_path_length import added_path_length_mm

masks = hnp.arrays(np.bool_, (3, 4, 5))


def square(low, high, shape=(20, 20)):
    mask = np.zeros(shape, dtype=bool)
    mask[low:high, low:high] = True
    return mask


def test_a_square_that_was_missed_is_drawn_whole():
    nothing = np.zeros((20, 20), dtype=bool)
    # A square of side n has 4 n - 4 outline pixels.
    assert added_path_length_mm(square(5, 15), nothing, (0.5, 1.5)) == 36.0
    volume = np.stack([square(5, 15), nothing, square(5, 9)])
    assert added_path_length_mm(volume, np.zeros_like(volume), (3.0, 1.0, 1.0)) == 36 + 12


def test_what_is_only_erased_costs_nothing_and_a_moved_side_costs_its_length():
    reference, predicted = square(5, 15), square(5, 15)
    predicted[0, 0] = True
    assert added_path_length_mm(reference, predicted, (1.0, 1.0)) == 0
    predicted = square(5, 15)
    predicted[5:15, 14] = False  # one side is a pixel short: its two ends were there
    assert added_path_length_mm(reference, predicted, (1.0, 1.0)) == 10


@given(masks, masks, st.floats(0.1, 9), st.integers(0, 2))
def test_slices_count_apart_and_their_distance_does_not(reference, predicted, thick, margin):
    found = added_path_length_mm(reference, predicted, (thick, 0.8, 0.6))
    flat = zip(reference, predicted, strict=True)
    assert found == pytest.approx(sum(added_path_length_mm(r, p, (0.8, 0.6)) for r, p in flat))
    assert added_path_length_mm(reference, reference.copy(), (thick, 0.8, 0.6)) == 0
    wider = [np.pad(m, margin) for m in (reference, predicted)]
    assert added_path_length_mm(*wider, (thick, 0.8, 0.6)) == pytest.approx(found)


def test_masks_of_another_type_or_shape_are_refused():
    with pytest.raises(ValueError, match="differ"):
        added_path_length_mm(square(1, 2), square(1, 2, (9, 9)), (1.0, 1.0))
    with pytest.raises(TypeError, match="bool"):
        added_path_length_mm(square(1, 2), square(1, 2).astype(int), (1.0, 1.0))
