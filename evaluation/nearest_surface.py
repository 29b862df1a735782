"""Exact distances from the pieces of one surface to the nearest piece of another, on one grid.

Along a row (the last axis) two sweeps give every cell its distance to the nearest target. A query
then looks at the rows around it, nearest first, and stops when no farther row can be nearer. Two
contours of one tumour lie close, so a query looks at a few rows; at worst it looks at each row of
the box that holds the targets. Apart from `surface_distance`, since numba takes a second to import
and those who only read reports need no distances.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from algorithms.contracts.volume import FloatArray

Cells = NDArray[np.int64]
_NONE = 2**30  # steps to a target that is not in this row


def nearest_mm(
    queries: Cells, targets: Cells, shape: tuple[int, ...], spacing_mm: Sequence[float]
) -> FloatArray:
    """Return the distance in mm from each query cell to the nearest target cell.

    Args:
        queries: int64 `[q]`, flat (C order) indices into a grid of `shape`.
        targets: int64 `[t]`, likewise, in ascending order; at least one.
        shape: two or three axes.
        spacing_mm: distance between neighbouring cells, one per axis.

    Returns:
        float64 `[q]`.

    >>> nearest_mm(np.array([0, 5]), np.array([2]), (2, 3), (3.0, 2.0)).tolist()
    [4.0, 3.0]

    Raises:
        ValueError: without targets.
    """
    if not len(targets):
        raise ValueError("there is nothing to measure a distance to")
    nz, ny, nx = (1,) * (3 - len(shape)) + tuple(shape)
    dz, dy, dx = (1.0,) * (3 - len(shape)) + tuple(float(step) for step in spacing_mm)
    distances: FloatArray = _nearest(queries, targets, (nz, ny, nx), (dz, dy, dx))
    return distances


@njit(cache=True, nogil=True)
def _nearest(
    queries: Cells,
    targets: Cells,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
) -> FloatArray:
    _, ny, nx = shape
    dz, dy, dx = spacing
    z_first, z_last = targets[0] // (ny * nx), targets[-1] // (ny * nx)
    y_first, y_last = ny, -1
    for target in targets:
        y = target // nx % ny
        y_first, y_last = min(y_first, y), max(y_last, y)
    box = (z_first, z_last, y_first, y_last)
    steps = _along_rows(targets, ny, nx, box)
    found = np.empty(queries.size, dtype=np.float64)
    for i in range(queries.size):
        rest, x = divmod(queries[i], nx)
        z, y = divmod(rest, ny)
        best = np.inf
        # Whatever lies beside the box of the targets is at least this far away from it.
        for k in range(max(z_first - z, z - z_last, 0), max(z - z_first, z_last - z) + 1):
            across = (k * dz) ** 2
            if across >= best:
                break
            for zk in (z - k, z + k):
                if z_first <= zk <= z_last:
                    best = _in_plane(steps[zk - z_first], y, x, y_first, across, dy, dx, best)
                if k == 0:
                    break
        found[i] = np.sqrt(best)
    return found


@njit(cache=True, nogil=True, inline="always")
def _in_plane(
    steps: NDArray[np.int32],
    y: int,
    x: int,
    y_first: int,
    across: float,
    dy: float,
    dx: float,
    best: float,
) -> float:
    """Return the smaller of `best` and the squared distance to the nearest target of a plane."""
    y_last = y_first + steps.shape[0] - 1
    for k in range(max(y_first - y, y - y_last, 0), max(y - y_first, y_last - y) + 1):
        aside = across + (k * dy) ** 2
        if aside >= best:
            break
        for yk in (y - k, y + k):
            if y_first <= yk <= y_last and steps[yk - y_first, x] < _NONE:
                best = min(best, aside + (steps[yk - y_first, x] * dx) ** 2)
            if k == 0:
                break
    return best


@njit(cache=True, nogil=True)
def _along_rows(
    targets: Cells, full_ny: int, nx: int, box: tuple[int, int, int, int]
) -> NDArray[np.int32]:
    """Return the steps along x to the nearest target of the row, `[z, y, x]` of the box."""
    z_first, z_last, y_first, y_last = box
    ny = y_last - y_first + 1
    steps = np.full((z_last - z_first + 1, ny, nx), _NONE, dtype=np.int32)
    rows = steps.reshape(-1, nx)
    hit = np.zeros(len(rows), dtype=np.bool_)
    for target in targets:
        rest, x = divmod(target, nx)
        z, y = divmod(rest, full_ny)
        row = (z - z_first) * ny + y - y_first
        rows[row, x] = 0
        hit[row] = True
    for row in np.flatnonzero(hit):
        for x in range(1, nx):
            rows[row, x] = min(rows[row, x], rows[row, x - 1] + 1)
        for x in range(nx - 2, -1, -1):
            rows[row, x] = min(rows[row, x], rows[row, x + 1] + 1)
    return steps
