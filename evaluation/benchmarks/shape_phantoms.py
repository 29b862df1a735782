"""Invented tissues of any shape and contrast, to teach the interactive network what clicks mean.

Smooth noise cuts the picture into tissues, and one of them, or a dented ball, is the target.
Nothing here looks like an organ: a network that learns to follow clicks on these follows them
elsewhere.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from algorithms.contracts.volume import ImageArray, MaskArray
from algorithms.interactive_training import Target, cut_target

SHAPES: dict[int, tuple[int, ...]] = {2: (96, 96), 3: (40, 72, 72)}


def shape_phantoms(dimensions: int, count: int, *, seed: int) -> list[Target]:
    """Draw `count` targets with their surroundings."""
    return [draw_phantom(dimensions, np.random.default_rng([seed, i])) for i in range(count)]


def draw_phantom(dimensions: int, rng: np.random.Generator) -> Target:
    """Draw one target."""
    shape = SHAPES[dimensions]
    tissues = _tissues(shape, rng)
    mask = _dented_ball(shape, rng) if rng.random() < 0.6 else _one_piece(tissues, rng)
    if mask is None:
        mask = _dented_ball(shape, rng)
    levels = rng.uniform(0.0, 1.0, tissues.max() + 1)
    image = levels[tissues]
    own = rng.uniform(0.0, 1.0)
    # The target differs from most of its surroundings, but not always by much.
    around = float(np.median(image[ndimage.binary_dilation(mask, iterations=3) & ~mask]))
    if abs(own - around) < 0.15:
        own = around + rng.choice([-1.0, 1.0]) * rng.uniform(0.15, 0.5)
    image[mask] = own
    if rng.random() < 0.3:  # a core of another grey value, such as necrosis
        core = mask & (_smooth(shape, rng.uniform(4, 10), rng) > 0.6)
        image[core] = rng.uniform(0.0, 1.0)
    image = image + rng.uniform(0.0, 0.15) * _smooth(shape, rng.uniform(1.5, 6.0), rng)
    image = image * (1.0 + rng.uniform(0.0, 0.25) * _smooth(shape, 30.0, rng))
    image = ndimage.gaussian_filter(image, rng.uniform(0.3, 1.5))
    image = image + rng.uniform(0.0, 0.08) * rng.standard_normal(shape)
    return cut_target(image, mask)


def _smooth(shape: tuple[int, ...], length: float, rng: np.random.Generator) -> ImageArray:
    """Draw a smooth field of mean 0 and standard deviation 1; `length` in voxels."""
    coarse = [max(int(np.ceil(n / length)) + 1, 2) for n in shape]
    field = ndimage.zoom(
        rng.standard_normal(coarse), [n / c for n, c in zip(shape, coarse, strict=True)], order=3
    )
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), dtype=np.float32)


def _tissues(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    fields = [_smooth(shape, rng.uniform(8, 24), rng) for _ in range(int(rng.integers(3, 8)))]
    return np.asarray(np.argmax(fields, axis=0))


def _dented_ball(shape: tuple[int, ...], rng: np.random.Generator) -> MaskArray:
    semi = np.array(shape) * rng.uniform(0.12, 0.33, len(shape))
    centre = np.array(shape) * rng.uniform(0.4, 0.6, len(shape))
    grids = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    radius = sum(((g - c) / s) ** 2 for g, c, s in zip(grids, centre, semi, strict=True))
    dents = rng.uniform(0.0, 0.4) * _smooth(shape, float(semi.min()), rng)
    return _largest(np.sqrt(radius) + dents < 1.0)


def _one_piece(tissues: NDArray[np.int64], rng: np.random.Generator) -> MaskArray | None:
    """Return one connected piece of a tissue that is neither tiny nor most of the picture."""
    tissue = ndimage.binary_opening(tissues == rng.integers(tissues.max() + 1), iterations=2)
    pieces, count = ndimage.label(tissue)
    shares = np.bincount(pieces.ravel(), minlength=count + 1)[1:] / tissues.size
    fitting = np.flatnonzero((shares > 0.01) & (shares < 0.2))
    return None if not fitting.size else pieces == rng.choice(fitting) + 1


def _largest(mask: MaskArray) -> MaskArray:
    pieces, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return np.asarray(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)
