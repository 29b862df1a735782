"""Scribbles as a doctor would draw them, for demonstrations and for measuring without doctors."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.volume import MaskArray

_PART = 0.6  # of a closed curve is drawn: nobody goes all the way round
_CLEAR = 4  # pixels that a background curve keeps from the target
_FACES = ndimage.generate_binary_structure(2, 1)


def draw_scribble(mask: MaskArray, *, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw on one slice: an open curve inside the target, one around it, and one straight across.

    The inner curve runs half as deep as each piece of the target is. The straight line, which
    crosses the slice and breaks off near the target, shows what is far from it.

    Args:
        mask: the target, bool `[y, x]`; may be empty.
        rng: where the curves begin and how the line runs.

    Returns:
        uint8 `[y, x]`: 1 drawn on the target, 0 drawn outside it, `NOT_ANNOTATED` elsewhere.
    """
    scribble = np.full(mask.shape, NOT_ANNOTATED, dtype=np.uint8)
    far = ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)
    scribble[_line_across(mask.shape, rng) & (far > _CLEAR)] = 0
    scribble[_open(_edge(far <= _CLEAR), rng) & ~mask] = 0
    pieces, count = ndimage.label(mask)
    for number in range(1, count + 1):
        piece = pieces == number
        # Outside the image is outside the target, so that a piece at the border is drawn on too.
        deep = ndimage.distance_transform_edt(np.pad(piece, 1))[1:-1, 1:-1]
        scribble[_open(_edge(deep >= 0.5 * deep.max()), rng)] = 1
    return scribble


def _edge(region: MaskArray) -> MaskArray:
    """Return the pixels of a region with a neighbour outside it; the image's border is none."""
    if not region.any():
        return region
    return np.asarray(region & ~ndimage.binary_erosion(region, _FACES, border_value=1))


def _open(curve: MaskArray, rng: np.random.Generator) -> MaskArray:
    """Keep a part of a curve, by the angle around its centre; at least one pixel."""
    if not curve.any():
        return curve
    y, x = np.nonzero(curve)
    angle = np.arctan2(y - y.mean(), x - x.mean())
    kept = (angle - rng.uniform(-np.pi, np.pi)) % (2 * np.pi) <= 2 * np.pi * _PART
    if not kept.any():
        kept[int(rng.integers(len(kept)))] = True
    part = np.zeros_like(curve)
    part[y[kept], x[kept]] = True
    return part


def _line_across(shape_yx: tuple[int, ...], rng: np.random.Generator) -> MaskArray:
    """Draw a straight line through the middle half of an image, from border to border."""
    centre = [n * rng.uniform(0.25, 0.75) for n in shape_yx]
    angle = rng.uniform(0, np.pi)
    steps = np.arange(-sum(shape_yx), sum(shape_yx), 0.5)
    y = np.round(centre[0] + steps * np.sin(angle)).astype(int)
    x = np.round(centre[1] + steps * np.cos(angle)).astype(int)
    inside = (y >= 0) & (y < shape_yx[0]) & (x >= 0) & (x < shape_yx[1])
    line = np.zeros(shape_yx, dtype=bool)
    line[y[inside], x[inside]] = True
    return line
