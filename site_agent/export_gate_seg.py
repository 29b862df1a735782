"""The export gate's own reader of DICOM SEG: plain pydicom elements and bits, without highdicom."""

import numpy as np
from pydicom.dataset import Dataset

from algorithms.contracts.volume import Geometry, MaskArray
from site_agent.export_rules import (
    SAME_PLACE_MM,
    Expected,
    Rule,
    check_algorithm,
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

_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
_LABEL_LENGTH = 16  # ContentLabel is a CS
_DIRECTION = 1e-5  # of a unit vector: 0.01 mm over a metre
_MISPLACED, _GRID = Rule.SLICE_MISPLACED, Rule.GRID_MISMATCH


def check_segmentation(dataset: Dataset, expected: Expected) -> None:
    """Refuse a SEG that breaks a rule or holds another region than was meant."""
    if text(dataset, "Modality") != "SEG":
        refuse(Rule.WRONG_KIND, "its Modality is not SEG")
    label = text(dataset, "ContentLabel")
    if not 0 < len(label) <= _LABEL_LENGTH:
        refuse(Rule.LABEL_TOO_LONG, f"ContentLabel has {len(label)} characters, not 1 to 16")
    check_research_use(dataset, "ContentDescription", "SeriesDescription")
    if expected.signature is not None or text(dataset, "ApprovalStatus") not in ("", "UNAPPROVED"):
        refuse(Rule.APPROVED_WITHOUT_SIGNATURE, "a SEG has no place for a signature")
    series = items(dataset, "ReferencedSeriesSequence")
    if [text(s, "SeriesInstanceUID") for s in series] != [expected.identity.series_instance_uid]:
        refuse(Rule.SERIES_MISMATCH, "it does not refer to the images' series alone")
    check_images_listed(items(series[0], "ReferencedInstanceSequence"), expected.identity)
    segments = items(dataset, "SegmentSequence")
    if [text(s, "SegmentNumber") for s in segments] != [str(n + 1) for n in range(len(segments))]:
        refuse(Rule.REGION_NUMBERS, "its segments are not numbered 1, 2, ...")
    meant = contours_by_name([text(segment, "SegmentLabel") for segment in segments], expected)
    _check_grid(dataset, expected.geometry)
    regions = _regions(dataset, len(segments), expected)
    for segment, contour, region in zip(segments, meant, regions, strict=True):
        check_research_use(segment, "SegmentDescription")
        check_algorithm(text(segment, "SegmentAlgorithmType"), contour)
        check_same_region(region, contour)


def _check_grid(dataset: Dataset, geometry: Geometry) -> None:
    """Check that the frames are binary and of the size of the images."""
    if text(dataset, "SegmentationType") != "BINARY" or text(dataset, "BitsAllocated") != "1":
        refuse(Rule.NOT_BINARY, "it is not a binary segmentation of one bit per pixel")
    if text(dataset.file_meta, "TransferSyntaxUID") not in _UNCOMPRESSED:
        refuse(Rule.NOT_BINARY, "its pixels are compressed")
    size = text(dataset, "Rows"), text(dataset, "Columns")
    if size != tuple(str(n) for n in geometry.shape_zyx[1:]):
        refuse(Rule.GRID_MISMATCH, "its frames have another size than the images")


def _regions(dataset: Dataset, segments: int, expected: Expected) -> list[MaskArray]:
    """Put every frame where its position says, which its image reference has to confirm."""
    geometry = expected.geometry
    frames = items(dataset, "PerFrameFunctionalGroupsSequence")
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, dtype=np.uint8), bitorder="little")
    size = int(np.prod(geometry.shape_zyx[1:]))
    if text(dataset, "NumberOfFrames") != str(len(frames)) or len(bits) < len(frames) * size:
        refuse(Rule.UNREADABLE, "it has other frames than it says")
    regions = [np.zeros(geometry.shape_zyx, dtype=bool) for _ in range(segments)]
    placed = set()
    for n, frame in enumerate(frames):
        groups = [frame, *items(dataset, "SharedFunctionalGroupsSequence")]
        k = _slice(groups, expected)
        (segment,) = _function(groups, "SegmentIdentificationSequence") or [Dataset()]
        number = text(segment, "ReferencedSegmentNumber")
        if number not in {str(s + 1) for s in range(segments)}:
            refuse(Rule.REGION_NUMBERS, "a frame belongs to no segment")
        if (number, k) in placed:
            refuse(Rule.SLICE_MISPLACED, "two frames of a segment lie on one slice")
        placed.add((number, k))
        pixels = bits[n * size : (n + 1) * size].reshape(geometry.shape_zyx[1:])
        regions[int(number) - 1][k] = pixels == 1
    return regions


def _slice(groups: list[Dataset], expected: Expected) -> int:
    """Return the slice that a frame refers to and lies on, pixel by pixel."""
    derivations = _function(groups, "DerivationImageSequence")
    images = [image for one in derivations for image in items(one, "SourceImageSequence")]
    k = slice_referred_to(images, expected.identity)
    corner, along_x, along_y = plane(expected.geometry, k)
    column_mm, row_mm = np.linalg.norm(along_x), np.linalg.norm(along_y)
    directions = np.concatenate([along_x / column_mm, along_y / row_mm])
    spacing_tolerance = SAME_PLACE_MM / max(expected.geometry.shape_zyx[1:])
    for sequence, keyword, wanted, tolerance, rule in (
        ("PlanePositionSequence", "ImagePositionPatient", corner, SAME_PLACE_MM, _MISPLACED),
        ("PlaneOrientationSequence", "ImageOrientationPatient", directions, _DIRECTION, _GRID),
        ("PixelMeasuresSequence", "PixelSpacing", [row_mm, column_mm], spacing_tolerance, _GRID),
    ):
        found = [numbers(item, keyword) for item in _function(groups, sequence)]
        same = len(found) == 1 and found[0].shape == np.shape(wanted)
        if not same or np.abs(found[0] - wanted).max() > tolerance:
            refuse(rule, f"a frame's {keyword} is not that of its image")
    return k


def _function(groups: list[Dataset], sequence: str) -> list[Dataset]:
    """Return a functional group, which stands with its frame or, where all agree, once for all."""
    return next((found for group in groups if (found := items(group, sequence))), [])
