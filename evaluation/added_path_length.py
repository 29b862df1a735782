"""How much contour a person has to draw to turn a prediction into the reference."""

from collections.abc import Sequence

import numpy as np

from algorithms.contracts.volume import MaskArray
from evaluation.overlap import check_masks


def added_path_length_mm(
    reference: MaskArray, predicted: MaskArray, spacing_mm: Sequence[float]
) -> float:
    """Return the added path length: the part of the reference's outline the prediction lacks.

    APL = sum over slices of |C_r without C_p| * (dy + dx) / 2

    where C_r and C_p are the outlines in a slice: the foreground pixels with one of their four
    neighbours in the slice outside the mask. Contours are drawn slice by slice, so the slice
    spacing does not enter. What is only to be erased costs nothing here.

    >>> reference, predicted = np.zeros((2, 5, 5), dtype=bool)
    >>> reference[1:4, 1:4] = predicted[1:4, 1:3] = True
    >>> added_path_length_mm(reference, predicted, (2.0, 2.0))
    6.0

    Args:
        reference: bool `[z, y, x]`, or one slice `[y, x]`.
        predicted: bool, the same shape; may be empty, then the whole outline is to be drawn.
        spacing_mm: one per axis.

    Raises:
        ValueError: when the shapes differ.
        TypeError: when an array is not bool.

    Reference:
        Vaassen et al., Evaluation of measures for assessing time-saving of automatic organ-at-risk
        segmentation in radiotherapy, 2020.
    """
    check_masks(reference, predicted)
    missing = outline(reference) & ~outline(predicted)
    return float(np.count_nonzero(missing) * (spacing_mm[-2] + spacing_mm[-1]) / 2)


def outline(mask: MaskArray) -> MaskArray:
    """Mark the foreground pixels with a neighbour above, below or beside them outside the mask.

    >>> outline(np.ones((3, 3), dtype=bool)).astype(int)
    array([[1, 1, 1],
           [1, 0, 1],
           [1, 1, 1]])

    Args:
        mask: bool `[..., y, x]`; outside the array counts as outside the mask.
    """
    inner = np.zeros_like(mask)
    inner[..., 1:-1, 1:-1] = (
        mask[..., 1:-1, 1:-1]
        & mask[..., :-2, 1:-1]
        & mask[..., 2:, 1:-1]
        & mask[..., 1:-1, :-2]
        & mask[..., 1:-1, 2:]
    )
    found: MaskArray = mask & ~inner
    return found
