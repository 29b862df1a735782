"""What may be said about a group of patients outside their hospital.

Rules, applied before a figure reaches a report:

1. **Minimum group size.** A figure over fewer patients is not given. How many patients have a
   defined value, and how many do not, is given as soon as that many patients were tested: a missed
   tumour may not vanish. Of fewer, only their number is said: no failures, no scanner vendors.
2. **What is known beside the figure counts.** The Dice of a failure is known to be 0, and how many
   there are is told. A mean over five patients of whom four failed is the Dice of the fifth. So a
   figure is given only when those who did not fail are a group, or nobody.
3. **Quartiles** are given only from twice the minimum group size on, so that each half, whose
   median a quartile is, is a group by itself. Mean, SD, median and both quartiles of five patients
   would give back all five values.
4. **A median or quartile is one patient's value**, or half way between two. It is given as the
   middle of the step of a public scale in which it lies. Extremes are never given.
5. **Counts on a scale** leave as bins that hold a group or, where the scale begins anew, nobody;
   the outermost reach to the ends of the scale.
6. **Figures are rounded.** An exact mean of fractions with known denominators can be taken apart.
7. **Complementary suppression.** Where a count is below the minimum group size, it is hidden and
   with it all counts of the same total, which could give it away: `suppressed_bins`.
8. **No differencing across releases**: `evaluation.differencing`.
9. **Subgroups** are parts of one whole that is told, too: `evaluation.subgroup_summary`.

What no rule here prevents: somebody who knows the values of all patients but one learns the last
from any mean; where every patient of a group has the same value, the mean is everybody's value; and
one patient far from all others is told about by mean and SD together.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.scale import Scale
from algorithms.contracts.site_report import Distribution, Sketch
from evaluation.differencing import follows_about_few

SUPPRESSION_RULE = (
    "A figure over fewer patients than the site's minimum group size is not given (suppressed), "
    "nor one over failures and fewer others than that; "
    "quartiles need twice that number; counts in bins are given only when every bin is empty or "
    "holds at least that number; minima and maxima are never given; figures are rounded "
    "inside the hospital, medians and quartiles to the middle of a step of a public scale. "
    "The number of patients is always given; failures, undefined values and "
    "scanner vendors only where at least that many patients were tested. A patient with several "
    "image series counts once, with the average of their figures. A subgroup is given only where "
    "it, and everything that follows from it beside all patients and other subgroups, also those "
    "of other attributes, is about at least that many patients, or nobody. A report that differs "
    "from an earlier one by fewer patients than that does not leave; counts in bins, medians and "
    "quartiles are left out of it where some of the values were counted before and others were not."
)


def distribution(
    values: Iterable[float],
    *,
    scale: Scale,
    minimum_group_size: int,
    decimals: int,
    failed: Sequence[bool] | None = None,
) -> Distribution:
    """Summarise one value per patient as far as the rules of this module allow.

    The SD is that of a sample (divisor n - 1); quartiles are numpy's linear ones.

    >>> from algorithms.contracts.scale import MILLIMETRE
    >>> values = [1.0, 2.1, float("nan")]
    >>> distribution(values, scale=MILLIMETRE, minimum_group_size=2, decimals=1).mean
    1.6
    >>> distribution(values, scale=MILLIMETRE, minimum_group_size=3, decimals=1).mean is None
    True

    Args:
        values: one per patient; NaN is an undefined value, counted and left out.
        scale: on which the patients are counted.
        minimum_group_size: at least 1.
        decimals: digits kept after the decimal point.
        failed: one per patient: the report gives this one away as a failure.

    Raises:
        ValueError: for an infinite value or one off the scale, a minimum group size below 1, or
            another number of `failed` than of values.
    """
    check_group_size(minimum_group_size)
    every = np.asarray(list(values), dtype=np.float64)
    known = np.zeros(len(every), bool) if failed is None else np.asarray(failed, dtype=bool)
    if known.shape != every.shape:
        raise ValueError("one value and one failure or not per patient")
    if np.isinf(every).any():
        raise ValueError("an infinite value has no mean: say NaN where a figure is undefined")
    # Sorted, because the last digit of a sum depends on the order of its terms.
    defined = np.sort(every[~np.isnan(every)])
    others = np.sort(every[~np.isnan(every) & ~known])
    n, unknown = len(defined), len(others)
    told = Distribution(n=n, undefined=len(every) - n)
    if n < minimum_group_size or 0 < unknown < minimum_group_size:
        return told
    q1, median, q3 = (scale.middle_of(q) for q in np.percentile(defined, (25, 50, 75)))
    halves = min(n, unknown or n) >= 2 * minimum_group_size
    return told.model_copy(
        update={
            "mean": round(float(defined.mean()), decimals),
            "sd": round(float(defined.std(ddof=1)), decimals) if n > 1 else None,
            "median": median,
            "q1": q1 if halves else None,
            "q3": q3 if halves else None,
            "sketch": sketch(others, scale, minimum_group_size=minimum_group_size)
            if unknown
            else None,
        }
    )


def sketch(values: Iterable[float], scale: Scale, *, minimum_group_size: int) -> Sketch:
    """Count patients on a public scale, steps merged with neighbours until each bin is a group.

    From low to high, a bin ends with the step that makes it a group; what is left at the end joins
    the last bin. Counting begins anew at the landmarks of the scale where every stretch between
    them holds a group or nobody.

    Where no merging was needed a bin is one step. Every patient's value lies within its bin, which
    is all that quantiles and tests across sites build on (`evaluation.pooled_sketch`).

    >>> from algorithms.contracts.scale import FRACTION
    >>> made = sketch([0.701, 0.702, 0.81, 0.815, 0.95], FRACTION, minimum_group_size=2)
    >>> made.last_steps, made.counts
    ((71, 100), (2, 3))

    Raises:
        ValueError: for fewer patients than a group, or a value off the scale.
    """
    check_group_size(minimum_group_size)
    counts = np.bincount(scale.steps_of(values), minlength=len(scale))
    if counts.sum() < minimum_group_size:
        raise ValueError(f"{counts.sum()} patients are fewer than a group of {minimum_group_size}")
    stretches = list(zip((0, *scale.landmarks), (*scale.landmarks, len(scale)), strict=True))
    held = [int(counts[a:b].sum()) for a, b in stretches]
    if any(0 < count < minimum_group_size for count in held):
        stretches = [(0, len(scale))]
    last_steps: list[int] = []
    sizes: list[int] = []
    for first, end in stretches:
        full = _full_bins(counts[first:end], minimum_group_size)
        last_steps += [*(first + last for last, _ in full[:-1]), end - 1]
        sizes += [size for _, size in full]
    return Sketch(last_steps=tuple(last_steps), counts=tuple(sizes))


def common_bins(
    whole: Sketch,
    cells: Mapping[tuple[bool, ...], Sequence[float]],
    scale: Scale,
    *,
    minimum_group_size: int,
) -> tuple[int, ...]:
    """Put bins of a sketch together until in none anything follows about few of its patients.

    So neither the sketch of all less that of some, nor any other sum of the counts of sets of
    patients, tells of fewer than a group.

    >>> from algorithms.contracts.scale import FRACTION
    >>> cells = {(True, True): [0.1, 0.2, 0.8, 0.9], (True, False): [0.1, 0.15, 0.85, 0.9]}
    >>> made = sketch([v for c in cells.values() for v in c], FRACTION, minimum_group_size=2)
    >>> made.last_steps, common_bins(made, cells, FRACTION, minimum_group_size=2)
    ((10, 20, 85, 100), (20, 100))

    Args:
        whole: of all patients.
        cells: the same patients' values, by the sets that are counted and that they are in. Of
            all bins together nothing follows about few.
        scale: of the sketch.
        minimum_group_size: at least 1.

    Returns:
        Last step of every bin.
    """
    check_group_size(minimum_group_size)
    ends = np.asarray(whole.last_steps)
    counts = {
        cell: np.bincount(np.searchsorted(ends, scale.steps_of(values)), minlength=len(ends))
        for cell, values in cells.items()
    }

    def tells_of_few(bins: slice) -> bool:
        sizes = {cell: int(one[bins].sum()) for cell, one in counts.items()}
        return follows_about_few(
            {cell: size for cell, size in sizes.items() if size},
            minimum_group_size=minimum_group_size,
        )

    kept: list[int] = []
    start = 0
    for i in range(len(ends)):
        # What is left for the bins after this one has to tell of no few, too.
        if not tells_of_few(slice(start, i + 1)) and not tells_of_few(slice(i + 1, None)):
            kept.append(int(ends[i]))
            start = i + 1
    return tuple(kept)


def count_in_bins(values: Iterable[float], last_steps: Sequence[int], scale: Scale) -> Sketch:
    """Count patients in bins that are given by their last steps."""
    places = np.searchsorted(np.asarray(last_steps), scale.steps_of(values))
    counts = np.bincount(places, minlength=len(last_steps))
    return Sketch(last_steps=tuple(last_steps), counts=tuple(counts.tolist()))


def _full_bins(counts: NDArray[np.int64], minimum_group_size: int) -> list[tuple[int, int]]:
    """Return (last step, patients) of bins that are groups; one bin of nobody without patients."""
    bins: list[tuple[int, int]] = []
    size = 0
    for step, count in enumerate(counts.tolist()):
        size += count
        if size >= minimum_group_size:
            bins.append((step, size))
            size = 0
    if not bins:
        return [(len(counts) - 1, size)]
    last, full = bins[-1]
    bins[-1] = (last, full + size)
    return bins


def suppressed_bins(counts: Sequence[int], *, minimum_group_size: int) -> tuple[int | None, ...]:
    """Give all counts of a known total, or none where one is about few: from 1 to below a group.

    With only some hidden, whoever knows this rule could work out what else would have been hidden.
    So could whoever sees no count where two make up just one group: both would be few, unless all
    such pairs are hidden. 0 is nobody and may be given.

    >>> suppressed_bins((7, 9, 4, 0), minimum_group_size=5)
    (None, None, None, None)
    >>> suppressed_bins((7, 9, 6, 0), minimum_group_size=5)
    (7, 9, 6, 0)
    >>> suppressed_bins((5, 0), minimum_group_size=5)
    (None, None)

    Raises:
        ValueError: for a negative count, or a minimum group size below 1.
    """
    check_group_size(minimum_group_size)
    if any(count < 0 for count in counts):
        raise ValueError(f"a count is not negative: {tuple(counts)}")
    few = any(0 < count < minimum_group_size for count in counts)
    just_a_group = len(counts) == 2 and sum(counts) == minimum_group_size > 1
    return (None,) * len(counts) if few or just_a_group else tuple(counts)


def check_group_size(minimum_group_size: int) -> None:
    """Raise a ValueError when a group could be nobody."""
    if minimum_group_size < 1:
        raise ValueError(f"a group has at least one patient, not {minimum_group_size}")
