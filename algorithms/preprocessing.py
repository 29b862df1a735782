"""From an image in the hospital to network input, and back onto the original grid (6.2.3)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.model_package import PreprocessingRecipe
from algorithms.contracts.volume import Geometry, ImageArray, MaskArray, Volume


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """Axial slices ready for the network.

    Attributes:
        slices: float32 `[z, h, w]`, resampled in plane and normalised.
        geometry: the grid it came from.
    """

    slices: ImageArray
    geometry: Geometry


def preprocess(volume: Volume, recipe: PreprocessingRecipe) -> PreprocessedImage:
    """Resample in plane, clip and normalise an image; slices stay where they are along z."""
    resampled = _resize(volume.image, _working_size(volume.geometry, recipe))
    low, high = np.percentile(resampled, recipe.clip_percentiles)
    clipped = np.clip(resampled, low, high)
    if recipe.normalisation == "percentile_range":
        ranged = (clipped - low) * (4.0 / max(float(high - low), 1e-6)) - 2.0
        return PreprocessedImage(ranged.astype(np.float32), volume.geometry)
    body = clipped[clipped > np.percentile(clipped, recipe.foreground_percentile)]
    if body.size == 0:  # an image of one grey value
        body = clipped.ravel()
    normalised = (clipped - body.mean()) / max(float(body.std()), 1e-6)
    return PreprocessedImage(normalised.astype(np.float32), volume.geometry)


def preprocess_mask(
    mask: MaskArray, geometry: Geometry, recipe: PreprocessingRecipe
) -> NDArray[np.uint8]:
    """Resample a mask `[z, y, x]` as `preprocess` resamples its image: uint8 `[z, h, w]`."""
    soft = _resize(mask.astype(np.float32), _working_size(geometry, recipe))
    return (soft >= 0.5).astype(np.uint8)


def preprocess_scribble(
    scribble: NDArray[np.uint8], geometry: Geometry, recipe: PreprocessingRecipe
) -> NDArray[np.uint8]:
    """Bring a scribble on one slice, `[y, x]`, onto the working grid: uint8 `[h, w]`."""
    return resize_scribble(scribble, _working_size(geometry, recipe))


def resize_scribble(scribble: NDArray[np.uint8], size_yx: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize lines one pixel wide: a coarse pixel is drawn on where a line crosses it.

    Taking every n-th pixel, or an average, would lose most of a line. Where lines of several
    classes cross one coarse pixel, the highest class is kept; a finer grid has the line thicker.

    Args:
        scribble: class, or `NOT_ANNOTATED`, `[y, x]`.
        size_yx: the new shape.
    """
    rows, columns = (
        np.unique(np.concatenate([_cells(n, m), _cells(m, n)[:, ::-1]]), axis=0)
        for n, m in zip(scribble.shape, size_yx, strict=True)
    )
    # Class + 1, so that "not annotated" is 0 and loses against every class.
    order = np.where(scribble == NOT_ANNOTATED, 0, scribble.astype(np.int16) + 1)
    tall = np.zeros((size_yx[0], scribble.shape[1]), dtype=np.int16)
    np.maximum.at(tall, rows[:, 1], order[rows[:, 0]])
    found = np.zeros((size_yx[1], size_yx[0]), dtype=np.int16)
    np.maximum.at(found, columns[:, 1], tall.T[columns[:, 0]])
    return np.where(found.T == 0, NOT_ANNOTATED, found.T - 1).astype(np.uint8)


def _cells(fine: int, coarse: int) -> NDArray[np.int64]:
    """Pair every pixel of one grid with the pixel of the other that holds its centre: `[n, 2]`."""
    own = np.arange(fine)
    return np.stack([own, ((own + 0.5) * coarse / fine).astype(np.int64)], axis=1)


def restore(probability: ImageArray, geometry: Geometry) -> ImageArray:
    """Bring a probability `[z, h, w]` back onto its grid: float32 `[z, y, x]` in [0, 1]."""
    if probability.shape[0] != geometry.shape_zyx[0]:
        raise ValueError(f"{probability.shape[0]} slices for a grid of {geometry.shape_zyx}")
    return _resize(probability, geometry.shape_zyx[1:])


def mirror_outwards(
    slices: ImageArray, *, stride: int, patch_yx: tuple[int, int] = (1, 1)
) -> tuple[ImageArray, tuple[slice, slice]]:
    """Mirror slices outwards to at least a training patch, with sides that divide by `stride`.

    A network trained on mirrored patches has to see small images in the same way; otherwise it
    finds nothing on them.

    Args:
        slices: float32 `[n, h, w]`.
        stride: of the network.
        patch_yx: size of the training patches.

    Returns:
        The larger slices, and where the originals lie in them, for cutting results back.
    """
    padding, window = [(0, 0)], []
    for side, patch in zip(slices.shape[1:], patch_yx, strict=True):
        wanted = -(-max(side, patch) // stride) * stride
        before = (wanted - side) // 2
        padding.append((before, wanted - side - before))
        window.append(slice(before, before + side))
    return np.pad(slices, padding, mode="symmetric"), (window[0], window[1])


def _working_size(geometry: Geometry, recipe: PreprocessingRecipe) -> tuple[int, int]:
    if recipe.in_plane_spacing_mm is None:
        return recipe.patch_yx
    _, *spacing_yx = geometry.spacing_zyx_mm
    _, *shape_yx = geometry.shape_zyx
    rows, columns = (
        max(1, round(n * spacing / recipe.in_plane_spacing_mm))
        for n, spacing in zip(shape_yx, spacing_yx, strict=True)
    )
    return rows, columns


def _resize(image: NDArray[np.float32], size_yx: tuple[int, int]) -> ImageArray:
    """Resize slices so that the outer edges coincide, with anti-aliasing when shrinking."""
    if image.shape[1:] == size_yx:
        return image.astype(np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[:, None]
    resized = functional.interpolate(
        tensor, size=size_yx, mode="bilinear", align_corners=False, antialias=True
    )
    result: ImageArray = resized[:, 0].numpy()
    return result
