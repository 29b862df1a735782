"""One pair of masks becomes one row of figures, with one rule for empty masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.volume import MaskArray
from evaluation.added_path_length import added_path_length_mm
from evaluation.overlap import check_masks, dice, jaccard, volume_ml
from evaluation.surface_distance import (
    boundary_voxel_distances,
    hausdorff_mm,
    pooled_mean_mm,
    pooled_percentile_mm,
    surface_dice,
    surface_element_distances,
)

EMPTY_MASK_POLICY = (
    "If exactly one of the two masks is empty, Dice, Jaccard and NSD are 0 and every distance is "
    "undefined; if both are empty, all of them are undefined. A prediction with Dice 0 is counted "
    "as a failure: it stays in the mean Dice as 0. Undefined values are left out of a mean and "
    "counted beside it."
)


@dataclass(frozen=True)
class CaseMetrics:
    """How far one predicted mask is from its reference; NaN where a figure is undefined.

    Attributes:
        dsc: Dice, a fraction.
        jaccard: Jaccard, a fraction.
        hd_mm: Hausdorff distance between boundary voxels.
        hd95_mm: the larger of the two directed 95th percentiles.
        asd_predicted_to_reference_mm: mean distance, the "ASD" of the thesis's tables.
        asd_reference_to_predicted_mm: mean distance the other way.
        assd_mm: mean of both sets of distances pooled, (3-12).
        nsd: tolerance in mm -> surface Dice weighted by area (surface-distance).
        nsd_voxel: tolerance in mm -> surface Dice by counts of boundary voxels (monai's default).
        volume_reference_ml: NaN for a 2-D mask without a slice thickness.
        volume_predicted_ml: likewise.
        hd95_pooled_mm: the 95th percentile of both sets of distances pooled ("hd95" of medpy).
        added_path_length_mm: outline that a person has to draw, slice by slice.
    """

    dsc: float
    jaccard: float
    hd_mm: float
    hd95_mm: float
    asd_predicted_to_reference_mm: float
    asd_reference_to_predicted_mm: float
    assd_mm: float
    nsd: dict[float, float]
    nsd_voxel: dict[float, float]
    volume_reference_ml: float
    volume_predicted_ml: float
    hd95_pooled_mm: float = math.nan
    added_path_length_mm: float = math.nan

    @property
    def is_failure(self) -> bool:
        """Say whether the prediction missed altogether (Dice 0)."""
        return self.dsc == 0.0


def measure_case(
    reference: MaskArray,
    predicted: MaskArray,
    *,
    spacing_zyx_mm: Sequence[float],
    tolerances_mm: Sequence[float] = (1.0, 2.0),
) -> CaseMetrics:
    """Measure a predicted mask against its reference.

    Args:
        reference: bool `[z, y, x]`, or one slice `[y, x]`.
        predicted: bool, the same shape.
        spacing_zyx_mm: distance between voxel centres. For a slice either (z, y, x), where z is
            the slice thickness and enters the volumes only, or (y, x), which leaves them NaN.
        tolerances_mm: the tolerances of the normalised surface Dice.

    Returns:
        One row; `metrics_of_empty_masks` says what it holds when a mask is empty.

    Raises:
        ValueError: for shapes that differ, another number of axes, or a bad spacing or tolerance.
        TypeError: when a mask is not bool.
    """
    check_masks(reference, predicted)
    spacing_mm = _in_mask_axes(spacing_zyx_mm, reference.ndim)
    if any(not tolerance >= 0 for tolerance in tolerances_mm):
        raise ValueError(f"tolerances_mm must not be negative: {tuple(tolerances_mm)}")
    box = _shared_box(reference, predicted)
    if box is None:
        return metrics_of_empty_masks(
            reference, predicted, spacing_zyx_mm=spacing_zyx_mm, tolerances_mm=tolerances_mm
        )
    reference, predicted = (np.ascontiguousarray(mask[box]) for mask in (reference, predicted))
    voxels = boundary_voxel_distances(reference, predicted, spacing_mm)
    elements = surface_element_distances(reference, predicted, spacing_mm)
    return CaseMetrics(
        dsc=dice(reference, predicted),
        jaccard=jaccard(reference, predicted),
        hd_mm=hausdorff_mm(voxels),
        hd95_mm=hausdorff_mm(voxels, 95.0),
        hd95_pooled_mm=pooled_percentile_mm(voxels, 95.0),
        asd_predicted_to_reference_mm=float(voxels.predicted_to_reference_mm.mean()),
        asd_reference_to_predicted_mm=float(voxels.reference_to_predicted_mm.mean()),
        assd_mm=pooled_mean_mm(voxels),
        nsd={t: surface_dice(elements, t) for t in tolerances_mm},
        nsd_voxel={t: surface_dice(voxels, t) for t in tolerances_mm},
        volume_reference_ml=volume_ml(reference, spacing_zyx_mm),
        volume_predicted_ml=volume_ml(predicted, spacing_zyx_mm),
        added_path_length_mm=added_path_length_mm(reference, predicted, spacing_mm),
    )


def measure_classes(
    reference: NDArray[np.integer],
    predicted: NDArray[np.integer],
    *,
    spacing_zyx_mm: Sequence[float],
    classes: Sequence[int] | None = None,
    tolerances_mm: Sequence[float] = (1.0, 2.0),
) -> dict[int, CaseMetrics]:
    """Measure every class of two label maps, each against the rest.

    Args:
        reference: integer codes `[z, y, x]` or `[y, x]`; 0 is background.
        predicted: likewise, the same shape.
        spacing_zyx_mm: as for `measure_case`.
        classes: the codes to measure, so that a class which one patient lacks is a row as well;
            None takes those that occur in either map.
        tolerances_mm: as for `measure_case`.

    Returns:
        One row per class, in the order of `classes`.

    Raises:
        ValueError: as for `measure_case`.
        TypeError: when a label map does not hold integers.
    """
    if not all(np.issubdtype(labels.dtype, np.integer) for labels in (reference, predicted)):
        raise TypeError(f"labels must be integers, not {reference.dtype} and {predicted.dtype}")
    if classes is None:
        found = np.union1d(np.unique(reference), np.unique(predicted))
        classes = [int(code) for code in found if code != 0]
    return {
        code: measure_case(
            reference == code,
            predicted == code,
            spacing_zyx_mm=spacing_zyx_mm,
            tolerances_mm=tolerances_mm,
        )
        for code in classes
    }


def metrics_of_empty_masks(
    reference: MaskArray,
    predicted: MaskArray,
    *,
    spacing_zyx_mm: Sequence[float],
    tolerances_mm: Sequence[float],
) -> CaseMetrics:
    """Say what every figure is when at least one mask is empty: the only place that decides it.

    | | Dice, Jaccard, NSD | distances | added path | failure |
    | --- | --- | --- | --- | --- |
    | tumour missed (only the prediction is empty) | 0 | NaN | the whole outline | yes |
    | tumour invented (only the reference is empty) | 0 | NaN | NaN | yes |
    | both empty | NaN | NaN | NaN | no |

    An empty mask has no surface, hence no distance; libraries that answer 0 there reward the miss.
    Two empty masks agree, but a 1 would let patients without a tumour raise the mean Dice of those
    with one. An invented tumour is erased, not drawn: a path of 0 would make it look cheap. Two
    masks that are disjoint are also a failure (Dice 0), and have real distances.
    """
    missed = bool(reference.any())
    overlap = 0.0 if missed or predicted.any() else math.nan
    return CaseMetrics(
        dsc=overlap,
        jaccard=overlap,
        hd_mm=math.nan,
        hd95_mm=math.nan,
        hd95_pooled_mm=math.nan,
        asd_predicted_to_reference_mm=math.nan,
        asd_reference_to_predicted_mm=math.nan,
        assd_mm=math.nan,
        nsd=dict.fromkeys(tolerances_mm, overlap),
        nsd_voxel=dict.fromkeys(tolerances_mm, overlap),
        volume_reference_ml=volume_ml(reference, spacing_zyx_mm),
        volume_predicted_ml=volume_ml(predicted, spacing_zyx_mm),
        added_path_length_mm=(
            added_path_length_mm(reference, predicted, spacing_zyx_mm) if missed else math.nan
        ),
    )


def _in_mask_axes(spacing_zyx_mm: Sequence[float], axes: int) -> tuple[float, ...]:
    if axes not in (2, 3):
        raise ValueError(f"masks must have 2 or 3 axes, not {axes}")
    if not axes <= len(spacing_zyx_mm) <= 3:
        raise ValueError(f"{len(spacing_zyx_mm)} spacings for a mask of {axes} axes")
    if not all(0 < step < math.inf for step in spacing_zyx_mm):
        raise ValueError(f"spacing_zyx_mm must be positive: {tuple(spacing_zyx_mm)}")
    return tuple(float(step) for step in spacing_zyx_mm[-axes:])


def _shared_box(*masks: MaskArray) -> tuple[slice, ...] | None:
    """Find the box that holds every mask, outside of which is no surface; None if one is empty.

    The first pass, over the whole volume, reads contiguous memory; the others only what it left.
    """
    hits = [_any(mask.reshape(len(mask), -1), 1) for mask in masks]
    if not all(hit.any() for hit in hits):
        return None
    first = _span(hits)
    planes = [_any(mask[first], 0) for mask in masks]
    if masks[0].ndim == 2:
        return first, _span(planes)
    second = _span([_any(plane, 1) for plane in planes])
    return first, second, _span([_any(plane[second], 0) for plane in planes])


def _any(mask: MaskArray, axis: int) -> MaskArray:
    return np.asarray(mask.any(axis=axis))


def _span(hits: Sequence[MaskArray]) -> slice:
    """Return the range from the first to the last True of any of `hits`."""
    where = np.flatnonzero(np.logical_or.reduce(hits))
    return slice(int(where[0]), int(where[-1]) + 1)
