"""Who works on what: one doctor at a time for a case and a purpose, so that nobody overwrites."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from site_agent import audit_log
from site_agent.blinding import refuse_blinded
from site_agent.case_store import CaseStore
from site_agent.database import AccountRow, CaseRow, ClaimRow, RoundRow, transaction, utc_now

Purpose = Literal["annotation", "review"]


@dataclass(frozen=True)
class WorkKey:
    """What one doctor does on one case in a round, and for what."""

    round_id: str
    case_id: str
    purpose: Purpose

    @property
    def columns(self) -> dict[str, str]:
        """Return it as the columns that every table of work has."""
        return {"round_id": self.round_id, "case_id": self.case_id, "purpose": self.purpose}


def claim(store: CaseStore, key: WorkKey, *, author: str) -> None:
    """Take a case; who has it already keeps it.

    Raises:
        DataError: somebody else has it, round or case is unknown, or its review would unblind the
            author.
    """
    with transaction(store.engine) as session:
        _keep_blind(session, key, author)
        if session.get(RoundRow, key.round_id) is None or session.get(CaseRow, key.case_id) is None:
            raise DataError(f"{key.case_id}: is not in this round: take one from the worklist")
        held = _row(session, key)
        if held is not None:
            _refuse_others(session, held, author)
            return
        session.add(ClaimRow(**key.columns, author=author, claimed_at=utc_now()))
        _log(session, "work_claimed", key, author)


def release(store: CaseStore, key: WorkKey, *, author: str, force: bool = False) -> None:
    """Let a case go, so that others can take it; one that nobody has stays as it is.

    `force` is for who may take it from somebody else; the audit log says from whom.

    Raises:
        DataError: somebody else has it.
    """
    with transaction(store.engine) as session:
        held = _row(session, key)
        if held is None:
            return
        if not force:
            _refuse_others(session, held, author)
        session.delete(held)
        _log(session, "work_released", key, author, holder=held.author)


def holders(store: CaseStore, round_id: str) -> dict[tuple[str, str], ClaimRow]:
    """Return who has what in a round, by case and purpose."""
    statement = select(ClaimRow).where(ClaimRow.round_id == round_id)
    with Session(store.engine) as session:
        return {(row.case_id, row.purpose): row for row in session.scalars(statement)}


def hold(session: Session, key: WorkKey, author: str) -> None:
    """Make sure, inside the transaction that writes, that the author has the case.

    Raises:
        DataError: somebody else has it, or nobody, or its review would unblind the author.
    """
    _keep_blind(session, key, author)
    held = _row(session, key)
    if held is None:
        raise DataError(f"{key.case_id}: was released: claim it again in the worklist")
    _refuse_others(session, held, author)


def let_go(session: Session, key: WorkKey, author: str) -> None:
    """Release a case inside the transaction that finishes the work on it."""
    held = _row(session, key)
    if held is not None:
        session.delete(held)
        _log(session, "work_released", key, author, holder=held.author)


def _row(session: Session, key: WorkKey) -> ClaimRow | None:
    return session.get(ClaimRow, tuple(key.columns.values()))


def _keep_blind(session: Session, key: WorkKey, author: str) -> None:
    if key.purpose == "review":  # what is annotated is no contour that a reading shows
        refuse_blinded(session, key.case_id, author)


def _refuse_others(session: Session, held: ClaimRow, author: str) -> None:
    if held.author != author:
        account = session.get(AccountRow, held.author)
        name = held.author if account is None else account.display_name
        raise DataError(
            f"{held.case_id}: {name} works on it: take another case, or ask for its release"
        )


def _log(session: Session, event: str, key: WorkKey, actor: str, **detail: str) -> None:
    audit_log.append(
        session,
        actor=actor,
        event=event,
        subject=key.case_id,
        detail={"round": key.round_id, "purpose": key.purpose, **detail},
        at=utc_now(),
    )
