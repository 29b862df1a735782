import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from algorithms.contracts.volume import Geometry
from evaluation.benchmarks.dicom_writer import (
    PatientTags,
    ScannerTags,
    study_uids,
    trace_slice,
    write_mr_series,
    write_study,
)
from tests.debian_packages import absent
from tests.evaluation.benchmarks.reading_back import (
    Polygon,
    dice,
    fill_contours,
    geometry_of,
    read_with_simpleitk,
    structure_set,
)

PATIENT = PatientTags(
    patient_id="X0001",
    name="Phantom^Test",
    birth_date="19600102",
    sex="O",
    institution="Fictional Hospital",
    referring_physician="Referrer^Imaginary",
    accession_number="ACC1",
    study_date="20200304",
    study_time="101112",
)
SCANNER = ScannerTags("Fictional Vendor", "Phantom 1", 1.5, "t1")
TILT = np.deg2rad(20.0)
OBLIQUE = Geometry(
    shape_zyx=(5, 24, 32),
    spacing_zyx_mm=(4.5, 1.25, 0.9765625),
    origin_xyz_mm=(-120.125, -33.3, 512.75),
    axes_xyz=(
        (1.0, 0.0, 0.0),
        (0.0, float(np.cos(TILT)), float(np.sin(TILT))),
        (0.0, -float(np.sin(TILT)), float(np.cos(TILT))),
    ),
)


def ring(geometry: Geometry) -> np.ndarray:
    """A region with a hole, an island of one voxel and empty slices at both ends."""
    mask = np.zeros(geometry.shape_zyx, dtype=bool)
    mask[1:4, 6:18, 8:24] = True
    mask[2, 10:14, 12:20] = False
    mask[3, 2, 2] = True
    return mask


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    image = np.random.default_rng(1).integers(0, 4000, OBLIQUE.shape_zyx).astype(np.float32)
    write_study(
        folder,
        image,
        ring(OBLIQUE),
        OBLIQUE,
        roi_name="GTVp",
        patient=PATIENT,
        scanner=SCANNER,
        entropy="test",
    )
    return folder


def test_simpleitk_reads_the_same_grid_and_values(study: Path) -> None:
    image = read_with_simpleitk(study)
    expected = np.random.default_rng(1).integers(0, 4000, OBLIQUE.shape_zyx)
    assert geometry_of(image).matches(OBLIQUE, tolerance_mm=1e-6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected)


def test_file_names_do_not_follow_the_slices(study: Path) -> None:
    numbers = [int(pydicom.dcmread(f).InstanceNumber) for f in sorted(study.glob("MR.*"))]
    assert sorted(numbers) == [1, 2, 3, 4, 5]
    assert numbers != sorted(numbers)


def test_contours_give_back_the_region_with_its_hole_and_island(study: Path) -> None:
    filled = fill_contours(structure_set(study), OBLIQUE)
    np.testing.assert_array_equal(filled, ring(OBLIQUE))


def test_contours_refer_to_the_slice_they_lie_in(study: Path) -> None:
    slices = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, study.glob("MR.*"))}
    dataset = structure_set(study)
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    listed = {item.ReferencedSOPInstanceUID for item in series.ContourImageSequence}
    assert listed == set(slices)
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        (reference,) = contour.ContourImageSequence
        plane = slices[reference.ReferencedSOPInstanceUID]
        normal = np.cross(*np.array(plane.ImageOrientationPatient, dtype=float).reshape(2, 3))
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
        assert plane.FrameOfReferenceUID == frame.FrameOfReferenceUID
        assert np.abs((points - plane.ImagePositionPatient) @ normal).max() < 0.01


def test_decimal_strings_keep_to_16_bytes(study: Path) -> None:
    for file in study.iterdir():
        for element in pydicom.dcmread(file).iterall():
            if element.VR == "DS":
                values = element.value if element.VM > 1 else [element.value]
                assert all(len(str(value)) <= 16 for value in values), element.keyword


def test_there_is_something_to_remove(study: Path) -> None:
    dataset = pydicom.dcmread(next(study.glob("MR.*")))
    text = str(dataset)
    for value in (
        PATIENT.patient_id,
        PATIENT.birth_date,
        PATIENT.institution,
        "Referrer^Imaginary",
    ):
        assert value in text
    assert PATIENT.name in str(dataset[0x0029, 0x1001].value)


def test_fractions_survive_within_half_a_step(tmp_path: Path) -> None:
    image = np.random.default_rng(2).normal(-3.0, 7.0, OBLIQUE.shape_zyx).astype(np.float32)
    uids = study_uids("fractions", 5)
    returned = write_mr_series(
        tmp_path, image, OBLIQUE, patient=PATIENT, scanner=SCANNER, uids=uids
    )
    read = sitk.GetArrayFromImage(read_with_simpleitk(tmp_path))
    assert np.abs(read - image).max() <= 0.51 * np.ptp(image) / 65534
    assert returned == list(uids.sop_instances)


def test_rescale_that_cannot_hold_the_values_is_refused(tmp_path: Path) -> None:
    image = np.full(OBLIQUE.shape_zyx, -1.0, dtype=np.float32)
    with pytest.raises(ValueError, match="outside 16 bits"):
        write_mr_series(
            tmp_path,
            image,
            OBLIQUE,
            patient=PATIENT,
            scanner=SCANNER,
            uids=study_uids("negative", 5),
            rescale=(1.0, 0.0),
        )


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_traced_lines_enclose_exactly_the_pixels_of_the_region(mask: np.ndarray) -> None:
    centres = np.argwhere(np.ones_like(mask))
    inside = np.zeros(mask.size, dtype=bool)
    for line in trace_slice(mask):
        inside ^= Polygon(line).contains_points(centres)
    np.testing.assert_array_equal(inside.reshape(mask.shape), mask)


def test_plastimatch_reads_the_same_region(study: Path, tmp_path: Path) -> None:
    if which("plastimatch") is None:
        absent("plastimatch", "plastimatch")
    subprocess.run(
        ["plastimatch", "convert", "--input", str(study), "--output-prefix", str(tmp_path),
         "--prefix-format", "nrrd", "--output-img", str(tmp_path / "image.nrrd")],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    filled = sitk.ReadImage(str(tmp_path / "GTVp.nrrd"))
    assert geometry_of(filled).matches(OBLIQUE, tolerance_mm=0.01)
    assert dice(sitk.GetArrayFromImage(filled) > 0, ring(OBLIQUE)) > 0.9  # it fills pixel corners
