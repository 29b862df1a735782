"""The gate before the PACS: what keeps the rules passes, and each broken rule is named."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError, failure_line
from algorithms.contracts.volume import Geometry, Mask, Volume
from site_agent.deidentification import OriginalIdentity
from site_agent.dicom_seg import write_segmentation
from site_agent.export_gate import check_export
from site_agent.export_rules import Expected, ExportRefused, Rule, contours_by_name
from site_agent.rtstruct import ReviewSignature, write_rtstruct
from tests.phantoms import turned_axes
from tests.site_agent import dicom_builder as build
from tests.site_agent.test_rtstruct import NOW, SHAPE, Images, ball_with_hole

SIGNATURE = ReviewSignature("Onkologin^Olga", NOW - timedelta(minutes=5))
EARLIER = "1.2.826.0.1.3680043.10.4711.99"


def content_of(dataset: Dataset, *, as_it_is: bool = False) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=not as_it_is)
    return buffer.getvalue()


def two_regions(images: Images) -> list[Contour]:
    island = np.zeros(SHAPE, dtype=bool)
    island[2, 0, 39] = island[5, 29, 0:2] = True
    return [
        images.contour(ball_with_hole(), "GTVp", Provenance.AUTOMATIC),
        images.contour(island, "GTVn", Provenance.SEMIAUTOMATIC),
    ]


def structure_set(images: Images, contours: list[Contour], **options) -> bytes:
    options = {"identity": images.identity, "label": "fedgtv", "now": NOW, **options}
    return content_of(write_rtstruct(images.volume, contours, **options))


def segmentation(images: Images, contours: list[Contour]) -> bytes:
    return content_of(
        write_segmentation(images.volume, contours, identity=images.identity, now=NOW)
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Images:
    return Images(tmp_path_factory.mktemp("images"))


# -- what may pass ----------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [build.AXIAL, build.OBLIQUE, build.FEET_FIRST])
@pytest.mark.parametrize("write", [structure_set, segmentation])
def test_what_was_written_by_the_rules_passes(tmp_path: Path, orientation, write) -> None:
    images = Images(tmp_path / "images", orientation)
    contours = two_regions(images)
    check_export(write(images, contours), Expected(contours, images.identity))


def test_a_signed_successor_passes_and_so_does_a_patient_without_target(images: Images) -> None:
    contours = [images.contour(np.zeros(SHAPE, dtype=bool)), two_regions(images)[1]]
    content = structure_set(images, contours, signature=SIGNATURE, predecessor=EARLIER)
    check_export(content, Expected(contours, images.identity, SIGNATURE, EARLIER, {EARLIER}))


masks = arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    masks,
    st.tuples(*[st.floats(-np.pi, np.pi)] * 3),
    st.tuples(st.floats(0.4, 6.0), st.floats(0.2, 2.0), st.floats(0.2, 2.0)),
    st.tuples(*[st.floats(-900.0, 900.0)] * 3),
)
def test_any_region_anywhere_passes_both_ways(voxels, angles, spacing, origin) -> None:
    """Islands, holes, single voxels and regions that touch the border."""
    geometry = Geometry(voxels.shape, spacing, origin, turned_axes(angles))
    volume, identity = invented_series(geometry)
    contours = [Contour("GTVp", Mask(voxels, geometry), Provenance.AUTOMATIC)]
    expected = Expected(contours, identity)
    options = {"identity": identity, "now": NOW}
    check_export(content_of(write_rtstruct(volume, contours, label="x", **options)), expected)
    # highdicom 0.28 packs frames of less than 8 pixels wrongly (against PS3.5 8.1.1)
    if voxels.any() and np.prod(voxels.shape[1:]) >= 8:
        check_export(content_of(write_segmentation(volume, contours, **options)), expected)


def invented_series(geometry: Geometry) -> tuple[Volume, OriginalIdentity]:
    uids = tuple(f"{build.SERIES_UID}.{k + 1}" for k in range(geometry.shape_zyx[0]))
    image = np.zeros(geometry.shape_zyx, dtype=np.float32)
    volume = Volume(image, geometry, "MR", build.FRAME_UID, uids, build.SERIES_UID, build.STUDY_UID)
    identity = OriginalIdentity(
        build.PATIENT_ID, "Müller^Zoë", "19540317", "F", build.STUDY_UID, build.SERIES_UID,
        build.FRAME_UID, "1.2.840.10008.5.1.4.1.1.4", uids, "20240102", "101112", "STY9", "A1",
    )  # fmt: skip
    return volume, identity


# -- what is refused --------------------------------------------------------------------------


def contour_of(dataset: Dataset, region: int = 0, number: int = 0) -> Dataset:
    return dataset.ROIContourSequence[region].ContourSequence[number]


def series_of(dataset: Dataset) -> Dataset:
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    return study.RTReferencedSeriesSequence[0]


def set_decimals(item: Dataset, keyword: str, values: list[str]) -> None:
    """Write decimal strings as they are, as careless writers do."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    item[tag] = DataElement(tag, "DS", values, validation_mode=pydicom.config.IGNORE)


def long_decimals(dataset: Dataset) -> None:
    item = contour_of(dataset)
    set_decimals(item, "ContourData", [f"{float(one):.17f}" for one in item.ContourData])


def hidden_long_decimal(dataset: Dataset) -> None:
    """Break the rule two sequences deep, in an element that nobody reads."""
    inner = series_of(dataset).ContourImageSequence[0]
    set_decimals(inner, "SliceThickness", ["3.0000000000000000"])


def no_number(dataset: Dataset) -> None:
    values = [str(one) for one in contour_of(dataset).ContourData]
    set_decimals(contour_of(dataset), "ContourData", ["1_0", *values[1:]])


def shift(dataset: Dataset, axis: int, by_mm: float, contours=slice(None)) -> None:
    for item in dataset.ROIContourSequence[0].ContourSequence[contours]:
        item.ContourData = [
            f"{float(part) + (by_mm if i % 3 == axis else 0):.4f}"
            for i, part in enumerate(item.ContourData)
        ]


def move_to_another_slice(dataset: Dataset) -> None:
    """Put a contour on the last slice, points and reference alike."""
    first = contour_of(dataset)
    _, *_, other = series_of(dataset).ContourImageSequence
    first.ContourImageSequence[0].ReferencedSOPInstanceUID = other.ReferencedSOPInstanceUID
    z = build.expected_geometry(SHAPE).points_from_index(np.array([[5.0, 0, 0]]))[0, 2]
    first.ContourData = [
        f"{z:.4f}" if i % 3 == 2 else str(p) for i, p in enumerate(first.ContourData)
    ]


def drop_a_contour(dataset: Dataset) -> None:
    del dataset.ROIContourSequence[0].ContourSequence[1]


def half_a_pixel(dataset: Dataset) -> None:
    shift(dataset, axis=0, by_mm=0.8)


def own_hole(dataset: Dataset) -> None:
    """Add a contour inside another, as a hole for even-odd readers."""
    inner = Dataset()
    inner.update(contour_of(dataset))
    points = np.array(inner.ContourData, dtype=float).reshape(-1, 3)
    centre = np.array([-20.5 + 1.1 * 20, 14.25 + 0.8 * 22, points[0, 2]])
    square = centre + np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    inner.NumberOfContourPoints = 4
    inner.ContourData = [f"{part:.4f}" for part in square.ravel()]
    dataset.ROIContourSequence[0].ContourSequence.append(inner)


def rename(dataset: Dataset, name: str) -> None:
    dataset.StructureSetROISequence[0].ROIName = name


def approve(dataset: Dataset, **fields: str) -> None:
    dataset.ApprovalStatus = "APPROVED"
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)


def set_uid(dataset: Dataset, uid: str) -> None:
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid


def set_in(get: Callable[[Dataset], Dataset], keyword: str, value) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(get(dataset), keyword, value)


def top(dataset: Dataset) -> Dataset:
    return dataset


def frame_of(dataset: Dataset) -> Dataset:
    return dataset.ReferencedFrameOfReferenceSequence[0]


def study_of(dataset: Dataset) -> Dataset:
    return frame_of(dataset).RTReferencedStudySequence[0]


def region_of(dataset: Dataset) -> Dataset:
    return dataset.StructureSetROISequence[0]


def image_of(dataset: Dataset) -> Dataset:
    return contour_of(dataset).ContourImageSequence[0]


def private_element(dataset: Dataset) -> None:
    dataset.ROIContourSequence[1].private_block(0x3287, "PLANNER", create=True).add_new(
        1, "LO", "x"
    )


CORRUPT_STRUCTURE_SETS: dict[str, tuple[Rule, Callable[[Dataset], object]]] = {
    "decimals of 20 bytes": (Rule.DS_TOO_LONG, long_decimals),
    "one long decimal deep inside": (Rule.DS_TOO_LONG, hidden_long_decimal),
    "a decimal that is none": (Rule.DS_NO_NUMBER, no_number),
    "a private element": (Rule.PRIVATE_TAG, private_element),
    "another patient id": (Rule.PATIENT_MISMATCH, set_in(top, "PatientID", "KH-1")),
    "the pseudonym as name": (Rule.PATIENT_MISMATCH, set_in(top, "PatientName", "patient-0a")),
    "another study": (Rule.STUDY_MISMATCH, set_in(top, "StudyInstanceUID", "1.2.3")),
    "another study referred to": (
        Rule.STUDY_MISMATCH,
        set_in(study_of, "ReferencedSOPInstanceUID", "1.2.3"),
    ),
    "a study of a wrong class": (
        Rule.STUDY_MISMATCH,
        set_in(study_of, "ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
    ),
    "another frame": (Rule.FRAME_MISMATCH, set_in(top, "FrameOfReferenceUID", "1.2.3")),
    "another frame referred to": (
        Rule.FRAME_MISMATCH,
        set_in(frame_of, "FrameOfReferenceUID", "1.2.3"),
    ),
    "another frame of a region": (
        Rule.FRAME_MISMATCH,
        set_in(region_of, "ReferencedFrameOfReferenceUID", "1.2.3"),
    ),
    "another series": (Rule.SERIES_MISMATCH, set_in(series_of, "SeriesInstanceUID", "1.2.3")),
    "an image not listed": (
        Rule.IMAGES_NOT_LISTED,
        lambda dataset: series_of(dataset).ContourImageSequence.pop(),
    ),
    "an image of another class": (
        Rule.IMAGES_NOT_LISTED,
        lambda dataset: setattr(
            series_of(dataset).ContourImageSequence[2],
            "ReferencedSOPClassUID",
            "1.2.840.10008.5.1.4.1.1.2",
        ),
    ),
    "a contour on an unknown image": (
        Rule.CONTOUR_IMAGE,
        set_in(image_of, "ReferencedSOPInstanceUID", "1.2.3"),
    ),
    "a contour on two images": (
        Rule.CONTOUR_IMAGE,
        lambda dataset: contour_of(dataset).ContourImageSequence.append(image_of(dataset)),
    ),
    "a contour without image": (
        Rule.CONTOUR_IMAGE,
        lambda dataset: contour_of(dataset).pop("ContourImageSequence"),
    ),
    "the image of the slice above": (
        Rule.CONTOUR_OFF_PLANE,
        set_in(image_of, "ReferencedSOPInstanceUID", f"{build.SERIES_UID}.3"),
    ),
    "0.02 mm off the plane": (Rule.CONTOUR_OFF_PLANE, lambda d: shift(d, axis=2, by_mm=0.02)),
    "beside the image": (Rule.CONTOUR_OUTSIDE, lambda d: shift(d, axis=0, by_mm=-30.0)),
    "an open contour": (
        Rule.CONTOUR_NOT_CLOSED,
        set_in(contour_of, "ContourGeometricType", "OPEN_PLANAR"),
    ),
    "points miscounted": (Rule.CONTOUR_POINTS, set_in(contour_of, "NumberOfContourPoints", 7)),
    "a coordinate missing": (
        Rule.CONTOUR_POINTS,
        lambda d: setattr(contour_of(d), "ContourData", list(contour_of(d).ContourData)[:-1]),
    ),
    "a hole as a contour of its own": (Rule.CONTOURS_OVERLAP, own_hole),
    "a slice of contours lost": (Rule.SLICE_MISPLACED, drop_a_contour),
    "a contour in another's slice": (Rule.SLICE_MISPLACED, move_to_another_slice),
    "moved by less than a pixel": (Rule.MASK_DIFFERS, half_a_pixel),
    "a label of 17 characters": (Rule.LABEL_TOO_LONG, set_in(top, "StructureSetLabel", "a" * 17)),
    "approved by nobody": (Rule.APPROVED_WITHOUT_SIGNATURE, approve),
    "a reviewer without approval": (
        Rule.APPROVED_WITHOUT_SIGNATURE,
        set_in(top, "ReviewerName", "Onkologin^Olga"),
    ),
    "no approval status": (Rule.APPROVAL_INCOMPLETE, lambda dataset: dataset.pop("ApprovalStatus")),
    "nothing about research": (
        Rule.RESEARCH_USE_MISSING,
        set_in(top, "StructureSetDescription", "GTV"),
    ),
    "a name of 17 characters": (Rule.NAME_TOO_LONG, lambda d: rename(d, "GTVp_abcdefghi^AI")),
    "a name of no standard": (Rule.NAME_NOT_TG263, lambda d: rename(d, "tumour (AI)")),
    "a model's contour under a clinical name": (
        Rule.NAME_NOT_MARKED_AI,
        lambda d: rename(d, "GTVp"),
    ),
    "another region's name": (Rule.NAME_UNEXPECTED, lambda d: rename(d, "GTVp2^AI")),
    "one name twice": (Rule.NAME_UNEXPECTED, lambda d: rename(d, "GTVn")),
    "a model's contour as drawn by hand": (
        Rule.ALGORITHM_MISMATCH,
        set_in(region_of, "ROIGenerationAlgorithm", "MANUAL"),
    ),
    "a tumour as an organ": (
        Rule.NOT_A_GTV,
        lambda d: setattr(d.RTROIObservationsSequence[0], "RTROIInterpretedType", "ORGAN"),
    ),
    "contours of another region": (
        Rule.REGION_NUMBERS,
        lambda d: setattr(d.ROIContourSequence[0], "ReferencedROINumber", 7),
    ),
    "two regions of one number": (Rule.REGION_NUMBERS, set_in(region_of, "ROINumber", 2)),
    "the UID of an image": (Rule.UID_NOT_NEW, lambda d: set_uid(d, f"{build.SERIES_UID}.1")),
    "the UID of an earlier export": (Rule.UID_NOT_NEW, lambda d: set_uid(d, EARLIER)),
    "the series of the images": (
        Rule.UID_NOT_NEW,
        set_in(top, "SeriesInstanceUID", build.SERIES_UID),
    ),
    "a header of another object": (Rule.UID_INVALID, set_in(top, "SOPInstanceUID", "1.2.3.4")),
    "a UID with a leading zero": (Rule.UID_INVALID, lambda d: set_uid(d, "1.2.03")),
    "another predecessor": (
        Rule.PREDECESSOR_MISMATCH,
        lambda d: d.pop("PredecessorStructureSetSequence"),
    ),
    "another modality": (Rule.WRONG_KIND, set_in(top, "Modality", "RTPLAN")),
}


def refused(content: bytes, expected: Expected) -> Rule:
    """Return the rule of the refusal, whose message must be one line about no patient."""
    with pytest.raises(ExportRefused) as caught:
        check_export(content, expected)
    assert isinstance(caught.value, DataError)
    message = failure_line(caught.value) or ""
    assert f"({caught.value.rule.value})" in message
    planted = [*build.PLANTED, "Olga", build.ROOT, "tumour", "2024"]
    assert not [word for word in planted if word.lower() in message.lower()]
    return caught.value.rule


@pytest.mark.parametrize("name", CORRUPT_STRUCTURE_SETS)
@pytest.mark.filterwarnings("ignore")
def test_a_corrupt_structure_set_is_refused_by_the_rule(images: Images, name: str) -> None:
    rule, corrupt = CORRUPT_STRUCTURE_SETS[name]
    contours = two_regions(images)
    expected = Expected(contours, images.identity, None, EARLIER, {EARLIER})
    content = structure_set(images, contours, predecessor=EARLIER)
    check_export(content, expected)
    dataset = pydicom.dcmread(BytesIO(content))
    corrupt(dataset)
    assert refused(content_of(dataset, as_it_is=True), expected) is rule


FULL = {"ReviewerName": "Onkologin^Olga", "ReviewDate": "20260304", "ReviewTime": "050107.000000"}


@pytest.mark.parametrize("lost", FULL)
def test_an_approval_needs_reviewer_date_and_time(images: Images, lost: str) -> None:
    contours = two_regions(images)
    expected = Expected(contours, images.identity, SIGNATURE)
    content = structure_set(images, contours, signature=SIGNATURE)
    check_export(content, expected)
    for value in ("", "20200101"):
        dataset = pydicom.dcmread(BytesIO(content))
        assert str(dataset[lost].value) == FULL[lost]
        setattr(dataset, lost, value)
        assert refused(content_of(dataset), expected) is Rule.APPROVAL_INCOMPLETE
    unsigned = structure_set(images, contours)
    assert refused(unsigned, expected) is Rule.APPROVAL_INCOMPLETE
    assert refused(content, Expected(contours, images.identity)) is Rule.APPROVED_WITHOUT_SIGNATURE


def test_a_simulated_contour_is_never_approved(images: Images) -> None:
    drawn = [images.contour(ball_with_hole(), "GTVp^AI", Provenance.AUTOMATIC)]
    simulated = [images.contour(ball_with_hole(), "GTVp^AI", Provenance.SIMULATED)]
    content = structure_set(images, drawn, signature=SIGNATURE)
    rule = refused(content, Expected(simulated, images.identity, SIGNATURE))
    assert rule is Rule.APPROVED_WITHOUT_SIGNATURE


def segment_of(dataset: Dataset) -> Dataset:
    return dataset.SegmentSequence[0]


def frame(dataset: Dataset, number: int = 0) -> Dataset:
    return dataset.PerFrameFunctionalGroupsSequence[number]


def shared(dataset: Dataset) -> Dataset:
    return dataset.SharedFunctionalGroupsSequence[0]


def flip_bits(dataset: Dataset) -> None:
    pixels = np.frombuffer(dataset.PixelData, dtype=np.uint8).copy()
    pixels[60:70] ^= 0xFF
    dataset.PixelData = pixels.tobytes()


def swap_frames(dataset: Dataset) -> None:
    frames = dataset.PerFrameFunctionalGroupsSequence
    first, second = frames[0].PlanePositionSequence, frames[1].PlanePositionSequence
    frames[0].PlanePositionSequence, frames[1].PlanePositionSequence = second, first


def drop_a_frame(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[-1]
    dataset.NumberOfFrames = int(dataset.NumberOfFrames) - 1


def repeat_a_frame(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence[1] = dataset.PerFrameFunctionalGroupsSequence[0]


CORRUPT_SEGMENTATIONS: dict[str, tuple[Rule, Callable[[Dataset], object]]] = {
    "another patient": (Rule.PATIENT_MISMATCH, set_in(top, "PatientID", "KH-1")),
    "another frame": (Rule.FRAME_MISMATCH, set_in(top, "FrameOfReferenceUID", "1.2.3")),
    "a long decimal": (
        Rule.DS_TOO_LONG,
        lambda d: set_decimals(
            shared(d).PixelMeasuresSequence[0], "PixelSpacing", ["0.80000000000000004", "1.1"]
        ),
    ),
    "another spacing": (
        Rule.GRID_MISMATCH,
        lambda d: setattr(shared(d).PixelMeasuresSequence[0], "PixelSpacing", ["0.81", "1.1"]),
    ),
    "another direction": (
        Rule.GRID_MISMATCH,
        lambda d: setattr(
            shared(d).PlaneOrientationSequence[0], "ImageOrientationPatient", [0, 1, 0, 1, 0, 0]
        ),
    ),
    "another size": (Rule.GRID_MISMATCH, set_in(top, "Rows", 29)),
    "fractions": (Rule.NOT_BINARY, set_in(top, "SegmentationType", "FRACTIONAL")),
    "frames exchanged": (Rule.SLICE_MISPLACED, swap_frames),
    "a frame lost": (Rule.SLICE_MISPLACED, drop_a_frame),
    "a frame twice": (Rule.SLICE_MISPLACED, repeat_a_frame),
    "bits flipped": (Rule.MASK_DIFFERS, flip_bits),
    "frames miscounted": (Rule.UNREADABLE, set_in(top, "NumberOfFrames", 9)),
    "an unknown image": (
        Rule.CONTOUR_IMAGE,
        lambda d: setattr(
            frame(d).DerivationImageSequence[0].SourceImageSequence[0],
            "ReferencedSOPInstanceUID",
            "1.2.3",
        ),
    ),
    "an image not listed": (
        Rule.IMAGES_NOT_LISTED,
        lambda d: d.ReferencedSeriesSequence[0].ReferencedInstanceSequence.pop(),
    ),
    "another series": (
        Rule.SERIES_MISMATCH,
        lambda d: setattr(d.ReferencedSeriesSequence[0], "SeriesInstanceUID", "1.2.3"),
    ),
    "a clinical name": (Rule.NAME_NOT_MARKED_AI, set_in(segment_of, "SegmentLabel", "GTVp")),
    "drawn by hand": (
        Rule.ALGORITHM_MISMATCH,
        set_in(segment_of, "SegmentAlgorithmType", "MANUAL"),
    ),
    "a frame of no segment": (
        Rule.REGION_NUMBERS,
        lambda d: setattr(frame(d).SegmentIdentificationSequence[0], "ReferencedSegmentNumber", 5),
    ),
    "segments misnumbered": (Rule.REGION_NUMBERS, set_in(segment_of, "SegmentNumber", 4)),
    "nothing about research": (Rule.RESEARCH_USE_MISSING, set_in(top, "ContentDescription", "x")),
    "approved": (Rule.APPROVED_WITHOUT_SIGNATURE, approve),
    "a long label": (Rule.LABEL_TOO_LONG, set_in(top, "ContentLabel", "A" * 17)),
    "a private element": (
        Rule.PRIVATE_TAG,
        lambda d: d.private_block(0x3287, "PLANNER", create=True).add_new(1, "LO", "x"),
    ),
    "another modality": (Rule.WRONG_KIND, set_in(top, "Modality", "OT")),
}


@pytest.mark.parametrize("name", CORRUPT_SEGMENTATIONS)
@pytest.mark.filterwarnings("ignore")
def test_a_corrupt_segmentation_is_refused_by_the_rule(images: Images, name: str) -> None:
    rule, corrupt = CORRUPT_SEGMENTATIONS[name]
    contours = two_regions(images)
    dataset = pydicom.dcmread(BytesIO(segmentation(images, contours)))
    corrupt(dataset)
    assert refused(content_of(dataset), Expected(contours, images.identity)) is rule


@pytest.mark.parametrize(
    "name", ["GTV", "GTVp", "GTVn2", "GTVp1_CT1", "IGTVp", "GTVsb", "GTVp-05", "GTVp^AI", "GTV^a_1"]
)
def test_tg263_names_of_gross_tumours_are_known(name: str) -> None:
    geometry = Geometry((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    contour = Contour(name, Mask(np.ones((1, 1, 1), dtype=bool), geometry), Provenance.MANUAL)
    expected = Expected([contour], invented_series(geometry)[1])
    assert contours_by_name([name], expected) == [contour]


@pytest.mark.parametrize(
    "name", ["gtvp", "GTV p", "GTV_", "PTV", "GTVx", "GTVp^", "GTVp^A^B", "Tumor", "GTVp\n"]
)
def test_other_names_are_not(name: str) -> None:
    geometry = Geometry((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    contour = Contour(name, Mask(np.ones((1, 1, 1), dtype=bool), geometry), Provenance.MANUAL)
    with pytest.raises(ExportRefused) as caught:
        contours_by_name([name], Expected([contour], invented_series(geometry)[1]))
    assert caught.value.rule is Rule.NAME_NOT_TG263


def test_every_rule_has_a_corruption_that_breaks_it() -> None:
    tables = (CORRUPT_STRUCTURE_SETS, CORRUPT_SEGMENTATIONS)
    assert {rule for table in tables for rule, _ in table.values()} == set(Rule)


def test_images_and_text_are_no_exports(images: Images) -> None:
    expected = Expected(two_regions(images), images.identity)
    image = next(images.folder.iterdir()).read_bytes()
    assert refused(image, expected) is Rule.WRONG_KIND
    assert refused(b"hello", expected) is Rule.UNREADABLE
    assert refused(b"", expected) is Rule.UNREADABLE


@pytest.mark.parametrize("write", [structure_set, segmentation])
@pytest.mark.filterwarnings("ignore")
def test_a_file_cut_off_anywhere_is_refused(images: Images, write) -> None:
    contours = two_regions(images)
    expected, whole = Expected(contours, images.identity), write(images, contours)
    for end in np.linspace(0, len(whole) - 2, 150).astype(int):
        refused(whole[:end], expected)


@pytest.mark.parametrize("write", [structure_set, segmentation])
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_are_refused_or_harmless(images: Images, write) -> None:
    """Whatever is flipped, nothing but a refusal comes out, and no other region or patient in."""
    contours = two_regions(images)
    expected, whole = Expected(contours, images.identity), write(images, contours)
    rng = np.random.default_rng(11)
    rules = set()
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(132, len(whole), size=rng.integers(1, 4)):
            damaged[place] ^= 1 << int(rng.integers(8))
        try:
            check_export(bytes(damaged), expected)
        except ExportRefused as refusal:
            rules.add(refusal.rule)
    assert len(rules) > 3


# -- the region, slice by slice ---------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(masks, st.data())
def test_another_region_is_refused_exactly_where_dice_says_so(voxels, data) -> None:
    meant = data.draw(arrays(bool, voxels.shape))
    keep = data.draw(st.booleans())
    meant = voxels ^ (meant & (np.indices(voxels.shape).sum(axis=0) % 7 == 0)) if keep else meant
    geometry = Geometry(voxels.shape, (3.0, 0.9, 1.2), (-7.0, 4.0, 100.0))
    volume, identity = invented_series(geometry)
    written = [Contour("GTVp", Mask(voxels, geometry), Provenance.MANUAL)]
    content = content_of(write_rtstruct(volume, written, identity=identity, label="x", now=NOW))
    expected = Expected([replace(written[0], mask=Mask(meant, geometry))], identity)
    both = list(zip(voxels, meant, strict=True))
    if any(a.any() != b.any() for a, b in both):
        assert refused(content, expected) is Rule.SLICE_MISPLACED
    elif any(2 * (a & b).sum() < 0.99 * (a.sum() + b.sum()) for a, b in both):
        assert refused(content, expected) is Rule.MASK_DIFFERS
    else:
        check_export(content, expected)
