"""What `check-dicom` says of a folder, without a site and without the patient."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from algorithms.contracts.errors import DataError
from site_agent.dicom_check import check_folder
from tests.site_agent import dicom_builder as build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a series that reads, an enhanced one, and one with a gap."""
    build.save(build.slices(), tmp_path / "whole")
    enhanced = build.enhanced(build.signed_ct(build.slices()))
    enhanced.SeriesInstanceUID = f"{build.ROOT}50"
    build.save([enhanced], tmp_path / "enhanced")
    broken = build.slices()
    del broken[2]
    for image in broken:
        image.SeriesInstanceUID = f"{build.ROOT}51"
    build.save(broken, tmp_path / "broken")
    return tmp_path


def test_every_series_has_a_row(folder: Path) -> None:
    rows = {(row.modality, row.files): row for row in check_folder(folder)}
    assert set(rows) == {("MR", 6), ("MR", 5), ("CT", 1)}
    whole, enhanced, broken = rows["MR", 6], rows["CT", 1], rows["MR", 5]
    assert (whole.shape_zyx, whole.spacing_zyx_mm) == ((6, 10, 12), (3.0, 0.8, 1.1))
    assert whole.grey_range == (-3.0, 2.0 * (500 + 90 + 11) - 3.0)
    assert enhanced.shape_zyx == (6, 10, 12)
    assert enhanced.grey_range == (-1524.0, 500 + 90 + 11 - 1524.0)
    assert "misses a slice" in broken.refusal
    assert broken.shape_zyx is broken.grey_range is None


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("BurnedInAnnotation", "YES", "burned into its pixels"),
        ("PatientID", "", "no PatientID"),
        ("PatientID", "another", "differ in PatientID"),
    ],
)
def test_what_ingest_refuses_for_the_patients_sake_is_refused_too(
    tmp_path: Path, field: str, value: str, words: str
) -> None:
    images = build.slices()
    for image in images[: 1 if value == "another" else None]:
        setattr(image, field, value)
    build.save(images, tmp_path / "series")
    (row,) = check_folder(tmp_path)
    assert words in row.refusal


def test_a_folder_without_dicom_is_said_as_such(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no DICOM series"):
        check_folder(tmp_path)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_says_it_and_quotes_nobody(folder: Path, as_json: bool) -> None:
    command = [Path(sys.executable).with_name("fedgtv-site"), "check-dicom", folder]
    ended = subprocess.run(
        [*command, *(["--json"] if as_json else [])], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1  # one series is refused
    assert not [word for word in build.PLANTED if word in ended.stdout + ended.stderr]
    if as_json:
        said = json.loads(ended.stdout)
        assert said["seconds"] > 0
        assert sorted(row["files"] for row in said["series"]) == [1, 5, 6]
    else:
        assert "MR, 6 files: reads as 6 slices of 10 x 12, 3.00 x 0.80 x 1.10 mm" in ended.stdout
        assert "MR, 5 files: the series in" in ended.stdout
