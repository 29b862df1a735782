"""Series reading against closed forms, SimpleITK and files broken on purpose."""

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from algorithms.contracts.errors import DataError
from site_agent.dicom_series import find_series, read_series, scan
from tests.site_agent import dicom_builder as build

GEOMETRIES = {
    "axial": {"orientation": build.AXIAL},
    "oblique": {"orientation": build.OBLIQUE},
    "feet_first": {"orientation": build.FEET_FIRST, "patient_position": "FFS"},
    "sagittal": {"orientation": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)},
}


def by_simpleitk(folder: Path) -> SimpleITK.Image:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def assert_agrees_with_simpleitk(folder: Path) -> None:
    volume, image = read_series(folder), by_simpleitk(folder)
    index_zyx = np.array([[0, 0, 0], [1, 3, 2], [n - 1 for n in volume.geometry.shape_zyx]])
    theirs = [
        image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]) for index in index_zyx
    ]
    ours = volume.geometry.points_from_index(index_zyx.astype(float))
    np.testing.assert_allclose(ours, theirs, atol=0.01)
    np.testing.assert_allclose(
        volume.image, SimpleITK.GetArrayFromImage(image), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", GEOMETRIES)
def test_slices_with_shuffled_names_are_placed_by_position(tmp_path: Path, name: str) -> None:
    images = build.slices(**GEOMETRIES[name])
    volume = read_series(build.save(images, tmp_path, shuffle_seed=7))
    z, y, x = np.indices((6, 10, 12))
    np.testing.assert_array_equal(volume.image, 2.0 * (100 * z + 10 * y + x) - 3.0)
    expected = build.expected_geometry(orientation=GEOMETRIES[name]["orientation"])
    assert volume.geometry.matches(expected, tolerance_mm=1e-6)
    assert volume.sop_instance_uids == tuple(image.SOPInstanceUID for image in images)
    assert_agrees_with_simpleitk(tmp_path)


def test_what_a_volume_knows_about_itself(tmp_path: Path) -> None:
    volume = read_series(build.save(build.slices(), tmp_path))
    assert volume.image.dtype == np.float32
    assert volume.modality == "MR"
    assert volume.scanner == {
        "manufacturer": "Acme", "model": "Magnet 3", "field_strength_t": "3",
    }  # fmt: skip
    assert volume.frame_of_reference_uid == build.FRAME_UID
    assert (volume.study_instance_uid, volume.series_instance_uid) == (
        build.STUDY_UID,
        build.SERIES_UID,
    )


@pytest.mark.parametrize("case", ["STS_025/MR_T1", "STS_025/PET", "STS_015/MR_T1"])
def test_real_series_agree_with_simpleitk(data_packs: Path, case: str) -> None:
    assert_agrees_with_simpleitk(data_packs / "dicom" / "sts_rtstruct" / case / "image")


def test_an_oblique_series_of_another_writer_is_read(data_packs: Path) -> None:
    assert_agrees_with_simpleitk(data_packs / "dicom" / "rt_utils" / "oriented_data")


def test_compressed_transfer_syntaxes_decode_to_the_same_image(
    data_packs: Path, tmp_path: Path
) -> None:
    folder = data_packs / "dicom" / "transfer_syntaxes"
    for image in ("CT1", "MR3", "MR4"):
        decoded = {}
        lossy = ("J2KI", "JLSN") if image == "CT1" else ("J2KI", "JLSN", "JPLY")
        for syntax in ("RLE", "J2KR", "JLSL", "JPLL", *lossy):
            place = tmp_path / image / syntax
            place.mkdir(parents=True)
            (place / "slice").write_bytes((folder / f"{image}_{syntax}").read_bytes())
            decoded[syntax] = read_series(place).image
        for lossless in ("J2KR", "JLSL", "JPLL"):
            np.testing.assert_array_equal(decoded[lossless], decoded["RLE"])
        for syntax in lossy:
            assert np.corrcoef(decoded[syntax].ravel(), decoded["RLE"].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("syntax", ["4.100", "4.102"])  # films
def test_a_compression_that_cannot_be_decoded_is_refused(
    data_packs: Path, tmp_path: Path, syntax: str
) -> None:
    source = data_packs / "dicom" / "transfer_syntaxes" / "MR3_RLE"
    image = pydicom.dcmread(source)
    image.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.{syntax}"
    image.save_as(tmp_path / "slice.dcm", implicit_vr=False, little_endian=True)
    with pytest.raises(DataError, match="cannot be decoded"):
        read_series(tmp_path)


def test_a_compressed_image_that_ends_early_is_refused(data_packs: Path, tmp_path: Path) -> None:
    whole = (data_packs / "dicom" / "transfer_syntaxes" / "MR3_RLE").read_bytes()
    (tmp_path / "slice.dcm").write_bytes(whole[:-5000])
    with pytest.raises(DataError, match="truncated"):
        read_series(tmp_path)


def drop_slice(images):
    del images[2]


def shift_slice(images):
    images[2].ImagePositionPatient[2] += 0.4


def duplicate_slice(images):
    images[3].ImagePositionPatient = images[2].ImagePositionPatient


def turn_slice(images):
    images[0].ImageOrientationPatient = list(build.OBLIQUE)


def tilt(images):
    for k, image in enumerate(images):
        image.ImagePositionPatient[1] += 0.5 * k


def change_frame(images):
    images[4].FrameOfReferenceUID = f"{build.ROOT}99"


def change_shape(images):
    images[1].Rows = 9
    images[1].PixelData = images[1].PixelData[: 9 * 12 * 2]


def change_pixel_spacing(images):
    images[1].PixelSpacing = [1, 1]


def second_series(images):
    images[5].SeriesInstanceUID = f"{build.ROOT}77"


def drop_position(images):
    del images[2].ImagePositionPatient


def make_colour(images):
    images[0].SamplesPerPixel = 3


def shorten_pixels(images):
    images[2].PixelData = images[2].PixelData[:-20]


def empty_sample_count(images):
    images[2].SamplesPerPixel = None


def scale_by_nothing(images):
    images[2].RescaleSlope = "nan"


def scale_beyond_all(images):
    images[2].RescaleSlope = "1e39"


def move_beyond_all(images):
    images[2].ImagePositionPatient = ["1e300", "0", "0"]


BROKEN = {
    empty_sample_count: r"IM\d+\.dcm is a colour image",
    scale_by_nothing: r"IM\d+\.dcm: grey values are no finite numbers",
    scale_beyond_all: r"IM\d+\.dcm: grey values are no finite numbers",
    move_beyond_all: "no valid ImagePositionPatient",
    drop_slice: r"misses a slice between -97\.00 and -91\.00 mm",
    shift_slice: "uneven slice spacing",
    duplicate_slice: r"two images at -94\.00 mm",
    turn_slice: "mixes orientations",
    tilt: "gantry tilt",
    change_frame: "mixes frames of reference",
    change_shape: "mixes image sizes",
    change_pixel_spacing: "mixes pixel spacings",
    second_series: r"holds 2 series \(5 MR images, 1 MR images\)",
    drop_position: "no valid ImagePositionPatient",
    make_colour: "colour",
    shorten_pixels: "truncated",
}


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda function: function.__name__)
def test_a_broken_series_is_refused_by_name_without_the_patient(tmp_path: Path, break_it) -> None:
    images = build.slices()
    break_it(images)
    build.save(images, tmp_path)
    with pytest.raises(DataError, match=BROKEN[break_it]) as refusal:
        read_series(tmp_path)
    message = str(refusal.value)
    assert "\n" not in message
    assert not [word for word in build.PLANTED if word.lower() in message.lower()]
    assert refusal.value.__cause__ is None  # the texts of pydicom quote the header


@pytest.mark.parametrize(
    ("whole", "damaged"),
    [
        (b"\x28\x00\x08\x00IS\x02\x001 ", b"\x28\x00\x08\x00IS\x02\x00Mu"),  # NumberOfFrames
        (b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00FD"),  # Modality, of too few bytes then
        (b"\x08\x00\x70\x00LO", b"\x08\x00\x70\x00FD"),  # Manufacturer
        (b"\x20\x00\x0d\x00UI", b"\x20\x00\x0d\x00FD"),  # StudyInstanceUID
        (b"\x20\x00\x52\x00UI", b"\x20\x00\x52\x00FD"),  # FrameOfReferenceUID
    ],
)
@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_damaged_header_is_named_and_not_quoted(
    tmp_path: Path, whole: bytes, damaged: bytes, all_of_them: bool
) -> None:
    images = build.slices()
    for image in images:
        image.NumberOfFrames = 1
    build.save(images, tmp_path)
    for name in [f"IM000{k}.dcm" for k in range(6)] if all_of_them else ["IM0001.dcm"]:
        content = (tmp_path / name).read_bytes()
        assert content.count(whole) == 1
        (tmp_path / name).write_bytes(content.replace(whole, damaged))
    try:
        read_series(tmp_path)
    except DataError as error:
        assert re.search(r"IM000\d\.dcm is damaged", str(error))
        assert error.__cause__ is None
    else:
        assert not all_of_them  # nobody asks that slice for its manufacturer or study


@pytest.mark.parametrize("kept", [0.95, 0.75, 0.5, 0.3, 0.1])
def test_a_file_cut_anywhere_is_refused_and_named(tmp_path: Path, kept: float) -> None:
    build.save(build.slices(), tmp_path)
    file = tmp_path / "IM0002.dcm"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=r"IM0002\.dcm"):
        read_series(tmp_path)


def test_a_text_file_among_slices_is_refused_and_named(tmp_path: Path) -> None:
    build.save(build.slices(), tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt"):
        read_series(tmp_path)


def test_hidden_files_and_dicomdir_are_passed_over(tmp_path: Path) -> None:
    build.save(build.slices(), tmp_path / "a" / "b")
    for name in (".DS_Store", "DICOMDIR"):
        (tmp_path / name).write_bytes(b"whatever")
    [series] = find_series(tmp_path)
    assert len(series.files) == 6
    assert read_series(series.files).image.shape == (6, 10, 12)


def test_nothing_to_read_is_said_as_such(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no DICOM series in"):
        scan(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DataError, match=r"no DICOM series in .*1 files"):
        scan(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        scan(tmp_path / "a.txt")


def test_a_folder_with_a_structure_set_alone_has_no_series(
    data_packs: Path, tmp_path: Path
) -> None:
    source = data_packs / "dicom" / "rt_utils" / "mock_data" / "rt.dcm"
    (tmp_path / "rt.dcm").write_bytes(source.read_bytes())
    assert len(scan(tmp_path).structure_sets) == 1
    with pytest.raises(DataError, match="no image series"):
        read_series(tmp_path)


def test_structure_sets_are_told_from_images(data_packs: Path) -> None:
    found = scan(data_packs / "dicom" / "sts_rtstruct" / "STS_025" / "MR_T1" / "image")
    assert (len(found.series), found.structure_sets) == (1, ())
    found = scan(data_packs / "dicom" / "rt_utils" / "mock_data")
    by_name = {one.file.name: one for one in found.structure_sets}
    assert len(by_name) == 3
    [images] = found.series
    assert len(images.files) == 2
    assert by_name["invalid_reference_rt.dcm"].frame_of_reference_uids == (
        images.frame_of_reference_uid,
    )
    assert by_name["rt.dcm"].frame_of_reference_uids != (images.frame_of_reference_uid,)
    assert by_name["invalid_reference_rt.dcm"].series_instance_uids == (images.series_instance_uid,)


def test_one_slice_takes_the_thickness_it_states(tmp_path: Path) -> None:
    volume = read_series(build.save(build.slices(shape_zyx=(1, 10, 12)), tmp_path))
    assert volume.geometry.spacing_zyx_mm == (3.0, 0.8, 1.1)
