"""How long a click takes: geodesic distance, graph cut and the whole way, paired in one run.

Every engine answers the same questions in turn, on the same images, so that a busy machine slows
all of them alike. Shown are medians.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from algorithms.click_simulation import interior_margin_points, next_click
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import ImageArray, MaskArray
from algorithms.geodesic import geodesic_distance
from algorithms.interactive_network import default_network, normalise, resize
from algorithms.interactive_segmentation import InteractiveSegmenter
from evaluation.benchmarks.image_packs import pack_patients, read_pack
from evaluation.benchmarks.robot_user import pure_fusion
from evaluation.benchmarks.shape_phantoms import draw_phantom

SHAPES: dict[int, tuple[int, ...]] = {2: (256, 256), 3: (64, 96, 96)}
PACKS = ("sts", "la")
Row = dict[str, Any]


def speed_images(
    packs: Path | None, dimensions: int, count: int
) -> list[tuple[ImageArray, MaskArray]]:
    """Return normalised images of the benchmark's shape with their targets.

    Real ones where packs are given, phantoms otherwise.
    """
    shape = SHAPES[dimensions]
    found = []
    for image, mask in itertools.islice(_sources(packs, dimensions), count):
        scaled = resize(mask.astype(np.float32), shape) >= 0.5
        found.append((normalise(resize(image, shape)), scaled))
    return found


def _sources(packs: Path | None, dimensions: int) -> Any:
    if packs is None:
        for seed in itertools.count():
            target = draw_phantom(dimensions, np.random.default_rng([7, seed]))
            yield target.image, target.mask
        return
    for cases in zip(*(read_pack(packs, name) for name in PACKS), strict=False):
        for case in cases:
            if dimensions == 3:
                yield case.image, case.mask
            else:
                z = int(case.mask.sum(axis=(1, 2)).argmax())
                yield case.image[z], case.mask[z]


def geodesic_rows(images: Sequence[tuple[ImageArray, MaskArray]], repeats: int) -> list[Row]:
    """Time every engine on the same clicks: seconds, and the largest error against Dijkstra's."""
    answers: dict[str, Callable[[ImageArray, MaskArray], ImageArray]] = {
        "exact": lambda image, seeds: geodesic_distance(image, seeds),
        "geodistk raster, 4 passes": lambda image, seeds: geodesic_distance(
            image, seeds, engine="geodistk"
        ),
    }
    for passes in (2, 4, 8, 16, 32):
        answers[f"fastgeodis raster, {passes} passes"] = lambda image, seeds, n=passes: (  # type: ignore[misc]
            geodesic_distance(image, seeds, engine="fastgeodis", raster_passes=n)
        )
    rows = []
    for index, (image, mask) in enumerate(images):
        points = interior_margin_points(mask, rng=np.random.default_rng([1, index]))
        seeds = np.zeros(image.shape, dtype=bool)
        seeds[tuple(points.T)] = True
        began = time.perf_counter()
        truth = dijkstra(image, seeds)
        rows.append(_row(image, index, "scipy Dijkstra", time.perf_counter() - began, 0.0))
        for _, (name, answer) in itertools.product(range(repeats), answers.items()):
            try:
                began = time.perf_counter()
                distance = answer(image, seeds)
                seconds = time.perf_counter() - began
            except (DataError, ImportError):
                continue  # an engine that is not installed
            # GeodisTK weighs diagonal steps by their length: another distance, so no error of ours.
            error = None if "geodistk" in name else float(np.abs(distance - truth).max())
            rows.append(_row(image, index, name, seconds, error))
    return rows


def _row(image: ImageArray, index: int, engine: str, seconds: float, error: float | None) -> Row:
    return {
        "what": f"geodesic {image.ndim}-D",
        "image": index,
        "engine": engine,
        "seconds": seconds,
        "largest_error": error,
    }


def dijkstra(image: ImageArray, seeds: MaskArray) -> NDArray[np.float64]:
    """Return the pure geodesic distance by scipy's Dijkstra on an explicit graph, in float64."""
    grey = image.astype(np.float64)
    numbers = np.arange(grey.size).reshape(grey.shape)
    tails, heads, costs = [], [], []
    for offset in itertools.product((-1, 0, 1), repeat=grey.ndim):
        if offset <= (0,) * grey.ndim:
            continue
        here = tuple(
            slice(max(-o, 0), n - max(o, 0)) for o, n in zip(offset, grey.shape, strict=True)
        )
        there = tuple(
            slice(max(o, 0), n - max(-o, 0)) for o, n in zip(offset, grey.shape, strict=True)
        )
        tails.append(numbers[here].ravel())
        heads.append(numbers[there].ravel())
        costs.append(np.abs(grey[here] - grey[there]).ravel())
    # Explicit zeros would be no edges.
    weights = np.maximum(np.concatenate(costs), 1e-300)
    graph = sparse.coo_array(
        (weights, (np.concatenate(tails), np.concatenate(heads))), shape=(grey.size, grey.size)
    ).tocsr()
    distance = csgraph.dijkstra(graph, directed=False, indices=np.flatnonzero(seeds), min_only=True)
    return np.asarray(distance).reshape(grey.shape)


def click_rows(images: Sequence[tuple[ImageArray, MaskArray]], clicks: int) -> list[Row]:
    """Time a robot's clicks: the first contour, corrections, and what `initial` saves."""
    rows: list[Row] = []
    for index, (image, mask) in enumerate(images):
        network = default_network(3 if image.ndim == 3 else 2)
        for name, fusion in (
            ("if-gc", None),
            ("if-gc-pure", pure_fusion(image.ndim)),
        ):
            segmenter = InteractiveSegmenter(network, fusion, clock=time.perf_counter)
            segmenter.set_image(image)
            points = interior_margin_points(mask, rng=np.random.default_rng([1, index]))
            found = segmenter.segment(points)
            seeds = {True: np.zeros(image.shape, bool), False: np.zeros(image.shape, bool)}
            seeds[True][tuple(points.T)] = True
            for _ in range(clicks):
                click = next_click(found, mask)
                if click is None or seeds[click.foreground][click.point]:
                    break
                point = np.array([click.point])
                found = (
                    segmenter.refine(foreground=point)
                    if click.foreground
                    else segmenter.refine(background=point)
                )
                if name == "if-gc":
                    rows += _added_click(image, index, seeds[click.foreground], click.point)
                seeds[click.foreground][click.point] = True
            for step in segmenter.steps:
                what = (
                    f"{'first contour' if step.kind == 'segment' else 'correction'} {image.ndim}-D"
                )
                rows.append({"what": what, "image": index, "engine": name, "seconds": step.seconds})
    return rows


def _added_click(
    image: ImageArray, index: int, earlier: MaskArray, point: tuple[int, ...]
) -> list[Row]:
    """Time one more click from an earlier result and afresh."""
    if not earlier.any():
        return []
    known = geodesic_distance(image, earlier)
    seeds = earlier.copy()
    seeds[point] = True
    rows = []
    for engine, initial in (("from the last result", known), ("afresh", None)):
        began = time.perf_counter()
        geodesic_distance(image, seeds, initial=initial)
        rows.append(
            {
                "what": f"added click {image.ndim}-D",
                "image": index,
                "engine": engine,
                "seconds": time.perf_counter() - began,
            }
        )
    return rows


def whole_way_rows(packs: Path | None, count: int) -> list[Row]:
    """Time the first contour on the images' own grids, from the click to the mask."""
    rows: list[Row] = []
    segmenter = InteractiveSegmenter(default_network(3), clock=time.perf_counter)
    for index, (image, mask) in enumerate(itertools.islice(_sources(packs, 3), count)):
        segmenter.set_image(image)
        segmenter.segment(interior_margin_points(mask, rng=np.random.default_rng([1, index])))
        rows.append(
            {
                "what": "click to mask 3-D, own grid",
                "image": index,
                "engine": f"if-gc, {' x '.join(map(str, image.shape))}",
                "seconds": segmenter.steps[-1].seconds,
            }
        )
    return rows


def run_speed(
    packs: Path | None, *, images: int = 4, repeats: int = 3, clicks: int = 6
) -> list[Row]:
    """Run everything once for warming up (compilers, caches) and then for the record."""
    if packs is not None:
        for name in PACKS:
            pack_patients(packs, name)  # says so now if they are not there
    warm = [speed_images(None, axes, 1) for axes in (2, 3)]
    for pictures in warm:
        geodesic_rows(pictures, 1)
        click_rows(pictures, 2)
    rows: list[Row] = []
    for axes in (2, 3):
        pictures = speed_images(packs, axes, images)
        rows += geodesic_rows(pictures, repeats)
        rows += click_rows(pictures, clicks)
    return rows + whole_way_rows(packs, 2 * images)


def speed_table(rows: Sequence[Row]) -> str:
    """Show medians, as Markdown; `times` is how much longer than the first of its kind."""
    lines = ["| what | engine | median seconds | times | largest error |", "| --- " * 5 + "|"]
    for what in dict.fromkeys(r["what"] for r in rows):
        of_kind = [r for r in rows if r["what"] == what]
        own = "own grid" in what
        names = ["if-gc"] if own else list(dict.fromkeys(r["engine"] for r in of_kind))
        names.sort(key=lambda name: name != "exact")
        first: float | None = None
        for name in names:
            chosen = [r for r in of_kind if own or r["engine"] == name]
            median = float(np.median([r["seconds"] for r in chosen]))
            first = first or median
            errors = [r["largest_error"] for r in chosen if r.get("largest_error") is not None]
            error = f"{max(errors):.1e}" if errors else "-"
            lines.append(f"| {what} | {name} | {median:.4f} | {median / first:.1f} | {error} |")
    return "\n".join(lines)
