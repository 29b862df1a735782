"""How much, and for how long, an oncologist changed a contour the model had drawn (6.3.3)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from algorithms.contracts.volume import MaskArray
from evaluation.overlap import dice

REVISION_BIN_LABELS = ("0-5 %", ">5-10 %", ">10-15 %", ">15 %")
_UPPER_EDGES_PERCENT = (5.0, 10.0, 15.0)  # each edge belongs to the bin below it


def revision_degree_percent(model: MaskArray, revised: MaskArray) -> float:
    """Return how much a contour was changed: 100 * (1 - Dice(model, revised)), 0 to 100.

    An empty contour that was left empty was not changed: 0.

    >>> revision_degree_percent(np.array([True, True, False]), np.array([True, True, False]))
    0.0

    Args:
        model: bool, the contour as the model drew it.
        revised: bool, the same shape: the contour as the oncologist accepted it.

    Raises:
        ValueError: when the shapes differ.
        TypeError: when an array is not bool.
    """
    similarity = dice(model, revised)
    return 0.0 if math.isnan(similarity) else 100.0 * (1.0 - similarity)


def revision_bin(degree_percent: float) -> int:
    """Return which of the `REVISION_BIN_LABELS` a revision degree falls into.

    >>> [revision_bin(degree) for degree in (0.0, 5.0, 5.1, 15.0, 15.1)]
    [0, 0, 1, 2, 3]

    Raises:
        ValueError: for a degree that is not in [0, 100].
    """
    if not 0.0 <= degree_percent <= 100.0:
        raise ValueError(f"a revision degree is 0 to 100 %, not {degree_percent}")
    return int(np.searchsorted(_UPPER_EDGES_PERCENT, degree_percent, side="left"))


def revision_bin_counts(degrees_percent: Iterable[float]) -> tuple[int, int, int, int]:
    """Count the revision degrees in each of the `REVISION_BIN_LABELS`.

    >>> revision_bin_counts([0.0, 4.2, 7.0, 30.0])
    (2, 1, 0, 1)
    """
    bins = [revision_bin(degree) for degree in degrees_percent]
    return (bins.count(0), bins.count(1), bins.count(2), bins.count(3))


@dataclass(frozen=True)
class ActiveTimeSummary:
    """Active review time over the patients of one hospital; NaN when there are none."""

    patients: int
    median_s: float
    q1_s: float
    q3_s: float

    def __str__(self) -> str:
        """Write median (IQR) as the thesis's tables do."""
        return f"{self.median_s:.1f} s ({self.q1_s:.1f}-{self.q3_s:.1f})"


def summarise_active_time(active_s: Sequence[float]) -> ActiveTimeSummary:
    """Summarise active times as median (IQR), for pages inside the hospital.

    Nothing is suppressed here: what leaves goes through `evaluation.disclosure_control`.

    >>> str(summarise_active_time([60.0, 90.0, 120.0]))
    '90.0 s (75.0-105.0)'

    Args:
        active_s: seconds in which the reviewer was working, one per patient.
    """
    if not active_s:
        return ActiveTimeSummary(0, math.nan, math.nan, math.nan)
    q1, median, q3 = (float(q) for q in np.percentile(active_s, (25, 50, 75)))
    return ActiveTimeSummary(len(active_s), median, q1, q3)
