"""What all metrics of one pair of tumour masks cost, beside MONAI and surface-distance.

Every way measures the same pairs in turn, so that a busy machine slows all alike; shown are
medians. The libraries are asked for HD95, average distance and surface Dice alone; `measure_case`
gives every figure. What the figures are is compared as well: MONAI measures between boundary
voxels, surface-distance between surface elements by area, and `measure_case` holds both kinds.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import FloatArray, MaskArray
from evaluation.case_metrics import measure_case
from evaluation.surface_distance import surface_element_distances

Row = dict[str, Any]
SHAPE_ZYX = (60, 320, 320)
SPACING_ZYX_MM = (3.0, 0.75, 0.75)
VOLUMES_ML = (15.0, 40.0, 100.0)  # small, usual and large for a nasopharyngeal GTVp
TOLERANCE_MM = 1.0


def draw_pair(
    shape: tuple[int, int, int], volume_ml: float, rng: np.random.Generator
) -> tuple[MaskArray, MaskArray]:
    """Draw a ragged tumour somewhere in the volume, and another contour of the same tumour.

    Args:
        shape: `[z, y, x]`, of voxels of `SPACING_ZYX_MM`.
        volume_ml: about how large.
        rng: for place and shape.

    Returns:
        bool masks that differ by about 1.5 mm along their surfaces.
    """
    axes = [
        np.arange(n) * step - n * step * rng.uniform(0.45, 0.55)
        for n, step in zip(shape, SPACING_ZYX_MM, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius = (3 * 1000 * volume_ml / (4 * np.pi)) ** (1 / 3)
    ragged = np.sqrt(z**2 + y**2 + x**2) + 3.0 * _smooth_noise(shape, rng)
    reference: MaskArray = ragged < radius
    predicted: MaskArray = ragged + 1.5 * _smooth_noise(shape, rng) < radius
    return reference, predicted


def _smooth_noise(shape: tuple[int, int, int], rng: np.random.Generator) -> FloatArray:
    """Draw noise of unit spread that varies over about 6 mm."""
    noise: FloatArray = ndimage.gaussian_filter(rng.normal(size=shape), (2, 8, 8))
    noise /= noise.std()
    return noise


def run_metrics_speed(
    *,
    repeats: int = 7,
    shape: tuple[int, int, int] = SHAPE_ZYX,
    volumes_ml: tuple[float, ...] = VOLUMES_ML,
    log: Callable[[str], None] = print,
) -> list[Row]:
    """Time every way `repeats` times per pair, after one turn that is not counted.

    Returns:
        One row per pair, way and repeat, with the figures that this way gave.

    Raises:
        DataError: a library to compare with is not installed.
    """
    rows = []
    for number, volume in enumerate(volumes_ml):
        reference, predicted = draw_pair(shape, volume, np.random.default_rng([11, number]))
        ways = {
            "this": _ours(reference, predicted),
            "MONAI": _monai(reference, predicted),
            "surface-distance": _surface_distance(reference, predicted),
        }
        for repeat in range(-1, repeats):
            for name, way in ways.items():
                began = time.perf_counter()
                answer = way()
                seconds = time.perf_counter() - began
                if repeat < 0:
                    continue
                row = {"volume_ml": volume, "way": name, "repeat": repeat, "seconds": seconds}
                rows.append(row | {"figures": answer if name != "this" else _both_kinds(answer)})
        log(f"{volume:g} ml: {repeats} turns of {len(ways)} ways")
    return rows


def _ours(reference: MaskArray, predicted: MaskArray) -> Callable[[], Any]:
    def way() -> Any:
        found = measure_case(reference, predicted, spacing_zyx_mm=SPACING_ZYX_MM)
        return found, reference, predicted

    return way


def _both_kinds(answer: Any) -> dict[str, float]:
    """Name our figures as the libraries define them; what `measure_case` lacks is added here."""
    found, reference, predicted = answer
    elements = surface_element_distances(reference, predicted, SPACING_ZYX_MM)
    there = elements.predicted_to_reference_mm, elements.predicted_weights
    back = elements.reference_to_predicted_mm, elements.reference_weights
    return {
        "HD95, voxels": found.hd95_mm,
        "ASD, voxels": found.asd_predicted_to_reference_mm,
        "NSD, areas": found.nsd[TOLERANCE_MM],
        "HD95, areas": max(_area_percentile(*there), _area_percentile(*back)),
        "ASD, areas": float(np.average(there[0], weights=there[1])),
    }


def _area_percentile(distances: FloatArray, areas: FloatArray) -> float:
    order = np.argsort(distances)
    share = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order][min(int(np.searchsorted(share, 0.95)), len(share) - 1)])


def _monai(reference: MaskArray, predicted: MaskArray) -> Callable[[], dict[str, float]]:
    try:
        import torch
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance
        from monai.metrics.surface_dice import compute_surface_dice
        from monai.metrics.surface_distance import compute_average_surface_distance
    except ImportError:
        raise _missing("monai") from None
    # As in its tutorials: one channel per class, the background left out of the answer.
    p, r = (torch.from_numpy(np.stack([~m, m])[None]) for m in (predicted, reference))
    spacing = list(SPACING_ZYX_MM)

    def way() -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of its own deprecated argument
            return {
                "HD95, voxels": float(
                    compute_hausdorff_distance(p, r, percentile=95, spacing=spacing)
                ),
                "ASD, voxels": float(compute_average_surface_distance(p, r, spacing=spacing)),
                "NSD, areas": float(
                    compute_surface_dice(p, r, [TOLERANCE_MM], spacing=spacing, use_subvoxels=True)
                ),
            }

    return way


def _surface_distance(reference: MaskArray, predicted: MaskArray) -> Callable[[], dict[str, float]]:
    try:
        import surface_distance
    except ImportError:
        raise _missing("surface-distance-based-measures") from None

    def way() -> dict[str, float]:
        found = surface_distance.compute_surface_distances(reference, predicted, SPACING_ZYX_MM)
        return {
            "HD95, areas": float(surface_distance.compute_robust_hausdorff(found, 95)),
            "ASD, areas": float(surface_distance.compute_average_surface_distance(found)[1]),
            "NSD, areas": float(
                surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)
            ),
        }

    return way


def _missing(package: str) -> DataError:
    return DataError(f"metrics-speed compares with {package}: pip install {package}")


def largest_difference(rows: list[Row]) -> dict[str, float]:
    """Return, per library, the largest difference between a figure of its and the same of ours."""
    ours = {row["volume_ml"]: row["figures"] for row in rows if row["way"] == "this"}
    worst: dict[str, float] = {}
    for row in rows:
        mine = ours[row["volume_ml"]]
        apart = max(abs(value - mine[name]) for name, value in row["figures"].items())
        worst[row["way"]] = max(worst.get(row["way"], 0.0), apart)
    return worst


def metrics_speed_table(rows: list[Row]) -> str:
    """Show medians; a ratio above 1 says how much faster ours is."""
    differences = largest_difference(rows)
    lines = [
        "| tumour, ml | | milliseconds | this is faster by | largest difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for volume in dict.fromkeys(row["volume_ml"] for row in rows):
        taken = {
            name: float(
                np.median(
                    [r["seconds"] for r in rows if (r["volume_ml"], r["way"]) == (volume, name)]
                )
            )
            for name in differences
        }
        for name, seconds in taken.items():
            ratio = seconds / taken["this"]
            lines.append(
                f"| {volume:g} | {name} | {1000 * seconds:.1f} | {ratio:.1f} |"
                f" {differences[name]:.1e} |"
            )
    return "\n".join(lines)
