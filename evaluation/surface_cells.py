"""Where the surface of a mask lies on its grid, found in one pass over the voxels.

Apart from `surface_distance`, since numba takes a second to import.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from algorithms.contracts.volume import MaskArray

Cells = NDArray[np.int32]  # `[n, 3]`, places (z, y, x) on a grid; z is 0 on a plane


def boundary_cells(mask: MaskArray) -> Cells:
    """Return the places of the foreground voxels with a face neighbour outside the mask.

    >>> boundary_cells(np.ones((3, 1), dtype=bool)).tolist()
    [[0, 0, 0], [0, 1, 0], [0, 2, 0]]

    Args:
        mask: bool `[y, x]` or `[z, y, x]`; outside the array counts as outside the mask.
    """
    cells: Cells = _boundary(_solid(mask), mask.ndim == 3)
    return cells


def cut_cells(mask: MaskArray) -> tuple[Cells, NDArray[np.uint8]]:
    """Return the 2x2x2 (2x2) neighbourhoods that hold foreground and background, and their codes.

    Neighbourhood (z, y, x) of a grid one larger than the mask along each axis has its last corner
    at voxel (z, y, x). A code has one bit per corner, set where it is foreground; the first corner
    in C order has the lowest bit.

    >>> cells, codes = cut_cells(np.ones((1, 1), dtype=bool))
    >>> cells.tolist(), codes.tolist()
    ([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]], [8, 4, 2, 1])
    """
    cells: Cells
    codes: NDArray[np.uint8]
    cells, codes = _cut(_solid(mask), mask.ndim == 3)
    return cells, codes


def _solid(mask: MaskArray) -> NDArray[np.uint8]:
    """View a mask as contiguous 0 and 1 of three axes."""
    solid = np.ascontiguousarray(mask).view(np.uint8)
    return solid if mask.ndim == 3 else solid[None]


@njit(cache=True, nogil=True)
def _boundary(mask: NDArray[np.uint8], solid: bool) -> Cells:
    nz, ny, nx = mask.shape
    found = np.empty((mask.size, 3), dtype=np.int32)
    count = 0
    for z in range(nz):
        edge_z = solid and (z == 0 or z == nz - 1)
        for y in range(ny):
            edge = edge_z or y == 0 or y == ny - 1
            for x in range(nx):
                if not mask[z, y, x]:
                    continue
                if not (edge or x == 0 or x == nx - 1):
                    inside = mask[z, y, x - 1] & mask[z, y, x + 1]
                    inside &= mask[z, y - 1, x] & mask[z, y + 1, x]
                    if solid:
                        inside &= mask[z - 1, y, x] & mask[z + 1, y, x]
                    if inside:
                        continue
                found[count] = z, y, x
                count += 1
    return found[:count].copy()


@njit(cache=True, nogil=True)
def _cut(mask: NDArray[np.uint8], solid: bool) -> tuple[Cells, NDArray[np.uint8]]:
    nz, ny, nx = mask.shape
    planes = nz + 1 if solid else 1
    codes = np.empty(planes * (ny + 1) * (nx + 1), dtype=np.uint8)
    cells = np.empty((codes.size, 3), dtype=np.int32)
    # The pairs of bits of the last axis, behind 2 (2-D) or 4 (3-D) rows of voxels.
    upper, full = (0xAA, 0xFF) if solid else (0x0A, 0x0F)
    nothing = np.zeros(nx, dtype=np.uint8)
    count = 0
    for z in range(planes):
        for y in range(ny + 1):
            a, b = nothing, nothing
            if solid and z > 0:
                a = mask[z - 1, y - 1] if y > 0 else nothing
                b = mask[z - 1, y] if y < ny else nothing
            c, d = nothing, nothing
            if z < nz:
                c = mask[z, y - 1] if y > 0 else nothing
                d = mask[z, y] if y < ny else nothing
            code = 0
            for x in range(nx + 1):
                code = (code & upper) >> 1  # what was ahead is behind
                if x < nx:
                    if solid:
                        code |= a[x] << 1 | b[x] << 3 | c[x] << 5 | d[x] << 7
                    else:
                        code |= c[x] << 1 | d[x] << 3
                if code != 0 and code != full:
                    cells[count] = z, y, x
                    codes[count] = code
                    count += 1
    return cells[:count].copy(), codes[:count].copy()
