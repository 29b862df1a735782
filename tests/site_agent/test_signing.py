"""Signing: only who reviewed, only what counts, and nothing that cannot be shown later."""

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Mask
from site_agent import audit_log
from site_agent.case_store import RETURNED, REVIEWED, CaseStore
from site_agent.click_store import mask_sha256
from site_agent.database import (
    AuditRow,
    ContourRow,
    ReviewRow,
    RoundRow,
    SignatureRow,
    transaction,
    utc_now,
)
from site_agent.erasure import erase
from site_agent.review import record_review
from site_agent.signing import (
    MEANINGS,
    Standing,
    sign,
    signature_state,
    signatures,
    verify,
)
from tests.phantoms import filled_store, make_home
from tests.site_agent.test_cli import start_round

CASE, OTHER = "case-000000000000", "case-000000000001"
DOCTOR, NAME = "olga", "Onkologin^Olga"


@pytest.fixture
def store(tmp_path) -> CaseStore:
    """Make a site with two segmented cases; the doctor has revised the first."""
    store = filled_store(make_home(tmp_path / "home"), 2)
    round_id = start_round(store)
    for case_id in (CASE, OTHER):
        reference = store.contour(case_id, purpose="reference")
        contour = Contour("GTVp", reference.mask, Provenance.AUTOMATIC)
        store.save_contour(case_id, contour, purpose="adapted", round_id=round_id, author="model")
    review(store)
    return store


def round_of(store: CaseStore) -> str:
    """Return the round that the cases were segmented in."""
    with Session(store.engine) as session:
        adapted = select(ContourRow.round_id).where(ContourRow.purpose == "adapted")
        return session.scalars(adapted.limit(1)).one()


def model(store: CaseStore, case_id: str = CASE) -> np.ndarray:
    return store.contour(case_id, purpose="adapted", round_id=round_of(store)).mask.voxels


def review(store: CaseStore, case_id: str = CASE, *, by: str = DOCTOR, shift: int = 1) -> None:
    """Move the model's contour by some voxels and store it as somebody's review."""
    revised = Mask(np.roll(model(store, case_id), shift, axis=2), store.geometry(case_id))
    record_review(store, round_of(store), case_id, revised, author=by, simulated=False)


def reject(store: CaseStore, case_id: str = CASE) -> None:
    with transaction(store.engine) as session:
        row = session.scalars(select(ReviewRow).where(ReviewRow.case_id == case_id)).one()
        row.verdict, row.reviewed_at, row.reason = "rejected", utc_now(), "missed"


def return_contour(store: CaseStore, case_id: str = CASE) -> None:
    mask = Mask(np.roll(model(store, case_id), 3, axis=1), store.geometry(case_id))
    contour = Contour("GTVp", mask, Provenance.MANUAL)
    store.save_contour(
        case_id, contour, purpose=RETURNED, round_id=round_of(store), author="planning"
    )


def signed(store: CaseStore, case_id: str = CASE, **changed) -> SignatureRow:
    wanted = {
        "round_id": round_of(store),
        "case_id": case_id,
        "username": DOCTOR,
        "person_name": NAME,
        "meaning": MEANINGS[0],
        "method": "password",
        "now": utc_now(),
        **changed,
    }
    return sign(store, **wanted)


def standing(store: CaseStore, case_id: str = CASE) -> Standing:
    return signature_state(store, round_of(store), case_id).standing


def test_a_signature_is_under_the_stored_mask_and_on_record(store) -> None:
    assert standing(store) is Standing.NOT_SIGNED
    at = utc_now()
    row = signed(store, now=at)
    mask = store.contour(CASE, purpose=REVIEWED, round_id=round_of(store)).mask.voxels
    assert row.mask_sha256 == mask_sha256(mask) != mask_sha256(model(store))
    assert (row.username, row.person_name, row.signed_at) == (DOCTOR, NAME, at)
    assert (row.meaning, row.export_id, row.sent_at) == (MEANINGS[0], None, None)
    assert "research use only" in row.meaning
    state = signature_state(store, round_of(store), CASE)
    assert (state.standing, state.signature.id) == (Standing.SIGNED, row.id)
    with Session(store.engine) as session:
        audit_log.verify(session)
        entry = session.scalars(select(AuditRow).order_by(AuditRow.sequence.desc())).first()
    assert (entry.event, entry.actor, entry.subject) == ("contour_signed", DOCTOR, CASE)
    assert entry.detail == {
        "round": row.round_id,
        "person_name": NAME,
        "meaning": MEANINGS[0],
        "method": "password",
        "mask_sha256": row.mask_sha256,
        "signed_at": at.isoformat(),
    }
    assert verify(store) == []


def test_an_accepted_contour_can_be_signed_as_it_is(store) -> None:
    review(store, OTHER, shift=0)
    assert signed(store, OTHER).mask_sha256 == mask_sha256(model(store, OTHER))


def test_signing_twice_is_one_signature(store) -> None:
    """A double click, or a page that was reloaded."""
    assert signed(store).id == signed(store).id
    assert len(signatures(store)) == 1


def simulated_review(store: CaseStore) -> None:
    mask = Mask(model(store), store.geometry(CASE))
    record_review(store, round_of(store), CASE, mask, author=DOCTOR, simulated=True)


def review_in_a_later_round(store: CaseStore) -> None:
    contour = Contour("GTVp", Mask(model(store), store.geometry(CASE)), Provenance.MANUAL)
    store.save_contour(CASE, contour, purpose=REVIEWED, round_id="later", author=DOCTOR)


def reject_in_a_later_round(store: CaseStore) -> None:
    """A rejection leaves no contour."""
    with transaction(store.engine) as session:
        first = session.scalars(select(RoundRow)).one()
        columns = {c.key: getattr(first, c.key) for c in RoundRow.__table__.columns}
        session.add(RoundRow(**{**columns, "round_id": "later"}))
        session.flush()
        session.add(
            ReviewRow(
                round_id="later",
                case_id=CASE,
                verdict="rejected",
                revision_degree_percent=100.0,
                author="otto",
                simulated=False,
                reviewed_at=utc_now(),
            )
        )


def forget_the_review(store: CaseStore) -> None:
    with transaction(store.engine) as session:
        session.delete(session.scalars(select(ReviewRow)).one())


REFUSALS: dict[str, tuple[Callable[[CaseStore], None], str]] = {
    "no review": (forget_the_review, "not reviewed in this round"),
    "rejected": (reject, "was rejected"),
    "simulated": (simulated_review, "simulated annotator"),
    "somebody else's": (lambda store: review(store, by="otto"), "reviewed by somebody else"),
    "returned since": (return_contour, "another contour came after"),
    "reviewed in a later round": (review_in_a_later_round, "another contour came after"),
    "rejected in a later round": (reject_in_a_later_round, "in another round after this"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_may_not_be_signed_is_refused_and_nothing_is_written(store, name) -> None:
    change, words = REFUSALS[name]
    change(store)
    with pytest.raises(DataError, match=rf"^{CASE}: .*{words}") as caught:
        signed(store)
    assert "\n" not in str(caught.value)
    assert "otto" not in str(caught.value)
    assert signatures(store) == []
    with Session(store.engine) as session:
        assert "contour_signed" not in set(session.scalars(select(AuditRow.event)))


@pytest.mark.parametrize("name", ["^ ", "A" * 65, "Back\\slash^Olga", "Two\nLines"])
def test_a_name_that_dicom_cannot_hold_is_refused_before_signing(store, name) -> None:
    with pytest.raises(DataError, match=r"Family\^Given"):
        signed(store, person_name=name)
    assert signatures(store) == []


def test_what_is_signed_is_what_was_shown(store) -> None:
    shown = mask_sha256(store.contour(CASE, purpose=REVIEWED, round_id=round_of(store)).mask.voxels)
    review(store, shift=2)  # in another window
    with pytest.raises(DataError, match="changed since it was shown"):
        signed(store, shown_sha256=shown)
    assert signatures(store) == []


def test_a_clock_that_went_back_is_told(store) -> None:
    with pytest.raises(DataError, match="clock"):
        signed(store, now=utc_now() - timedelta(hours=1))


@pytest.mark.parametrize("changed", [{"meaning": "as you like"}, {"method": "none"}])
def test_only_the_given_words_can_be_signed(store, changed) -> None:
    with pytest.raises(ValueError, match="MEANINGS"):
        signed(store, **changed)


LATER_WORDS = {
    "by the signer": review,
    "by somebody else": lambda store: review(store, by="otto"),
    "the same contour again": lambda store: review(store, shift=1),
    "rejected": reject,
    "returned": return_contour,
    "in a later round": review_in_a_later_round,
    "rejected in a later round": reject_in_a_later_round,
}


@pytest.mark.parametrize("word", LATER_WORDS)
def test_any_later_word_makes_the_signature_outdated(store, word) -> None:
    row = signed(store)
    LATER_WORDS[word](store)
    state = signature_state(store, round_of(store), CASE)
    assert (state.standing, state.signature.id) == (Standing.OUTDATED, row.id)
    assert verify(store) == []  # what was signed then is as it was


@pytest.mark.usefixtures("each_database")
def test_signed_revised_and_signed_again(store) -> None:
    first = signed(store)
    review(store, shift=2)
    second = signed(store)
    assert [(row.id, worth) for row, worth in signatures(store)] == [
        (first.id, Standing.OUTDATED),
        (second.id, Standing.SIGNED),
    ]
    assert first.mask_sha256 != second.mask_sha256
    assert verify(store) == []


def test_other_cases_are_not_touched_by_what_is_said_of_one(store) -> None:
    review(store, OTHER)
    signed(store)
    signed(store, OTHER)
    review(store, OTHER, shift=2)
    assert (standing(store), standing(store, OTHER)) == (Standing.SIGNED, Standing.OUTDATED)


# -- what was changed behind our back -----------------------------------------------------------


def change(store: CaseStore, **values: object) -> None:
    with transaction(store.engine) as session:
        session.execute(update(SignatureRow).values(values))


def mask_file(store: CaseStore):
    with Session(store.engine) as session:
        file = session.scalars(select(ContourRow.file).where(ContourRow.purpose == REVIEWED)).one()
    return store.home.folder / file


def overwrite_the_mask(store: CaseStore) -> None:
    np.save(mask_file(store), np.packbits(np.zeros_like(model(store))))


def remove_the_signature(store: CaseStore) -> None:
    with transaction(store.engine) as session:
        session.delete(session.scalars(select(SignatureRow)).one())


TAMPERINGS: dict[str, tuple[Callable[[CaseStore], object], list[str]]] = {
    "mask": (overwrite_the_mask, ["not stored"]),
    "mask gone": (lambda store: mask_file(store).unlink(), ["not stored"]),
    "hash": (
        lambda store: change(store, mask_sha256="0" * 64),
        ["not stored", "audit log", "is gone"],
    ),
    "name": (lambda store: change(store, person_name="Else^Somebody"), ["audit log", "is gone"]),
    "words": (lambda store: change(store, meaning="something else"), ["audit log", "is gone"]),
    "signer": (lambda store: change(store, username="otto"), ["audit log", "is gone"]),
    "removed": (remove_the_signature, ["is gone"]),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_verify_finds_what_was_changed(store, name) -> None:
    signed(store)
    tamper, words = TAMPERINGS[name]
    tamper(store)
    found = verify(store)
    assert len(found) == len(words)
    assert all(word in line and CASE in line for word, line in zip(words, found, strict=True))


def test_an_erased_patient_s_signature_is_no_problem(store) -> None:
    signed(store)
    review(store, OTHER)
    signed(store, OTHER)
    erase(store.home, store, [store.case(OTHER).patient_id], actor="it")
    assert [row.case_id for row, _ in signatures(store)] == [CASE]
    assert verify(store) == []
