"""The one door out of the hospital.

`release` is the only function that makes bytes which may leave. It checks the message against its
schema, the minimum group size and a residue scan; a person approves results and weights unless the
site is configured otherwise; every release, hold and refusal is an entry of a hash-chained ledger,
beside a copy of the bytes.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.messages import (
    LEAVING,
    LeavingMessage,
    SiteReportMessage,
    SourcePackageOffer,
)
from algorithms.contracts.model_package import MODEL_FILE
from algorithms.contracts.site_report import Distribution
from site_agent import audit_log
from site_agent.config import SiteHome
from site_agent.database import CaseRow, LedgerRow, transaction
from site_agent.package_store import PackageRefused, read_safetensors_header

NEEDS_A_PERSON = (SourcePackageOffer, SiteReportMessage)
HASH = re.compile(r"[0-9a-f]{16,128}")
RESIDUES = {
    "pseudonym": re.compile(r"(?:patient|case)-[0-9a-f]{12}"),
    "dicom_uid": re.compile(r"(?<![\d.])[0-2]\.\d+(?:\.\d+){2,}"),
    "path": re.compile(r"(?:/[\w.~-]+){2,}|[A-Za-z]:\\|\\\\\w"),
    "date": re.compile(r"(?<!\d)(?:19|20)\d\d(-?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)"),
}
PSEUDONYM_BYTES = re.compile(rb"(?:patient|case)-[0-9a-f]{12}")


class ReleaseRefused(ProtocolError):  # noqa: N818  # a decision more than an error
    """A message may not leave; `rule` names why, the text never holds the content."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class ReleaseHeld(ProtocolError):  # noqa: N818
    """A message waits for a person at this site."""


def release(
    home: SiteHome,
    engine: Engine,
    message: LeavingMessage,
    *,
    files: Mapping[str, Path | bytes] | None = None,
    now: datetime,
) -> bytes:
    """Check and record a message, and return exactly the bytes that may be sent.

    `files` are the weights beside a `SourcePackageOffer`, only what its manifest names; `now` is
    UTC.

    Raises:
        ReleaseRefused: naming the rule; the refusal is in the ledger.
        ReleaseHeld: when the site releases this kind by hand and nobody has yet.
    """
    contents = {n: f if isinstance(f, bytes) else f.read_bytes() for n, f in (files or {}).items()}
    try:
        body = _check(home, engine, message, contents)
    except ReleaseRefused as refusal:
        unchecked = repr(message).encode()
        with transaction(engine) as session:
            _record(session, _kind(message), unchecked, "refused", {"rule": refusal.rule}, now)
        raise
    sizes: dict[str, dict[str, Any]] = {
        n: {"sha256": sha256_hex(c), "size_bytes": len(c)} for n, c in contents.items()
    }
    if isinstance(message, NEEDS_A_PERSON) and not home.config.auto_approve:
        _require_approval(engine, message.kind, body, sizes, now)
    detail = {"files": sizes} if sizes else {}
    with transaction(engine) as session:
        sequence = _record(session, message.kind, body, "released", detail, now)
        _keep_copy(home.ledger, f"{sequence:06d}-{message.kind}.json", body)
        for name, content in contents.items():
            _keep_copy(home.ledger / "files", sizes[name]["sha256"], content)
    return body


def approve_release(engine: Engine, sequence: int, *, actor: str, now: datetime) -> None:
    """Let a held message go: it leaves when the coordinator asks for it next.

    Raises:
        DataError: when entry `sequence` is not a held message.
    """
    with transaction(engine) as session:
        row = session.get(LedgerRow, sequence)
        if row is None or row.state != "held":
            raise DataError(
                f"ledger entry {sequence} is not a held message: see 'fedgtv-site ledger list'"
            )
        link, previous = audit_log.next_link(session, LedgerRow)
        _add(
            session,
            sequence=link,
            at=now.isoformat(),
            kind=row.kind,
            message_sha256=row.message_sha256,
            size_bytes=row.size_bytes,
            state="approved",
            detail={**row.detail, "approves": sequence},
            previous_sha256=previous,
        )
        audit_log.append(
            session,
            actor=actor,
            event="release_approved",
            subject=f"ledger-{sequence}",
            detail={"message_sha256": row.message_sha256},
            at=now,
        )


def list_entries(engine: Engine) -> list[LedgerRow]:
    """Return everything that left, waits or was refused, oldest first."""
    with Session(engine) as session:
        return list(session.scalars(select(LedgerRow).order_by(LedgerRow.sequence)))


def verify_ledger(home: SiteHome, engine: Engine) -> int:
    """Check the chain of the ledger and the kept copies; return the number of entries.

    Raises:
        ProtocolError: at the first broken link, or a copy that is missing or changed.
    """
    with Session(engine) as session:
        count = audit_log.verify_chain(session, LedgerRow)
    for row in list_entries(engine):
        if row.state != "released":
            continue
        copies = {home.ledger / f"{row.sequence:06d}-{row.kind}.json": row.message_sha256}
        for entry in row.detail.get("files", {}).values():
            copies[home.ledger / "files" / entry["sha256"]] = entry["sha256"]
        for file, digest in copies.items():
            if not file.is_file() or sha256_hex(file.read_bytes()) != digest:
                raise ProtocolError(
                    f"ledger: the copy {file.name} of entry {row.sequence} is missing or changed: "
                    "compare with a backup"
                )
    return count


def known_identifiers(home: SiteHome, engine: Engine) -> frozenset[str]:
    """Return every string this site knows that points at a patient or into its file system."""
    known = {str(home.folder)}
    with Session(engine) as session:
        for case_id, patient_id, series in session.execute(
            select(CaseRow.case_id, CaseRow.patient_id, CaseRow.series)
        ):
            uids = (value for key, value in series.items() if key.endswith("_uid"))
            known.update((case_id, patient_id, *(uid for uid in uids if uid)))
    return frozenset(known)


def _check(
    home: SiteHome, engine: Engine, message: LeavingMessage, files: Mapping[str, bytes]
) -> bytes:
    if type(message) not in LEAVING:  # exact type: a subclass could carry more fields
        raise ReleaseRefused("unknown_message", "this kind of message may not leave")
    try:
        fields = type(message).model_validate(message.model_dump()).model_dump(mode="json")
        body = canonical_json(fields)
    except (ValidationError, ValueError):
        raise ReleaseRefused("wrong_schema", "the message does not fit its schema") from None
    if isinstance(message, SiteReportMessage):
        _check_group_size(message, home.config.minimum_group_size)
    _check_files(message, files)
    identifiers = known_identifiers(home, engine)
    texts = list(_strings(fields))
    if MODEL_FILE in files:
        texts += _strings(read_safetensors_header(files[MODEL_FILE]))
    _check_residues(texts, identifiers)
    return body


def _check_group_size(message: SiteReportMessage, minimum: int) -> None:
    report = message.report
    too_small = report.minimum_group_size < minimum
    small_arms = [arm for arm in report.arms if arm.patients < minimum]
    too_small |= bool(report.vendors) and len(small_arms) == len(report.arms)
    for arm in small_arms:
        undefined = any(figure.undefined for figure in _distributions(arm))
        too_small |= arm.failures is not None or undefined
    for figure in _distributions(report):
        values = (figure.mean, figure.sd, figure.median, figure.q1, figure.q3)
        too_small |= figure.n < minimum and any(value is not None for value in values)
    if report.revision is not None and report.revision.bins is not None:
        too_small |= report.revision.patients < minimum
    if too_small:
        raise ReleaseRefused(
            "minimum_group_size",
            f"the report holds a figure about fewer than {minimum} patients: suppress it, or wait "
            "for more patients",
        )


def _distributions(value: object) -> Iterator[Distribution]:
    if isinstance(value, Distribution):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _distributions(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _distributions(item)


def _check_files(message: LeavingMessage, files: Mapping[str, bytes]) -> None:
    if not files:
        return
    if not isinstance(message, SourcePackageOffer):
        raise ReleaseRefused("files_not_allowed", "only a source package may carry files")
    for name, content in files.items():
        entry = message.manifest.files.get(name)
        if entry is None or entry.sha256 != sha256_hex(content):
            raise ReleaseRefused("unnamed_file", "a file is not the one that the manifest names")
        if PSEUDONYM_BYTES.search(content):
            raise ReleaseRefused("residue_pseudonym", "a file holds a pseudonym")
    if MODEL_FILE in files:
        try:
            read_safetensors_header(files[MODEL_FILE])
        except PackageRefused as refusal:
            raise ReleaseRefused(refusal.rule, str(refusal)) from None


def _check_residues(texts: list[str], identifiers: frozenset[str]) -> None:
    for text in texts:
        if any(identifier in text for identifier in identifiers):
            raise ReleaseRefused(
                "residue_identifier", "the message holds an identifier this site knows"
            )
        if HASH.fullmatch(text):
            continue
        for name, pattern in RESIDUES.items():
            if pattern.search(text):
                raise ReleaseRefused(
                    f"residue_{name}", f"the message holds what looks like a {name}"
                )


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _require_approval(
    engine: Engine, kind: str, body: bytes, sizes: Mapping[str, Any], now: datetime
) -> None:
    with transaction(engine) as session:
        states = set(
            session.scalars(
                select(LedgerRow.state).where(LedgerRow.message_sha256 == sha256_hex(body))
            )
        )
        if "approved" in states:
            return
        if "held" not in states:
            _record(session, kind, body, "held", {"files": dict(sizes)} if sizes else {}, now)
    raise ReleaseHeld(f"{kind}: held until a person at this site approves it")


def _record(
    session: Session, kind: str, body: bytes, state: str, detail: Mapping[str, Any], now: datetime
) -> int:
    sequence, previous = audit_log.next_link(session, LedgerRow)
    _add(
        session,
        sequence=sequence,
        at=now.isoformat(),
        kind=kind,
        message_sha256=sha256_hex(body),
        size_bytes=len(body),
        state=state,
        detail=dict(detail),
        previous_sha256=previous,
    )
    return sequence


def _add(session: Session, **fields: object) -> None:
    session.add(LedgerRow(**fields, sha256=audit_log.entry_sha256(fields)))
    session.flush()


def _kind(message: object) -> str:
    kind = getattr(message, "kind", None)
    return kind if type(message) in LEAVING and isinstance(kind, str) else "unknown"


def _keep_copy(folder: Path, name: str, content: bytes) -> None:
    """Write a copy in one step; what a kill left of an earlier attempt is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.part"
    temporary.write_bytes(content)
    temporary.replace(folder / name)
