"""From a signature to an APPROVED structure set: made once, kept sealed, the same ever after."""

import stat
import tempfile
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
import pydicom
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Mask
from evaluation.benchmarks.dicom_writer import study_uids
from site_agent import audit_log
from site_agent.backup import backup
from site_agent.case_store import RETURNED, REVIEWED, CaseStore
from site_agent.config import SiteHome, open_home
from site_agent.database import AuditRow, ExportRow, SignatureRow, transaction, utc_now
from site_agent.dicom_series import read_series
from site_agent.erasure import erase
from site_agent.export_store import newest_export, uids_of
from site_agent.ingest import ingest
from site_agent.pacs_export import export_rtstruct
from site_agent.residue import Known, scan_folder
from site_agent.restoring import restore
from site_agent.review import record_review
from site_agent.rtstruct import read_rtstruct
from site_agent.signature_delivery import send_signed, send_waiting, signed_rtstruct, waiting
from site_agent.signing import MEANINGS, sign, signatures
from tests.phantoms import make_home, tiny_case
from tests.site_agent.stored_site import killed_at
from tests.site_agent.test_cli import run as run
from tests.site_agent.test_cli import start_round
from tests.site_agent.test_ingest import tags, write_patient

DOCTOR, NAME = "olga", "Onkologin^Olga"


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_home(tmp_path / "home")


@pytest.fixture
def store(home: SiteHome, tmp_path: Path) -> CaseStore:
    """Take one DICOM patient in, and let a doctor revise what the model drew."""
    write_patient(tmp_path / "images", 1)
    store = CaseStore(home)
    ingest(home, store, tmp_path / "images", actor="test")
    segment(store, case_of(store), start_round(store))
    review(store)
    return store


def case_of(store: CaseStore) -> str:
    return store.cases()[0].case_id


def segment(store: CaseStore, case_id: str, round_id: str) -> None:
    reference = store.contour(case_id, purpose="reference")
    contour = Contour("GTVp", reference.mask, Provenance.AUTOMATIC)
    store.save_contour(case_id, contour, purpose="adapted", round_id=round_id, author="model")


def review(store: CaseStore, shift: int = 1, case_id: str = "") -> None:
    case_id = case_id or case_of(store)
    round_id = store.latest_round().round_id
    model = store.contour(case_id, purpose="adapted", round_id=round_id).mask
    revised = Mask(np.roll(model.voxels, shift, axis=2), model.geometry)
    record_review(store, round_id, case_id, revised, author=DOCTOR, simulated=False)


def signed(store: CaseStore, case_id: str = "") -> SignatureRow:
    return sign(
        store,
        round_id=store.latest_round().round_id,
        case_id=case_id or case_of(store),
        username=DOCTOR,
        person_name=NAME,
        meaning=MEANINGS[0],
        method="password",
        now=utc_now(),
    )


def exports(store: CaseStore) -> int:
    with Session(store.engine) as session:
        return session.scalar(select(func.count()).select_from(ExportRow))


def row_of(store: CaseStore, signature: SignatureRow) -> SignatureRow:
    with Session(store.engine) as session:
        return session.get_one(SignatureRow, signature.id)


def final_mask(store: CaseStore) -> np.ndarray:
    round_id = store.latest_round().round_id
    return store.contour(case_of(store), purpose=REVIEWED, round_id=round_id).mask.voxels


def test_what_was_signed_is_approved_by_name_and_time(home, store, tmp_path) -> None:
    signature = signed(store)
    content, name = signed_rtstruct(home, store, signature.id, actor=DOCTOR)
    structure_set = pydicom.dcmread(BytesIO(content))
    assert structure_set.ApprovalStatus == "APPROVED"
    assert structure_set.ReviewerName == NAME
    assert structure_set.ReviewDate == f"{signature.signed_at:%Y%m%d}"
    assert structure_set.ReviewTime == f"{signature.signed_at:%H%M%S.%f}"
    assert structure_set.PatientID == tags(1).patient_id
    for file in (tmp_path / "images").glob("RS.*"):
        file.unlink()
    (tmp_path / name).write_bytes(content)
    (mask,) = read_rtstruct(tmp_path / name, read_series(tmp_path / "images")).values()
    np.testing.assert_array_equal(mask.voxels, final_mask(store))
    assert name.startswith(case_of(store))


@pytest.mark.usefixtures("each_database")
def test_it_is_made_once_and_the_same_ever_after(home, store) -> None:
    signature = signed(store)
    first = signed_rtstruct(home, store, signature.id, actor=DOCTOR)
    assert signed_rtstruct(home, CaseStore(home), signature.id, actor=DOCTOR) == first
    assert exports(store) == 1
    export = newest_export(store, case_of(store))
    assert row_of(store, signature).export_id == export.id
    with Session(store.engine) as session:
        audit_log.verify(session)
        events = list(session.scalars(select(AuditRow.event).order_by(AuditRow.sequence)))
    assert events[-4:] == [
        "contour_signed",
        "contour_exported",
        "signed_contour_downloaded",
        "signed_contour_downloaded",
    ]


def test_the_kept_structure_set_names_nobody_and_goes_with_the_patient(home, store) -> None:
    signed_rtstruct(home, store, signed(store).id, actor=DOCTOR)
    uids = study_uids("tiny 1 0", 8)
    identifiers = {tags(1).patient_id, uids.study, uids.series, *uids.sop_instances}
    known = Known(frozenset({tags(1).name}), frozenset(identifiers), frozenset())
    assert scan_folder(home.folder, known) == {}
    (kept,) = home.cases.rglob("*.sealed")
    assert b"Olga" not in kept.read_bytes()
    erase(home, store, [store.cases()[0].patient_id], actor="it")
    assert not kept.exists()
    assert signatures(store) == []


def test_a_backup_takes_it_along(home, store, tmp_path) -> None:
    signature = signed(store)
    content, _ = signed_rtstruct(home, store, signature.id, actor=DOCTOR)
    backup(home, tmp_path / "a.tar", with_secrets=True, now=utc_now())
    restore(tmp_path / "a.tar", tmp_path / "again")
    again = open_home(tmp_path / "again")
    assert signed_rtstruct(again, CaseStore(again), signature.id, actor=DOCTOR)[0] == content
    assert exports(CaseStore(again)) == 1


def test_the_next_signature_supersedes_the_one_before(home, store) -> None:
    first, _ = signed_rtstruct(home, store, signed(store).id, actor=DOCTOR)
    review(store, 2)
    second, _ = signed_rtstruct(home, store, signed(store).id, actor=DOCTOR)
    before, after = (pydicom.dcmread(BytesIO(content)) for content in (first, second))
    (reference,) = after.PredecessorStructureSetSequence
    assert reference.ReferencedSOPInstanceUID == before.SOPInstanceUID != after.SOPInstanceUID


def return_contour(store: CaseStore) -> None:
    mask = Mask(np.roll(final_mask(store), 3, axis=1), store.geometry(case_of(store)))
    contour = Contour("GTVp", mask, Provenance.MANUAL)
    store.save_contour(case_of(store), contour, purpose=RETURNED, author="planning")


@pytest.mark.parametrize("change", [review, return_contour])
@pytest.mark.parametrize("exported", [False, True])
def test_what_was_revised_since_is_not_given_out(home, store, change, exported) -> None:
    signature = signed(store)
    if exported:
        signed_rtstruct(home, store, signature.id, actor=DOCTOR)
    before = exports(store)
    assert [row.id for row in waiting(store)] == [signature.id]
    change(store)
    with pytest.raises(DataError, match="sign again"):
        signed_rtstruct(home, store, signature.id, actor=DOCTOR)
    assert exports(store) == before
    assert waiting(store) == []


def test_another_mask_than_the_signed_one_is_not_exported(home, store) -> None:
    """The file under the review was changed on the disk."""
    signature = signed(store)
    with transaction(store.engine) as session:
        session.get_one(SignatureRow, signature.id).mask_sha256 = "0" * 64
    with pytest.raises(DataError, match="sign again"):
        signed_rtstruct(home, store, signature.id, actor=DOCTOR)
    assert exports(store) == 0
    assert list(home.cases.rglob("*.sealed")) == []
    assert row_of(store, signature).export_id is None


def spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [Path.unlink, spoil])
def test_a_lost_copy_is_told_and_nothing_else_is_made_in_its_place(home, store, damage) -> None:
    signature = signed(store)
    signed_rtstruct(home, store, signature.id, actor=DOCTOR)
    (kept,) = home.cases.rglob("*.sealed")
    damage(kept)
    with pytest.raises(DataError, match="gone or damaged"):
        signed_rtstruct(home, store, signature.id, actor=DOCTOR)
    assert exports(store) == 1


def test_killed_at_any_moment_there_is_one_export_and_its_predecessor_exists(
    home, store, tmp_path, monkeypatch
) -> None:
    """An unsigned export came before; every kill is followed by a new try of the same signature."""
    export_rtstruct(home, store, case_of(store), tmp_path / "before.dcm", actor="it")
    unsigned = uids_of(store, newest_export(store, case_of(store))).sop_instance_uid
    review(store, 2)
    signature = signed(store)
    store.engine.dispose()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def give() -> None:
        signed_rtstruct(home, CaseStore(home), signature.id, actor=DOCTOR)

    seen = set()
    for step in count():
        killed = killed_at(step, give)
        again = CaseStore(home)
        kept = row_of(again, signature).export_id is not None
        assert exports(again) == 1 + kept
        seen.add(kept)
        if not killed:
            break
    assert seen == {False, True}
    content, _ = signed_rtstruct(home, CaseStore(home), signature.id, actor=DOCTOR)
    (reference,) = pydicom.dcmread(BytesIO(content)).PredecessorStructureSetSequence
    assert reference.ReferencedSOPInstanceUID == unsigned
    for left in (tmp_path / "temporary").rglob("*"):  # what a kill leaves is readable to us alone
        assert not left.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def test_what_is_on_the_way_lies_in_a_private_folder_that_is_removed(
    home, store, tmp_path, monkeypatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    signed_rtstruct(home, store, signed(store).id, actor=DOCTOR)
    assert list((tmp_path / "temporary").iterdir()) == []


# -- without a PACS, and without an identity ------------------------------------------------------


def test_without_a_pacs_nothing_is_sent_and_the_signature_waits(home, store) -> None:
    signature = signed(store)
    for send in (
        lambda: send_signed(home, store, signature.id, actor=DOCTOR),
        lambda: send_waiting(home, store, actor=DOCTOR, say=print),
    ):
        with pytest.raises(DataError, match=r"no table \[pacs\]"):
            send()
    assert row_of(store, signature).sent_at is None
    assert [row.id for row in waiting(store)] == [signature.id]


def test_a_case_from_nifti_is_signed_and_stays_here(home, store) -> None:
    case = tiny_case(7)
    store.add_cases([case], actor="test")
    segment(store, case.case_id, store.latest_round().round_id)
    review(store, case_id=case.case_id)
    signature = signed(store, case.case_id)
    assert waiting(store) == []
    with pytest.raises(DataError, match="NIfTI"):
        signed_rtstruct(home, store, signature.id, actor=DOCTOR)
    assert row_of(store, signature).export_id is None


def test_an_unknown_signature_is_told(home, store) -> None:
    with pytest.raises(DataError, match="fedgtv-site signatures"):
        signed_rtstruct(home, store, 77, actor=DOCTOR)


# -- the commands ---------------------------------------------------------------------------------


def test_signatures_are_listed_with_what_became_of_them(run, home, store) -> None:
    at_home = ("--home", home.folder)
    assert run("send-signed", *at_home) == (0, "nothing waits\n", "")
    signature = signed(store)
    code, out, _ = run("signatures", *at_home)
    assert code == 0
    assert all(word in out for word in (case_of(store), DOCTOR, "waiting"))
    assert f"{signature.signed_at:%Y-%m-%d %H:%M:%S}" in out
    code, _, errors = run("send-signed", *at_home)
    assert (code, errors.count("\n")) == (2, 1)
    assert "no table [pacs]" in errors
    code, out, _ = run("signatures", "--verify", *at_home)
    assert code == 0
    assert "1 signatures, each under the mask that is stored" in out
    review(store, 2)
    assert "outdated" in run("signatures", *at_home)[1]


def test_a_changed_signature_is_told_by_the_command(run, home, store) -> None:
    signature = signed(store)
    with transaction(store.engine) as session:
        session.get_one(SignatureRow, signature.id).person_name = "Else^Somebody"
    code, out, errors = run("signatures", "--verify", "--home", home.folder)
    assert code == 2
    assert "the audit log says otherwise" in out
    assert "not as they were signed" in errors
