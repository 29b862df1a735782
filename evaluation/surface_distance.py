"""Distances between the surfaces of two masks, measured once and then read in several ways.

Two kinds of surface share one shape, `SurfaceDistances`:

- boundary voxels: foreground voxels with a face neighbour outside the mask, each of weight 1;
- surface elements: the pieces of a marching-cubes surface between voxel centres, each weighted by
  its area in mm^2 (its length in mm in 2-D), as google-deepmind/surface-distance defines them.

Outside the array counts as outside the mask. Masks are bool `[y, x]` or `[z, y, x]` and spacings
have one entry per axis, in the same order.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.volume import FloatArray, MaskArray

# A distance on a grid is a rounded sum of squares (7 steps of 0.2 mm are 1.4000000000000001 mm):
# whether it lies within a tolerance must not hang on the last bit.
_ROUNDING_MM = 1e-9

_Point = tuple[float, ...]
_Normals = FloatArray  # [triangle, 3], (z, y, x); the length of a normal is the triangle's area


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances from each piece of one surface to the nearest piece of the other.

    Attributes:
        predicted_to_reference_mm: float64 `[p]`.
        reference_to_predicted_mm: float64 `[r]`.
        predicted_weights: float64 `[p]`, how much each piece counts: 1, or its area.
        reference_weights: float64 `[r]`.
    """

    predicted_to_reference_mm: FloatArray
    reference_to_predicted_mm: FloatArray
    predicted_weights: FloatArray
    reference_weights: FloatArray


def boundary_voxel_distances(
    reference: MaskArray, predicted: MaskArray, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Measure the distances between the boundary voxels (their centres) of two masks.

    Raises:
        ValueError: when a mask is empty: it has no surface.
    """
    from evaluation.surface_cells import boundary_cells  # numba: reports are read without it

    cells = boundary_cells(reference), boundary_cells(predicted)
    weights = np.ones(len(cells[0])), np.ones(len(cells[1]))
    return _distances(cells, weights, spacing_mm)


def surface_element_distances(
    reference: MaskArray, predicted: MaskArray, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Measure the distances between the surface elements of two masks, weighted by area.

    An element sits at the centre of a 2x2x2 (2x2) neighbourhood that is neither all outside nor all
    inside the mask; its area is that of the surface marching cubes puts there.

    Raises:
        ValueError: when a mask is empty: it has no surface.
    """
    from evaluation.surface_cells import cut_cells

    areas = _element_areas(tuple(float(step) for step in spacing_mm))
    (reference_cells, reference_codes), (predicted_cells, predicted_codes) = (
        cut_cells(reference),
        cut_cells(predicted),
    )
    return _distances(
        (reference_cells, predicted_cells),
        (areas[reference_codes], areas[predicted_codes]),
        spacing_mm,
    )


def hausdorff_mm(distances: SurfaceDistances, percentile: float = 100.0) -> float:
    """Return the larger of the two directed percentiles of the distances, in mm.

    HD = max(P(d_p->r), P(d_r->p)) with numpy's linear percentile P; 95 gives HD95 as monai and
    surface-distance define it (not the percentile of both sets pooled).
    """
    both = distances.predicted_to_reference_mm, distances.reference_to_predicted_mm
    if percentile == 100.0:  # which needs no sorting
        return float(max(one.max() for one in both))
    return max(_percentile(one, percentile) for one in both)


def pooled_percentile_mm(distances: SurfaceDistances, percentile: float = 95.0) -> float:
    """Return the percentile of both sets of distances pooled, in mm: "hd95" as medpy defines it.

    Where one surface is much smaller than the other, or one far piece is a small part of both, this
    is less than `hausdorff_mm`; figures under one name must not mix the two.
    """
    pooled = [distances.predicted_to_reference_mm, distances.reference_to_predicted_mm]
    return _percentile(np.concatenate(pooled), percentile)


def pooled_mean_mm(distances: SurfaceDistances) -> float:
    """Return the average symmetric surface distance in mm: the mean of both sets together.

    ASSD = (sum d_p->r + sum d_r->p) / (|S_p| + |S_r|), (3-12).
    """
    return float(
        np.concatenate(
            [distances.predicted_to_reference_mm, distances.reference_to_predicted_mm]
        ).mean()
    )


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Return the normalised surface Dice: the share of both surfaces within `tolerance_mm`.

    NSD = (w(S_p within t of S_r) + w(S_r within t of S_p)) / (w(S_p) + w(S_r)), where w is the
    total weight of a set of pieces.

    Reference:
        Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and
        neck anatomy for radiotherapy, 2018.
    """
    limit = tolerance_mm + _ROUNDING_MM
    near_predicted = distances.predicted_weights[distances.predicted_to_reference_mm <= limit].sum()
    near_reference = distances.reference_weights[distances.reference_to_predicted_mm <= limit].sum()
    total = distances.predicted_weights.sum() + distances.reference_weights.sum()
    return float((near_predicted + near_reference) / total)


def _percentile(values: FloatArray, percentile: float) -> float:
    """Interpolate linearly as `np.percentile` does, which takes longer than all distances here."""
    rank = percentile / 100 * (len(values) - 1)
    low = int(rank)
    high = min(low + 1, len(values) - 1)
    ordered = np.partition(values, (low, high))
    return float(ordered[low] + (ordered[high] - ordered[low]) * (rank - low))


def _distances(
    cells: tuple[NDArray[np.int32], NDArray[np.int32]],
    weights: tuple[FloatArray, FloatArray],
    spacing_mm: Sequence[float],
) -> SurfaceDistances:
    """Measure between two surfaces, (reference, predicted), on one grid."""
    from evaluation.nearest_surface import nearest_mm

    reference, predicted = cells
    if not (len(reference) and len(predicted)):
        raise ValueError("an empty mask has no surface to measure a distance to")
    spacing_zyx_mm = spacing_mm if len(spacing_mm) == 3 else (1.0, *spacing_mm)
    return SurfaceDistances(
        predicted_to_reference_mm=nearest_mm(predicted, reference, spacing_zyx_mm),
        reference_to_predicted_mm=nearest_mm(reference, predicted, spacing_zyx_mm),
        predicted_weights=weights[1],
        reference_weights=weights[0],
    )


@functools.lru_cache(maxsize=16)
def _element_areas(spacing_mm: tuple[float, ...]) -> FloatArray:
    """Tabulate the area (3-D) or length (2-D) of the surface inside each neighbourhood code.

    Returns:
        float64 `[2 ** 2 ** axes]`; 0 for the first code (all outside) and the last (all inside).
    """
    spacing = np.asarray(spacing_mm)
    if len(spacing) == 2:
        square = ((0, 0), (0, 1), (1, 1), (1, 0))
        ends = [np.reshape(_segments(square, code), (-1, 2, 2)) for code in range(16)]
        return np.array([np.linalg.norm((e[:, 1] - e[:, 0]) * spacing, axis=1).sum() for e in ends])
    # Stretching an axis stretches the area seen along the two others.
    stretch = np.prod(spacing) / spacing
    return np.array([np.linalg.norm(n * stretch, axis=1).sum() for n in _cube_normals()])


@functools.cache
def _cube_normals() -> tuple[_Normals, ...]:
    """Derive the triangles of the marching-cubes surface in the unit cube, for each of 256 codes.

    The construction behind the table of google-deepmind/surface-distance: vertices in the middle
    of the cut edges; the corners of the minority (foreground when it is four against four) are
    cut off one by one on faces where they touch only diagonally; loops that are not flat are
    filled with the triangles of the largest total area.
    """
    normals = []
    for code in range(256):
        minority = min(code, 255 - code, key=int.bit_count)
        triangles = [normal for loop in _loops(minority) for normal in _fill(loop)]
        normals.append(np.reshape(triangles, (-1, 3)))
    return tuple(normals)


def _loops(code: int) -> list[list[_Point]]:
    """Trace the closed lines in which the surface cuts the faces of the unit cube."""
    links: dict[_Point, list[_Point]] = {}
    for axis, side in product(range(3), (0, 1)):
        around = [(0, 0), (0, 1), (1, 1), (1, 0)]
        face = tuple((*corner[:axis], side, *corner[axis:]) for corner in around)
        for start, end in _segments(face, code):
            links.setdefault(start, []).append(end)
            links.setdefault(end, []).append(start)
    loops = []
    while links:
        point, ahead = next(iter(links.items()))
        loop = []
        while ahead:
            loop.append(point)
            del links[point]
            ahead = [end for end in ahead if end in links]
            if ahead:
                point, ahead = ahead[0], links[ahead[0]]
        loops.append(loop)
    return loops


def _segments(face: Sequence[tuple[int, ...]], code: int) -> list[tuple[_Point, _Point]]:
    """Cut off each run of foreground corners around a face, from mid-edge to mid-edge."""
    corner_bits = [sum(c << k for k, c in enumerate(reversed(corner))) for corner in face]
    inside = [bool(code >> bit & 1) for bit in corner_bits]

    def middle(i: int) -> _Point:
        """Middle of the edge from corner i - 1 to corner i."""
        return tuple((a + b) / 2 for a, b in zip(face[(i - 1) % 4], face[i % 4], strict=True))

    segments = []
    for first in range(4):
        if inside[first] and not inside[first - 1]:
            last = first
            while inside[(last + 1) % 4]:
                last += 1
            segments.append((middle(first), middle(last + 1)))
    return segments


def _fill(loop: Sequence[_Point]) -> list[FloatArray]:
    """Return the triangle normals of the triangulation of `loop` with the largest area."""
    if len(loop) < 3:
        return []
    start, end = np.array(loop[0]), np.array(loop[-1])
    fillings = [
        [
            np.cross(np.array(loop[k]) - start, end - start) / 2,
            *_fill(loop[: k + 1]),
            *_fill(loop[k:]),
        ]
        for k in range(1, len(loop) - 1)
    ]
    return max(fillings, key=lambda normals: sum(float(np.linalg.norm(n)) for n in normals))
