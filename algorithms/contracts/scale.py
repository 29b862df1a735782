"""The public scales on which hospitals count patients: one per unit, the same for everybody.

A scale is cut into steps. Its ends are part of the agreement and follow from no patient, so that
saying "five patients lie in steps 80 to 84" tells no value. A step holds the values above the step
before it, up to and including its own upper end; the first step of most scales is exactly 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DIFFERENCE_DECIMALS = 4  # two Dice that are equal to this digit are a tie


@dataclass(frozen=True)
class Scale:
    """Steps from low to high.

    Attributes:
        lower: lower end of every step.
        upper: upper end of every step.
        open_top: the last step also holds whatever lies above its upper end.
        landmarks: steps at which counting begins anew where the groups allow it, such as exactly
            "no difference", or the bins of the revision degree.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    open_top: bool = False
    landmarks: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.upper)

    def steps_of(self, values: Iterable[float]) -> NDArray[np.int64]:
        """Return the step in which every value lies.

        >>> FRACTION.steps_of([0.0, 0.005, 0.01, 0.0101, 1.0]).tolist()
        [0, 1, 1, 2, 100]

        Raises:
            ValueError: for a value that is undefined or off the scale.
        """
        found = np.asarray(list(values), dtype=np.float64)
        steps = np.searchsorted(np.asarray(self.upper), found, side="left")
        if self.open_top:
            steps = np.minimum(steps, len(self) - 1)
        on_scale = (found >= self.lower[0]) & (steps < len(self))  # False for NaN
        if not on_scale.all():
            raise ValueError(f"a value is off the scale from {self.lower[0]} to {self.upper[-1]}")
        return steps.astype(np.int64)

    def middle_of(self, value: float) -> float | None:
        """Return the middle of the step in which a value lies; None in an open top.

        >>> FRACTION.middle_of(0.8349)
        0.835
        """
        step = int(self.steps_of([value])[0])
        if self.open_top and step == len(self) - 1:
            return None
        return round((self.lower[step] + self.upper[step]) / 2, 6)


def _from_zero(
    *stretches: tuple[float, float], open_top: bool = False, begin_anew: tuple[float, ...] = ()
) -> Scale:
    """Cut a scale: exactly 0, then for each (end, width) steps of that width up to that end."""
    upper: list[float] = [0.0]
    for end, width in stretches:
        start = upper[-1]
        count = round((end - start) / width)
        upper += [round(start + width * (i + 1), 6) for i in range(count)]
    landmarks = tuple(upper.index(end) + 1 for end in begin_anew)
    return Scale((0.0, *upper[:-1]), tuple(upper), open_top, landmarks)


def _differences(width: float) -> Scale:
    """Cut -1 to 1 at 0, which is a step by itself, into steps of rounded differences."""
    unit = 10.0**-DIFFERENCE_DECIMALS
    count = round(1 / width)
    lower = [round(i * width + unit, DIFFERENCE_DECIMALS) for i in range(count)]
    upper = [round((i + 1) * width, DIFFERENCE_DECIMALS) for i in range(count)]
    return Scale(
        lower=(*(-u for u in reversed(upper)), 0.0, *lower),
        upper=(*(-low for low in reversed(lower)), 0.0, *upper),
        landmarks=(count, count + 1),
    )


def width_at(scale: Scale, value: float) -> float:
    """Return the width of the step in which a value lies: the least error of a quantile there."""
    step = int(scale.steps_of([value])[0])
    return scale.upper[step] - scale.lower[step]


FRACTION = _from_zero((1.0, 0.01))
FRACTION_DIFFERENCE = _differences(0.01)
MILLIMETRE = _from_zero((5.0, 0.25), (20.0, 0.5), (50.0, 2.0), (200.0, 10.0), open_top=True)
PERCENT = _from_zero((20.0, 0.5), (100.0, 2.0), begin_anew=(5.0, 10.0, 15.0))  # revision bins
SECOND = _from_zero((300.0, 5.0), (1200.0, 30.0), (3600.0, 300.0), open_top=True)


def ends(scale: Scale, last_steps: Sequence[int]) -> list[tuple[float, float]]:
    """Return the ends of bins that reach up to the given steps and leave no gap.

    >>> ends(FRACTION, (80, 100))
    [(0.0, 0.8), (0.8, 1.0)]
    """
    firsts = (0, *(last + 1 for last in last_steps[:-1]))
    return [(scale.lower[a], scale.upper[b]) for a, b in zip(firsts, last_steps, strict=True)]
