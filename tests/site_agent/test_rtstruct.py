"""RTSTRUCT against closed forms, real files, plastimatch, and random masks with holes."""

import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Polygon

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Geometry, Mask, Volume
from site_agent.deidentification import deidentify_volume, original_identity
from site_agent.dicom_series import read_headers, read_series, scan
from site_agent.export_gate import check_export
from site_agent.export_rules import Expected
from site_agent.rtstruct import (
    RESEARCH_USE,
    Placement,
    ReviewSignature,
    placement_of,
    rasterise,
    read_rtstruct,
    trace,
    write_rtstruct,
)
from tests.debian_packages import absent
from tests.site_agent import dicom_builder as build

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SHAPE = (6, 30, 40)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())


class Images:
    """A saved series with its volume and identity."""

    def __init__(self, folder: Path, orientation=build.AXIAL, shape_zyx=SHAPE) -> None:
        build.save(build.slices(shape_zyx, orientation), folder)
        self.folder = folder
        self.volume = read_series(folder)
        self.identity = original_identity(read_headers(sorted(folder.iterdir())))

    def contour(self, voxels, name="GTVp", provenance=Provenance.MANUAL) -> Contour:
        return Contour(name, Mask(voxels, self.volume.geometry), provenance)

    def write(self, contours, file: Path, **options) -> Path:
        options = {"identity": self.identity, "label": "fedgtv", "now": NOW, **options}
        write_rtstruct(self.volume, contours, **options).save_as(file, enforce_file_format=True)
        return file


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "images")


def ball_with_hole() -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    inside = (y - 14) ** 2 + (x - 20) ** 2 <= 11**2
    hole = (y - 13) ** 2 + (x - 18) ** 2 <= 4**2
    return inside & ~hole & (z > 0) & (z < 5)


def test_real_structure_sets_give_the_origins_own_mask(data_packs: Path) -> None:
    cases = sorted((data_packs / "dicom" / "sts_rtstruct").glob("*/*"))
    assert len(cases) == 4
    for case in cases:
        volume = read_series(case / "image")
        [mask] = read_rtstruct(case / "mask" / "RS.dcm", volume).values()
        reference = SimpleITK.ReadImage(str(case / "mask_reference.nii.gz"))
        assert dice(mask.voxels, SimpleITK.GetArrayFromImage(reference) > 0) >= 0.999
        assert placement_of(case / "mask" / "RS.dcm", volume) is Placement.BY_GEOMETRY


def test_a_rectangle_covers_the_pixels_whose_centres_it_holds() -> None:
    corners = np.array([[1.2, 0.6], [4.4, 0.6], [4.4, 3.1], [1.2, 3.1]])
    expected = np.zeros((5, 6), dtype=bool)
    expected[1:4, 2:5] = True
    np.testing.assert_array_equal(rasterise([corners], (5, 6)), expected)
    np.testing.assert_array_equal(rasterise([corners[::-1]], (5, 6)), expected)


def test_polygons_that_share_an_edge_through_centres_share_no_pixel() -> None:
    left = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 4.0], [0.0, 4.0]])
    right = left + np.array([2.0, 0.0])
    together = rasterise([left], (4, 4)).astype(int) + rasterise([right], (4, 4))
    np.testing.assert_array_equal(together, np.ones((4, 4)))


@given(
    st.lists(
        st.tuples(st.floats(-3, 12, width=32), st.floats(-3, 12, width=32)), min_size=3, max_size=8
    )
)
def test_rasterise_agrees_with_matplotlib_away_from_edges(corners) -> None:
    polygon = np.asarray(corners, dtype=float) + np.array([0.0137, 0.0071])
    centres = np.stack(np.meshgrid(np.arange(10), np.arange(9)), axis=-1).reshape(-1, 2)
    closed = np.concatenate([polygon, polygon[:1]])
    winding_free = [  # even-odd by hand: count the edges right of a centre that straddle its row
        sum(
            (a[1] > y) != (b[1] > y) and x < a[0] + (y - a[1]) * (b[0] - a[0]) / (b[1] - a[1])
            for a, b in pairwise(closed)
        )
        % 2
        == 1
        for x, y in centres
    ]
    path = Polygon(closed, closed=True)
    on_edge = path.contains_points(centres, radius=1e-6) != path.contains_points(
        centres, radius=-1e-6
    )
    ours = rasterise([polygon], (9, 10)).ravel()
    np.testing.assert_array_equal(ours[~on_edge], np.asarray(winding_free)[~on_edge])


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_tracing_and_filling_gives_the_mask_back(mask_yx: np.ndarray) -> None:
    np.testing.assert_array_equal(rasterise(trace(mask_yx), mask_yx.shape), mask_yx)


def winding(polygon: np.ndarray, shape_yx: tuple[int, int]) -> np.ndarray:
    """Count how often a polygon goes around each pixel, by the angle that its edges span there.

    From beside the centre, which may lie on a keyhole.
    """
    centres = np.indices(shape_yx)[::-1].reshape(2, -1).T + np.array([0.0137, 0.0071])
    start = polygon[None] - centres[:, None]
    end = np.roll(start, -1, axis=1)
    cross = start[..., 0] * end[..., 1] - start[..., 1] * end[..., 0]
    angle = np.arctan2(cross, (start * end).sum(axis=-1)).sum(axis=1)
    return np.rint(angle / (2 * np.pi)).astype(int).reshape(shape_yx)


@given(arrays(bool, st.tuples(st.integers(1, 10), st.integers(1, 10))))
def test_holes_are_holes_to_whatever_rule_a_reader_fills_by(mask_yx: np.ndarray) -> None:
    """Even-odd or non-zero, all at once or united one by one: a keyhole reads the same."""
    turns = [winding(polygon, mask_yx.shape) for polygon in trace(mask_yx)]
    none = np.zeros((1, *mask_yx.shape), dtype=int)
    inside = np.concatenate([none, turns]) if turns else none
    np.testing.assert_array_equal((inside != 0).any(axis=0), mask_yx)  # non-zero, united
    np.testing.assert_array_equal((inside % 2 == 1).any(axis=0), mask_yx)  # even-odd, united
    np.testing.assert_array_equal(inside.sum(axis=0) % 2 == 1, mask_yx)  # even-odd over all
    assert np.abs(inside).sum(axis=0).max() <= 1  # no two overlap


def test_a_keyhole_goes_in_and_out_by_the_same_corners() -> None:
    ring = np.zeros((9, 9), dtype=bool)
    ring[1:8, 1:8], ring[3:6, 3:6] = True, False
    (polygon,) = trace(ring)
    corners, counts = np.unique(polygon, axis=0, return_counts=True)
    assert sorted(counts)[-3:] == [1, 2, 2]  # both ends of the channel, and nothing else, twice
    out, back = corners[counts == 2]
    places = [np.flatnonzero((polygon == end).all(axis=1)) for end in (out, back)]
    assert {tuple(sorted((i, j))) for i in places[0] for j in places[1] if abs(i - j) == 1}


def test_an_island_in_a_hole_is_a_part_of_its_own() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[1:8, 1:8], mask[3:6, 3:6], mask[4, 4] = True, False, True
    assert len(trace(mask)) == 2


@pytest.mark.parametrize("orientation", [build.AXIAL, build.OBLIQUE, build.FEET_FIRST])
def test_written_structure_sets_read_back_as_the_same_masks(tmp_path: Path, orientation) -> None:
    images = Images(tmp_path / "images", orientation)
    noise = np.random.default_rng(3).random(SHAPE) < 0.6
    island = np.zeros(SHAPE, dtype=bool)
    island[2, 0, 39] = True
    contours = [
        images.contour(ball_with_hole(), "GTVp", Provenance.MANUAL),
        images.contour(noise, "noise", Provenance.SEMIAUTOMATIC),
        images.contour(island, "GTVn", Provenance.AUTOMATIC),
        images.contour(np.zeros(SHAPE, dtype=bool), "empty"),
    ]
    file = images.write(contours, tmp_path / "rs.dcm")
    masks = read_rtstruct(file, images.volume)
    assert list(masks) == ["GTVp", "noise", "GTVn^AI", "empty"]
    for contour, mask in zip(contours, masks.values(), strict=True):
        np.testing.assert_array_equal(mask.voxels, contour.mask.voxels)
    assert placement_of(file, images.volume) is Placement.BY_REFERENCE


def test_the_written_object_keeps_the_rules_of_the_standard(images: Images, tmp_path: Path) -> None:
    contours = [
        images.contour(ball_with_hole(), provenance=Provenance.AUTOMATIC),
        images.contour(ball_with_hole(), "GTVp1", Provenance.SEMIAUTOMATIC),
    ]
    result = pydicom.dcmread(images.write(contours, tmp_path / "rs.dcm", predecessor="1.2.3"))
    assert (result.PatientName, result.PatientID) == (build.PATIENT_NAME, build.PATIENT_ID)
    assert (result.StudyInstanceUID, result.StudyID) == (build.STUDY_UID, "STY9")
    assert result.SeriesInstanceUID != build.SERIES_UID
    assert result.StructureSetDescription == RESEARCH_USE
    assert (result.ApprovalStatus, "ReviewerName" in result) == ("UNAPPROVED", False)
    [frame] = result.ReferencedFrameOfReferenceSequence
    [study] = frame.RTReferencedStudySequence
    [series] = study.RTReferencedSeriesSequence
    assert (frame.FrameOfReferenceUID, series.SeriesInstanceUID) == (
        build.FRAME_UID,
        build.SERIES_UID,
    )
    uids = [image.ReferencedSOPInstanceUID for image in series.ContourImageSequence]
    assert uids == list(images.volume.sop_instance_uids)
    assert [roi.ROIGenerationAlgorithm for roi in result.StructureSetROISequence] == [
        "AUTOMATIC",
        "SEMIAUTOMATIC",
    ]
    assert {one.RTROIInterpretedType for one in result.RTROIObservationsSequence} == {"GTV"}
    assert result.PredecessorStructureSetSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    for roi in result.ROIContourSequence:
        for contour in roi.ContourSequence:
            [image] = contour.ContourImageSequence
            k = uids.index(image.ReferencedSOPInstanceUID)
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            index_zyx = images.volume.geometry.index_from_points(points)
            np.testing.assert_allclose(index_zyx[:, 0], k, atol=0.01 / 3.0)
            assert max(len(str(part)) for part in contour.ContourData) <= 16


def test_a_contour_may_be_longer_than_an_explicit_value(tmp_path: Path) -> None:
    images = Images(tmp_path / "images", shape_zyx=(1, 150, 160))
    noise = np.random.default_rng(5).random((1, 150, 160)) < 0.7
    file = images.write([images.contour(noise)], tmp_path / "rs.dcm")
    [roi] = pydicom.dcmread(file).ROIContourSequence
    longest = max(sum(len(str(one)) + 1 for one in c.ContourData) for c in roi.ContourSequence)
    assert longest > 2**16
    np.testing.assert_array_equal(read_rtstruct(file, images.volume)["GTVp"].voxels, noise)


def test_approval_needs_a_person(images: Images, tmp_path: Path) -> None:
    drawn = images.contour(ball_with_hole())
    an_hour_ago = datetime(2026, 3, 4, 6, 6, 7, tzinfo=timezone(timedelta(hours=2)))
    signature = ReviewSignature("Onkologin^Olga", an_hour_ago)
    assert "Olga" not in repr(signature)
    signed = pydicom.dcmread(images.write([drawn], tmp_path / "rs.dcm", signature=signature))
    assert signed.ApprovalStatus == "APPROVED"
    assert (signed.ReviewDate, signed.ReviewTime) == ("20260304", "040607.000000")
    assert signed.ReviewerName == "Onkologin^Olga"
    unsigned = pydicom.dcmread(images.write([drawn], tmp_path / "rs.dcm"))
    assert unsigned.SOPInstanceUID != signed.SOPInstanceUID
    simulated = images.contour(ball_with_hole(), provenance=Provenance.SIMULATED)
    with pytest.raises(DataError, match="simulated"):
        images.write([simulated], tmp_path / "no.dcm", signature=signature)
    tomorrow = ReviewSignature("Onkologin^Olga", NOW + timedelta(days=1))
    with pytest.raises(DataError, match="future"):
        images.write([drawn], tmp_path / "no.dcm", signature=tomorrow)


@pytest.mark.parametrize("name", ["", " ^ ", "a\\b", "a=b", "a\nb", "a" * 65])
def test_a_signature_names_a_person_as_dicom_can_hold_it(name: str) -> None:
    with pytest.raises(DataError, match="reviewer's name"):
        ReviewSignature(name, NOW)
    with pytest.raises(ValueError, match="time zone"):
        ReviewSignature("Onkologin^Olga", NOW.replace(tzinfo=None))


def test_a_programs_contour_never_bears_a_clinical_name(images: Images, tmp_path: Path) -> None:
    drawn = {
        Provenance.AUTOMATIC: "GTVp^AI",
        Provenance.SIMULATED: "GTVp^AI",
        Provenance.SEMIAUTOMATIC: "GTVp",
        Provenance.MANUAL: "GTVp",
    }
    for provenance, name in drawn.items():
        contour = images.contour(ball_with_hole(), provenance=provenance)
        written = pydicom.dcmread(images.write([contour], tmp_path / "rs.dcm"))
        assert [roi.ROIName for roi in written.StructureSetROISequence] == [name]


def test_contours_of_another_frame_of_reference_are_not_written(
    images: Images, tmp_path: Path
) -> None:
    drawn = images.contour(ball_with_hole())
    other = replace(images.identity, frame_of_reference_uid="1.2.9")
    with pytest.raises(DataError, match="another frame of reference"):
        images.write([drawn], tmp_path / "rs.dcm", identity=other)
    none = replace(images.identity, frame_of_reference_uid="")
    with pytest.raises(DataError, match="no FrameOfReferenceUID"):
        images.write([drawn], tmp_path / "rs.dcm", identity=none)
    turned = replace(images.identity, sop_instance_uids=images.identity.sop_instance_uids[::-1])
    with pytest.raises(ValueError, match="another order"):
        images.write([drawn], tmp_path / "rs.dcm", identity=turned)


def test_each_save_has_its_own_uid_and_the_same_save_the_same(images: Images) -> None:
    def uid(now: datetime) -> str:
        result = write_rtstruct(
            images.volume,
            [images.contour(ball_with_hole())],
            identity=images.identity,
            label="fedgtv",
            now=now,
        )
        return str(result.SOPInstanceUID)

    assert uid(NOW) == uid(NOW)
    assert uid(NOW) != uid(NOW.replace(second=8))


def test_contours_from_the_deidentified_volume_fit_the_original_images(
    images: Images, tmp_path: Path
) -> None:
    research = deidentify_volume(images.volume, b"0123456789abcdef")
    contour = Contour("GTVp", Mask(ball_with_hole(), research.geometry), Provenance.MANUAL)
    result = write_rtstruct(research, [contour], identity=images.identity, label="x", now=NOW)
    result.save_as(tmp_path / "rs.dcm", enforce_file_format=True)
    [mask] = read_rtstruct(tmp_path / "rs.dcm", images.volume).values()
    np.testing.assert_array_equal(mask.voxels, ball_with_hole())


def plastimatch(images: Path, file: Path, geometry: Geometry, work: Path) -> np.ndarray:
    """Let plastimatch read a structure set of one region onto the grid of its images."""
    if shutil.which("plastimatch") is None:
        absent("plastimatch", "plastimatch")
    convert = ["plastimatch", "convert", "--input"]
    grid = work / "grid.mha"
    for arguments in (
        [images, "--output-img", grid],
        [file, "--fixed", grid, "--output-prefix", work / "out", "--prefix-format", "nrrd"],
    ):
        subprocess.run([*convert, *arguments], check=True, capture_output=True)
    [written] = (work / "out").iterdir()
    theirs = SimpleITK.ReadImage(str(written))
    ours = SimpleITK.GetImageFromArray(np.zeros(geometry.shape_zyx, dtype=np.uint8))
    ours.SetSpacing(geometry.spacing_zyx_mm[::-1])
    ours.SetOrigin(geometry.origin_xyz_mm)
    ours.SetDirection(np.array(geometry.axes_xyz).T.ravel().tolist())
    moved = SimpleITK.Resample(theirs, ours, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
    return SimpleITK.GetArrayFromImage(moved) > 0


@pytest.mark.parametrize("orientation", [build.AXIAL, build.OBLIQUE, build.FEET_FIRST])
def test_plastimatch_reads_the_same_region(tmp_path: Path, orientation) -> None:
    images = Images(tmp_path / "images", orientation)
    island = np.zeros(SHAPE, dtype=bool)
    island[5, 25, 3] = True
    drawn = ball_with_hole() | island
    file = images.write([images.contour(drawn)], tmp_path / "rs.dcm")
    theirs = plastimatch(images.folder, file, images.volume.geometry, tmp_path)
    assert dice(theirs, drawn) >= 0.99
    assert theirs[5, 25, 3]
    assert not theirs[2, 13, 18]  # in the hole


def test_plastimatch_reads_real_tumours_back(data_packs: Path, tmp_path: Path) -> None:
    cases = sorted((data_packs / "dicom" / "sts_rtstruct").glob("*/*"))
    assert len(cases) == 4
    for number, case in enumerate(cases):
        volume = read_series(case / "image")
        identity = original_identity(read_headers(sorted((case / "image").iterdir())))
        reference = SimpleITK.ReadImage(str(case / "mask_reference.nii.gz"))
        drawn = SimpleITK.GetArrayFromImage(reference) > 0
        contour = Contour("GTVp", Mask(drawn, volume.geometry), Provenance.AUTOMATIC)
        written = write_rtstruct(volume, [contour], identity=identity, label="x", now=NOW)
        work = tmp_path / str(number)
        work.mkdir()
        written.save_as(work / "rs.dcm", enforce_file_format=True)
        check_export((work / "rs.dcm").read_bytes(), Expected([contour], identity))
        theirs = plastimatch(case / "image", work / "rs.dcm", volume.geometry, work)
        assert dice(theirs, drawn) >= 0.99


def edit(file: Path, change) -> Path:
    dataset = pydicom.dcmread(file)
    change(dataset)
    dataset.save_as(file, enforce_file_format=True)
    return file


def shift_points(dataset) -> None:
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        contour.ContourData = [
            f"{float(part) + (100.0 if i % 3 == 2 else 0):.4f}"
            for i, part in enumerate(contour.ContourData)
        ]


def shift_beside(dataset) -> None:
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        contour.ContourData = [
            f"{float(part) + (500.0 if i % 3 == 0 else 0):.4f}"
            for i, part in enumerate(contour.ContourData)
        ]


def other_frame(dataset) -> None:
    dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.9"
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.9"


def cut_a_point(dataset) -> None:
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = list(contour.ContourData)[:-1]


BROKEN = {
    shift_points: "half a slice",
    shift_beside: "beside the image",
    other_frame: "another frame of reference",
    cut_a_point: "no list of points",
}


@pytest.mark.parametrize("change", BROKEN, ids=lambda function: function.__name__)
def test_what_would_misplace_a_contour_is_refused(images: Images, tmp_path: Path, change) -> None:
    file = edit(images.write([images.contour(ball_with_hole())], tmp_path / "rs.dcm"), change)
    with pytest.raises(DataError, match=BROKEN[change]) as refusal:
        read_rtstruct(file, images.volume)
    message = str(refusal.value)
    assert not [word for word in build.PLANTED if word.lower() in message.lower()]


def test_a_file_that_contradicts_itself_about_the_frame_is_read(
    images: Images, tmp_path: Path
) -> None:
    def contradict(dataset) -> None:
        dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.9"

    file = edit(images.write([images.contour(ball_with_hole())], tmp_path / "rs.dcm"), contradict)
    [mask] = read_rtstruct(file, images.volume).values()
    np.testing.assert_array_equal(mask.voxels, ball_with_hole())


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_holes_written_as_contours_of_their_own_are_holes(
    images: Images, tmp_path: Path, kind: str
) -> None:
    outer = np.zeros(SHAPE, dtype=bool)
    outer[2, 5:25, 5:35] = True
    hole = np.zeros(SHAPE, dtype=bool)
    hole[2, 10:15, 10:20] = True
    contours = [images.contour(outer, "outer"), images.contour(hole, "hole")]

    def unite(dataset) -> None:
        first, second = dataset.ROIContourSequence
        first.ContourSequence.extend(second.ContourSequence)
        for contour in first.ContourSequence:
            contour.ContourGeometricType = kind

    file = edit(images.write(contours, tmp_path / "rs.dcm"), unite)
    np.testing.assert_array_equal(read_rtstruct(file, images.volume)["outer"].voxels, outer & ~hole)


def test_points_and_planes_between_slices_add_nothing(images: Images, tmp_path: Path) -> None:
    def add(dataset) -> None:
        contours = dataset.ROIContourSequence[0].ContourSequence
        for contour in list(contours):  # the same contour again, 1 mm further up
            extra = pydicom.dataset.Dataset()
            extra.update(contour)
            extra.ContourData = [
                f"{float(part) + (1.0 if i % 3 == 2 else 0):.4f}"
                for i, part in enumerate(contour.ContourData)
            ]
            contours.append(extra)
        point = pydicom.dataset.Dataset()
        point.ContourGeometricType, point.ContourData = "POINT", [0, 0, 999]
        contours.append(point)

    file = edit(images.write([images.contour(ball_with_hole())], tmp_path / "rs.dcm"), add)
    [mask] = read_rtstruct(file, images.volume).values()
    np.testing.assert_array_equal(mask.voxels, ball_with_hole())


def explicit(file: Path, *, undefined_length: bool = False) -> Path:
    """Write the file again with explicit VR, as most planning systems do."""
    dataset = pydicom.dcmread(file)

    def lengths(parent, element) -> None:
        if element.VR == "SQ":
            element.is_undefined_length = undefined_length
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined_length

    dataset.walk(lengths)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.save_as(file, implicit_vr=False, little_endian=True)
    return file


@pytest.mark.parametrize("undefined_length", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_file_cut_off_anywhere_is_refused_or_read_right(
    images: Images, tmp_path: Path, undefined_length: bool
) -> None:
    block = np.zeros(SHAPE, dtype=bool)
    block[1:4, 5:25, 5:35] = True
    written = images.write([images.contour(block), images.contour(block, "GTVn")], tmp_path / "rs")
    whole = explicit(written, undefined_length=undefined_length).read_bytes()
    cut = tmp_path / "cut" / "rs.dcm"
    cut.parent.mkdir()
    refused = []
    for end in [*range(0, len(whole), 11), *range(len(whole) - 120, len(whole) + 1)]:
        cut.write_bytes(whole[:end])
        with suppress(DataError):
            assert [one.file for one in scan(cut.parent).structure_sets] == [cut]
        try:
            masks = read_rtstruct(cut, images.volume)
        except DataError as error:
            assert "rs.dcm" in str(error)
            refused.append(end)
        else:
            assert list(masks) == ["GTVp", "GTVn"]
            for mask in masks.values():
                np.testing.assert_array_equal(mask.voxels, block)
    assert len(whole) not in refused
    assert max(refused) > 0.9 * len(whole)


def without_roi_number(dataset) -> None:
    del dataset.StructureSetROISequence[0].ROINumber


def without_reference(dataset) -> None:
    del dataset.ROIContourSequence[0].ReferencedROINumber


def without_contour_item(dataset) -> None:
    del dataset.ROIContourSequence[0]


def without_contours(dataset) -> None:
    del dataset.ROIContourSequence


@pytest.mark.parametrize(
    "change", [without_roi_number, without_reference, without_contour_item, without_contours]
)
def test_regions_without_their_numbers_or_contours_are_refused(
    images: Images, tmp_path: Path, change
) -> None:
    file = edit(images.write([images.contour(ball_with_hole())], tmp_path / "rs.dcm"), change)
    with pytest.raises(DataError, match=r"rs\.dcm.*export it again"):
        read_rtstruct(file, images.volume)


def test_only_the_regions_asked_for_are_looked_at(images: Images, tmp_path: Path) -> None:
    names = ("BODY", "Ring", "Ring1", " GTVp")
    contours = [images.contour(ball_with_hole(), name) for name in names]

    def spoil(dataset) -> None:
        shift_points(dataset)  # of BODY, which reaches beyond the slices
        dataset.StructureSetROISequence[2].ROIName = "Ring"

    file = edit(images.write(contours, tmp_path / "rs.dcm"), spoil)
    [(name, mask)] = read_rtstruct(file, images.volume, names=["gtvP ", "GTV"]).items()
    assert name == "GTVp"
    np.testing.assert_array_equal(mask.voxels, ball_with_hole())
    assert read_rtstruct(file, images.volume, names=["GTVn"]) == {}
    with pytest.raises(DataError, match="second region of this name"):
        read_rtstruct(file, images.volume, names=["ring"])


def test_files_that_are_no_structure_set_are_refused(images: Images, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an RTSTRUCT"):
        read_rtstruct(next(images.folder.iterdir()), images.volume)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DataError, match="not a complete DICOM file"):
        read_rtstruct(tmp_path / "a.txt", images.volume)


def test_invalid_references_of_another_writer_are_refused(data_packs: Path) -> None:
    folder = data_packs / "dicom" / "rt_utils" / "mock_data"
    volume = read_series(folder)
    with pytest.raises(DataError, match="another frame of reference"):
        read_rtstruct(folder / "rt.dcm", volume)
    for name in ("invalid_reference_rt.dcm", "non_existent_reference_rt.dcm"):
        with pytest.raises(DataError, match="half a slice"):  # it names a third slice
            read_rtstruct(folder / name, volume)


def test_writing_refuses_what_does_not_belong_together(images: Images, tmp_path: Path) -> None:
    drawn = images.contour(ball_with_hole())
    with pytest.raises(DataError, match="TG-263"):
        images.write([images.contour(ball_with_hole(), "a" * 17)], tmp_path / "rs.dcm")
    with pytest.raises(ValueError, match="one name"):
        images.write([drawn, drawn], tmp_path / "rs.dcm")
    with pytest.raises(ValueError, match="label"):
        images.write([drawn], tmp_path / "rs.dcm", label="a" * 17)
    with pytest.raises(ValueError, match="time zone"):
        images.write([drawn], tmp_path / "rs.dcm", now=NOW.replace(tzinfo=None))
    other = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="grid"):
        write_rtstruct(
            Volume(images.volume.image, other),
            [drawn],
            identity=images.identity,
            label="x",
            now=NOW,
        )
