"""Polygons become pixels: what a contour drawn by corners encloses on a grid."""

from collections.abc import Sequence

import numpy as np

from algorithms.contracts.volume import FloatArray, MaskArray


def rasterise(polygons_xy: Sequence[FloatArray], shape_yx: tuple[int, int]) -> MaskArray:
    """Fill polygons, given in pixel indices, by the even-odd rule over all of them.

    A pixel is inside when an odd number of edges crosses its row at or left of its centre. An edge
    owns its upper end and not its lower one, so a corner counts once; a pixel centre exactly on an
    edge belongs to the region on its right or below.

    Args:
        polygons_xy: each `[n, 2]` (x, y) corners, closed by themselves.
        shape_yx: rows and columns.

    >>> rasterise([np.array([[0.5, 0.5], [2.5, 0.5], [2.5, 1.5], [0.5, 1.5]])], (3, 4)).astype(int)
    array([[0, 0, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    rows, columns = shape_yx
    flips = np.zeros((rows, columns + 1), dtype=np.int64)
    for start in polygons_xy:
        end = np.roll(start, -1, axis=0)
        upper = np.where((start[:, 1] <= end[:, 1])[:, None], start, end)
        lower = np.where((start[:, 1] <= end[:, 1])[:, None], end, start)
        first = np.clip(np.ceil(upper[:, 1]), 0, rows).astype(np.int64)
        last = np.clip(np.ceil(lower[:, 1]), 0, rows).astype(np.int64)  # not included
        count = last - first
        edge = np.repeat(np.arange(len(start)), count)
        row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        share = (row - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
        crossing_x = upper[edge, 0] + share * (lower[edge, 0] - upper[edge, 0])
        column = np.clip(np.ceil(crossing_x), 0, columns).astype(np.int64)
        np.add.at(flips, (row, column), 1)
    inside: MaskArray = np.cumsum(flips[:, :columns], axis=1) % 2 == 1
    return inside
