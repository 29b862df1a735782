"""How much contour a person has to draw to turn a prediction into the reference."""

from collections.abc import Sequence

import numpy as np

from algorithms.contracts.volume import MaskArray
from evaluation.overlap import check_masks
from evaluation.surface_distance import boundary


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
    in_plane = (reference.ndim - 2, reference.ndim - 1)
    missing = boundary(reference, in_plane) & ~boundary(predicted, in_plane)
    return float(np.count_nonzero(missing) * (spacing_mm[-2] + spacing_mm[-1]) / 2)
