"""Geodesic distance from clicks, the maps that encode clicks for a network, and their comparators.

The distance is exact: Dijkstra's algorithm with a queue of buckets in place of a heap. Inside a
bucket a pixel may be reached twice, and is then corrected; so the width of the buckets decides how
fast the answer comes, never what it is.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import ImageArray, MaskArray

Engine = Literal["exact", "geodistk", "fastgeodis"]
Neighbourhood = Literal["full", "face"]

_BUCKETS = 4096


def geodesic_distance(
    image: NDArray[np.floating],
    seeds: MaskArray,
    *,
    spacing_mm: tuple[float, ...] | None = None,
    length_weight_per_mm: float = 0.0,
    engine: Engine = "exact",
    initial: ImageArray | None = None,
    neighbourhood: Neighbourhood = "full",
    maximum: float = np.inf,
    raster_passes: int = 4,
) -> ImageArray:
    """Return the geodesic distance of every pixel to its nearest seed: (3-2).

    D(i) = min over seeds j and paths p from j to i of
           sum over steps of |I_p - I_q| + length_weight_per_mm * step_mm

    Args:
        image: grey values `[y, x]` or `[z, y, x]`.
        seeds: True at the clicks, same shape.
        spacing_mm: of the axes, in their order; None means 1 mm.
        length_weight_per_mm: cost of a way through constant grey values; 0 is the pure formula.
        engine: "exact"; "geodistk", whose own cost of a step is |I_p - I_q| * step_mm and whose
            raster scans are approximate; "fastgeodis", approximate raster scans of our cost.
        initial: an earlier result for some of these seeds, with the same parameters. Only what
            the other seeds bring nearer is computed again (exact engine only).
        neighbourhood: 8 / 26 neighbours, or "face" for 4 / 6 (exact engine only).
        maximum: stop there; what is farther away stays infinite (exact engine only).
        raster_passes: how often the approximate engines scan the image.

    Returns:
        float32, the image's shape; infinite everywhere without seeds.

    Raises:
        ValueError: shapes or parameters that do not fit.
        DataError: the image holds a value that is not finite, or the engine is not installed.

    >>> geodesic_distance(np.array([[0.0, 1.0, 3.0]]), np.array([[True, False, False]])).tolist()
    [[0.0, 1.0, 3.0]]
    """
    grey, spacing = _checked(image, seeds, spacing_mm)
    if not 0.0 <= length_weight_per_mm < np.inf:
        raise ValueError(f"length_weight_per_mm {length_weight_per_mm} is no length's cost")
    if not maximum >= 0.0:
        raise ValueError(f"maximum {maximum} is no distance")
    if neighbourhood not in ("full", "face"):
        raise ValueError(f"neighbourhood '{neighbourhood}' is unknown: 'full' or 'face'")
    if initial is not None and not (initial.shape == grey.shape and (initial >= 0).all()):
        raise ValueError(f"initial {initial.shape} is no distance map of an image of {grey.shape}")
    if engine == "exact":
        steps = _steps(grey.ndim, spacing, length_weight_per_mm, neighbourhood)
        return _exact(grey, seeds, steps, initial, maximum)
    if initial is not None or neighbourhood != "full" or np.isfinite(maximum):
        raise ValueError(f"engine '{engine}' knows no initial, neighbourhood or maximum")
    if engine not in ("geodistk", "fastgeodis"):
        raise ValueError(f"engine '{engine}' is unknown: 'exact', 'geodistk' or 'fastgeodis'")
    if engine == "geodistk" and length_weight_per_mm > 0:
        raise ValueError("engine 'geodistk' mixes length and grey values in another way: weight 0")
    if not seeds.any():
        return np.full(grey.shape, np.inf, dtype=np.float32)
    if engine == "geodistk":
        return _geodistk(grey, seeds, spacing, raster_passes)
    return _fastgeodis(grey, seeds, spacing, length_weight_per_mm, raster_passes)


def exponential_geodesic_map(
    image: NDArray[np.floating],
    seeds: MaskArray,
    *,
    spacing_mm: tuple[float, ...] | None = None,
    length_weight_per_mm: float = 0.0,
    engine: Engine = "exact",
) -> ImageArray:
    """Return exp(-D), the exponentialised geodesic distance (EGD): (3-1).

    Args:
        image: grey values `[y, x]` or `[z, y, x]`.
        seeds: True at the clicks.
        spacing_mm: see `geodesic_distance`.
        length_weight_per_mm: see `geodesic_distance`.
        engine: see `geodesic_distance`.

    Returns:
        float32 in [0, 1]: 1 at the clicks, 0 everywhere without clicks.
    """
    return np.exp(
        -geodesic_distance(
            image,
            seeds,
            spacing_mm=spacing_mm,
            length_weight_per_mm=length_weight_per_mm,
            engine=engine,
        )
    )


def euclidean_map(image: NDArray[np.floating], seeds: MaskArray) -> ImageArray:
    """Return the distance to the nearest click in pixels, by the grid's diagonal: (2-10).

    In [0, 1] for the network's sake; 1 everywhere without clicks.
    """
    _checked(image, seeds, None)
    if not seeds.any():
        return np.ones(seeds.shape, dtype=np.float32)
    distance = ndimage.distance_transform_edt(~seeds)
    return np.asarray(distance / np.linalg.norm(seeds.shape), dtype=np.float32)


def gaussian_map(
    image: NDArray[np.floating], seeds: MaskArray, *, sigma_pixels: float = 5.0
) -> ImageArray:
    """Return exp(-d^2 / (2 sigma^2)), d the distance to the nearest click in pixels: (2-11)."""
    _checked(image, seeds, None)
    if not seeds.any():
        return np.zeros(seeds.shape, dtype=np.float32)
    distance = ndimage.distance_transform_edt(~seeds)
    return np.asarray(np.exp(-np.square(distance) / (2.0 * sigma_pixels**2)), dtype=np.float32)


def truncated_geodesic_map(
    image: NDArray[np.floating], seeds: MaskArray, *, truncation: float = 1.0
) -> ImageArray:
    """Return the geodesic distance (2-12), cut off at a threshold and divided by it: in [0, 1]."""
    distance = geodesic_distance(image, seeds)
    return np.asarray(np.minimum(distance / truncation, 1.0), dtype=np.float32)


def box_map(image: NDArray[np.floating], seeds: MaskArray) -> ImageArray:
    """Return 1 inside the bounding box of the clicks and 0 outside."""
    _checked(image, seeds, None)
    box = np.zeros(seeds.shape, dtype=np.float32)
    places = np.argwhere(seeds)
    if len(places):
        box[tuple(slice(a, b + 1) for a, b in zip(places.min(0), places.max(0), strict=True))] = 1.0
    return box


# How clicks become an input channel of the network: the thesis's choice and its comparators.
ENCODINGS: dict[str, Callable[[NDArray[np.floating], MaskArray], ImageArray]] = {
    "egd": exponential_geodesic_map,
    "euclidean": euclidean_map,
    "gaussian": gaussian_map,
    "geodesic": truncated_geodesic_map,
    "box": box_map,
}


def _checked(
    image: NDArray[np.floating], seeds: MaskArray, spacing_mm: tuple[float, ...] | None
) -> tuple[ImageArray, tuple[float, ...]]:
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"an image is [y, x] or [z, y, x] and not empty, not {image.shape}")
    if seeds.shape != image.shape or seeds.dtype != bool:
        raise ValueError(f"seeds {seeds.dtype} {seeds.shape} for an image of {image.shape}")
    spacing = (1.0,) * image.ndim if spacing_mm is None else tuple(spacing_mm)
    if len(spacing) != image.ndim or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing {spacing_mm} for {image.ndim} axes: a positive number for each")
    grey = np.ascontiguousarray(image, dtype=np.float32)
    if not np.isfinite(grey).all():
        raise DataError(
            "the image holds values that are not finite (NaN or infinite): export it again"
        )
    return grey, spacing


def _steps(
    axes: int,
    spacing: tuple[float, ...],
    length_weight_per_mm: float,
    neighbourhood: Neighbourhood,
) -> list[tuple[tuple[int, ...], float]]:
    """Return the steps to all neighbours, each with its cost of length."""
    steps = []
    for step in np.ndindex(*(3,) * axes):
        offset = tuple(s - 1 for s in step)
        if not any(offset) or (neighbourhood == "face" and sum(map(abs, offset)) != 1):
            continue
        length_mm = float(np.linalg.norm(np.multiply(offset, spacing)))
        steps.append((offset, length_weight_per_mm * length_mm))
    return steps


def _exact(
    grey: ImageArray,
    seeds: MaskArray,
    steps: list[tuple[tuple[int, ...], float]],
    initial: ImageArray | None,
    maximum: float,
) -> ImageArray:
    # A border that no way enters (nothing is nearer than -1) spares all bounds checks.
    inside = (slice(1, -1),) * grey.ndim
    # Grey value and distance lie side by side, since they are read together. Double precision
    # costs no time in 2-D, where hundreds of rounded steps add up to 1e-5; volumes keep half of
    # the memory.
    precision: type[np.floating] = np.float64 if grey.ndim == 2 else np.float32
    field = np.full((*(n + 2 for n in grey.shape), 2), -1.0, dtype=precision)
    field[..., 0][inside] = grey
    field[..., 1][inside] = np.inf if initial is None else initial
    strides = np.array(field.strides[:-1]) // (2 * field.itemsize)
    offsets = np.array([int(np.dot(offset, strides)) for offset, _ in steps], dtype=np.int64)
    costs = np.array([cost for _, cost in steps], dtype=precision)
    places = np.argwhere(seeds)
    sources = (places + 1) @ strides
    width = _bucket_width(grey, costs)
    _propagate(
        field.reshape(-1, 2),
        sources.astype(np.int64),
        offsets,
        costs,
        1.0 / width,
        float(np.nextafter(np.float32(maximum), np.float32(np.inf))),  # what rounds to it is in
    )
    distance = np.ascontiguousarray(field[..., 1][inside], dtype=np.float32)
    distance[distance > maximum] = np.inf
    return distance


def _bucket_width(grey: ImageArray, costs: NDArray[np.floating]) -> float:
    """An eighth of a usual step: wide enough to be few, narrow enough to correct little."""
    if grey.size == 1:
        return 1.0
    flat = grey.ravel()
    places = np.arange(0, flat.size - 1, max(1, flat.size // 5_000))
    changes = np.abs(flat[places + 1] - flat[places]).astype(np.float64)
    # One bright pixel must not widen the buckets of all others.
    usual = float(np.minimum(changes, np.percentile(changes, 90)).mean()) or float(changes.mean())
    largest = float(flat.max()) - float(flat.min()) + float(costs.max())
    return max((usual + float(costs.mean())) / 8.0, largest * 1e-9) or 1.0


@njit(cache=True, nogil=True)
def _propagate(
    field: NDArray[np.floating],
    sources: NDArray[np.int64],
    offsets: NDArray[np.int64],
    costs: NDArray[np.floating],
    per_width: float,
    maximum: float,
) -> None:
    """Spread distances from `sources` over a flat, padded field `[n, (grey, distance)]`.

    Buckets `first` to `first + _BUCKETS - 1` are chains of entries, first in, first out. What
    comes later waits in one more chain, and is dealt out when these buckets are done.
    """
    later = _BUCKETS
    heads = np.full(_BUCKETS + 1, -1, dtype=np.int32)
    tails = np.full(_BUCKETS + 1, -1, dtype=np.int32)
    queued_in = np.full(len(field), -1, dtype=np.int64)  # the bucket whose turn a pixel awaits
    pixels = np.empty(max(1024, len(field) // 2), dtype=np.int32)
    following = np.full(pixels.size, -1, dtype=np.int32)
    free = -1  # chain of entries to use again
    used = 0
    for source in sources:
        if field[source, 1] > 0.0:
            field[source, 1] = 0.0
            queued_in[source] = 0
            if used == pixels.size:
                pixels, following = _longer(pixels), _longer(following)
            pixels[used] = source
            _append(heads, tails, following, 0, used)
            used += 1
    first = 0
    while True:
        for slot in range(_BUCKETS):
            while heads[slot] >= 0:
                entry = heads[slot]
                heads[slot] = following[entry]
                following[entry] = free
                free = entry
                pixel = np.int64(pixels[entry])
                if queued_in[pixel] != first + slot:
                    continue  # came nearer meanwhile
                queued_in[pixel] = -1
                value = field[pixel, 0]
                here = field[pixel, 1]
                for k in range(offsets.size):
                    other = np.uint64(pixel + offsets[k])  # unsigned: none counts from the end
                    there = here + abs(field[other, 0] - value) + costs[k]
                    if there < field[other, 1] and there <= maximum:
                        field[other, 1] = there
                        turn = np.int64(there * per_width)
                        if queued_in[other] == turn:
                            continue
                        queued_in[other] = turn
                        entry = free
                        if entry >= 0:
                            free = following[entry]
                        else:
                            if used == pixels.size:
                                pixels, following = _longer(pixels), _longer(following)
                            entry = used
                            used += 1
                        pixels[entry] = other
                        _append(
                            heads,
                            tails,
                            following,
                            later if turn - first > later else turn - first,
                            entry,
                        )
        entry = heads[later]
        if entry < 0:
            return
        nearest = queued_in[pixels[entry]]
        while entry >= 0:
            turn = queued_in[pixels[entry]]
            if turn >= 0 and (nearest < 0 or turn < nearest):
                nearest = turn
            entry = following[entry]
        entry = heads[later]
        heads[later] = -1
        first = nearest if nearest > 0 else 0
        while entry >= 0:
            after = following[entry]
            turn = queued_in[pixels[entry]]
            if turn < 0:  # has had its turn meanwhile
                following[entry] = free
                free = entry
            else:
                _append(
                    heads, tails, following, later if turn - first > later else turn - first, entry
                )
            entry = after


@njit(cache=True, nogil=True, inline="always")
def _append(
    heads: NDArray[np.int32],
    tails: NDArray[np.int32],
    following: NDArray[np.int32],
    slot: int | np.signedinteger,
    entry: int,
) -> None:
    following[entry] = -1
    if heads[slot] < 0:
        heads[slot] = entry
    else:
        following[tails[slot]] = entry
    tails[slot] = entry


@njit(cache=True, nogil=True)
def _longer(array: NDArray[np.int32]) -> NDArray[np.int32]:
    grown = np.empty(2 * array.size, dtype=array.dtype)
    grown[: array.size] = array
    return grown


def _geodistk(
    grey: ImageArray, seeds: MaskArray, spacing: tuple[float, ...], passes: int
) -> ImageArray:
    import GeodisTK

    marks = seeds.astype(np.uint8)
    if grey.ndim == 2:  # knows no spacing in 2-D
        scanned = GeodisTK.geodesic2d_raster_scan(grey, marks, 1.0, passes)
    else:
        scanned = GeodisTK.geodesic3d_raster_scan(grey, marks, list(spacing), 1.0, passes)
    return np.asarray(scanned, dtype=np.float32)


def _fastgeodis(
    grey: ImageArray,
    seeds: MaskArray,
    spacing: tuple[float, ...],
    length_weight_per_mm: float,
    passes: int,
) -> ImageArray:
    try:
        import FastGeodis
    except ImportError:
        raise DataError("FastGeodis is not installed: use the exact engine") from None
    import torch

    weight = 1.0 / (1.0 + length_weight_per_mm)  # of grey values; length has 1 - weight
    picture = torch.from_numpy(grey)[None, None]
    mask = torch.from_numpy((~seeds).astype(np.float32))[None, None]
    if grey.ndim == 2:
        scanned = FastGeodis.generalised_geodesic2d(picture, mask, 1e10, weight, passes)
    else:
        scanned = FastGeodis.generalised_geodesic3d(
            picture, mask, list(spacing), 1e10, weight, passes
        )
    return np.asarray(scanned[0, 0].numpy() / weight, dtype=np.float32)
