"""Geometries of the clinic (IHE-RO BRTO-II): mask -> RTSTRUCT -> mask, or a refusal by name."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Mask, Volume
from site_agent.deidentification import original_identity
from site_agent.dicom_series import find_series, read_series, read_series_and_headers
from site_agent.rtstruct import Placement, placement_of, read_rtstruct, write_rtstruct
from tests.site_agent import dicom_builder as build
from tests.site_agent.test_dicom_series import by_simpleitk

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SHAPE = (6, 30, 40)
# the table top lies below the side named: column direction there, rows so that z is the head
DECUBITUS_LEFT = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0)
DECUBITUS_RIGHT = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0)


def ball(shape=SHAPE) -> np.ndarray:
    z, y, x = np.indices(shape)
    middle = shape[0] // 2
    return (y - 14) ** 2 + (x - 20) ** 2 + (3 * (z - middle)) ** 2 <= 9**2


def ball_with_hole() -> np.ndarray:
    _, y, x = np.indices(SHAPE)
    return ball() & ~((y - 13) ** 2 + (x - 18) ** 2 <= 3**2)


def island() -> np.ndarray:
    voxels = np.zeros(SHAPE, dtype=bool)
    voxels[4, 17, 31] = True
    return voxels


def nothing() -> np.ndarray:
    return np.zeros(SHAPE, dtype=bool)


def classic(**options) -> Callable[[], list[Dataset]]:
    return lambda: build.slices(**({"shape_zyx": SHAPE} | options))


def enhanced() -> list[Dataset]:
    return [build.enhanced(build.slices(SHAPE, build.OBLIQUE), [3, 0, 5, 2, 4, 1])]


def enhanced_signed_ct() -> list[Dataset]:
    return [build.enhanced(build.signed_ct(build.slices(SHAPE), bits_stored=12))]


PHANTOMS = {
    "oblique_mr": (classic(orientation=build.OBLIQUE), ball),
    "feet_first_supine": (
        classic(orientation=build.FEET_FIRST, patient_position="FFS"),
        ball,
    ),
    "decubitus_left": (classic(orientation=DECUBITUS_LEFT, patient_position="HFDL"), ball),
    "decubitus_right": (classic(orientation=DECUBITUS_RIGHT, patient_position="HFDR"), ball),
    "hole": (classic(), ball_with_hole),
    "one_voxel_island": (classic(orientation=build.OBLIQUE), island),
    "empty_roi": (classic(), nothing),
    "one_slice": (classic(shape_zyx=(1, 30, 40)), lambda: ball((1, 30, 40))),
    "signed_ct": (lambda: build.signed_ct(build.slices(SHAPE)), ball),
    "signed_ct_12_bit": (lambda: build.signed_ct(build.slices(SHAPE), bits_stored=12), ball),
    "enhanced_mr": (enhanced, ball_with_hole),
    "enhanced_ct": (enhanced_signed_ct, ball),
}


def round_trip(files: Path | tuple[Path, ...], voxels: np.ndarray, to: Path) -> Volume:
    """Write a mask as an RTSTRUCT, read it, and check that it came back voxel for voxel."""
    volume, headers = read_series_and_headers(files)
    contour = Contour("GTVp", Mask(voxels, volume.geometry), Provenance.MANUAL)
    structure_set = write_rtstruct(
        volume, [contour], identity=original_identity(headers), label="phantom", now=NOW
    )
    structure_set.save_as(to, enforce_file_format=True)
    masks = read_rtstruct(to, volume)
    assert list(masks) == ["GTVp"]
    np.testing.assert_array_equal(masks["GTVp"].voxels, voxels)
    return volume


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_mask_comes_back_from_an_rtstruct_voxel_for_voxel(tmp_path: Path, name: str) -> None:
    make, region = PHANTOMS[name]
    folder = build.save(make(), tmp_path / "images", shuffle_seed=11)
    voxels = region()
    volume = round_trip(folder, voxels, tmp_path / "rs.dcm")
    placed = placement_of(tmp_path / "rs.dcm", volume)
    assert placed is (Placement.BY_REFERENCE if voxels.any() else Placement.BY_GEOMETRY)


@pytest.mark.parametrize("name", [name for name in PHANTOMS if "enhanced" not in name])
def test_an_independent_reader_finds_the_contour_on_the_same_voxels(
    tmp_path: Path, name: str
) -> None:
    make, region = PHANTOMS[name]
    folder = build.save(make(), tmp_path / "images", shuffle_seed=11)
    voxels = region()
    volume = round_trip(folder, voxels, tmp_path / "rs.dcm")
    theirs = by_simpleitk(folder)
    np.testing.assert_allclose(
        volume.image, SimpleITK.GetArrayFromImage(theirs), rtol=1e-6, atol=1e-4
    )
    [roi] = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence
    points = [
        point
        for contour in roi.get("ContourSequence", [])
        for point in np.array(contour.ContourData, dtype=float).reshape(-1, 3)
    ]
    assert bool(points) == voxels.any()
    for point in points:
        x, y, z = theirs.TransformPhysicalPointToContinuousIndex(point.tolist())
        assert abs(z - round(z)) < 0.01
        around = voxels[
            round(z),
            max(0, int(np.floor(y))) : int(np.ceil(y)) + 1,
            max(0, int(np.floor(x))) : int(np.ceil(x)) + 1,
        ]
        assert around.any()  # an outline runs between a voxel of the region and one outside
        assert not around.all()


def test_two_interleaved_series_are_told_apart(tmp_path: Path) -> None:
    between = (-20.5, 14.25, -100.0 + 1.5)
    first, second = build.slices(SHAPE), build.slices(SHAPE, origin_xyz_mm=between)
    for image in second:
        image.SeriesInstanceUID = f"{build.ROOT}8"
        image.SOPInstanceUID = image.SOPInstanceUID.replace(build.SERIES_UID, f"{build.ROOT}8")
    folder = build.save(first + second, tmp_path / "images", shuffle_seed=5)
    with pytest.raises(DataError, match=r"holds 2 series \(6 MR images, 6 MR images\)"):
        read_series(folder)
    series = find_series(folder)
    starts = {
        one.series_instance_uid: round_trip(
            one.files, ball(), tmp_path / "rs.dcm"
        ).geometry.origin_xyz_mm
        for one in series
    }
    assert starts == {
        build.SERIES_UID: (-20.5, 14.25, -100.0),
        f"{build.ROOT}8": (-20.5, 14.25, -98.5),
    }


def tilted_ct() -> list[Dataset]:
    images = build.signed_ct(build.slices(SHAPE))
    for k, image in enumerate(images):
        image.ImagePositionPatient[1] += 3.0 * np.tan(np.deg2rad(12.0)) * k
    return images


def non_uniform() -> list[Dataset]:
    images = build.slices(SHAPE)
    for image in images[3:]:
        image.ImagePositionPatient[2] += 0.4
    return images


def two_echoes() -> list[Dataset]:
    images = build.slices(SHAPE) + build.slices(SHAPE)
    for number, image in enumerate(images):
        image.EchoTime = "12" if number < 6 else "80"
        image.SOPInstanceUID = f"{build.SERIES_UID}.{number + 1}"
    return images


def copied() -> list[Dataset]:
    images = build.slices(SHAPE)
    return [*images, images[2]]


def missing() -> list[Dataset]:
    images = build.slices(SHAPE)
    return images[:3] + images[4:]


def enhanced_in_two_stacks() -> list[Dataset]:
    image = build.enhanced(build.slices(SHAPE))
    for number, groups in enumerate(image.PerFrameFunctionalGroupsSequence):
        content = Dataset()
        content.StackID = str(number % 2)
        groups.FrameContentSequence = [content]
    for one, other in ((1, 0), (3, 2), (5, 4)):
        groups = image.PerFrameFunctionalGroupsSequence
        groups[one].PlanePositionSequence = groups[other].PlanePositionSequence
    return [image]


def enhanced_without_its_frames() -> list[Dataset]:
    image = build.enhanced(build.slices(SHAPE))
    del image.PerFrameFunctionalGroupsSequence[3]
    return [image]


def frames_without_places() -> list[Dataset]:
    image = build.enhanced(build.slices(SHAPE))
    del image.PerFrameFunctionalGroupsSequence
    del image.SharedFunctionalGroupsSequence
    return [image]


def frame_without_a_place() -> list[Dataset]:
    image = build.enhanced(build.slices(SHAPE))
    del image.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    return [image]


REFUSED = {
    tilted_ct: "gantry tilt",
    non_uniform: r"uneven slice spacing \(3\.00 to 3\.40 mm",
    two_echoes: r"two images at -\d+\.00 mm, unlike in EchoTime:",
    copied: r"the same image twice \(IM000\d\.dcm and IM000\d\.dcm\): remove the copy",
    missing: "misses a slice between",
    enhanced_in_two_stacks: r"two images at -100\.00 mm, unlike in StackID:",
    enhanced_without_its_frames: "does not describe each of its frames",
    frames_without_places: "does not say where its frames lie",
    frame_without_a_place: r"dcm, frame 3 has no valid ImagePositionPatient",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda function: function.__name__)
def test_what_is_no_even_upright_stack_is_refused_by_name(tmp_path: Path, make) -> None:
    folder = build.save(make(), tmp_path / "images", shuffle_seed=2)
    with pytest.raises(DataError, match=REFUSED[make]) as refusal:
        read_series(folder)
    message = str(refusal.value)
    assert "\n" not in message
    assert not [word for word in build.PLANTED if word.lower() in message.lower()]


def test_contours_on_an_enhanced_image_name_their_frame(tmp_path: Path) -> None:
    order = [3, 0, 5, 2, 4, 1]
    folder = build.save(enhanced(), tmp_path / "images")
    voxels = ball_with_hole()
    round_trip(folder, voxels, tmp_path / "rs.dcm")
    written = pydicom.dcmread(tmp_path / "rs.dcm")
    [frame] = written.ReferencedFrameOfReferenceSequence
    [series] = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    [image] = series.ContourImageSequence  # one file, named once
    named = set()
    for contour in written.ROIContourSequence[0].ContourSequence:
        [reference] = contour.ContourImageSequence
        assert reference.ReferencedSOPInstanceUID == image.ReferencedSOPInstanceUID
        named.add(order[reference.ReferencedFrameNumber - 1])
    assert named == set(np.flatnonzero(voxels.any(axis=(1, 2))))
