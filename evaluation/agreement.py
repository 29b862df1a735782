"""How far several people, or several models, agree about the same images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.volume import MaskArray
from evaluation.overlap import dice


def agreement_matrix(
    rows: Sequence[Sequence[MaskArray]], columns: Sequence[Sequence[MaskArray]] | None = None
) -> NDArray[np.float64]:
    """Return the mean Dice over patients between every one of `rows` and every one of `columns`.

    Args:
        rows: per rater, one mask per patient, in one order.
        columns: likewise; None compares the raters of `rows` with one another.

    Returns:
        `[raters, raters]`. Patients on whom both masks are empty are left out; NaN without others.

    Raises:
        ValueError: when somebody has not drawn as many patients as the others.
    """
    others = rows if columns is None else columns
    if len({len(masks) for masks in (*rows, *others)}) > 1:
        raise ValueError("every rater must have a mask of every patient")
    found = np.full((len(rows), len(others)), np.nan)
    for i, one in enumerate(rows):
        for j, other in enumerate(others):
            scores = np.array([dice(a, b) for a, b in zip(one, other, strict=True)])
            if np.isfinite(scores).any():
                found[i, j] = float(np.nanmean(scores))
    return found


def mean_agreement(matrix: NDArray[np.float64]) -> float:
    """Return the mean over all pairs of different raters of a square matrix.

    >>> round(mean_agreement(np.array([[1.0, 0.8], [0.6, 1.0]])), 3)
    0.7

    Raises:
        ValueError: with fewer than two raters.
    """
    if len(matrix) < 2:
        raise ValueError("agreement needs two raters")
    return float(np.mean(matrix[~np.eye(len(matrix), dtype=bool)]))
