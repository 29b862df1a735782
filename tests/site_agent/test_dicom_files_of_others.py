"""Files of other writers: every one ends in a case or in one line that says why not."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Volume
from site_agent.dicom_series import read_series, scan
from site_agent.rtstruct import read_rtstruct

FOLDERS = ("odd", "transfer_syntaxes", "rt_utils", "seg_dcmqi", "seg_highdicom")
# what is wrong with a file, by a part of its name; all other images must be read
REASONS = {
    "odd/JPEG-LL.dcm": "no valid ImagePositionPatient",
    "odd/emri_small.dcm": "does not say where its frames lie",
    "odd/emri_small_RLE.dcm": "does not say where its frames lie",
    "odd/emri_small_big_endian.dcm": "does not say where its frames lie",
    "odd/emri_small_jpeg_2k_lossless.dcm": "does not say where its frames lie",
    "odd/emri_small_jpeg_2k_lossless_too_short.dcm": "truncated or no DICOM file",
    "odd/emri_small_jpeg_ls_lossless.dcm": "does not say where its frames lie",
    "odd/vlut_04.dcm": "no valid ImagePositionPatient",
    "odd/explicit_VR-UN.dcm": "states no slice thickness",
    "rt_utils/one_slice_data/0.dcm": "states no slice thickness",
    "rt_utils/oriented_data/0.dcm": "states no slice thickness",
    "rt_utils/oriented_data/1.dcm": "states no slice thickness",
    "rt_utils/oriented_data/2.dcm": "states no slice thickness",
    "seg_highdicom/dx_image.dcm": "no valid ImagePositionPatient",
}
NO_IMAGE = ("SEG", "SR", "RTSTRUCT")


def one_line(error: DataError) -> str:
    message = str(error)
    assert message
    assert "\n" not in message
    return message


def outcome(file: Path, folder: Path) -> Volume | str:
    """Read one file alone, as a folder that somebody exported it to."""
    folder.mkdir()
    (folder / file.name).write_bytes(file.read_bytes())
    try:
        return read_series(folder)
    except DataError as error:
        return one_line(error)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_file_ends_in_a_case_or_in_a_reason(
    data_packs: Path, tmp_path: Path, name: str
) -> None:
    pack = data_packs / "dicom"
    files = [file for file in sorted((pack / name).rglob("*")) if file.is_file()]
    assert files
    for number, file in enumerate(files):
        found = outcome(file, tmp_path / str(number))
        relative = file.relative_to(pack).as_posix()
        if relative in REASONS:
            assert isinstance(found, str), relative
            assert REASONS[relative] in found, relative
        elif file.suffix == ".nrrd":
            assert isinstance(found, str)
            assert "no DICOM series" in found, relative
        elif pydicom.dcmread(file, stop_before_pixels=True).Modality in (*NO_IMAGE, "OT"):
            assert isinstance(found, str)
            assert "no image series" in found, relative
        else:
            assert isinstance(found, Volume), f"{relative}: {found}"
            assert np.isfinite(found.image).all()


def test_every_structure_set_ends_in_masks_or_in_a_reason(data_packs: Path) -> None:
    folder = data_packs / "dicom" / "rt_utils"
    structure_sets = [one.file for one in scan(folder).structure_sets]
    assert len(structure_sets) == 4
    volumes = [read_series(folder / name) for name in ("mock_data", "oriented_data")]
    reasons = set()
    for file in structure_sets:
        for volume in volumes:
            try:
                masks = read_rtstruct(file, volume)
            except DataError as error:
                reasons.add(one_line(error).split(": ")[1])
            else:
                assert all(mask.geometry.matches(volume.geometry) for mask in masks.values())
    assert any("another frame of reference" in reason for reason in reasons)


@pytest.mark.parametrize("size", ["23x38x3", "24x38x3"])
def test_a_converted_multi_frame_image_is_the_same_volume(data_packs: Path, size: str) -> None:
    folder = data_packs / "dicom" / "seg_dcmqi" / size
    classic, converted = read_series(folder / "image"), read_series(folder / "multiframe")
    assert converted.geometry.matches(classic.geometry, tolerance_mm=1e-6)
    np.testing.assert_array_equal(converted.image, classic.image)
    assert converted.modality == classic.modality == "CT"
    assert len(set(converted.sop_instance_uids)) == 1
