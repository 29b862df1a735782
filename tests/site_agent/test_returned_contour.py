"""Contours that come back from a planning system: whose they are, and what was changed."""

import shutil
import sys
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError, failure_line
from algorithms.contracts.volume import Mask
from evaluation.benchmarks.dicom_writer import (
    PatientTags,
    StudyUids,
    study_uids,
    write_mr_series,
    write_rtstruct,
)
from site_agent import audit_log, cli
from site_agent.case_store import REFERENCE, RETURNED, REVIEWED, CaseStore
from site_agent.config import SiteHome, open_home
from site_agent.database import AuditRow, ContourRow, utc_now
from site_agent.deidentification import unseal
from site_agent.ingest import ingest
from site_agent.pacs_export import export_rtstruct
from site_agent.returned_contour import Arrival, Returned, receive, take_back
from site_agent.site_lock import SiteBusyError, only_worker
from tests.phantoms import SHAPE_ZYX, ball, make_home, tiny_volume
from tests.site_agent.test_cli import start_round
from tests.site_agent.test_ingest import SCANNER, tags, write_patient

DEPTH = SHAPE_ZYX[0]
DRAWN = ball(SHAPE_ZYX, (4, 15, 16), 5.5)
EDITED = ball(SHAPE_ZYX, (4, 15, 17), 5.5)
PLANNING = ball(SHAPE_ZYX, (4, 15, 16), 6.5)
BODY = np.ones(SHAPE_ZYX, dtype=bool)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())


class Hospital:
    """A site with two patients, for whom a model drew `DRAWN`, exported; and its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home: SiteHome = make_home(folder / "home")
        self.store = CaseStore(self.home)
        self.cases: dict[int, str] = {}
        for number in (1, 2):
            write_patient(folder / f"P{number}", number)
            (self.cases[number],) = ingest(
                self.home, self.store, folder / f"P{number}", actor="test"
            )
        self.round_id = start_round(self.store)
        for number in (1, 2):
            self.export(self.cases[number])

    def draw(self, case_id: str, voxels: np.ndarray, purpose: str, provenance: Provenance) -> None:
        contour = Contour("GTVp", Mask(voxels, self.store.geometry(case_id)), provenance)
        self.store.save_contour(
            case_id, contour, purpose=purpose, round_id=self.round_id, author="test"
        )

    def export(self, case_id: str) -> Path:
        self.draw(case_id, DRAWN, "adapted", Provenance.AUTOMATIC)
        output = self.folder / "exported" / f"{case_id}.dcm"
        export_rtstruct(self.home, self.store, case_id, output, actor="test")
        return output

    def exported(self, number: int = 1) -> Path:
        return self.folder / "exported" / f"{self.cases[number]}.dcm"

    def plan(
        self,
        regions: Mapping[str, np.ndarray],
        *,
        number: int = 1,
        patient: PatientTags | None = None,
        uids: StudyUids | None = None,
        name: str = "RS.edited.dcm",
        **fields: str,
    ) -> Path:
        """Save a structure set as a planning system does: all UIDs but the frame are its own."""
        frame = study_uids(f"tiny {number} 0", DEPTH).frame_of_reference
        own = replace(study_uids(f"planning {name}", DEPTH), frame_of_reference=frame)
        file = self.folder / "planning" / name
        geometry = tiny_volume(10 * number)[0].geometry
        write_rtstruct(file, regions, geometry, patient=patient or tags(number), uids=uids or own)
        return change(file, **fields)

    def take(self, source: Path, **options: str) -> list[Returned]:
        return take_back(self.home, self.store, source, actor="test", **options)

    def returned(self, number: int = 1) -> Contour | None:
        return self.store.contour(self.cases[number], purpose=RETURNED, round_id=self.round_id)

    def kept(self) -> int:
        """Count what was kept, and follow the chain of the audit log."""
        with Session(self.store.engine) as session:
            audit_log.verify(session)
            rows = session.scalars(select(ContourRow).where(ContourRow.purpose == RETURNED)).all()
            events = [row.event for row in session.scalars(select(AuditRow))]
        assert events.count("contour_returned") == len(rows)
        return len(rows)

    def refuse(self, source: Path, words: str, **options: str) -> None:
        with pytest.raises(DataError, match=words) as caught:
            self.take(source, **options)
        message = failure_line(caught.value) or ""
        for secret in ("KH-0000", "Nobody", "Aurelia", "1.2.826", "19500102", "Tumour"):
            assert secret not in message
        assert self.kept() == 0


def change(file: Path, **fields: str) -> Path:
    dataset = pydicom.dcmread(file)
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
    dataset.save_as(file)
    return file


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Hospital:
    made = Hospital(tmp_path_factory.mktemp("first"))
    made.store.engine.dispose()
    return made


@pytest.fixture
def hospital(first: Hospital, tmp_path: Path) -> Hospital:
    """Copy the first hospital, in which no test works."""
    shutil.copytree(first.folder, tmp_path, dirs_exist_ok=True)
    hospital = copy(first)
    hospital.folder, hospital.home = tmp_path, open_home(tmp_path / "home")
    hospital.store = CaseStore(hospital.home)
    hospital.cases = dict(first.cases)
    return hospital


# -- what is found ----------------------------------------------------------------------------


def test_renamed_with_other_uids_and_in_another_order_it_is_still_found(hospital) -> None:
    regions = {"BODY": BODY, "PTV": PLANNING, "Tumour final": EDITED}
    file = hospital.plan(regions)
    dataset = pydicom.dcmread(file)
    for observation, kind in zip(
        dataset.RTROIObservationsSequence, ("EXTERNAL", "PTV", "GTV"), strict=True
    ):
        observation.RTROIInterpretedType = kind
    dataset.save_as(file)
    (one,) = hospital.take(file)
    assert (one.case_id, one.matched_by, one.new) == (hospital.cases[1], "overlap", True)
    assert one.revision_degree_percent == pytest.approx(100 * (1 - dice(DRAWN, EDITED)))
    contour = hospital.returned()
    np.testing.assert_array_equal(contour.mask.voxels, EDITED)
    assert (contour.roi_name, contour.provenance) == ("GTVp", Provenance.SEMIAUTOMATIC)
    assert hospital.returned(2) is None
    with Session(hospital.store.engine) as session:
        entry = session.scalars(select(AuditRow).order_by(AuditRow.sequence.desc())).first()
    assert (entry.event, entry.subject, entry.actor) == (
        "contour_returned", hospital.cases[1], "test"
    )  # fmt: skip
    assert entry.detail == {
        "revision_degree_percent": round(one.revision_degree_percent, 3),
        "changed_after_export_percent": round(one.revision_degree_percent, 3),
        "matched_by": "overlap",
        "approved": False,
    }


def rename(dataset) -> None:
    dataset.StructureSetROISequence[0].ROIName = "Tumour"


def give_new_uids(dataset) -> None:
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "1.2.3.5", "1.2.3.6"


def reverse_contours(dataset) -> None:
    contours = dataset.ROIContourSequence[0].ContourSequence
    dataset.ROIContourSequence[0].ContourSequence = list(contours)[::-1]


def drop_references(dataset) -> None:
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        del contour.ContourImageSequence
    del dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence


def renumber(dataset) -> None:
    for item, keyword in (
        (dataset.StructureSetROISequence[0], "ROINumber"),
        (dataset.ROIContourSequence[0], "ReferencedROINumber"),
        (dataset.RTROIObservationsSequence[0], "ReferencedROINumber"),
    ):
        setattr(item, keyword, 17)


@pytest.mark.parametrize(
    "edits",
    [
        [give_new_uids],
        [give_new_uids, rename],
        [give_new_uids, reverse_contours, renumber],
        [give_new_uids, drop_references],
        [give_new_uids, rename, reverse_contours, drop_references, renumber],
    ],
    ids=lambda edits: "+".join(edit.__name__ for edit in edits),
)
def test_our_own_export_is_known_again_whatever_else_was_changed(hospital, tmp_path, edits) -> None:
    """A slice is taken away, and everything that a planning system may rewrite is rewritten."""
    dataset = pydicom.dcmread(hospital.exported())
    first = dataset.ROIContourSequence[0].ContourSequence.pop(0)
    k = list(study_uids("tiny 1 0", DEPTH).sop_instances).index(
        first.ContourImageSequence[0].ReferencedSOPInstanceUID
    )
    for edit in edits:
        edit(dataset)
    dataset.ApprovalStatus = "APPROVED"
    dataset.save_as(tmp_path / "RS.back.dcm")
    (one,) = hospital.take(tmp_path / "RS.back.dcm")
    left = DRAWN.copy()
    left[k] = False
    np.testing.assert_array_equal(hospital.returned().mask.voxels, left)
    assert one.revision_degree_percent == pytest.approx(100 * (1 - dice(DRAWN, left)))
    assert (one.case_id, one.approved) == (hospital.cases[1], True)


def test_accepted_as_it_was_it_stays_the_models(hospital) -> None:
    (one,) = hospital.take(hospital.plan({"GTVp^AI": DRAWN}))
    assert (one.revision_degree_percent, one.matched_by) == (0.0, "name")
    assert hospital.returned().provenance is Provenance.AUTOMATIC


def test_the_degree_is_against_the_model_and_the_step_against_the_export(hospital) -> None:
    """Corrected on our pages first, exported, and corrected again while planning."""
    reviewed = ball(SHAPE_ZYX, (4, 15, 16), 6.0)
    hospital.draw(hospital.cases[1], reviewed, "reviewed", Provenance.SEMIAUTOMATIC)
    output = hospital.folder / "second.dcm"
    export_rtstruct(hospital.home, hospital.store, hospital.cases[1], output, actor="test")
    (one,) = hospital.take(hospital.plan({"gtvP ": EDITED}))
    assert one.revision_degree_percent == pytest.approx(100 * (1 - dice(DRAWN, EDITED)))
    assert one.changed_after_export_percent == pytest.approx(100 * (1 - dice(reviewed, EDITED)))
    assert one.revision_degree_percent != one.changed_after_export_percent


def test_what_came_back_is_kept_once_and_the_newest_counts(hospital) -> None:
    file = hospital.plan({"GTVp": EDITED})
    assert [one.new for one in hospital.take(file)] == [True]
    assert [one.new for one in hospital.take(file)] == [False]
    assert hospital.kept() == 1
    assert [one.new for one in hospital.take(hospital.plan({"GTVp": PLANNING}))] == [True]
    assert hospital.kept() == 2
    np.testing.assert_array_equal(hospital.returned().mask.voxels, PLANNING)


def test_a_folder_with_images_and_two_patients_comes_back_at_once(hospital) -> None:
    for number in (1, 2):
        folder = hospital.folder / f"P{number}"
        for file in folder.glob("RS.*"):
            file.unlink()
        shutil.copytree(folder, hospital.folder / "planning" / f"P{number}")
        hospital.plan({"GTVp": EDITED}, number=number, name=f"P{number}/RS.dcm")
    found = hospital.take(hospital.folder / "planning")
    assert {one.case_id for one in found} == set(hospital.cases.values())
    assert hospital.kept() == 2


# -- whose it is not --------------------------------------------------------------------------


def test_another_patient_is_never_matched(hospital) -> None:
    regions = {"GTVp^AI": EDITED}
    unknown = hospital.plan(regions, patient=tags(3))
    hospital.refuse(unknown, "of whom nothing is held")
    # Held, but these are the other patient's coordinates, name and UIDs.
    one_as_two = hospital.plan(regions, patient=tags(2), uids=study_uids("tiny 1 0", DEPTH))
    hospital.refuse(one_as_two, "another frame of reference")
    namesake = hospital.plan(regions, patient=replace(tags(1), birth_date="19610203"))
    hospital.refuse(namesake, "another birth date")
    hospital.refuse(hospital.plan(regions, PatientID=""), "no PatientID")
    for wrong in (hospital.cases[2], "case-ffffffffffff"):
        hospital.refuse(hospital.plan(regions), "--case is no exported one", case_id=wrong)


def test_another_frame_of_reference_is_never_matched(hospital) -> None:
    regions = {"GTVp^AI": EDITED}
    hospital.refuse(
        hospital.plan(regions, uids=study_uids("elsewhere", DEPTH)), "another frame of reference"
    )
    # Both frames are listed, and the region itself is in the other one.
    file = hospital.plan({"GTVp^AI": EDITED, "Bone": BODY})
    dataset = pydicom.dcmread(file)
    other = pydicom.Dataset()
    other.FrameOfReferenceUID = "1.2.3.9"
    dataset.ReferencedFrameOfReferenceSequence.append(other)
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3.9"
    dataset.save_as(file)
    hospital.refuse(file, "no region is named")
    hospital.refuse(file, "another frame of reference: choose", roi_name="GTVp^AI")
    # No region says which of the two it is in.
    for region in dataset.StructureSetROISequence:
        del region.ReferencedFrameOfReferenceUID
    dataset.save_as(file)
    hospital.refuse(file, "no region is named")


def test_nothing_comes_back_that_was_not_exported(hospital) -> None:
    write_patient(hospital.folder / "P3", 3)
    ingest(hospital.home, hospital.store, hospital.folder / "P3", actor="test")
    hospital.refuse(hospital.plan({"GTVp": EDITED}, number=3), "nothing was exported.*ingest")


def test_an_export_that_nobody_edited_is_no_return(hospital) -> None:
    first = hospital.folder / "first.dcm"
    shutil.copy(hospital.exported(), first)
    hospital.refuse(first, "what was exported")
    hospital.draw(hospital.cases[1], EDITED, "reviewed", Provenance.SEMIAUTOMATIC)
    second = hospital.folder / "second.dcm"
    export_rtstruct(hospital.home, hospital.store, hospital.cases[1], second, actor="test")
    hospital.refuse(first, "what was exported")
    hospital.refuse(second, "what was exported")
    # Some planning systems edit in place.
    dataset = pydicom.dcmread(second)
    dataset.ROIContourSequence[0].ContourSequence.pop()
    dataset.save_as(second)
    assert [one.matched_by for one in hospital.take(second)] == ["name"]


# -- which region -----------------------------------------------------------------------------


def test_a_clinical_region_beside_the_untouched_model_is_the_final_one(hospital) -> None:
    hospital.take(hospital.plan({"GTVp^AI": DRAWN, "GTVp": EDITED}))
    np.testing.assert_array_equal(hospital.returned().mask.voxels, EDITED)


def test_two_edited_regions_are_refused_until_somebody_chooses(hospital) -> None:
    file = hospital.plan({"GTVp^AI": PLANNING, "GTVp": EDITED})
    hospital.refuse(file, "say with --roi")
    hospital.refuse(file, "choose another", roi_name="GTVn")
    assert [one.matched_by for one in hospital.take(file, roi_name=" gtvp")] == ["choice"]
    np.testing.assert_array_equal(hospital.returned().mask.voxels, EDITED)


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        ({"A": EDITED, "B": PLANNING}, "2 regions could be"),
        ({"A": ball(SHAPE_ZYX, (4, 15, 27), 4.0), "BODY": BODY}, "none overlaps.*--roi"),
        ({"GTVp": np.zeros(SHAPE_ZYX, dtype=bool)}, "none overlaps"),
    ],
)
def test_no_region_is_made_up_of_rivals_or_strangers(hospital, regions, words) -> None:
    hospital.refuse(hospital.plan(regions), words)


def test_the_same_region_under_two_names_is_one(hospital) -> None:
    (one,) = hospital.take(hospital.plan({"A": EDITED, "A copy": EDITED}))
    assert one.matched_by == "overlap"


def test_a_region_beyond_the_images_does_not_stand_in_the_way(hospital) -> None:
    file = hospital.plan({"BODY": BODY, "Tumour": EDITED})
    dataset = pydicom.dcmread(file)
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        contour.ContourData = [
            float(part) + (500.0 if i % 3 == 2 else 0.0)
            for i, part in enumerate(contour.ContourData)
        ]
    dataset.save_as(file)
    hospital.take(file)
    np.testing.assert_array_equal(hospital.returned().mask.voxels, EDITED)


# -- two series of one frame ------------------------------------------------------------------


def second_series(hospital: Hospital, voxels: np.ndarray) -> tuple[str, StudyUids]:
    """Add a second sequence of patient 1 in the same coordinates, exported too."""
    drawn, other = study_uids("tiny 1 0", DEPTH), study_uids("second sequence", DEPTH)
    uids = replace(other, frame_of_reference=drawn.frame_of_reference)
    volume = tiny_volume(10)[0]
    folder = hospital.folder / "P1b"
    write_mr_series(
        folder, volume.image + 1, volume.geometry, patient=tags(1), scanner=SCANNER, uids=uids
    )
    (case_id,) = ingest(hospital.home, hospital.store, folder, actor="test")
    hospital.draw(case_id, voxels, "adapted", Provenance.AUTOMATIC)
    output = hospital.folder / "exported" / "second.dcm"
    export_rtstruct(hospital.home, hospital.store, case_id, output, actor="test")
    return case_id, uids


def test_of_two_series_in_one_frame_the_one_referred_to_is_meant(hospital) -> None:
    second, uids = second_series(hospital, DRAWN)
    (one,) = hospital.take(hospital.plan({"GTVp": EDITED}, uids=uids))
    assert one.case_id == second
    (one,) = hospital.take(hospital.plan({"GTVp": EDITED}, uids=study_uids("tiny 1 0", DEPTH)))
    assert one.case_id == hospital.cases[1]


def test_without_references_the_overlap_decides_or_nobody(hospital) -> None:
    second, _ = second_series(hospital, ball(SHAPE_ZYX, (4, 15, 22), 5.5))
    (one,) = hospital.take(hospital.plan({"GTVp": ball(SHAPE_ZYX, (4, 15, 21), 5.5)}))
    assert one.case_id == second
    half_way = hospital.plan({"GTVp": ball(SHAPE_ZYX, (4, 15, 19), 5.5)})
    with pytest.raises(DataError, match=f"{hospital.cases[1]}.*say which with --case"):
        hospital.take(half_way)
    (one,) = hospital.take(half_way, case_id=hospital.cases[1])
    assert one.case_id == hospital.cases[1]


# -- all or nothing, and what is said ---------------------------------------------------------


def test_two_structure_sets_of_one_case_are_refused_together(hospital) -> None:
    for name in ("RS.1.dcm", "RS.2.dcm"):
        hospital.plan({"GTVp": EDITED}, name=name)
    hospital.plan({"GTVp": EDITED}, number=2, name="RS.3.dcm")
    hospital.refuse(hospital.folder / "planning", "2 structure sets of case-.*final one")


def test_one_bad_file_keeps_all_others_out(hospital) -> None:
    hospital.plan({"GTVp": EDITED}, name="RS.1.dcm")
    hospital.plan({"GTVp": EDITED}, number=2, name="RS.2.dcm", PatientID="KH-000009")
    hospital.refuse(hospital.folder / "planning", r"RS\.2\.dcm")


def test_files_that_are_no_structure_set_are_refused(hospital, tmp_path) -> None:
    hospital.refuse(next((hospital.folder / "P1").glob("MR.*")), "not an RTSTRUCT")
    (tmp_path / "note.txt").write_text("hello")
    hospital.refuse(tmp_path / "note.txt", "damaged or no complete DICOM")
    hospital.refuse(tmp_path / "absent", "not a folder")
    for file in (hospital.folder / "P1").glob("RS.*"):
        file.unlink()
    hospital.refuse(hospital.folder / "P1", "holds no RTSTRUCT")


def test_the_command_says_the_degree_and_keeps_nothing_of_the_patient(
    hospital, monkeypatch, capsys
) -> None:
    file = hospital.plan({"Tumour of Nobody": EDITED}, SeriesDescription="Aurelia")
    arguments = ["fedgtv-site", "returned", str(file), "--home", str(hospital.home.folder)]
    monkeypatch.setattr(sys, "argv", arguments)
    for ending in ("", ", held already"):
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as ended:
            assert not ended.code
        said = capsys.readouterr()
        degree = 100 * (1 - dice(DRAWN, EDITED))
        assert said.out == f"{hospital.cases[1]}: {degree:.1f} % revised{ending}\n"
        assert said.err == ""
    sealed = hospital.store.identity_sealed(hospital.cases[1])
    identity = unseal(sealed, hospital.home.secret("crosswalk.key"))
    hospital.store.engine.dispose()
    kept = b"".join(f.read_bytes() for f in hospital.home.folder.rglob("*") if f.is_file())
    secrets = ["Tumour", "Nobody", "Aurelia", identity.patient_id, identity.frame_of_reference_uid]
    secrets += [str(pydicom.dcmread(file).SOPInstanceUID), *identity.sop_instance_uids]
    assert [secret for secret in secrets if secret.encode() in kept] == []


def test_a_name_that_is_looked_for_is_told_once(hospital) -> None:
    far = {"A": np.roll(DRAWN, 12, axis=2)}
    hospital.refuse(hospital.plan(far), r"no region is named GTVp or GTVp\^AI, and none")
    hospital.draw(hospital.cases[1], EDITED, REVIEWED, Provenance.MANUAL)
    output = hospital.folder / "drawn.dcm"
    export_rtstruct(hospital.home, hospital.store, hospital.cases[1], output, actor="test")
    hospital.refuse(hospital.plan(far), "no region is named GTVp, and none")


# -- what comes by itself ---------------------------------------------------------------------


def arrival(hospital: Hospital, file: Path) -> Arrival:
    return receive(hospital.home, hospital.store, file, actor="test").arrival


def today(file: Path, **fields: str) -> Path:
    return change(file, StructureSetDate=f"{utc_now():%Y%m%d}", **fields)


def test_an_edit_that_arrives_is_kept_and_is_the_last_word(hospital) -> None:
    case_id = hospital.cases[1]
    hospital.draw(case_id, PLANNING, REVIEWED, Provenance.SEMIAUTOMATIC)
    file = today(hospital.plan({"GTVp": EDITED}))
    assert [arrival(hospital, file) for _ in range(2)] == [Arrival.EDITED] * 2
    assert hospital.kept() == 1  # the second said nothing new
    last = hospital.store.last_correction(case_id, before=utc_now())
    assert last is not None
    np.testing.assert_array_equal(last.contour.mask.voxels, EDITED)
    assert last.round_id == hospital.round_id
    again = hospital.folder / "again.dcm"
    assert export_rtstruct(hospital.home, hospital.store, case_id, again, actor="test") == "GTVp"


def test_an_export_of_ours_that_arrives_changes_nothing(hospital) -> None:
    assert arrival(hospital, hospital.exported()) is Arrival.OWN_EXPORT
    assert hospital.kept() == 0


def test_what_was_there_before_us_is_no_edit(hospital) -> None:
    """The reference that came with the images, and whatever was saved before the export."""
    reference = hospital.store.contour(hospital.cases[1], purpose=REFERENCE)
    same = hospital.plan({"GTVp": reference.mask.voxels}, name="RS.same.dcm")
    older = hospital.plan({"GTVp": EDITED}, name="RS.older.dcm", StructureSetDate="20200304")
    undated = hospital.plan({"GTVp": EDITED}, name="RS.undated.dcm", StructureSetDate="")
    assert arrival(hospital, today(same)) is Arrival.ANOTHER
    assert arrival(hospital, older) is Arrival.ANOTHER
    assert hospital.kept() == 0
    assert arrival(hospital, undated) is Arrival.EDITED


def test_of_nobody_who_was_exported_or_of_another_frame_it_is_another(hospital) -> None:
    stranger = hospital.plan({"GTVp": EDITED}, patient=tags(7), name="RS.7.dcm")
    nobody = today(hospital.plan({"GTVp": EDITED}, name="RS.0.dcm"), PatientID="")
    elsewhere = study_uids("elsewhere", DEPTH)
    moved = today(hospital.plan({"GTVp": EDITED}, uids=elsewhere, name="RS.moved.dcm"))
    for file in (stranger, nobody, moved):
        assert arrival(hospital, file) is Arrival.ANOTHER
    assert hospital.kept() == 0


def test_an_edit_whose_region_is_not_clear_is_refused_and_not_guessed(hospital) -> None:
    file = today(hospital.plan({"A": EDITED, "B": np.roll(EDITED, 1, axis=1)}))
    with pytest.raises(DataError, match="2 regions could be what was exported"):
        arrival(hospital, file)
    assert hospital.kept() == 0


def test_while_a_worker_runs_it_waits(hospital) -> None:
    file = today(hospital.plan({"GTVp": EDITED}))
    with only_worker(hospital.home), pytest.raises(SiteBusyError):
        arrival(hospital, file)
    assert arrival(hospital, file) is Arrival.EDITED
