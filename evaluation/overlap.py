"""Overlap of two masks: Dice, Jaccard and volume.

Masks are bool arrays, `[y, x]` or `[z, y, x]`. What a measure is when a mask is empty is said in
one place, `evaluation.case_metrics.metrics_of_empty_masks`; here 0/0 is NaN.
"""

import math
from collections.abc import Sequence

import numpy as np

from algorithms.contracts.volume import MaskArray


def dice(reference: MaskArray, predicted: MaskArray) -> float:
    """Return the Dice similarity coefficient, a fraction in [0, 1].

    DSC = 2 |R and P| / (|R| + |P|), NaN when both masks are empty.

    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666

    Raises:
        ValueError: when the shapes differ.
        TypeError: when an array is not bool.
    """
    check_masks(reference, predicted)
    total = np.count_nonzero(reference) + np.count_nonzero(predicted)
    shared = np.count_nonzero(reference & predicted)
    return float(2.0 * shared / total) if total else math.nan


def jaccard(reference: MaskArray, predicted: MaskArray) -> float:
    """Return the Jaccard index, a fraction in [0, 1].

    J = |R and P| / |R or P|, NaN when both masks are empty.

    >>> jaccard(np.array([True, True, False]), np.array([True, False, False]))
    0.5

    Raises:
        ValueError: when the shapes differ.
        TypeError: when an array is not bool.
    """
    check_masks(reference, predicted)
    union = np.count_nonzero(reference | predicted)
    shared = np.count_nonzero(reference & predicted)
    return float(shared / union) if union else math.nan


def volume_ml(mask: MaskArray, spacing_zyx_mm: Sequence[float]) -> float:
    """Return the volume of a mask in ml (1 ml = 1000 mm^3).

    NaN when `spacing_zyx_mm` has only (y, x): a slice of unknown thickness has no volume.

    >>> volume_ml(np.ones((10, 10, 10), dtype=bool), (1.0, 1.0, 2.0))
    2.0
    """
    if len(spacing_zyx_mm) != 3:
        return math.nan
    return float(np.count_nonzero(mask) * np.prod(spacing_zyx_mm) / 1000.0)


def check_masks(reference: MaskArray, predicted: MaskArray) -> None:
    """Check that two arrays are bool masks on the same grid.

    Raises:
        ValueError: when the shapes differ.
        TypeError: when an array is not bool.
    """
    if reference.dtype != np.bool_ or predicted.dtype != np.bool_:
        raise TypeError(f"masks must be bool, not {reference.dtype} and {predicted.dtype}")
    if reference.shape != predicted.shape:
        raise ValueError(f"reference {reference.shape} and predicted {predicted.shape} differ")
