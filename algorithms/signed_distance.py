"""Level sets: a mask as the distance to its boundary, negative inside (5-1), and back (5-2)."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from algorithms.contracts.volume import ImageArray, MaskArray


def level_set(
    mask: MaskArray,
    *,
    spacing_zyx_mm: tuple[float, ...] | None = None,
    normalised: bool = True,
) -> ImageArray:
    """Return the distance to the boundary: negative inside, 0 on it, positive outside (5-1).

    The boundary is made of the target's pixels that have a face neighbour outside it. Normalised,
    as a network with a tanh head learns it, each side is divided by its own largest distance:

        T = d_out / max(d_out) - d_in / max(d_in), 0 on the boundary

    where d_out is the distance to the nearest pixel of the target and d_in that to the nearest one
    outside it. Without a target everything is as far outside as can be, and where all is target, as
    far inside: 1 and -1 normalised, else plus and minus infinity.

    Args:
        mask: bool `[y, x]` or `[z, y, x]`.
        spacing_zyx_mm: size of a voxel, one number per axis; None counts voxels.
        normalised: see above; False gives lengths.

    Returns:
        float32, the shape of `mask`; normalised in [-1, 1].

    Raises:
        ValueError: a spacing that does not fit.

    >>> level_set(np.array([[0, 0, 1, 1, 1, 0]], dtype=bool), normalised=False).tolist()
    [[2.0, 1.0, 0.0, -1.0, 0.0, 1.0]]
    """
    spacing = (1.0,) * mask.ndim if spacing_zyx_mm is None else tuple(spacing_zyx_mm)
    if len(spacing) != mask.ndim or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing {spacing} for {mask.ndim} axes: a positive number for each")
    if not mask.any() or mask.all():
        far = 1.0 if normalised else np.inf
        return np.full(mask.shape, -far if mask.any() else far, dtype=np.float32)
    boundary = mask & ~ndimage.binary_erosion(mask, border_value=1)
    if normalised:
        inside = ndimage.distance_transform_edt(mask, sampling=spacing)
        outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
        distance = outside / outside.max() - inside / inside.max()
        distance[boundary] = 0.0
    else:
        distance = ndimage.distance_transform_edt(~boundary, sampling=spacing)
        distance[mask] *= -1.0
    return np.asarray(distance, dtype=np.float32)


def level_sets(
    labels: NDArray[np.integer],
    classes: int,
    *,
    spacing_zyx_mm: tuple[float, ...] | None = None,
) -> ImageArray:
    """Return one normalised level set per class but the background: `[classes - 1, (z,) y, x]`.

    Args:
        labels: class of each pixel, 0 the background, `[y, x]` or `[z, y, x]`.
        classes: how many there are, background included.
        spacing_zyx_mm: see `level_set`.
    """
    return np.stack(
        [level_set(labels == c, spacing_zyx_mm=spacing_zyx_mm) for c in range(1, classes)]
    )


def inverse_level_set(z: Tensor, *, steepness: float = 1500.0) -> Tensor:
    """Return the mask that a level set stands for, smooth enough to learn through: (5-2).

    T^-1(z) = 1 / (1 + exp(k z)): 1 inside, where z < 0, and 0 outside. The thesis prints the sign
    for the other convention.

    Args:
        z: level set, any shape.
        steepness: k; the gradient lives within about 5 / k of the boundary.

    >>> inverse_level_set(torch.tensor([-0.5, 0.0, 0.5])).tolist()
    [1.0, 0.5, 0.0]
    """
    return torch.sigmoid(-steepness * z)
