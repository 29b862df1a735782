"""From the case store to a file for the PACS: through the gate, on record, nothing on refusal."""

import subprocess
import sys
import warnings
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Mask
from site_agent import audit_log
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.database import AuditRow, CaseRow, ExportRow, transaction
from site_agent.dicom_series import read_series
from site_agent.export_rules import ExportRefused, Rule
from site_agent.export_store import EXPORTED, check_passed, newest_export, uids_of
from site_agent.ingest import ingest
from site_agent.pacs_export import export_rtstruct, export_segmentation
from site_agent.review import put_review
from site_agent.rtstruct import Placement, ReviewSignature, placement_of, read_rtstruct
from tests.phantoms import SHAPE_ZYX, ball, filled_store, make_home
from tests.site_agent.test_cli import start_round
from tests.site_agent.test_ingest import write_patient

EXPORTS = {"rtstruct": export_rtstruct, "seg": export_segmentation}


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_home(tmp_path / "home")


@pytest.fixture
def store(home: SiteHome) -> CaseStore:
    return CaseStore(home)


@pytest.fixture
def case_id(home: SiteHome, store: CaseStore, tmp_path: Path) -> str:
    """Take a patient in and let a model draw what the hospital had drawn."""
    write_patient(tmp_path / "images", 1)
    (case_id,) = ingest(home, store, tmp_path / "images", actor="test")
    draw(store, case_id, reference(store, case_id), "adapted", start_round(store))
    return case_id


def reference(store: CaseStore, case_id: str) -> np.ndarray:
    contour = store.contour(case_id, purpose="reference")
    assert contour is not None
    return contour.mask.voxels


def draw(
    store: CaseStore,
    case_id: str,
    voxels: np.ndarray,
    purpose: str,
    round_id: str,
    *,
    provenance: Provenance = Provenance.AUTOMATIC,
    roi_name: str = "GTVp",
) -> None:
    contour = Contour(roi_name, Mask(voxels, store.geometry(case_id)), provenance)
    store.save_contour(case_id, contour, purpose=purpose, round_id=round_id, author="test")


def events(store: CaseStore) -> list[AuditRow]:
    with Session(store.engine) as session:
        audit_log.verify(session)
        return list(session.scalars(select(AuditRow).order_by(AuditRow.sequence)))


def test_the_contour_fits_the_original_images(home, store, case_id, tmp_path) -> None:
    name = export_rtstruct(home, store, case_id, tmp_path / "out" / "rs.dcm", actor="test")
    for file in (tmp_path / "images").glob("RS.*"):
        file.unlink()
    volume = read_series(tmp_path / "images")
    masks = read_rtstruct(tmp_path / "out" / "rs.dcm", volume)
    assert list(masks) == [name] == ["GTVp^AI"]
    np.testing.assert_array_equal(masks[name].voxels, reference(store, case_id))
    assert placement_of(tmp_path / "out" / "rs.dcm", volume) is Placement.BY_REFERENCE
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["rs.dcm"]


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_is_on_record_and_says_nothing_about_the_patient(
    home, store, case_id, tmp_path, kind
) -> None:
    EXPORTS[kind](home, store, case_id, tmp_path / "out.dcm", actor="dr x")
    written = pydicom.dcmread(tmp_path / "out.dcm")
    row = newest_export(store, case_id)
    assert (row.kind, row.author) == (kind, "dr x")
    assert newest_export(store, case_id, kind).id == row.id
    uids = uids_of(store, row)
    assert uids.sop_instance_uid == written.SOPInstanceUID
    assert uids.series_instance_uid == written.SeriesInstanceUID
    kept = store.contour(case_id, purpose=EXPORTED, round_id=row.round_id)
    np.testing.assert_array_equal(kept.mask.voxels, reference(store, case_id))
    entry = events(store)[-1]
    assert (entry.event, entry.subject, entry.actor) == ("contour_exported", case_id, "dr x")
    assert (entry.detail["kind"], entry.detail["approved"]) == (kind, False)
    store.engine.dispose()
    inside = b"".join(f.read_bytes() for f in home.folder.rglob("*") if f.is_file())
    for secret in (written.SOPInstanceUID, written.SeriesInstanceUID, "KH-000001", "Nobody"):
        assert str(secret).encode() not in inside
        assert str(secret) not in repr(uids)


def test_each_save_follows_the_one_before(home, store, case_id, tmp_path) -> None:
    saves = []
    for number in range(3):
        output = tmp_path / f"rs{number}.dcm"
        export_rtstruct(home, store, case_id, output, actor="test")
        # A segmentation in between is no structure set to follow.
        export_segmentation(home, store, case_id, tmp_path / f"seg{number}.dcm", actor="test")
        saves.append(pydicom.dcmread(output))
    assert "PredecessorStructureSetSequence" not in saves[0]
    for before, after in pairwise(saves):
        (followed,) = after.PredecessorStructureSetSequence
        assert followed.ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert len({save.SOPInstanceUID for save in saves}) == 3


def test_a_signature_approves_and_is_told_apart_in_the_log(home, store, case_id, tmp_path) -> None:
    signature = ReviewSignature("Onkologin^Olga", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    export_rtstruct(home, store, case_id, tmp_path / "rs.dcm", signature=signature, actor="test")
    written = pydicom.dcmread(tmp_path / "rs.dcm")
    assert (written.ApprovalStatus, written.ReviewerName) == ("APPROVED", "Onkologin^Olga")
    assert events(store)[-1].detail["approved"] is True


def test_a_contour_that_was_rejected_stays_here(home, store, case_id, tmp_path) -> None:
    latest = store.latest_round()
    assert latest is not None
    with transaction(store.engine) as session:
        put_review(
            session, store, latest.round_id, case_id, None, author="dr_x", reason="missed_target"
        )
    with pytest.raises(DataError, match="rejected in its review: revise it first"):
        export_rtstruct(home, store, case_id, tmp_path / "rs.dcm", actor="test")
    assert not (tmp_path / "rs.dcm").exists()
    assert newest_export(store, case_id, "rtstruct") is None


def test_only_bytes_that_passed_are_sent(home, store, case_id, tmp_path) -> None:
    (tmp_path / "another").write_bytes(b"anything")
    with pytest.raises(DataError, match="did not pass"):
        check_passed(store, tmp_path / "another")
    for kind, export in EXPORTS.items():
        file = tmp_path / kind
        export(home, store, case_id, file, actor="test")
        check_passed(store, file)
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DataError, match=r"changed since: .*export-rtstruct"):
            check_passed(store, file)


def refused_and_nothing_done(store: CaseStore, output: Path, act) -> DataError:
    before = len(events(store))
    with pytest.raises(DataError) as caught:
        act()
    assert not output.parent.exists() or not list(output.parent.iterdir())
    assert len(events(store)) == before
    with Session(store.engine) as session:
        assert session.scalars(select(ExportRow)).first() is None
    return caught.value


@pytest.mark.parametrize("kind", EXPORTS)
def test_what_the_gate_refuses_is_neither_written_nor_on_record(
    home, store, case_id, tmp_path, kind
) -> None:
    output = tmp_path / "out" / "x.dcm"
    round_id = store.latest_round().round_id
    voxels = reference(store, case_id)
    draw(store, case_id, voxels, "adapted", round_id, roi_name="Herzkammer")
    refusal = refused_and_nothing_done(
        store, output, lambda: EXPORTS[kind](home, store, case_id, output, actor="test")
    )
    assert isinstance(refusal, ExportRefused)
    assert refusal.rule is Rule.NAME_NOT_TG263


def test_an_identity_of_other_images_is_refused(home, store, case_id, tmp_path) -> None:
    """A database put together from two backups must not file one patient's contour with another."""
    write_patient(tmp_path / "second", 2)
    (other,) = ingest(home, store, tmp_path / "second", actor="test")
    with transaction(store.engine) as session:
        session.get_one(CaseRow, case_id).identity_sealed = store.identity_sealed(other)
    output = tmp_path / "out" / "rs.dcm"
    refusal = refused_and_nothing_done(
        store, output, lambda: export_rtstruct(home, store, case_id, output, actor="test")
    )
    assert "not that of the stored images" in str(refusal)


def test_what_never_was_dicom_is_refused(home, store, tmp_path) -> None:
    (case, *_) = filled_store(home, 1).cases()
    output = tmp_path / "out" / "rs.dcm"
    refusal = refused_and_nothing_done(
        store, output, lambda: export_rtstruct(home, store, case.case_id, output, actor="test")
    )
    assert "NIfTI" in str(refusal)


@pytest.mark.parametrize("place", ["home", "existing file", "existing folder", "no name"])
def test_nothing_is_written_over_or_among_what_is_deidentified(
    home, store, case_id, tmp_path, place
) -> None:
    (tmp_path / "mine.dcm").write_bytes(b"keep")
    output = {
        "home": home.folder / "new.dcm",
        "existing file": tmp_path / "mine.dcm",
        "existing folder": tmp_path,
        "no name": Path(),
    }[place]
    refused_and_nothing_done(
        store,
        tmp_path / "nothing" / "rs.dcm",
        lambda: export_rtstruct(home, store, case_id, output, actor="test"),
    )
    assert not (home.folder / "new.dcm").exists()
    assert (tmp_path / "mine.dcm").read_bytes() == b"keep"


def test_an_export_can_be_read_by_its_owner_alone(home, store, case_id, tmp_path) -> None:
    export_rtstruct(home, store, case_id, tmp_path / "out" / "rs.dcm", actor="test")
    (file,) = (tmp_path / "out").iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == ("rs.dcm", 0o600)


@pytest.mark.parametrize("command", ["export-rtstruct", "export-seg"])
def test_nothing_of_a_malformed_header_is_printed(home, store, tmp_path, command) -> None:
    """pydicom quotes invalid values in warnings; in a process of its own, as people run it."""
    planted = {"StudyInstanceUID": "1.2.036.998877", "StudyID": "ST1234567890123456789"}
    write_patient(tmp_path / "images", 1)
    for file in (tmp_path / "images").glob("RS.*"):
        file.unlink()
    for file in (tmp_path / "images").iterdir():
        dataset = pydicom.dcmread(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for keyword, value in planted.items():
                setattr(dataset, keyword, value)
            dataset.save_as(file)
    (case_id,) = ingest(home, store, tmp_path / "images", actor="test")
    drawn = ball(SHAPE_ZYX, (4, 15, 16), 5.5)
    draw(store, case_id, drawn, "adapted", start_round(store))
    output = tmp_path / "out.dcm"
    run = [sys.executable, "-c", "from site_agent.cli import main; main()", command, case_id]
    done = subprocess.run(
        [*run, "--home", str(home.folder), "--output", str(output)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "GTVp^AI" in done.stdout
    assert done.stderr == ""
    written = pydicom.dcmread(output)
    assert {keyword: written[keyword].value for keyword in planted} == planted


def test_a_lost_key_is_named(home, store, case_id, tmp_path) -> None:
    export_rtstruct(home, store, case_id, tmp_path / "rs.dcm", actor="test")
    other = make_home(tmp_path / "other").secret("crosswalk.key")
    (home.folder / "secrets" / "crosswalk.key").write_bytes(other)
    with pytest.raises(DataError, match=r"crosswalk\.key"):
        uids_of(store, newest_export(store, case_id))
