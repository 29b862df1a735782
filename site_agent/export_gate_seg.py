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
_SAME_DIRECTION = 1e-5  # of a unit vector: 0.01 mm over a metre


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
    """Check what all frames share: binary, size, spacing and directions of the images."""
    if text(dataset, "SegmentationType") != "BINARY" or text(dataset, "BitsAllocated") != "1":
        refuse(Rule.NOT_BINARY, "it is not a binary segmentation of one bit per pixel")
    if text(dataset.file_meta, "TransferSyntaxUID") not in _UNCOMPRESSED:
        refuse(Rule.NOT_BINARY, "its pixels are compressed")
    _, along_x, along_y = plane(geometry, 0)
    lengths = np.array([np.linalg.norm(along_y), np.linalg.norm(along_x)])
    directions = np.concatenate([along_x / lengths[1], along_y / lengths[0]])
    shared = [
        (group, wanted, tolerance, keyword)
        for sequence, keyword, wanted, tolerance in (
            (
                "PixelMeasuresSequence",
                "PixelSpacing",
                lengths,
                SAME_PLACE_MM / max(geometry.shape_zyx),
            ),
            ("PlaneOrientationSequence", "ImageOrientationPatient", directions, _SAME_DIRECTION),
        )
        for function in items(dataset, "SharedFunctionalGroupsSequence")
        for group in items(function, sequence)
    ]
    same_size = text(dataset, "Rows"), text(dataset, "Columns")
    if same_size != tuple(str(n) for n in geometry.shape_zyx[1:]) or len(shared) != 2:
        refuse(Rule.GRID_MISMATCH, "its frames have another size than the images, or no place")
    for group, wanted, tolerance, keyword in shared:
        found = numbers(group, keyword)
        if found.shape != wanted.shape or np.abs(found - wanted).max() > tolerance:
            refuse(Rule.GRID_MISMATCH, f"its {keyword} is not that of the images")


def _regions(dataset: Dataset, segments: int, expected: Expected) -> list[MaskArray]:
    """Put every frame where its position says, which its image reference has to confirm."""
    geometry, identity = expected.geometry, expected.identity
    frames = items(dataset, "PerFrameFunctionalGroupsSequence")
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, dtype=np.uint8), bitorder="little")
    size = int(np.prod(geometry.shape_zyx[1:]))
    if text(dataset, "NumberOfFrames") != str(len(frames)) or len(bits) < len(frames) * size:
        refuse(Rule.UNREADABLE, "it has other frames than it says")
    regions = [np.zeros(geometry.shape_zyx, dtype=bool) for _ in range(segments)]
    placed = set()
    for n, frame in enumerate(frames):
        images = [
            image
            for derivation in items(frame, "DerivationImageSequence")
            for image in items(derivation, "SourceImageSequence")
        ]
        k = slice_referred_to(images, identity)
        positions = items(frame, "PlanePositionSequence")
        place = numbers(positions[0], "ImagePositionPatient") if positions else np.empty(0)
        corner = plane(geometry, k)[0]
        if place.shape != corner.shape or np.abs(place - corner).max() > SAME_PLACE_MM:
            refuse(Rule.SLICE_MISPLACED, "a frame does not lie where its image lies")
        number = [
            text(one, "ReferencedSegmentNumber")
            for one in items(frame, "SegmentIdentificationSequence")
        ]
        if len(number) != 1 or number[0] not in {str(s + 1) for s in range(segments)}:
            refuse(Rule.REGION_NUMBERS, "a frame belongs to no segment")
        if (number[0], k) in placed:
            refuse(Rule.SLICE_MISPLACED, "two frames of a segment lie on one slice")
        placed.add((number[0], k))
        pixels = bits[n * size : (n + 1) * size].reshape(geometry.shape_zyx[1:])
        regions[int(number[0]) - 1][k] = pixels == 1
    return regions
