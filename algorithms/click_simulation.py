"""Clicks as a doctor would set them: for training the network, and for measuring without doctors.

Points are voxel indices in the array's axis order, int64 `[n, 2]` (y, x) or `[n, 3]` (z, y, x).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from algorithms.contracts.volume import MaskArray

Points = NDArray[np.int64]

_NEAR_EXTREME = 0.1  # of the target's extent: a person hits the outermost point only roughly


@dataclass(frozen=True)
class Click:
    """One click of a correction.

    Attributes:
        point: voxel index in the array's axis order.
        foreground: the target is here; False says that it is not.
    """

    point: tuple[int, ...]
    foreground: bool


def interior_margin_points(
    mask: MaskArray,
    *,
    rng: np.random.Generator,
    extra: tuple[int, int] = (0, 5),
    inward_mm_or_voxels: float = 2.0,
    spacing_mm: tuple[float, ...] | None = None,
) -> Points:
    """Simulate interior margin points: inside the target, near its boundary (3.2.1).

    Rule 1: boundary points near 3 or 4 of the 4 extreme points in 2-D (5 or 6 of the 6 in 3-D),
    and some more anywhere on the boundary. One extreme is left out only where the box of the
    others, a little grown, covers the target all the same. Rule 2: each moves a little inward.

    Args:
        mask: the target, bool `[y, x]` or `[z, y, x]`.
        rng: what the points are drawn with.
        extra: least and greatest number of points anywhere on the boundary.
        inward_mm_or_voxels: how far points move inward, or as far as the target is deep there:
            mm with `spacing_mm`, else voxels.
        spacing_mm: of the axes, in their order.

    Returns:
        Different points, all inside the target.

    Raises:
        ValueError: when there is no target.
    """
    if not mask.any():
        raise ValueError("there is no target to click into")
    depth = _depth(mask, spacing_mm)
    # A voxel whose face neighbour is outside, the image's edge counting as outside.
    inside = ndimage.binary_erosion(np.pad(mask, 1))[(slice(1, -1),) * mask.ndim]
    boundary = np.argwhere(mask & ~inside)
    low, high = boundary.min(axis=0), boundary.max(axis=0)
    reach = _NEAR_EXTREME * (high - low)
    extremes = []
    for axis in range(mask.ndim):
        extremes.append(boundary[boundary[:, axis] <= low[axis] + reach[axis]])
        extremes.append(boundary[boundary[:, axis] >= high[axis] - reach[axis]])
    chosen = [rng.choice(extremes[i]) for i in rng.permutation(len(extremes))]
    fewer = np.array(chosen[:-1])
    slack = 1.0 + reach
    covered = (fewer.min(axis=0) - slack <= low) & (fewer.max(axis=0) + slack >= high)
    if covered.all() and rng.random() < 0.5:
        chosen.pop()
    chosen += list(rng.choice(boundary, int(rng.integers(extra[0], extra[1] + 1))))
    moved = [_inward(point, depth, inward_mm_or_voxels, spacing_mm) for point in chosen]
    return np.unique(np.array(moved, dtype=np.int64), axis=0)


def _inward(
    point: Points, depth: NDArray[np.float64], wanted: float, spacing_mm: tuple[float, ...] | None
) -> Points:
    """Return the nearest voxel that is deep enough, or the deepest within reach."""
    spacing = np.ones(depth.ndim) if spacing_mm is None else np.asarray(spacing_mm)
    reach = np.ceil(2.0 * wanted / spacing).astype(np.int64)
    start = np.maximum(point - reach, 0)
    window = depth[tuple(slice(a, b) for a, b in zip(start, point + reach + 1, strict=True))]
    deep_enough = np.minimum(window, wanted)
    candidates = np.argwhere(deep_enough == deep_enough.max()) + start
    steps_mm = (candidates - point) * spacing
    nearest: Points = candidates[np.argmin(np.square(steps_mm).sum(axis=1))]
    return nearest


def next_click(
    predicted: MaskArray, reference: MaskArray, *, spacing_mm: tuple[float, ...] | None = None
) -> Click | None:
    """Click like a robot user: into the middle of the largest error; None where there is none.

    The largest error is the connected component, of missing or of surplus voxels, with the most
    voxels; its middle is the voxel farthest from its outline, and nearest to its centre of mass
    among equals.
    """
    if predicted.shape != reference.shape:
        raise ValueError(f"predicted {predicted.shape} and reference {reference.shape}")
    best: tuple[int, MaskArray, tuple[slice, ...], bool] | None = None
    for foreground, error in ((True, reference & ~predicted), (False, predicted & ~reference)):
        labels, count = ndimage.label(error)
        if not count:
            continue
        sizes = np.bincount(labels.ravel())[1:]
        largest = int(sizes.argmax())
        if best is None or sizes[largest] > best[0]:
            box = ndimage.find_objects(labels)[largest]
            best = (int(sizes[largest]), labels[box] == largest + 1, box, foreground)
    if best is None:
        return None
    _, component, box, foreground = best
    depth = _depth(component, spacing_mm)
    deepest = np.argwhere(depth >= depth.max() - 1e-9)
    centre = np.argwhere(component).mean(axis=0)
    middle = deepest[np.argmin(np.square(deepest - centre).sum(axis=1))]
    point = tuple(int(m) + side.start for m, side in zip(middle, box, strict=True))
    return Click(point, foreground)


def _depth(mask: MaskArray, spacing_mm: tuple[float, ...] | None) -> NDArray[np.float64]:
    """Distance of every voxel of a mask to the outside, the image's edge counting as outside."""
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(
        np.pad(mask, 1), sampling=spacing_mm
    )
    return depth[(slice(1, -1),) * mask.ndim]
