"""What somebody could do who has a hospital's releases and wants one patient's value."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.optimize import linprog

from algorithms.contracts.scale import Scale, ends
from algorithms.contracts.site_report import Distribution


def patients_who_would_say_the_same(
    values: NDArray[np.float64],
    release: Callable[[NDArray[np.float64]], object],
    patient: int,
    *,
    generator: Generator,
    enough: float,
    tries: int = 400,
) -> tuple[float, float]:
    """Find how far one patient's value can move while the release stays the same to the last digit.

    Three values are turned about their mean in the plane that keeps their sum; the circle also
    keeps their sum of squares. Every found group of patients is put through the real release, so
    nothing here needs to be believed. Stops when the range is `enough`.
    """
    said = release(values)
    low = high = float(values[patient])
    at_low = at_high = values
    others = [i for i in range(len(values)) if i != patient]
    for attempt in range(tries):
        start = at_high if attempt % 2 else at_low
        trio = [patient, *generator.choice(others, 2, replace=False)]
        centre = start[trio].mean()
        along = start[trio] - centre
        across = np.cross(np.ones(3), along) / np.sqrt(3)
        angle = generator.choice([-1, 1]) * 10 ** generator.uniform(-3, 0.5)
        moved = start.copy()
        moved[trio] = centre + np.cos(angle) * along + np.sin(angle) * across
        if moved[patient] < low or moved[patient] > high:
            if moved.min() < 0 or moved.max() > 1 or release(moved) != said:
                continue
            if moved[patient] < low:
                low, at_low = float(moved[patient]), moved
            else:
                high, at_high = float(moved[patient]), moved
            if high - low >= enough:
                break
    return low, high


def ranges_by_linear_programming(
    said: Distribution, scale: Scale, *, decimals: int, group: int
) -> list[tuple[float, float]]:
    """Solve for the lowest and highest value of the i-th patient in ascending order.

    What the programme knows: the order, the ends of the scale and of the bins, that a bin was
    closed by the step that made it a group, the mean to its rounding, median and quartiles to the
    ends of their steps. The SD is not linear and left out.
    """
    assert said.sketch is not None
    assert said.mean is not None
    n = said.sketch.patients
    bounds: list[tuple[float, float]] = []
    stretches = ends(scale, said.sketch.last_steps)
    for (low, high), last, count in zip(
        stretches, said.sketch.last_steps, said.sketch.counts, strict=True
    ):
        in_last_step = count - group + 1 if high < scale.upper[-1] else 0
        bounds += [(low, high)] * (count - in_last_step)
        bounds += [(scale.lower[last], high)] * in_last_step
    rows, limits = [], []

    def at_most(row: NDArray[np.float64], limit: float) -> None:
        rows.append(row)
        limits.append(limit)

    unit = np.eye(n)
    for i in range(n - 1):
        at_most(unit[i] - unit[i + 1], 0.0)
    half = 0.5 * 10**-decimals + 1e-12
    at_most(np.ones(n) / n, said.mean + half)
    at_most(-np.ones(n) / n, -said.mean + half)
    for fraction, value in ((0.25, said.q1), (0.5, said.median), (0.75, said.q3)):
        if value is None:
            continue
        step = int(scale.steps_of([value])[0])
        place = fraction * (n - 1)
        below, share = int(place), place - int(place)
        row = (1 - share) * unit[below] + (share * unit[below + 1] if share else 0)
        at_most(row, scale.upper[step])
        at_most(-row, -scale.lower[step])
    ranges = []
    for i in range(n):
        solved = [
            linprog(sign * unit[i], A_ub=np.array(rows), b_ub=limits, bounds=bounds)
            for sign in (1, -1)
        ]
        ranges.append((solved[0].fun, -solved[1].fun))
    return ranges


def sums_that_follow(released: Sequence[frozenset[str]]) -> list[dict[str, int]]:
    """Return sums over patients, with their weights, that follow from sums over released groups.

    Each release is added or taken away up to twice.
    """
    if not released:
        return []
    everyone = sorted(frozenset().union(*released))
    member = np.array([[patient in group for patient in everyone] for group in released], int)
    weights = np.array(list(itertools.product(range(-2, 3), repeat=len(released))), int)
    return [
        {patient: int(w) for patient, w in zip(everyone, row, strict=True) if w}
        for row in weights @ member
    ]
