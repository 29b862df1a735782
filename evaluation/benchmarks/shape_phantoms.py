"""Invented tissues of any shape and contrast, to teach the interactive network what clicks mean.

Smooth noise cuts the picture into tissues. The target is one of them, a dented ball, a bent tube or
a column with flat ends. Nothing here looks like an organ: a network that learns to follow clicks on
these follows them elsewhere.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

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
    mask = _target(tissues, rng)
    levels = rng.uniform(0.0, 1.0, tissues.max() + 1)
    image = levels[tissues]
    if rng.random() < 0.3:  # a wall, such as muscle around a chamber, not closed everywhere
        wall = ndimage.binary_dilation(mask, iterations=int(rng.integers(1, 5))) & ~mask
        image[wall & (_smooth(shape, rng.uniform(8, 24), rng) < 1.0)] = rng.uniform(0.0, 1.0)
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
    field = rng.standard_normal([max(int(np.ceil(n / length)) + 1, 2) for n in shape])
    for axis, n in enumerate(shape):  # cubic, one axis after the other
        spread = ndimage.zoom(np.eye(field.shape[axis]), (n / field.shape[axis], 1.0), order=3)
        field = np.moveaxis(np.tensordot(spread, field, (1, axis)), 0, axis)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), dtype=np.float32)


def _tissues(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    fields = [_smooth(shape, rng.uniform(8, 24), rng) for _ in range(int(rng.integers(3, 8)))]
    return np.asarray(np.argmax(fields, axis=0))


def _target(tissues: NDArray[np.int64], rng: np.random.Generator) -> MaskArray:
    kind = rng.choice(["ball", "tube", "column", "piece"], p=[0.3, 0.25, 0.15, 0.3])
    if kind == "tube":
        return _bent_tube(tissues.shape, rng)
    if kind == "column":
        return _column(tissues.shape, rng)
    mask = _one_piece(tissues, rng) if kind == "piece" else None
    return _dented_ball(tissues.shape, rng) if mask is None else mask


def _dented_ball(shape: tuple[int, ...], rng: np.random.Generator) -> MaskArray:
    semi = np.array(shape) * rng.uniform(0.12, 0.33, len(shape))
    centre = np.array(shape) * rng.uniform(0.4, 0.6, len(shape))
    power = rng.uniform(1.6, 4.0)  # 2 is an ellipse, more is a box with round corners
    radius = sum(
        abs((g - c) / s) ** power for g, c, s in zip(_grid(shape), centre, semi, strict=True)
    )
    dents = rng.uniform(0.0, 0.4) * _smooth(shape, float(semi.min()), rng)
    return _largest(radius ** (1.0 / power) + dents < 1.0)


def _bent_tube(shape: tuple[int, ...], rng: np.random.Generator) -> MaskArray:
    """All within a changing distance of a curve: bananas, horns, flat when one axis is squeezed."""
    ends = np.array(shape) * rng.uniform(0.15, 0.85, (3, len(shape)))
    t = np.linspace(0.0, 1.0, 60)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    # How thick it is along the curve, at 5 places and between.
    thick = np.interp(t[:, 0], np.linspace(0, 1, 5), rng.uniform(0.5, 1.0, 5))
    thick *= rng.uniform(0.07, 0.16) * min(shape[-2:])
    squeeze = rng.uniform(0.6, 1.4, len(shape))
    places = np.stack(_grid(shape), axis=-1).reshape(-1, len(shape)) / squeeze
    distance, nearest = cKDTree(curve / squeeze).query(places)
    dents = 1.0 + rng.uniform(0.0, 0.25) * _smooth(shape, rng.uniform(6, 16), rng)
    return _largest((distance / thick[nearest]).reshape(shape) < dents)


def _column(shape: tuple[int, ...], rng: np.random.Generator) -> MaskArray:
    """A target with flat ends along one axis, as where only some slices were drawn."""
    axis = int(rng.integers(len(shape)))
    grid = _grid(shape)
    along = grid[axis] / shape[axis]
    first, length = rng.uniform(0.1, 0.4), rng.uniform(0.25, 0.55)
    radius = np.zeros(shape, dtype=np.float32)
    for other in set(range(len(shape))) - {axis}:
        centre = rng.uniform(0.4, 0.6) + rng.uniform(-0.3, 0.3) * (along - 0.5)
        semi = rng.uniform(0.12, 0.33) * (1.0 + rng.uniform(-0.8, 0.8) * (along - 0.5))
        radius += ((grid[other] / shape[other] - centre) / semi) ** 2
    dents = rng.uniform(0.0, 0.3) * _smooth(shape, rng.uniform(8, 24), rng)
    return _largest((np.sqrt(radius) + dents < 1.0) & (along > first) & (along < first + length))


def _grid(shape: tuple[int, ...]) -> tuple[NDArray[np.float32], ...]:
    return np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")


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
