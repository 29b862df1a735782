"""Quantiles over the patients of all hospitals, from counts on a public scale.

A bin says of its patients only that each value lies between its ends. So the sorted values of all
patients lie, one by one, between the sorted lower and the sorted upper ends; and a figure that can
only rise when a patient's value rises (a quantile, gains minus losses, a rank sum) lies between
what it is for the lower ends and for the upper ends. That is the whole proof; it holds for any
number of hospitals and any merging of bins, and the bound is told with each figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from algorithms.contracts.scale import Scale, ends
from algorithms.contracts.site_report import Sketch

QUARTILES = (0.25, 0.5, 0.75)


class BoundedFigure(BaseModel):
    """A figure of all patients, and between what it lies for certain.

    Attributes:
        estimate: with patients spread evenly over their bins.
        low: it is not lower.
        high: it is not higher; None in the open top of a scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    estimate: float
    low: float
    high: float | None


@dataclass(frozen=True)
class Spread:
    """Patients of one or many hospitals, each known to lie between two ends.

    Attributes:
        low: `[patients]`, ascending.
        middle: `[patients]`, ascending, spread evenly over the bins: low <= middle <= high.
        high: `[patients]`, ascending; infinite in an open top.
    """

    low: NDArray[np.float64]
    middle: NDArray[np.float64]
    high: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.low)


def spread(sketch: Sketch, scale: Scale) -> Spread:
    """Read a hospital's sketch."""
    stretches = [
        (low, high, count)
        for (low, high), count in zip(ends(scale, sketch.last_steps), sketch.counts, strict=True)
    ]
    read = merge([between(low, high, count) for low, high, count in stretches])
    if not scale.open_top:
        return read
    top = sketch.counts[-1]
    high = read.high.copy()
    high[len(high) - top :] = np.inf
    return Spread(read.low, read.middle, high)


def between(low: float, high: float, patients: int) -> Spread:
    """Say of some patients that each lies between two ends, as where the value itself is known."""
    even = (np.arange(patients) + 0.5) / max(patients, 1)
    return Spread(np.full(patients, low), low + even * (high - low), np.full(patients, high))


def merge(spreads: Sequence[Spread]) -> Spread:
    """Put the patients of several hospitals together; the order leaves no trace."""
    if not spreads:
        return between(0.0, 0.0, 0)
    low, middle, high = (
        np.sort(np.concatenate([getattr(one, name) for one in spreads]))
        for name in ("low", "middle", "high")
    )
    return Spread(low, middle, high)


def bounded_quantile(patients: Spread, fraction: float, *, decimals: int) -> BoundedFigure | None:
    """Return a quantile of all patients (numpy's linear one) and its bounds; None without any.

    The bounds are not rounded. Where no bin holds more than one step of the scale, they are at most
    one step apart at either of the two patients between whom the quantile lies.

    Args:
        patients: of the hospitals that gave a sketch.
        fraction: 0.5 is the median.
        decimals: digits kept of the estimate.
    """
    if not len(patients):
        return None
    low, middle, high = (
        _quantile(values, fraction) for values in (patients.low, patients.middle, patients.high)
    )
    return BoundedFigure(
        estimate=min(max(round(middle, decimals), low), high),
        low=low,
        high=high if np.isfinite(high) else None,
    )


def _quantile(ascending: NDArray[np.float64], fraction: float) -> float:
    """Return numpy's linear quantile, also where the values at the top are infinite."""
    place = fraction * (len(ascending) - 1)
    below = int(np.floor(place))
    share = place - below
    if share == 0.0:
        return float(ascending[below])
    return float((1 - share) * ascending[below] + share * ascending[below + 1])
