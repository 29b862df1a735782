"""How much, and for how long, an oncologist changed a contour the model had drawn (6.3.3)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from algorithms.contracts.volume import FloatArray, MaskArray
from evaluation.overlap import check_masks

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
    check_masks(model, revised)
    # 1 - Dice as one fraction: 1 - 0.95 is a little more than 0.05, and in another bin.
    changed = int(np.count_nonzero(model ^ revised))
    drawn = int(np.count_nonzero(model) + np.count_nonzero(revised))
    return 100.0 * changed / drawn if drawn else 0.0


def revision_degrees_of_slices(model: MaskArray, revised: MaskArray) -> FloatArray:
    """Return the revision degree of each slice in percent, NaN where neither contour has anything.

    An empty slice was not worked on: as a 0 it would fill the first bin with slices of no tumour.

    >>> contour = np.array([[[True, True]], [[False, False]]])
    >>> revision_degrees_of_slices(contour, contour).tolist()
    [0.0, nan]

    Args:
        model: bool `[z, y, x]`, the contour as the model drew it.
        revised: bool, the same shape: the contour as the oncologist accepted it.

    Returns:
        float64 `[z]`.

    Raises:
        ValueError: when the shapes differ or are not those of volumes.
        TypeError: when an array is not bool.
    """
    if model.ndim != 3 or revised.ndim != 3:
        raise ValueError(f"slices are those of a volume, not of {model.ndim} axes")
    check_masks(model, revised)
    drawn = (model | revised).any(axis=(1, 2))
    pairs = zip(model, revised, strict=True)
    degrees = np.array([revision_degree_percent(*pair) for pair in pairs], dtype=np.float64)
    return np.where(drawn, degrees, np.nan)


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
    """Review time over the patients of one hospital; NaN when there are none."""

    patients: int
    median_s: float
    q1_s: float
    q3_s: float

    def __str__(self) -> str:
        """Write median (IQR) as the thesis's tables do."""
        return f"{self.median_s:.1f} s ({self.q1_s:.1f}-{self.q3_s:.1f})"


def summarise_active_time(active_s: Sequence[float]) -> ActiveTimeSummary:
    """Summarise times, active or on the wall clock, as median (IQR), inside the hospital.

    Nothing is suppressed here: what leaves goes through `evaluation.disclosure_control`.

    >>> str(summarise_active_time([60.0, 90.0, 120.0]))
    '90.0 s (75.0-105.0)'

    Args:
        active_s: seconds in which the reviewer was working, or that passed; one per patient.
    """
    if not active_s:
        return ActiveTimeSummary(0, math.nan, math.nan, math.nan)
    q1, median, q3 = (float(q) for q in np.percentile(active_s, (25, 50, 75)))
    return ActiveTimeSummary(len(active_s), median, q1, q3)


@dataclass(frozen=True, eq=False)
class PatientRevision:
    """What a review made of one patient's contour.

    Attributes:
        degree_percent: of the whole contour.
        slice_degrees_percent: float64 `[z]`, NaN where neither contour has anything.
        active_s: seconds of work, pauses left out; NaN where nobody took the time.
        wall_s: seconds from opening to accepting; NaN likewise.
    """

    degree_percent: float
    slice_degrees_percent: FloatArray
    active_s: float = math.nan
    wall_s: float = math.nan


def revise_patient(
    model: MaskArray, revised: MaskArray, *, active_s: float = math.nan, wall_s: float = math.nan
) -> PatientRevision:
    """Measure a review: degree of the patient and of each slice, beside the times taken.

    Raises:
        ValueError: shapes that differ, a negative time, or more work than time passed.
        TypeError: when an array is not bool.
    """
    if active_s < 0 or wall_s < 0 or active_s > wall_s:
        raise ValueError(f"{active_s} s of work within {wall_s} s cannot be: check the clock")
    return PatientRevision(
        revision_degree_percent(model, revised),
        revision_degrees_of_slices(model, revised),
        active_s,
        wall_s,
    )


@dataclass(frozen=True)
class RevisionOverview:
    """The reviews of one hospital or reviewer, as the thesis tells them.

    Attributes:
        patients: how many were reviewed.
        mean_percent: mean revision degree; NaN without patients.
        sd_percent: sample standard deviation; NaN below two patients.
        bins: patients per `REVISION_BIN_LABELS`.
        slices: how many slices have a contour in either version.
        slice_bins: slices per `REVISION_BIN_LABELS`.
        active: of those whose time was taken.
        wall: likewise.
    """

    patients: int
    mean_percent: float
    sd_percent: float
    bins: tuple[int, int, int, int]
    slices: int
    slice_bins: tuple[int, int, int, int]
    active: ActiveTimeSummary
    wall: ActiveTimeSummary


def summarise_revisions(revisions: Sequence[PatientRevision]) -> RevisionOverview:
    """Summarise reviews per patient and per slice, for pages inside the hospital.

    Nothing is suppressed here: what leaves goes through `evaluation.disclosure_control`.
    """
    degrees = [one.degree_percent for one in revisions]
    slices = [
        float(degree)
        for one in revisions
        for degree in one.slice_degrees_percent
        if not math.isnan(degree)
    ]
    return RevisionOverview(
        patients=len(degrees),
        mean_percent=float(np.mean(degrees)) if degrees else math.nan,
        sd_percent=float(np.std(degrees, ddof=1)) if len(degrees) > 1 else math.nan,
        bins=revision_bin_counts(degrees),
        slices=len(slices),
        slice_bins=revision_bin_counts(slices),
        active=summarise_active_time([r.active_s for r in revisions if not math.isnan(r.active_s)]),
        wall=summarise_active_time([r.wall_s for r in revisions if not math.isnan(r.wall_s)]),
    )
