"""Stand-in until the real claims are merged: same names, no more than the worklist needs."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from site_agent import audit_log
from site_agent.case_store import CaseStore
from site_agent.database import ClaimRow, transaction, utc_now


@dataclass(frozen=True)
class WorkKey:
    """What one doctor works on: a case of a round, for a purpose ("annotation" or "review")."""

    round_id: str
    case_id: str
    purpose: str


def claim(store: CaseStore, key: WorkKey, *, author: str) -> None:
    """Claim the work; claiming again what one holds changes nothing.

    Raises:
        DataError: somebody else holds it.
    """
    with transaction(store.engine) as session:
        row = session.get(ClaimRow, (key.round_id, key.case_id, key.purpose))
        if row is not None and row.author != author:
            raise DataError(f"{key.case_id}: {row.author} works on it: choose another case")
        if row is None:
            session.add(
                ClaimRow(
                    round_id=key.round_id,
                    case_id=key.case_id,
                    purpose=key.purpose,
                    author=author,
                    claimed_at=utc_now(),
                )
            )
            _log(session, key, author, "work_claimed")


def release(store: CaseStore, key: WorkKey, *, author: str, force: bool = False) -> None:
    """Give the work back; `force` takes it from somebody else.

    Raises:
        DataError: somebody else holds it.
    """
    with transaction(store.engine) as session:
        row = session.get(ClaimRow, (key.round_id, key.case_id, key.purpose))
        if row is None:
            return
        if row.author != author and not force:
            raise DataError(f"{key.case_id}: {row.author} works on it: ask for its release")
        session.delete(row)
        _log(session, key, author, "work_released")


def holders(store: CaseStore, round_id: str) -> Mapping[tuple[str, str], ClaimRow]:
    """Return who holds what in a round, by case and purpose."""
    with Session(store.engine) as session:
        rows = session.scalars(select(ClaimRow).where(ClaimRow.round_id == round_id))
        return {(row.case_id, row.purpose): row for row in rows}


def _log(session: Session, key: WorkKey, author: str, event: str) -> None:
    audit_log.append(
        session,
        actor=author,
        event=event,
        subject=key.case_id,
        detail={"purpose": key.purpose},
        at=utc_now(),
    )
