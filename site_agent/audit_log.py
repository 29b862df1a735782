"""What happened at this site: append-only, and every entry carries the hash of the one before.

Changing or removing an entry breaks the chain at the next one. A chain cannot show that its newest
entries were cut off: note the last hash elsewhere where that matters.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import ProtocolError
from site_agent.database import AuditRow, LedgerRow, unreadable_row

GENESIS = "0" * 64
ChainedRow = type[AuditRow] | type[LedgerRow]


def append(
    session: Session,
    *,
    actor: str,
    event: str,
    subject: str,
    detail: Mapping[str, Any],
    at: datetime,
) -> None:
    """Add one entry inside the caller's transaction.

    `actor` (a user name, "worker" or "federation") did `event` (such as "package_stored") to
    `subject` (a pseudonym or an id, never a patient's identity); `detail` holds JSON values and
    `at` is UTC.
    """
    sequence, previous = next_link(session, AuditRow)
    fields = {
        "sequence": sequence,
        "at": at.isoformat(),
        "actor": actor,
        "event": event,
        "subject": subject,
        "detail": json.loads(canonical_json(dict(detail))),
        "previous_sha256": previous,
    }
    session.add(AuditRow(**fields, sha256=entry_sha256(fields)))
    session.flush()


def verify(session: Session) -> int:
    """Follow the whole chain and return the number of entries.

    Raises:
        ProtocolError: at the first entry that was changed, removed or put in.
    """
    return verify_chain(session, AuditRow)


def next_link(session: Session, table: ChainedRow) -> tuple[int, str]:
    """Return the sequence number and previous hash for a new entry of `table`.

    Several processes append at the same time: inside `database.transaction` the newest entry read
    here stays the newest until the commit. Elsewhere the primary key refuses a fork.
    """
    newest = session.execute(
        select(table.sequence, table.sha256).order_by(table.sequence.desc()).limit(1)
    ).first()
    return (1, GENESIS) if newest is None else (newest.sequence + 1, newest.sha256)


def entry_sha256(fields: Mapping[str, Any]) -> str:
    """Return the hash of an entry: SHA-256 over the canonical JSON of all its other columns."""
    return sha256_hex(canonical_json(dict(fields)))


def verify_chain(session: Session, table: ChainedRow) -> int:
    """Follow the chain of `table` and return the number of entries.

    Raises:
        ProtocolError: at the first broken link, or an entry that cannot even be read.
    """
    try:
        return _follow(session, table)
    except (ValueError, DBAPIError):
        entry = unreadable_row(session, table)
        if entry is None:
            raise
        raise _broken(table, entry) from None


def _follow(session: Session, table: ChainedRow) -> int:
    previous, count = GENESIS, 0
    rows: Iterable[AuditRow | LedgerRow] = session.scalars(select(table).order_by(table.sequence))
    for row in rows:
        count += 1
        fields = {c.key: getattr(row, c.key) for c in table.__table__.columns if c.key != "sha256"}
        linked = row.sequence == count and row.previous_sha256 == previous
        if not linked or row.sha256 != entry_sha256(fields):
            raise _broken(table, row.sequence)
        previous = row.sha256
    return count


def _broken(table: ChainedRow, entry: int | str) -> ProtocolError:
    return ProtocolError(
        f"{table.__tablename__}: the chain is broken at entry {entry}: "
        "it was changed after it was written; compare with a backup"
    )
