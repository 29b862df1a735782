"""What this site gave to the PACS: the record that links a save to the one before it.

The UIDs that an export has in the PACS lead to the patient, so they are kept sealed like the
crosswalk. The bytes are kept by their hash alone: whoever sends an object asks `check_passed`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.contour import Contour
from algorithms.contracts.errors import DataError
from site_agent import audit_log
from site_agent.case_store import CaseStore
from site_agent.database import ExportRow, transaction, utc_now

EXPORTED = "exported"
ExportKind = Literal["rtstruct", "seg"]
Also = Callable[[Session, ExportRow, Contour, bytes], None]


@dataclass(frozen=True)
class ExportUids:
    """What an export is called in the PACS."""

    sop_instance_uid: str
    series_instance_uid: str

    def __repr__(self) -> str:
        """Say nothing, so that a stray log line cannot either."""
        return "ExportUids(<sealed>)"


def record_export(
    store: CaseStore,
    case_id: str,
    contour: Contour,
    *,
    kind: ExportKind,
    round_id: str,
    uids: ExportUids,
    content: bytes,
    approved: bool,
    actor: str,
    also: Also | None = None,
) -> None:
    """Keep the contour and the sealed UIDs of an object that passed the gate, as one.

    `also` comes last in the same transaction, with the row, the contour and the content; it may
    refuse.
    """
    sealed = _fernet(store).encrypt(canonical_json(vars(uids)))
    digest = sha256_hex(content)
    with transaction(store.engine) as session:
        store.add_contour(session, case_id, contour, EXPORTED, round_id, actor)
        row = ExportRow(
            case_id=case_id,
            kind=kind,
            round_id=round_id,
            uids_sealed=sealed,
            content_sha256=digest,
            author=actor,
            exported_at=utc_now(),
        )
        session.add(row)
        audit_log.append(
            session,
            actor=actor,
            event="contour_exported",
            subject=case_id,
            detail={"kind": kind, "approved": approved, "content_sha256": digest},
            at=utc_now(),
        )
        if also is not None:
            session.flush()
            also(session, row, contour, content)


def newest_export(
    store: CaseStore, case_id: str, kind: ExportKind | None = None
) -> ExportRow | None:
    """Return the last export of a case, optionally of one kind, or None."""
    statement = select(ExportRow).where(ExportRow.case_id == case_id)
    if kind is not None:
        statement = statement.where(ExportRow.kind == kind)
    with Session(store.engine) as session:
        return session.scalars(statement.order_by(ExportRow.id.desc()).limit(1)).first()


def first_exported_at(store: CaseStore, case_id: str) -> datetime | None:
    """Return when a case was exported for the first time, UTC; None if it never was."""
    with Session(store.engine) as session:
        return session.scalar(
            select(func.min(ExportRow.exported_at)).where(ExportRow.case_id == case_id)
        )


def uids_of(store: CaseStore, row: ExportRow) -> ExportUids:
    """Open what an export is called in the PACS.

    Raises:
        DataError: the key is not the one that it was sealed with.
    """
    try:
        return ExportUids(**json.loads(_fernet(store).decrypt(row.uids_sealed)))
    except InvalidToken as error:
        raise DataError(
            f"{row.case_id}: the record of an export cannot be opened: use the crosswalk.key file "
            "it was sealed with"
        ) from error


def used_uids(store: CaseStore, case_id: str) -> frozenset[str]:
    """Return every UID under which this case was exported."""
    with Session(store.engine) as session:
        rows = session.scalars(select(ExportRow).where(ExportRow.case_id == case_id)).all()
    return frozenset(uid for row in rows for uid in vars(uids_of(store, row)).values())


def check_passed(store: CaseStore, file: Path) -> None:
    """Refuse to send a file that did not pass the export gate as it is.

    Raises:
        DataError: nothing with its bytes was exported.
    """
    content = file.read_bytes()
    statement = select(ExportRow.id).where(ExportRow.content_sha256 == sha256_hex(content))
    with Session(store.engine) as session:
        if session.scalars(statement.limit(1)).first() is None:
            raise DataError(
                f"{file}: did not pass the export gate, or was changed since: write it again "
                "with 'fedgtv-site export-rtstruct' or 'fedgtv-site export-seg'"
            )


def _fernet(store: CaseStore) -> Fernet:
    return Fernet(store.home.secret("crosswalk.key"))
