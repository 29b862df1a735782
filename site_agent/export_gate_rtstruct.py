"""The export gate's own reader of RTSTRUCT: every rule of the standard, and the region again.

Rasterised by matplotlib's point-in-polygon test at the voxel centres, which shares nothing with
`rtstruct.rasterise`.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.path import Path as Polygon
from pydicom.dataset import Dataset

from algorithms.contracts.volume import FloatArray, Geometry, MaskArray
from site_agent.deidentification import OriginalIdentity
from site_agent.export_rules import (
    SAME_PLACE_MM,
    Expected,
    Rule,
    check_algorithm,
    check_approval,
    check_images_listed,
    check_research_use,
    check_same_region,
    contours_by_name,
    items,
    numbers,
    plane,
    refuse,
    slice_referred_to,
    text,
)
from site_agent.rtstruct import NAME_LENGTH

_STUDY_CLASSES = ("1.2.840.10008.3.1.2.3.1", "1.2.840.10008.3.1.2.3.2")  # PS3.3 C.8.8.5.4
# Pixels. A centre that lies on a keyhole would be on two edges; seen from here none does, and no
# other edge is as near to a centre.
_BESIDE_CENTRE = (1.37e-3, 0.73e-3)
_ROUNDING = 0.01  # pixels: how far beyond the outer edge of the image a written point may lie


def check_structure_set(dataset: Dataset, expected: Expected) -> None:
    """Refuse an RTSTRUCT that breaks a rule or holds another region than was meant."""
    label = text(dataset, "StructureSetLabel")
    if not 0 < len(label) <= NAME_LENGTH:
        refuse(Rule.LABEL_TOO_LONG, f"StructureSetLabel has {len(label)} characters, not 1 to 16")
    if text(dataset, "Modality") != "RTSTRUCT":
        refuse(Rule.WRONG_KIND, "its Modality is not RTSTRUCT")
    check_research_use(dataset, "StructureSetDescription", "SeriesDescription")
    check_approval(dataset, expected)
    _check_references(dataset, expected)
    regions = items(dataset, "StructureSetROISequence")
    meant = contours_by_name([text(region, "ROIName") for region in regions], expected)
    drawings = _by_number(dataset, "ROIContourSequence", "ReferencedROINumber")
    observations = _by_number(dataset, "RTROIObservationsSequence", "ReferencedROINumber")
    numbered = _by_number(dataset, "StructureSetROISequence", "ROINumber")
    if not drawings.keys() == observations.keys() == numbered.keys():
        refuse(Rule.REGION_NUMBERS, "its three lists of regions are not about the same regions")
    for region, contour in zip(regions, meant, strict=True):
        number = text(region, "ROINumber")
        frame = text(region, "ReferencedFrameOfReferenceUID")
        if frame != expected.identity.frame_of_reference_uid:
            refuse(Rule.FRAME_MISMATCH, "a region is in another frame of reference than the images")
        check_algorithm(text(region, "ROIGenerationAlgorithm"), contour)
        if text(observations[number], "RTROIInterpretedType") != "GTV":
            refuse(Rule.NOT_A_GTV, "a region is not said to be a GTV")
        drawn = items(drawings[number], "ContourSequence")
        check_same_region(_region(drawn, expected.geometry, expected.identity), contour)


def _by_number(dataset: Dataset, sequence: str, keyword: str) -> dict[str, Dataset]:
    found = items(dataset, sequence)
    numbered = {text(item, keyword): item for item in found}
    if len(numbered) < len(found) or "" in numbered:
        refuse(Rule.REGION_NUMBERS, f"{sequence} has a region without number, or two of one")
    return numbered


def _check_references(dataset: Dataset, expected: Expected) -> None:
    """Follow frame -> study -> series -> images, one of each (PS3.3 C.8.8.5)."""
    identity = expected.identity
    frames = items(dataset, "ReferencedFrameOfReferenceSequence")
    if [text(f, "FrameOfReferenceUID") for f in frames] != [identity.frame_of_reference_uid]:
        refuse(Rule.FRAME_MISMATCH, "it does not refer to the images' frame of reference alone")
    studies = items(frames[0], "RTReferencedStudySequence")
    named = [text(study, "ReferencedSOPInstanceUID") for study in studies]
    if named != [identity.study_instance_uid]:
        refuse(Rule.STUDY_MISMATCH, "it does not refer to the images' study alone")
    if text(studies[0], "ReferencedSOPClassUID") not in _STUDY_CLASSES:
        refuse(Rule.STUDY_MISMATCH, "its reference to the study is not one to a study")
    series = items(studies[0], "RTReferencedSeriesSequence")
    if [text(one, "SeriesInstanceUID") for one in series] != [identity.series_instance_uid]:
        refuse(Rule.SERIES_MISMATCH, "it does not refer to the images' series alone")
    check_images_listed(items(series[0], "ContourImageSequence"), identity)
    predecessors = items(dataset, "PredecessorStructureSetSequence")
    wanted = [] if expected.predecessor is None else [expected.predecessor]
    if [text(one, "ReferencedSOPInstanceUID") for one in predecessors] != wanted:
        refuse(Rule.PREDECESSOR_MISMATCH, "it does not name the structure set that it follows")


def _region(drawn: Sequence[Dataset], geometry: Geometry, identity: OriginalIdentity) -> MaskArray:
    region = np.zeros(geometry.shape_zyx, dtype=bool)
    for contour in drawn:
        if text(contour, "ContourGeometricType") != "CLOSED_PLANAR":
            refuse(Rule.CONTOUR_NOT_CLOSED, "a contour is not CLOSED_PLANAR")
        k = slice_referred_to(items(contour, "ContourImageSequence"), identity)
        parts = numbers(contour, "ContourData")
        stated = text(contour, "NumberOfContourPoints")
        if len(parts) < 9 or len(parts) % 3 or stated != str(len(parts) // 3):
            refuse(Rule.CONTOUR_POINTS, "a contour has not the points that it says, or too few")
        polygon_xy = _in_plane(parts.reshape(-1, 3), geometry, k)
        filled = _fill(polygon_xy, geometry.shape_zyx[1:])
        if (region[k] & filled).any():
            # One in another is a hole to some readers and filled by others: a keyhole is the same
            # to all.
            refuse(Rule.CONTOURS_OVERLAP, "two contours of a region overlap on a slice")
        region[k] |= filled
    return region


def _in_plane(points_xyz_mm: FloatArray, geometry: Geometry, k: int) -> FloatArray:
    """Return pixel indices `[n, 2]` (x, y) of points that must lie in slice `k`."""
    corner, along_x, along_y = plane(geometry, k)
    normal = np.cross(along_x, along_y)
    offsets = points_xyz_mm - corner
    if np.abs(offsets @ (normal / np.linalg.norm(normal))).max() > SAME_PLACE_MM:
        refuse(Rule.CONTOUR_OFF_PLANE, "a contour does not lie in the plane of its image")
    steps = np.column_stack([along_x, along_y])
    pixels_xy = np.asarray(np.linalg.lstsq(steps, offsets.T, rcond=None)[0].T, dtype=np.float64)
    edge_xy = np.array(geometry.shape_zyx[:0:-1]) - 0.5
    if (pixels_xy < -0.5 - _ROUNDING).any() or (pixels_xy > edge_xy + _ROUNDING).any():
        refuse(Rule.CONTOUR_OUTSIDE, "a contour reaches beyond the edge of its image")
    return pixels_xy


def _fill(polygon_xy: FloatArray, shape_yx: tuple[int, int]) -> MaskArray:
    """Mark the pixels whose centres lie inside: bool `[y, x]`, by an odd number of crossings."""
    low = np.clip(np.floor(polygon_xy.min(axis=0)).astype(int), 0, None)
    high = np.clip(np.ceil(polygon_xy.max(axis=0)).astype(int) + 1, None, shape_yx[::-1])
    ys, xs = np.mgrid[low[1] : high[1], low[0] : high[0]]
    centres = np.column_stack([xs.ravel(), ys.ravel()]) + np.array(_BESIDE_CENTRE)
    closed = Polygon(np.concatenate([polygon_xy, polygon_xy[:1]]), closed=True)
    filled = np.zeros(shape_yx, dtype=bool)
    filled[ys.ravel(), xs.ravel()] = closed.contains_points(centres)
    return filled
