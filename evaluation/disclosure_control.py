"""What may be said about a group of patients outside their hospital.

Three rules, applied before a figure reaches a report:

1. A figure over fewer patients than the minimum group size is not given. How many patients have a
   defined value, and how many do not, is given as soon as that many patients were tested: a missed
   tumour may not vanish. Of fewer, only their number is said: no failures, no scanner vendors.
2. Quartiles are given only from twice the minimum group size on, so that each half, whose median a
   quartile is, is a group by itself. Mean, SD, median and both quartiles of five patients would
   give back all five values (three are the ordered values in the middle, and mean and SD solve for
   the two at the ends). Extremes are never given: they are one patient's value.
3. Figures are rounded.

A count below the minimum group size is hidden, and with it enough other counts that the total does
not give it away (complementary suppression).
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from algorithms.contracts.site_report import Distribution

SUPPRESSION_RULE = (
    "A figure over fewer patients than the site's minimum group size is not given (suppressed); "
    "quartiles need twice that number; counts in bins are given only when every bin is empty or "
    "holds at least that number; minima and maxima are never given; figures are rounded "
    "inside the hospital. The number of patients is always given; failures, undefined values and "
    "scanner vendors only where at least that many patients were tested. A patient with several "
    "image series counts once, with the average of their figures."
)


def distribution(
    values: Iterable[float], *, minimum_group_size: int, decimals: int
) -> Distribution:
    """Summarise one value per patient as far as the rules of this module allow.

    The SD is that of a sample (divisor n - 1); quartiles are numpy's linear ones.

    >>> distribution([1.0, 2.0, float("nan")], minimum_group_size=2, decimals=1).mean
    1.5
    >>> distribution([1.0, 2.0, float("nan")], minimum_group_size=3, decimals=1).mean is None
    True

    Args:
        values: one per patient; NaN is an undefined value, counted and left out.
        minimum_group_size: at least 1.
        decimals: digits kept after the decimal point.

    Raises:
        ValueError: for an infinite value, or a minimum group size below 1.
    """
    _check_group_size(minimum_group_size)
    every = np.asarray(list(values), dtype=np.float64)
    # Sorted, because the last digit of a sum depends on the order of its terms.
    defined = np.sort(every[~np.isnan(every)])
    if np.isinf(defined).any():
        raise ValueError("an infinite value has no mean: say NaN where a figure is undefined")
    n = len(defined)

    def kept(value: float, least: int) -> float | None:
        return round(float(value), decimals) if n >= max(least, minimum_group_size) else None

    if n == 0:
        return Distribution(n=0, undefined=len(every))
    q1, median, q3 = np.percentile(defined, (25, 50, 75))
    return Distribution(
        n=n,
        undefined=len(every) - n,
        mean=kept(defined.mean(), 1),
        sd=kept(defined.std(ddof=1) if n > 1 else math.nan, 2),
        median=kept(median, 1),
        q1=kept(q1, 2 * minimum_group_size),
        q3=kept(q3, 2 * minimum_group_size),
    )


def suppressed_bins(counts: Sequence[int], *, minimum_group_size: int) -> tuple[int | None, ...]:
    """Hide small counts, and enough others that the known total gives none of them away.

    A count from 1 to the minimum group size less one is hidden; then the smallest counts that are
    left, until at least two are hidden and they hold a group together. 0 is given: it is nobody.

    >>> suppressed_bins((7, 9, 4, 0), minimum_group_size=5)
    (None, 9, None, None)
    >>> suppressed_bins((7, 9, 6, 0), minimum_group_size=5)
    (7, 9, 6, 0)

    Raises:
        ValueError: for a negative count, or a minimum group size below 1.
    """
    _check_group_size(minimum_group_size)
    if any(count < 0 for count in counts):
        raise ValueError(f"a count is not negative: {tuple(counts)}")
    small = [i for i, count in enumerate(counts) if 0 < count < minimum_group_size]
    if not small:
        return tuple(counts)
    hidden = set(small)
    rest = sorted((i for i in range(len(counts)) if i not in hidden), key=lambda i: counts[i])
    while rest and (len(hidden) < 2 or sum(counts[i] for i in hidden) < minimum_group_size):
        hidden.add(rest.pop(0))
    return tuple(None if i in hidden else count for i, count in enumerate(counts))


def _check_group_size(minimum_group_size: int) -> None:
    if minimum_group_size < 1:
        raise ValueError(f"a group has at least one patient, not {minimum_group_size}")
