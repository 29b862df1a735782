"""Which counts of a table may leave a hospital when its row and column totals are public."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from evaluation.disclosure_control import check_group_size

Table = tuple[tuple[int | None, ...], ...]


def suppressed_table(counts: Sequence[Sequence[int]], *, minimum_group_size: int) -> Table | None:
    """Hide small counts of a table whose row and column totals are public.

    More cells are hidden until a linear programme over the totals leaves every hidden count a range
    at least as wide as the minimum group size. None: no choice of cells can, and the table stays in
    the hospital.

    >>> suppressed_table([[9, 2], [8, 9], [7, 6]], minimum_group_size=5)
    ((None, None), (8, 9), (None, None))

    Raises:
        ValueError: for rows of different lengths, a negative count, or a minimum group size below
            1.
    """
    check_group_size(minimum_group_size)
    if len({len(row) for row in counts}) != 1 or not counts[0]:
        raise ValueError("every row of a table has the same number of cells, at least one")
    table = np.asarray(counts, dtype=np.int64)
    if (table < 0).any():
        raise ValueError("a count is not negative")
    hidden = (table > 0) & (table < minimum_group_size)
    while hidden.any():
        narrow = [
            cell
            for cell, (low, high) in hidden_ranges(table, hidden).items()
            if high - low < minimum_group_size
        ]
        if not narrow:
            break
        row, column = narrow[0]
        # Beside a cell that its totals give away, the smallest count of its row or its column.
        beside = [
            cell
            for cell in product(range(table.shape[0]), range(table.shape[1]))
            if not hidden[cell] and (cell[0] == row or cell[1] == column)
        ] or [cell for cell in np.ndindex(table.shape) if not hidden[cell]]
        if not beside:
            return None
        hidden[min(beside, key=lambda cell: (table[cell] == 0, table[cell], cell))] = True
    return tuple(
        tuple(None if hide else int(count) for count, hide in zip(row, hides, strict=True))
        for row, hides in zip(table, hidden, strict=True)
    )


def hidden_ranges(
    counts: NDArray[np.int64], hidden: NDArray[np.bool_]
) -> dict[tuple[int, ...], tuple[float, float]]:
    """Return what the row and column totals say about every hidden cell: its lowest and highest.

    This is what somebody computes who has the table with its gaps and all its totals.
    """
    cells = [tuple(map(int, cell)) for cell in np.argwhere(hidden)]
    lines = [
        [cell[axis] == line for cell in cells]
        for axis in (0, 1)
        for line in range(counts.shape[axis])
    ]
    open_ = np.where(hidden, counts, 0)
    totals = np.concatenate([open_.sum(axis=1), open_.sum(axis=0)])
    ranges = {}
    for i, cell in enumerate(cells):
        goal = np.zeros(len(cells))
        goal[i] = 1.0
        solved = [
            linprog(sign * goal, A_eq=np.asarray(lines, float), b_eq=totals) for sign in (1, -1)
        ]
        low, high = (float(goal @ np.asarray(solution.x, float)) for solution in solved)
        ranges[cell] = (low, high)
    return ranges
