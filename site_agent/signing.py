"""Sign the contour of a review: who approves what, when, and in which words.

A signature is under one mask, named by its hash. It counts until anybody says something newer about
the case: another review, or a contour that came back from a planning system. Sending what was
signed is `signature_delivery`. Why so: docs/adr, "What a signature says".
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Provenance
from algorithms.contracts.errors import DataError
from site_agent import audit_log
from site_agent.case_store import RETURNED, REVIEWED, CaseStore
from site_agent.click_store import mask_sha256
from site_agent.database import AuditRow, CaseRow, ContourRow, ReviewRow, SignatureRow, transaction

MEANINGS = (
    "I have reviewed this contour on every slice and approve it "
    "(research use only, not a medical device).",
)
METHODS = ("password", "oidc")
SIGNED = "contour_signed"  # the event in the audit log
_VERDICTS = ("accepted", "revised")


class Standing(StrEnum):
    """What the signature of a case is worth now."""

    NOT_SIGNED = "not signed"
    SIGNED = "signed"
    OUTDATED = "outdated"  # signed, then reviewed or returned again


@dataclass(frozen=True)
class SignatureState:
    """The newest signature of a case in a round, and whether it still counts."""

    standing: Standing
    signature: SignatureRow | None


def sign(
    store: CaseStore,
    *,
    round_id: str,
    case_id: str,
    username: str,
    person_name: str,
    meaning: str,
    method: str,
    now: datetime,
    shown_sha256: str | None = None,
) -> SignatureRow:
    """Sign the reviewed contour of a case; signing again what is signed gives the same signature.

    Who reviewed signs: nobody approves by name what somebody else looked at.

    Args:
        store: of the site.
        round_id: of the review.
        case_id: of the review.
        username: of the account that signs.
        person_name: of the same person as DICOM writes it, Family^Given.
        meaning: one of `MEANINGS`.
        method: of `METHODS`, how it was made sure who signs, just now.
        now: UTC.
        shown_sha256: of the mask that the signer saw (`click_store.mask_sha256`); None skips the
            comparison.

    Raises:
        DataError: there is no such review, somebody else's, or newer words about the case; the
            contour is another than was shown; or the name cannot stand in DICOM.
        ValueError: another meaning or method.
    """
    if meaning not in MEANINGS or method not in METHODS:
        raise ValueError("a signature has one of MEANINGS and one of METHODS")
    _check_name(person_name, now)
    with transaction(store.engine) as session:
        held = _newest(session, round_id, case_id)
        review, contour = _reviewed(session, round_id, case_id, username)
        digest = mask_sha256(store.contour_of(contour).mask.voxels)
        if shown_sha256 not in (None, digest):
            raise DataError(f"{case_id}: the contour changed since it was shown: look at it again")
        if max(review.reviewed_at, contour.saved_at) > now:
            raise DataError(f"{case_id}: reviewed later than now: set this machine's clock right")
        if held is not None and not is_outdated(session, held):
            return held
        row = SignatureRow(
            round_id=round_id,
            case_id=case_id,
            username=username,
            person_name=person_name,
            meaning=meaning,
            method=method,
            mask_sha256=digest,
            signed_at=now,
        )
        session.add(row)
        audit_log.append(
            session, actor=username, event=SIGNED, subject=case_id, detail=_said(row), at=now
        )
    return row


def signature_state(store: CaseStore, round_id: str, case_id: str) -> SignatureState:
    """Say whether the newest signature of a case in a round still counts."""
    with Session(store.engine) as session:
        row = _newest(session, round_id, case_id)
        if row is None:
            return SignatureState(Standing.NOT_SIGNED, None)
        return SignatureState(_standing(session, row), row)


def signatures(store: CaseStore) -> list[tuple[SignatureRow, Standing]]:
    """Return every signature, the earliest first, with what it is worth now."""
    with Session(store.engine) as session:
        rows = session.scalars(select(SignatureRow).order_by(SignatureRow.id))
        return [(row, _standing(session, row)) for row in rows]


def is_outdated(session: Session, signature: SignatureRow) -> bool:
    """Say whether anybody reviewed the case, or returned a contour of it, after it was signed."""
    reviewed_at = _last_reviewed_at(session, signature.case_id)
    contour = _last_word(session, signature.case_id)
    if reviewed_at is None or contour is None:
        return True
    return max(reviewed_at, contour.saved_at) > signature.signed_at


def _standing(session: Session, signature: SignatureRow) -> Standing:
    return Standing.OUTDATED if is_outdated(session, signature) else Standing.SIGNED


def verify(store: CaseStore) -> list[str]:
    """Compare every signature with the mask stored then and with the audit log.

    Returns:
        Problems, one line each; none when all is as it was signed. The audit log itself is verified
        by `audit_log.verify`.
    """
    problems = []
    with Session(store.engine) as session:
        cases = set(session.scalars(select(CaseRow.case_id)))  # an erased one keeps its entries
        entries = session.scalars(select(AuditRow).where(AuditRow.event == SIGNED)).all()
        logged = [_Logged(e.subject, e.actor, e.detail) for e in entries if e.subject in cases]
        for row in session.scalars(select(SignatureRow).order_by(SignatureRow.id)):
            name = f"{row.case_id}: signature {row.id}"
            if not _mask_is_there(store, session, row):
                problems.append(f"{name}: the mask that was signed is not stored: restore a backup")
            said = _Logged(row.case_id, row.username, _said(row))
            if said in logged:
                logged.remove(said)
            else:
                problems.append(f"{name}: the audit log says otherwise: compare with a backup")
        problems += [f"{one.case_id}: a logged signature is gone" for one in logged]
    return problems


@dataclass(frozen=True)
class _Logged:
    """What the audit log says of a signature."""

    case_id: str
    username: str
    detail: dict[str, Any]


def _said(row: SignatureRow) -> dict[str, str]:
    """Return everything that is signed, for the audit log."""
    return {
        "round": row.round_id,
        "person_name": row.person_name,
        "meaning": row.meaning,
        "method": row.method,
        "mask_sha256": row.mask_sha256,
        "signed_at": row.signed_at.isoformat(),
    }


def _mask_is_there(store: CaseStore, session: Session, signature: SignatureRow) -> bool:
    statement = (
        select(ContourRow)
        .where(
            ContourRow.case_id == signature.case_id,
            ContourRow.round_id == signature.round_id,
            ContourRow.purpose == REVIEWED,
            ContourRow.saved_at <= signature.signed_at,
        )
        .order_by(ContourRow.id.desc())
        .limit(1)
    )
    row = session.scalars(statement).first()
    try:
        return row is not None and (
            mask_sha256(store.contour_of(row).mask.voxels) == signature.mask_sha256
        )
    except (OSError, ValueError):  # the file is gone, or holds something else
        return False


def _reviewed(
    session: Session, round_id: str, case_id: str, username: str
) -> tuple[ReviewRow, ContourRow]:
    """Return the review that may be signed, and its contour; or refuse."""
    review = _review(session, round_id, case_id)
    if review is None:
        raise DataError(f"{case_id}: not reviewed in this round: review it, then sign")
    if review.verdict not in _VERDICTS:
        raise DataError(f"{case_id}: the contour was rejected: revise it, then sign")
    contour = _last_word(session, case_id)
    simulated = contour is not None and contour.provenance == Provenance.SIMULATED.value
    if review.simulated or simulated:
        raise DataError(f"{case_id}: reviewed by a simulated annotator: review it yourself first")
    if review.author != username:
        raise DataError(
            f"{case_id}: reviewed by somebody else, who may sign: or review it yourself"
        )
    ours = (REVIEWED, round_id, review.author)
    if contour is None or (contour.purpose, contour.round_id, contour.author) != ours:
        raise DataError(f"{case_id}: another contour came after this review: review it again")
    if _last_reviewed_at(session, case_id) != review.reviewed_at:
        raise DataError(f"{case_id}: reviewed in another round after this: sign that review")
    return review, contour


def _review(session: Session, round_id: str, case_id: str) -> ReviewRow | None:
    statement = select(ReviewRow).where(
        ReviewRow.round_id == round_id, ReviewRow.case_id == case_id
    )
    return session.scalars(statement).first()


def _last_reviewed_at(session: Session, case_id: str) -> datetime | None:
    """Return when a case was reviewed last, in any round; a rejection leaves no contour."""
    return session.scalar(
        select(func.max(ReviewRow.reviewed_at)).where(ReviewRow.case_id == case_id)
    )


def _last_word(session: Session, case_id: str) -> ContourRow | None:
    """Return the contour that would be exported: what a person left last, in any round."""
    statement = (
        select(ContourRow)
        .where(ContourRow.case_id == case_id, ContourRow.purpose.in_((REVIEWED, RETURNED)))
        .order_by(ContourRow.id.desc())
        .limit(1)
    )
    return session.scalars(statement).first()


def _newest(session: Session, round_id: str, case_id: str) -> SignatureRow | None:
    statement = (
        select(SignatureRow)
        .where(SignatureRow.round_id == round_id, SignatureRow.case_id == case_id)
        .order_by(SignatureRow.id.desc())
        .limit(1)
    )
    return session.scalars(statement).first()


def _check_name(person_name: str, now: datetime) -> None:
    """Refuse now what could not be written into the structure set later."""
    from site_agent.rtstruct import ReviewSignature  # with pydicom, which looking does without

    ReviewSignature(person_name, now.replace(tzinfo=UTC))
