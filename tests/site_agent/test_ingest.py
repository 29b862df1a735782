import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest

import site_agent.ingest
from algorithms.contracts.contour import Provenance
from algorithms.contracts.errors import DataError
from evaluation.benchmarks.dicom_writer import (
    PatientTags,
    ScannerTags,
    study_uids,
    write_mr_series,
    write_rtstruct,
    write_study,
)
from site_agent.case_store import REFERENCE, CaseStore
from site_agent.deidentification import unseal
from site_agent.ingest import ingest, take_in
from site_agent.residue import Known, scan_folder
from site_agent.site_lock import only_worker
from tests.phantoms import make_home, tiny_volume, write_nifti_pair
from tests.site_agent import dicom_builder as build

SCANNER = ScannerTags("SIEMENS", "Skyra", 3.0, "T1 tra")


def tags(number: int) -> PatientTags:
    return PatientTags(
        patient_id=f"KH-{number:06d}",
        name=f"Nobody-{number}^Aurelia",
        birth_date="19500102",
        sex="F",
        institution="Nowhere Hospital",
        referring_physician="Referrer^Invented",
        accession_number=f"ACCESSION-{number}",
        study_date="20200304",
        study_time="101112",
    )


def write_patient(folder: Path, number: int, *, roi_name: str = "gtv", scan: int = 0) -> None:
    """Write a tiny patient as a hospital's export has it."""
    volume, mask = tiny_volume(10 * number + scan)
    write_study(
        folder,
        volume.image,
        mask,
        volume.geometry,
        roi_name=roi_name,
        patient=tags(number),
        scanner=SCANNER,
        entropy=f"tiny {number} {scan}",
    )


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "home")


@pytest.fixture
def store(home) -> CaseStore:
    return CaseStore(home)


@pytest.fixture
def export(tmp_path) -> Path:
    """Write an export of two patients."""
    for number in (1, 2):
        write_patient(tmp_path / "export" / f"P{number}", number)
    return tmp_path / "export"


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# -- DICOM ------------------------------------------------------------------------------------


def test_images_and_contours_come_in(home, store, export) -> None:
    new = ingest(home, store, export, actor="test")
    assert len(new) == len(set(new)) == 2
    by_origin = {store.geometry(case_id).origin_xyz_mm[2]: case_id for case_id in new}
    for number in (1, 2):
        volume, mask = tiny_volume(10 * number)
        case_id = by_origin[volume.geometry.origin_xyz_mm[2]]
        found = store.volume(case_id)
        np.testing.assert_array_equal(found.image, volume.image)
        assert found.geometry.matches(volume.geometry)
        contour = store.contour(case_id, purpose=REFERENCE)
        assert contour is not None
        assert (contour.roi_name, contour.provenance) == ("GTVp", Provenance.REFERENCE)
        assert dice(contour.mask.voxels, mask) > 0.99
        case = store.case(case_id)
        assert (case.modality, case.manufacturer, case.scanner_model) == ("MR", "SIEMENS", "Skyra")
        assert case.has_reference


def test_nothing_that_identifies_a_patient_is_stored_in_the_clear(home, store, export) -> None:
    ingest(home, store, export, actor="test")
    store.engine.dispose()
    kept = b"".join(f.read_bytes() for f in home.folder.rglob("*") if f.is_file())
    secrets = [b"KH-000001", b"Nobody", b"Nowhere", b"Referrer", b"ACCESSION-1", b"19500102"]
    secrets += [uid.encode() for uid in study_uids("tiny 1 0", 8).sop_instances]
    assert [secret for secret in secrets if secret in kept] == []


@pytest.mark.parametrize("key", ["pseudonym.key", "crosswalk.key"])
def test_a_damaged_key_is_not_blamed_on_the_images(home, store, export, key) -> None:
    (home.folder / "secrets" / key).write_bytes(b"")
    with pytest.raises(DataError, match=f"{key}: secret is damaged: copy it back") as caught:
        ingest(home, store, export, actor="test")
    assert "series" not in str(caught.value)
    assert store.cases() == []


def test_the_way_back_to_the_pacs_is_sealed(home, store, export) -> None:
    for case_id in ingest(home, store, export, actor="test"):
        sealed = store.identity_sealed(case_id)
        assert sealed is not None
        identity = unseal(sealed, home.secret("crosswalk.key"))
        assert identity.patient_id in ("KH-000001", "KH-000002")
        assert identity.sop_instance_uids in [
            study_uids(f"tiny {number} 0", 8).sop_instances for number in (1, 2)
        ]


def test_the_same_export_again_adds_nothing(home, store, export) -> None:
    ingest(home, store, export, actor="test")
    write_patient(export / "P3", 3)
    assert len(ingest(home, store, export, actor="test")) == 1
    assert ingest(home, store, export, actor="test") == []
    assert len(store.cases()) == 3


def test_two_scans_of_one_patient_are_two_cases_of_one_pseudonym(home, store, tmp_path) -> None:
    for scan in (0, 1):
        write_patient(tmp_path / "export" / f"scan{scan}", 1, scan=scan)
    ingest(home, store, tmp_path / "export", actor="test")
    assert len(store.cases()) == 2
    assert len({case.patient_id for case in store.cases()}) == 1


def test_another_hospital_gives_other_pseudonyms(home, store, export, tmp_path) -> None:
    other = make_home(tmp_path / "other")
    names = [ingest(h, CaseStore(h), export, actor="test") for h in (home, other)]
    assert not set(names[0]) & set(names[1])


def test_a_series_without_structure_set_comes_in_without_contour(home, store, export) -> None:
    for file in export.rglob("RS.*"):
        file.unlink()
    ingest(home, store, export, actor="test")
    assert [case.has_reference for case in store.cases()] == [False, False]


def test_a_structure_set_beside_two_series_of_one_frame_finds_the_one_it_names(
    home, store, tmp_path
) -> None:
    """Two series share the frame of reference, as two sequences of one examination do."""
    folder = tmp_path / "export" / "P1"
    write_patient(folder, 1)
    drawn, other = study_uids("tiny 1 0", 8), study_uids("second sequence", 8)
    volume, _ = tiny_volume(77)
    second = type(other)(**{**vars(other), "frame_of_reference": drawn.frame_of_reference})
    write_mr_series(
        folder, volume.image, volume.geometry, patient=tags(1), scanner=SCANNER, uids=second
    )
    ingest(home, store, tmp_path / "export", actor="test")
    with_reference = [case.case_id for case in store.cases() if case.has_reference]
    assert len(store.cases()) == 2
    (case_id,) = with_reference
    np.testing.assert_array_equal(store.volume(case_id).image, tiny_volume(10)[0].image)


# -- which region is the target ---------------------------------------------------------------


def write_regions(folder: Path, regions) -> np.ndarray:
    """Write a patient whose structure set holds a ball (True) or nothing (False) by name."""
    volume, mask = tiny_volume(10)
    uids = study_uids("regions", 8)
    write_mr_series(
        folder, volume.image, volume.geometry, patient=tags(1), scanner=SCANNER, uids=uids
    )
    masks = {name: mask if drawn else np.zeros_like(mask) for name, drawn in regions.items()}
    write_rtstruct(folder / "RS.dcm", masks, volume.geometry, patient=tags(1), uids=uids)
    return mask


@pytest.mark.parametrize(
    "regions", [{"GTVp": False, "GTV": True}, {"gtvp": False, "GTVp": True}, {" gtv ": True}]
)
def test_an_empty_template_beside_the_drawn_target_is_passed_over(
    home, store, tmp_path, regions
) -> None:
    mask = write_regions(tmp_path / "export", regions)
    (case_id,) = ingest(home, store, tmp_path / "export", actor="test")
    contour = store.contour(case_id, purpose=REFERENCE)
    assert contour is not None
    assert dice(contour.mask.voxels, mask) > 0.99


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        ({"GTVp": False}, r"RS\.dcm: nothing is drawn under .*export it again"),
        ({"GTVp": False, "Body": True}, r"RS\.dcm: nothing is drawn under .*export it again"),
        ({"GTVp": True, "gtvp": True}, r"RS\.dcm: two regions are named GTVp: rename"),
    ],
)
def test_no_target_is_made_up_from_empty_or_rival_regions(
    home, store, tmp_path, regions, words
) -> None:
    write_regions(tmp_path / "export", regions)
    with pytest.raises(DataError, match=words):
        ingest(home, store, tmp_path / "export", actor="test")
    assert store.cases() == []


def test_regions_of_no_interest_do_not_stand_in_the_way(home, store, tmp_path) -> None:
    write_regions(tmp_path / "export", {"GTVp": True, "Ring": True, "Ring 2": True, "BODY": True})
    file = tmp_path / "export" / "RS.dcm"
    dataset = pydicom.dcmread(file)
    dataset.StructureSetROISequence[2].ROIName = "Ring"
    for contour in dataset.ROIContourSequence[3].ContourSequence:  # beyond the slices
        contour.ContourData = [
            float(part) + (500.0 if i % 3 == 2 else 0.0)
            for i, part in enumerate(contour.ContourData)
        ]
    dataset.save_as(file)
    assert len(ingest(home, store, tmp_path / "export", actor="test")) == 1
    assert store.cases()[0].has_reference


# -- given again ------------------------------------------------------------------------------


def test_a_structure_set_that_comes_later_is_added(home, store, export, tmp_path) -> None:
    structure_sets = list(export.rglob("RS.*"))
    for file in structure_sets:
        shutil.move(file, tmp_path / file.parent.name)
    new = ingest(home, store, export, actor="test")
    shutil.move(tmp_path / "P1", structure_sets[0].parent.parent / "P1" / "RS.later.dcm")
    intake = take_in(home, store, export, actor="test")
    assert (intake.new, len(intake.contoured), len(intake.unchanged)) == ([], 1, 1)
    assert {*intake.contoured, *intake.unchanged} == set(new)
    assert store.case(intake.contoured[0]).has_reference
    assert store.contour(intake.contoured[0], purpose=REFERENCE) is not None
    assert not store.case(intake.unchanged[0]).has_reference


def test_structure_sets_alone_ask_for_their_images(home, store, export) -> None:
    for file in export.rglob("MR*"):
        file.unlink()
    with pytest.raises(DataError, match=r"structure sets without images.*both") as caught:
        ingest(home, store, export, actor="test")
    assert "modalities" not in str(caught.value)
    assert store.cases() == []


def test_two_nifti_folders_with_different_patients_of_one_name(home, store, tmp_path) -> None:
    for number, folder in enumerate(("first", "second")):
        write_nifti_pair(tmp_path / folder, "P1", *tiny_volume(number))
    ingest(home, store, tmp_path / "first", actor="test")
    with pytest.raises(DataError, match=r"second/P1\.nii\.gz: another image.*rename"):
        ingest(home, store, tmp_path / "second", actor="test")
    assert take_in(home, store, tmp_path / "first", actor="test").unchanged


def test_one_ingest_at_a_time(home, store, export) -> None:
    with only_worker(home), pytest.raises(DataError, match=r"another.*is running: wait"):
        ingest(home, store, export, actor="test")
    assert len(ingest(home, store, export, actor="test")) == 2


# -- what is said on the way ------------------------------------------------------------------


def test_nothing_of_a_malformed_uid_is_printed(home, export) -> None:
    """pydicom quotes invalid values in warnings; in a process of its own, as people run it."""
    planted = "1.2.036.998877"
    for file in (export / "P1").glob("MR.*"):
        dataset = pydicom.dcmread(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.SeriesInstanceUID = planted
            dataset.save_as(file)
    command = [sys.executable, "-c", "from site_agent.cli import main; main()", "ingest"]
    done = subprocess.run(
        [*command, str(export), "--home", str(home.folder)], capture_output=True, text=True
    )
    assert (done.returncode, "2 new cases" in done.stdout) == (0, True)
    assert "1.2.036" not in done.stdout + done.stderr
    assert "Invalid value" not in done.stderr


# -- NIfTI ------------------------------------------------------------------------------------


def test_nifti_pairs_come_in_as_mr(home, store, tmp_path) -> None:
    volume, mask = tiny_volume(1)
    write_nifti_pair(tmp_path / "nifti", "P1", volume, mask)
    write_nifti_pair(tmp_path / "nifti", "P2", tiny_volume(2)[0], None)
    ingest(home, store, tmp_path / "nifti", actor="test")
    with_reference, without = sorted(store.cases(), key=lambda case: not case.has_reference)
    assert not without.has_reference
    assert (with_reference.modality, store.identity_sealed(without.case_id)) == ("MR", None)
    contour = store.contour(with_reference.case_id, purpose=REFERENCE)
    assert contour is not None
    np.testing.assert_array_equal(contour.mask.voxels, mask)
    np.testing.assert_array_equal(store.volume(with_reference.case_id).image, volume.image)


def test_names_with_dots_are_different_patients(home, store, tmp_path) -> None:
    for number in (1, 2):
        write_nifti_pair(tmp_path / "nifti", f"site.{number:03d}", *tiny_volume(number))
    assert len(ingest(home, store, tmp_path / "nifti", actor="test")) == 2
    assert len({case.patient_id for case in store.cases()}) == 2


# -- what can be wrong: nothing is stored then ------------------------------------------------


def remove_a_slice(export: Path) -> None:
    """Remove an inner slice of the second patient."""
    files = sorted(
        (export / "P2").glob("MR.*"), key=lambda f: int(pydicom.dcmread(f).InstanceNumber)
    )
    files[3].unlink()


def cut_a_file(export: Path) -> None:
    file = sorted((export / "P2").glob("MR.*"))[0]
    file.write_bytes(file.read_bytes()[:-100])


def add_a_text_file(export: Path) -> None:
    (export / "P2" / "notes.txt").write_text("seen on Tuesday", "utf-8")


def use_another_frame(export: Path) -> None:
    """Leave a structure set whose images are elsewhere."""
    shutil.rmtree(export / "P2")
    volume, mask = tiny_volume(5)
    uids = study_uids("elsewhere", 8)
    write_rtstruct(
        export / "P2" / "RS.alone.dcm", {"GTVp": mask}, volume.geometry, patient=tags(2), uids=uids
    )


def draw_twice(export: Path) -> None:
    """Add a second structure set of the second patient: which one is the truth?"""
    (file,) = (export / "P2").glob("RS.*")
    dataset = pydicom.dcmread(file)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.save_as(export / "P2" / "RS.second.dcm")


def name_the_target_otherwise(export: Path) -> None:
    shutil.rmtree(export / "P2")
    write_patient(export / "P2", 2, roi_name="Parotis li")


def copy_a_slice(export: Path) -> None:
    file = sorted((export / "P2").glob("MR.*"))[0]
    shutil.copy(file, export / "P2" / "MR.copy.dcm")


def make_it_ultrasound(export: Path) -> None:
    for file in export.rglob("MR.*"):
        dataset = pydicom.dcmread(file)
        dataset.Modality = "US"
        dataset.save_as(file)
    for file in export.rglob("RS.*"):
        file.unlink()


def change_a_series(export: Path, **values: str) -> None:
    for file in (export / "P2").glob("MR.*"):
        dataset = pydicom.dcmread(file)
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.save_as(file)


def take_the_patient_id(export: Path) -> None:
    change_a_series(export, PatientID="")


def burn_in(export: Path) -> None:
    change_a_series(export, BurnedInAnnotation="YES")


def rename_in_one_slice(export: Path) -> None:
    file = sorted((export / "P2").glob("MR.*"))[0]
    dataset = pydicom.dcmread(file)
    dataset.PatientName = "Other^Name"
    dataset.save_as(file)


def damage_a_field(export: Path) -> None:
    """Say in one slice that the PatientSex is a number, for which it has too few bytes."""
    file = sorted((export / "P2").glob("MR.*"))[0]
    sex = b"\x10\x00\x40\x00"
    file.write_bytes(file.read_bytes().replace(sex + b"CS", sex + b"FD"))


BREAKAGES = {
    take_the_patient_id: ["the series of ", "P2/MR.", "PatientID"],
    burn_in: ["the series of ", "P2/MR.", "burned"],
    rename_in_one_slice: ["the series of ", "P2/MR.", "PatientName"],
    damage_a_field: ["the series of ", "P2/MR.", "damaged"],
    remove_a_slice: ["P2", "slice"],
    cut_a_file: ["MR.", "export"],
    add_a_text_file: ["notes.txt", "move it away"],
    use_another_frame: ["RS.alone.dcm", "frame of reference", "export"],
    draw_twice: ["RS.second.dcm", "RS.", "move"],
    name_the_target_otherwise: ["RS.", "roi_names", "GTVp"],
    copy_a_slice: ["P2"],
    make_it_ultrasound: ["US", "modalities"],
}


@pytest.mark.parametrize(
    ("break_it", "words"), BREAKAGES.items(), ids=[b.__name__ for b in BREAKAGES]
)
def test_a_bad_export_is_named_in_one_line_and_nothing_is_stored(
    home, store, export, break_it, words
) -> None:
    break_it(export)
    with pytest.raises(DataError) as caught:
        ingest(home, store, export, actor="test")
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []
    for identifier in ("KH-0000", "Nobody", "Aurelia"):
        assert identifier not in message
    assert store.cases() == []
    assert list(home.cases.glob("*")) == []


def test_a_folder_that_is_none_or_empty_is_named(home, store, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, words in (("absent", "not a folder"), ("empty", "no DICOM series")):
        with pytest.raises(DataError, match=words) as caught:
            ingest(home, store, tmp_path / folder, actor="test")
        assert str(tmp_path / folder) in str(caught.value)


def test_a_nifti_mask_on_another_grid_is_named_and_nothing_is_stored(home, store, tmp_path) -> None:
    write_nifti_pair(tmp_path / "nifti", "P1", *tiny_volume(1))
    write_nifti_pair(tmp_path / "nifti", "P2", *tiny_volume(2), mask_shift_mm=5.0)
    with pytest.raises(DataError, match=r"P2_mask\.nii\.gz.*resample"):
        ingest(home, store, tmp_path / "nifti", actor="test")
    assert store.cases() == []


def test_a_folder_of_both_kinds_is_refused(home, store, export) -> None:
    write_nifti_pair(export, "P9", *tiny_volume(9))
    with pytest.raises(DataError, match=r"both NIfTI and DICOM.*folder of its own"):
        ingest(home, store, export, actor="test")
    assert store.cases() == []


def test_a_nifti_mask_without_image_is_named(home, store, tmp_path) -> None:
    write_nifti_pair(tmp_path / "nifti", "P1", *tiny_volume(1))
    (tmp_path / "nifti" / "P1.nii.gz").unlink()
    with pytest.raises(DataError, match=r"P1_mask\.nii\.gz has no image"):
        ingest(home, store, tmp_path / "nifti", actor="test")


def test_an_enhanced_image_becomes_a_case_with_its_frames_in_order(home, store, tmp_path) -> None:
    images = build.slices()
    build.save([build.enhanced(images, [3, 0, 5, 2, 4, 1])], tmp_path / "enhanced")
    [case_id] = ingest(home, store, tmp_path / "enhanced", actor="test")
    volume = store.volume(case_id)
    z, y, x = np.indices((6, 10, 12))
    np.testing.assert_array_equal(volume.image, 2.0 * (100 * z + 10 * y + x) - 3.0)
    sealed = store.identity_sealed(case_id)
    assert sealed is not None
    identity = unseal(sealed, home.secret("crosswalk.key"))
    assert identity.frame_numbers == (2, 6, 4, 1, 5, 3)
    known = Known(
        names=frozenset({build.PATIENT_NAME}),
        identifiers=frozenset({build.PATIENT_ID, build.SERIES_UID, "ACC-5519"}),
        dates=frozenset({"19540317", "20240102"}),
    )
    assert scan_folder(home.folder, known) == {}


@pytest.mark.parametrize("field", ["PatientID", "PatientBirthDate"])
def test_a_structure_set_of_another_patient_is_no_reference(home, store, export, field) -> None:
    """Same frame of reference, same series: only the patient tells."""
    file = next((export / "P1").glob("RS.*"))
    dataset = pydicom.dcmread(file)
    setattr(dataset, field, {"PatientID": "KH-999", "PatientBirthDate": "19771231"}[field])
    dataset.save_as(file)
    with pytest.raises(DataError, match="of another patient than the images") as caught:
        ingest(home, store, export, actor="test")
    assert not [word for word in ("KH-", "1977", "1950") if word in str(caught.value)]
    assert store.cases() == []
    setattr(dataset, field, "")  # what is left out proves nothing
    dataset.save_as(file)
    assert len(ingest(home, store, export, actor="test")) == 2


def test_series_are_stored_one_by_one(home, store, tmp_path, monkeypatch) -> None:
    """Together they may be larger than the memory: while one is read, the last is written."""
    for number in (1, 2, 3):
        write_patient(tmp_path / "export" / f"P{number}", number)
    read = site_agent.ingest.read_series_and_headers
    on_disk: list[int] = []

    def counting(files):
        on_disk.append(len(list(home.cases.glob("*/image.npy"))))
        return read(files)

    monkeypatch.setattr("site_agent.ingest.read_series_and_headers", counting)
    assert len(ingest(home, store, tmp_path / "export", actor="test")) == 3
    assert all(n - 1 <= written <= n for n, written in enumerate(on_disk))
    assert len(list(home.cases.glob("*/image.npy"))) == 3
