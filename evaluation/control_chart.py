"""Control charts: is what comes now like what came before?

A chart has a centre line and limits, which come from a baseline; a point beyond a limit says that
something changed, not what. Limits from a few points say nothing: below `FEWEST` nobody judges.
Shewhart, 1931; Montgomery, Introduction to statistical quality control, chapter 6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

FEWEST = 8  # points of a baseline that may be judged by
BASELINE = 20  # the first points, which set the limits of the others
SIGMAS = 3.0
# 3 / d2 with d2 = 2 / sqrt(pi), the mean range of two standard normal numbers.
RANGE_FACTOR = 2.66
# A normal distribution's standard deviation in median absolute deviations.
_SD_OF_MAD = 1.482602218505602
_FEW = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}
_SMALLEST = float(np.finfo(np.float64).tiny)

Place = Literal["inside", "above", "below", "undefined", "unknown"]


@dataclass(frozen=True)
class ControlChart:
    """A centre line with limits, in the unit of the values.

    Attributes:
        centre: NaN without a baseline.
        lower, upper: NaN likewise.
        baseline: how many points they come from.
    """

    centre: float
    lower: float
    upper: float
    baseline: int

    @property
    def judges(self) -> bool:
        """Say whether the baseline is large enough to judge by."""
        return self.baseline >= FEWEST

    def place(self, value: float) -> Place:
        """Say where a value lies: "unknown" where nobody can judge, "undefined" for NaN.

        >>> ControlChart(5.0, 0.0, 10.0, baseline=8).place(10.5)
        'above'
        """
        if math.isnan(value):
            return "undefined"
        if not self.judges:
            return "unknown"
        if value > self.upper:
            return "above"
        return "below" if value < self.lower else "inside"


def individuals_chart(values: Sequence[float], *, baseline: int = BASELINE) -> ControlChart:
    """Return the chart of single values that cannot be negative, in order of time (I-MR chart).

    centre = mean, limits = mean -+ 2.66 * mean moving range, the lower one not below 0, where the
    moving ranges are |x_i - x_(i-1)|. All come from the first `baseline` values: were later ones
    among them, a slow change would widen the limits that should show it.

    >>> individuals_chart([4.0, 6.0, 4.0, 6.0])
    ControlChart(centre=5.0, lower=0.0, upper=10.32, baseline=4)

    Args:
        values: finite, none negative; the earliest first.
        baseline: how many of the first ones set the limits.

    Raises:
        ValueError: for a negative or undefined value.
    """
    first = np.asarray(values[:baseline], dtype=np.float64)
    if not (np.isfinite(first) & (first >= 0)).all():
        raise ValueError("values are finite and not negative")
    if not len(first):
        return ControlChart(math.nan, math.nan, math.nan, 0)
    centre = float(first.mean())
    reach = RANGE_FACTOR * float(np.abs(np.diff(first)).mean()) if len(first) > 1 else 0.0
    return ControlChart(centre, max(0.0, centre - reach), centre + reach, len(first))


def robust_chart(baseline: Sequence[float]) -> ControlChart:
    """Return the chart of positive values that spread over orders of magnitude, such as distances.

    centre = median, limits = median times or divided by exp(3 * 1.4826 * b_n * MAD), with MAD the
    median absolute deviation of the logarithms and b_n its correction for few values (Croux and
    Rousseeuw, 1992). A few odd ones in the baseline move neither, and a skewed distribution has no
    limit that it passes every tenth time. Of usual new values about 5 % lie beyond the limits with
    a baseline of 8, 2 % with 20 and 1 % with 50 (simulated; normal logarithms).

    >>> robust_chart([2.0, 2.0, 2.0])
    ControlChart(centre=2.0, lower=2.0, upper=2.0, baseline=3)

    Args:
        baseline: not negative; NaN is left out. In any order.

    Raises:
        ValueError: for a negative or infinite value.
    """
    given = np.asarray(baseline, dtype=np.float64)
    found = given[~np.isnan(given)]
    if not (np.isfinite(found) & (found >= 0)).all():
        raise ValueError("values are finite and not negative")
    if not len(found):
        return ControlChart(math.nan, math.nan, math.nan, 0)
    logs = np.log(np.maximum(found, _SMALLEST))  # a distance of 0 has no logarithm
    deviation = float(np.median(np.abs(logs - np.median(logs))))
    centre = float(np.median(found))
    reach = math.exp(SIGMAS * _SD_OF_MAD * _correction(len(found)) * deviation)
    return ControlChart(centre, centre / reach, centre * reach, len(found))


def _correction(values: int) -> float:
    """Return what makes the median absolute deviation of a few normal numbers right on average."""
    return _FEW.get(values, 1.0 if values < 2 else values / (values - 0.8))
