from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from algorithms.contracts.errors import DataError
from evaluation.benchmarks.pack_to_dicom import convert_pack, list_cases
from tests.evaluation.benchmarks.reading_back import (
    dice,
    fill_contours,
    geometry_of,
    read_with_simpleitk,
    structure_set,
)

TABLE = """case,vendor_site,model
STS_101,ge,SIGNA EXCITE
STS_102,ge,Signa HDxt
STS_103,siemens,Avanto
"""


def small_pack(folder: Path) -> Path:
    """A pack of three tiny cases in the form of `sts`."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    label = np.zeros((6, 20, 24), dtype=np.uint8)
    label[2:4, 5:15, 6:18] = 1
    for number in (101, 102, 103):
        np.savez(
            folder / f"STS_{number}.npz",
            image=rng.integers(0, 256, label.shape, dtype=np.uint8),
            label=label,
            scale=np.float32(4.619608),
            offset=np.float32(-2.5),
            spacing_zyx=np.array([3.269955, 0.976562, 0.976562], dtype=np.float32),
            origin_xyz=np.array([-1.3732910e-04, -67.382904, -881.3146]),
        )
    (folder / "cases.csv").write_text(TABLE)
    return folder


def test_sites_come_from_the_scanners(tmp_path: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    counts = convert_pack(
        small_pack(tmp_path / "sts"), tmp_path / "out", on_progress=lambda *step: steps.append(step)
    )
    assert counts == {"ge-signa-excite": 1, "ge-other": 1, "siemens": 1}
    assert [step[:2] for step in steps] == [(1, 3), (2, 3), (3, 3)]
    header = pydicom.dcmread(next((tmp_path / "out" / "siemens" / "STS_103").glob("MR.*")))
    assert (header.Manufacturer, header.ManufacturerModelName) == ("SIEMENS", "Avanto")


def check_against(case: Path, folder: Path) -> None:
    arrays = np.load(case)
    image = read_with_simpleitk(folder)
    values = arrays["image"] * float(arrays["scale"]) + float(arrays["offset"])
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), values, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(image.GetSpacing()[::-1], arrays["spacing_zyx"], atol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), arrays["origin_xyz"], atol=1e-6)
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    filled = fill_contours(structure_set(folder), geometry_of(image))
    assert dice(filled, arrays["label"] == 1) >= 0.98


def test_a_tiny_case_survives(tmp_path: Path) -> None:
    pack = small_pack(tmp_path / "sts")
    convert_pack(pack, tmp_path / "out", sites=frozenset({"ge-other"}))
    check_against(pack / "STS_102.npz", tmp_path / "out" / "ge-other" / "STS_102")


def test_a_real_case_survives(data_packs: Path, tmp_path: Path) -> None:
    pack = tmp_path / "sts"
    pack.mkdir()
    (pack / "STS_025.npz").write_bytes((data_packs / "sts" / "STS_025.npz").read_bytes())
    (pack / "cases.csv").write_text("case,vendor_site,model\nSTS_025,siemens,Sonata\n")
    assert convert_pack(pack, tmp_path / "out") == {"siemens": 1}
    check_against(pack / "STS_025.npz", tmp_path / "out" / "siemens" / "STS_025")


def test_every_case_of_the_real_table_has_a_site(data_packs: Path) -> None:
    sites = [case.site for case in list_cases(data_packs / "sts", pack="sts")]
    assert {site: sites.count(site) for site in set(sites)} == {
        "ge-signa-excite": 13,
        "ge-other": 7,
        "siemens": 6,
    }


def test_packs_without_spacing_need_one(tmp_path: Path) -> None:
    pack = tmp_path / "acdc"
    pack.mkdir()
    label = np.full((3, 8, 8), 3, dtype=np.uint8)
    np.savez(pack / "patient001_frame01.npz", image=label, label=label)
    with pytest.raises(DataError, match="give spacing_zyx_mm"):
        convert_pack(pack, tmp_path / "out")
    convert_pack(pack, tmp_path / "out", spacing_zyx_mm=(10.0, 1.5, 1.5))
    folder = tmp_path / "out" / "acdc-dijon" / "patient001" / "patient001_frame01"
    assert read_with_simpleitk(folder).GetSpacing() == (1.5, 1.5, 10.0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda pack: (pack / "STS_102.npz").unlink(), "STS_102.npz: missing"),
        (lambda pack: (pack / "STS_102.npz").write_bytes(b"no zip"), "STS_102.npz: not a readable"),
        (lambda pack: (pack / "cases.csv").unlink(), "cases.csv: missing"),
        (
            lambda pack: (pack / "cases.csv").write_text("case\nSTS_101\n"),
            "no column 'vendor_site'",
        ),
        (
            lambda pack: np.savez(pack / "STS_102.npz", image=np.zeros((2, 2, 2))),
            "no array 'label'",
        ),
    ],
)
def test_a_damaged_pack_says_what_is_wrong(damage, message: str, tmp_path: Path) -> None:
    pack = small_pack(tmp_path / "sts")
    damage(pack)
    with pytest.raises(DataError, match=message):
        convert_pack(pack, tmp_path / "out")


def test_a_missing_or_unknown_pack_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no recipe"):
        convert_pack(tmp_path / "knees", tmp_path / "out")
    with pytest.raises(DataError, match="folder is missing"):
        convert_pack(tmp_path / "sts", tmp_path / "out")
