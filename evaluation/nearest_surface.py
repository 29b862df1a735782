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

Cells = NDArray[np.int32]
_NONE = 2**30  # steps to a target that is not in this row


def nearest_mm(queries: Cells, targets: Cells, spacing_zyx_mm: Sequence[float]) -> FloatArray:
    """Return the distance in mm from each query cell to the nearest target cell.

    Args:
        queries: int32 `[q, 3]`, their places (z, y, x) on a grid; z is 0 on a plane.
        targets: int32 `[t, 3]`, likewise; at least one.
        spacing_zyx_mm: distance between neighbouring cells.

    Returns:
        float64 `[q]`.

    >>> cells = np.array([[0, 0, 0], [0, 1, 2], [0, 0, 2]], dtype=np.int32)
    >>> nearest_mm(cells[:2], cells[2:], (1.0, 3.0, 2.0)).tolist()
    [4.0, 3.0]

    Raises:
        ValueError: without targets.
    """
    if not len(targets):
        raise ValueError("there is nothing to measure a distance to")
    dz, dy, dx = (float(step) for step in spacing_zyx_mm)
    distances: FloatArray = _nearest(queries, targets, (dz, dy, dx))
    return distances


@njit(cache=True, nogil=True)
def _nearest(queries: Cells, targets: Cells, spacing: tuple[float, float, float]) -> FloatArray:
    dz, dy, dx = spacing
    (z_first, z_last), (y_first, y_last) = _range(targets, 0), _range(targets, 1)
    x_first, x_last = _range(targets, 2)
    if len(queries):
        x_begin, x_end = _range(queries, 2)
        x_first, x_last = min(x_first, x_begin), max(x_last, x_end)
    shape = (z_last - z_first + 1, y_last - y_first + 1, x_last - x_first + 1)
    steps = _along_rows(targets, (z_first, y_first, x_first), shape)
    found = np.empty(len(queries), dtype=np.float64)
    for i in range(len(queries)):
        z, y, x = queries[i]
        best = np.inf
        # Whatever lies beside the box of the targets is at least this far away from it.
        for k in range(max(z_first - z, z - z_last, 0), max(z - z_first, z_last - z) + 1):
            across = (k * dz) ** 2
            if across >= best:
                break
            for zk in (z - k, z + k):
                if z_first <= zk <= z_last:
                    plane = steps[zk - z_first]
                    best = _in_plane(plane, y - y_first, x - x_first, across, dy, dx, best)
                if k == 0:
                    break
        found[i] = np.sqrt(best)
    return found


@njit(cache=True, nogil=True, inline="always")
def _in_plane(
    steps: NDArray[np.int32],
    y: int,
    x: int,
    across: float,
    dy: float,
    dx: float,
    best: float,
) -> float:
    """Return the smaller of `best` and the squared distance to the nearest target of a plane."""
    y_last = steps.shape[0] - 1
    for k in range(max(-y, y - y_last, 0), max(y, y_last - y) + 1):
        aside = across + (k * dy) ** 2
        if aside >= best:
            break
        for yk in (y - k, y + k):
            if 0 <= yk <= y_last and steps[yk, x] < _NONE:
                best = min(best, aside + (steps[yk, x] * dx) ** 2)
            if k == 0:
                break
    return best


@njit(cache=True, nogil=True)
def _range(cells: Cells, axis: int) -> tuple[int, int]:
    first = last = cells[0, axis]
    for i in range(1, len(cells)):
        first, last = min(first, cells[i, axis]), max(last, cells[i, axis])
    return first, last


@njit(cache=True, nogil=True)
def _along_rows(
    targets: Cells, first: tuple[int, int, int], shape: tuple[int, int, int]
) -> NDArray[np.int32]:
    """Return the steps along x to the nearest target of the row, `[z, y, x]` of a box."""
    nz, ny, nx = shape
    steps = np.full((nz, ny, nx), _NONE, dtype=np.int32)
    hit = np.zeros((nz, ny), dtype=np.bool_)
    for i in range(len(targets)):
        z, y, x = targets[i, 0] - first[0], targets[i, 1] - first[1], targets[i, 2] - first[2]
        steps[z, y, x] = 0
        hit[z, y] = True
    for z in range(nz):
        for y in range(ny):
            if not hit[z, y]:
                continue
            row = steps[z, y]
            for x in range(1, nx):
                row[x] = min(row[x], row[x - 1] + 1)
            for x in range(nx - 2, -1, -1):
                row[x] = min(row[x], row[x + 1] + 1)
    return steps
