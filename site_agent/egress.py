"""The one door out of the hospital.

`release` is the only function that makes bytes which may leave. It checks the message against its
schema, the plan that two people signed, the minimum group size, what earlier reports told and a
residue scan; a person approves
results and weights unless the site is configured otherwise; every release, hold and refusal is an
entry of a hash-chained ledger, beside a copy of the bytes that were released or wait.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from pydantic import BaseModel, ValidationError
from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.federation_plan import FederationPlan, fields_said
from algorithms.contracts.messages import (
    LEAVING,
    UPDATE_FILE,
    LeavingMessage,
    ModelUpdateOffer,
    SiteReportMessage,
    SourcePackageOffer,
)
from algorithms.contracts.model_package import MODEL_FILE, FileEntry, SourceValidation
from algorithms.contracts.site_report import (
    SiteReport,
    distributions,
    tells_of_a_small_subgroup,
)
from algorithms.update_file import float_tensors, read_update
from evaluation.differencing import Told, differencing_rule
from site_agent import audit_log
from site_agent.config import SiteHome
from site_agent.database import (
    CaseRow,
    LedgerRow,
    ReleaseMemoryRow,
    transaction,
    unreadable_row,
)
from site_agent.model_update import promised_epsilon
from site_agent.package_store import PackageRefused, read_safetensors_header
from site_agent.plan_store import PlanRefused, approved_plan, plan_in_force
from site_agent.release_memory import (
    figures_by,
    keyed,
    memory_key,
    packed,
    sketches_in,
    told_by,
    unpacked,
)
from site_agent.residue import Known, known_residue, residues, text_residue

NEEDS_A_PERSON = (SourcePackageOffer, SiteReportMessage, ModelUpdateOffer)
KEPT = ("released", "held")  # states of entries beside which the message is kept
MEMORY = "memory_sha256"  # in the detail of an entry beside which its memory is kept


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

    `files` are what the message names: the weights beside a `SourcePackageOffer`, the tensors
    beside a `ModelUpdateOffer`; `now` is UTC.

    Raises:
        ReleaseRefused: naming the rule; the refusal is in the ledger.
        ReleaseHeld: when the site releases this kind by hand and nobody has yet.
        ProtocolError: when another copy lies where this one belongs.
    """
    contents = {n: f if isinstance(f, bytes) else f.read_bytes() for n, f in (files or {}).items()}
    try:
        return _release(home, engine, message, contents, now)
    except ReleaseRefused as refusal:
        _record_refusal(engine, _kind(message), repr(message).encode(), refusal, now)
        raise


def permit_update(
    home: SiteHome, engine: Engine, package_id: str, *, now: datetime
) -> FederationPlan:
    """Return the plan by which a model update may leave; `release` checks the update itself.

    Raises:
        ReleaseRefused: naming the rule; the refusal is in the ledger, though nothing was made yet.
    """
    kind = "model_update"
    try:
        return _plan_for(home, engine, kind, package_id, now)
    except ReleaseRefused as refusal:
        _record_refusal(engine, kind, package_id.encode(), refusal, now)
        raise


def _release(
    home: SiteHome,
    engine: Engine,
    message: LeavingMessage,
    contents: Mapping[str, bytes],
    now: datetime,
) -> bytes:
    body = _check(home, engine, message, contents, now)
    sizes = {n: {"sha256": sha256_hex(c), "size_bytes": len(c)} for n, c in contents.items()}
    detail: dict[str, Any] = {"files": sizes} if sizes else {}
    if isinstance(message, ModelUpdateOffer):
        detail["model_update"] = {"epsilon": message.epsilon, **_terms_of(message)}
    if isinstance(message, NEEDS_A_PERSON) and not home.config.auto_approve:
        _require_approval(home, engine, message.kind, body, detail, now)
    with transaction(engine) as session:
        audit_log.next_link(session, LedgerRow)  # one writer from here on: nothing leaves meanwhile
        memory = None
        if isinstance(message, SiteReportMessage):
            memory = packed(_check_earlier(home, session, message))
            detail[MEMORY] = _memory_sha256(memory)
        row = _record(session, message.kind, body, "released", detail, now)
        if memory is not None:
            session.add(ReleaseMemoryRow(sequence=row.sequence, memory=memory))
        _stage_copies(home, row, (body, *contents.values()))
    _settle_copies(home, row)
    return body


def approve_release(engine: Engine, sequence: int, *, actor: str, now: datetime) -> None:
    """Let a held message go: it leaves when the coordinator asks for it next.

    Raises:
        DataError: when entry `sequence` is not a held message, or is approved already.
    """
    with transaction(engine) as session:
        row = session.get(LedgerRow, sequence)
        if row is None or row.state != "held":
            raise DataError(
                f"ledger entry {sequence} is not a held message: see 'fedgtv-site ledger list'"
            )
        link, previous = audit_log.next_link(session, LedgerRow)  # one writer from here on
        for approval in session.scalars(select(LedgerRow).where(LedgerRow.state == "approved")):
            if approval.detail["approves"] == sequence:
                raise DataError(f"ledger entry {sequence} is approved already: nothing to do")
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


def read_message(home: SiteHome, engine: Engine, sequence: int) -> bytes:
    """Return the canonical JSON of a message that left or waits, for a person to read.

    Of an approval it is the message that was approved.

    Raises:
        DataError: when there is no such entry, or it was refused, of which no copy is kept.
        ProtocolError: when the copy is missing or changed.
    """
    with Session(engine) as session:
        row = session.get(LedgerRow, sequence)
        if row is not None and row.state == "approved":
            row = session.get(LedgerRow, row.detail["approves"])
    if row is None:
        raise DataError(f"there is no ledger entry {sequence}: see 'fedgtv-site ledger list'")
    if row.state not in KEPT:
        raise DataError(f"ledger entry {sequence} was {row.state}: its message is not kept")
    return _read_copy(_message_copy(home, row), row.message_sha256, row)


def list_entries(engine: Engine) -> list[LedgerRow]:
    """Return everything that left, waits or was refused, oldest first."""
    with Session(engine) as session:
        return list(session.scalars(select(LedgerRow).order_by(LedgerRow.sequence)))


def verify_ledger(home: SiteHome, engine: Engine) -> int:
    """Check the chain of the ledger and the kept copies; return the number of entries.

    Raises:
        ProtocolError: at the first broken link, or a memory or copy that is missing, changed or
            named by no entry, as when the database was lost and made anew.
    """
    with Session(engine) as session:
        count = audit_log.verify_chain(session, LedgerRow)
        _verify_memories(session)
    named = set()
    for row in list_entries(engine):
        for file, digest in _copies(home, row).items():
            _read_copy(file, digest, row)
            named.add(file)
    # What an attempt that was killed left behind starts with a dot: it was never released.
    kept = (file for file in home.ledger.rglob("[!.]*") if file.is_file())
    if unnamed := sorted(set(kept) - named):
        raise ProtocolError(
            f"ledger: no entry names the copy {unnamed[0].name}: the database is not the one that "
            "wrote it; restore the newest from a backup"
        )
    return count


def _verify_memories(session: Session) -> None:
    try:
        memories = {row.sequence: row.memory for row in session.scalars(select(ReleaseMemoryRow))}
    except (ValueError, DBAPIError):
        entry = unreadable_row(session, ReleaseMemoryRow)
        if entry is None:
            raise
        raise _damaged_memory(entry) from None
    for row in session.scalars(select(LedgerRow).order_by(LedgerRow.sequence)):
        held = memories.pop(row.sequence, None)
        if row.detail.get(MEMORY) != (None if held is None else _memory_sha256(held)):
            raise _damaged_memory(row.sequence)
    if memories:
        raise _damaged_memory(min(memories))


def _memory_sha256(memory: Mapping[str, Any]) -> str:
    return sha256_hex(canonical_json(dict(memory)))


def _damaged_memory(entry: int | str) -> ProtocolError:
    return ProtocolError(
        f"ledger: the memory of entry {entry} is missing, changed or not its own: compare with a "
        "backup"
    )


def named_copies(home: SiteHome, rows: Iterable[LedgerRow]) -> frozenset[Path]:
    """Return the copies that committed entries name; those that a kill left unnamed get names."""
    named: set[Path] = set()
    for row in rows:
        _settle_copies(home, row)
        named.update(_copies(home, row))
    return frozenset(named)


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


def known_patients(home: SiteHome, engine: Engine) -> Known:
    """Return what this site knows about its patients, original identities included.

    Raises:
        ReleaseRefused: an identity cannot be opened, so nobody can say what must not leave.
    """
    with Session(engine) as session:
        statement = select(CaseRow.identity_sealed).where(CaseRow.identity_sealed.is_not(None))
        sealed = list(session.scalars(statement))
    try:
        fernet = Fernet(home.secret("crosswalk.key")) if sealed else None
        identities = [json.loads(fernet.decrypt(one)) for one in sealed if fernet and one]
    except (DataError, InvalidToken, ValueError):
        raise ReleaseRefused(
            "crosswalk_closed",
            "the identities of this site cannot be opened, so nothing is checked against them: "
            "copy secrets/crosswalk.key back from where you keep the keys",
        ) from None
    # the fields of an identity say by their names what they hold; sexes and times are nobody's
    fields = [(key, text) for one in identities for key, v in one.items() for text in _strings([v])]

    def those(*endings: str) -> frozenset[str]:
        return frozenset(text for key, text in fields if text and key.endswith(endings))

    identifiers = those("_id", "_uid", "_uids", "_number") - those("sop_class_uid")
    return Known(
        names=those("_name"),
        identifiers=identifiers | known_identifiers(home, engine),
        dates=those("_date"),
    )


def tells_of_few(validation: SourceValidation, minimum: int) -> bool:
    """Say whether a figure of the source hospital is about fewer than `minimum` patients."""
    figures = (
        (validation.validation_patients, validation.validation_dsc),
        (validation.test_patients, validation.test_dsc),
    )
    return any(patients < minimum and dsc is not None for patients, dsc in figures)


def _check(
    home: SiteHome,
    engine: Engine,
    message: LeavingMessage,
    files: Mapping[str, bytes],
    now: datetime,
) -> bytes:
    if type(message) not in LEAVING:  # exact type: a subclass could carry more fields
        raise ReleaseRefused("unknown_message", "this kind of message may not leave")
    try:
        fields = type(message).model_validate(message.model_dump()).model_dump(mode="json")
        body = canonical_json(fields)
    except (ValidationError, ValueError):
        raise ReleaseRefused("wrong_schema", "the message does not fit its schema") from None
    minimum = home.config.minimum_group_size
    if isinstance(message, SiteReportMessage):
        plan = _plan_for(home, engine, message.kind, message.report.package_id, now)
        _check_fields(plan, message.report)
        _check_group_size(message, max(minimum, plan.cohort.minimum_group_size))
        with Session(engine) as session:
            _check_earlier(home, session, message)
    if isinstance(message, ModelUpdateOffer):
        _check_update(home, engine, message, files, now)
    if isinstance(message, SourcePackageOffer) and tells_of_few(
        message.manifest.source_validation, minimum
    ):
        raise ReleaseRefused(
            "minimum_group_size",
            f"the package holds a Dice of fewer than {minimum} patients: run 'fedgtv-site "
            "train-source' again",
        )
    _check_files(message, files)
    _check_residues(home, engine, message, body, files)
    return body


def _plan_for(
    home: SiteHome, engine: Engine, kind: str, package_id: str, now: datetime
) -> FederationPlan:
    """Return the plan under which a kind of message about a package may leave."""
    try:
        plan = plan_in_force(home, engine, package_id, now=now)
    except PlanRefused as refusal:
        raise ReleaseRefused(refusal.rule, str(refusal)) from None
    if kind not in plan.permitted_outputs.messages:
        raise ReleaseRefused(
            "output_not_in_plan", f"plan {plan.plan_number}: does not let a {kind} leave"
        )
    return plan


def _check_update(
    home: SiteHome,
    engine: Engine,
    message: ModelUpdateOffer,
    files: Mapping[str, bytes],
    now: datetime,
) -> None:
    """Refuse an update that is not made as both parties signed, or is anything but numbers."""
    plan = _plan_for(home, engine, message.kind, message.package_id, now)
    signed, terms = approved_plan(engine, plan.package_id), plan.model_updates
    promised = promised_epsilon(terms) if terms is not None else None
    if (
        terms is None
        or signed is None
        or message.plan_sha256 != signed.plan_sha256
        or _terms_of(message) != terms.model_dump()
        or message.epsilon != promised
    ):
        raise ReleaseRefused(
            "wrong_terms", f"plan {plan.plan_number}: the update names other terms than the plan"
        )
    minimum = max(home.config.minimum_group_size, plan.cohort.minimum_group_size)
    if message.training_patients < minimum:
        raise ReleaseRefused(
            "minimum_group_size",
            f"the update was learnt from fewer than {minimum} patients: wait for more patients",
        )
    if UPDATE_FILE not in files:
        raise ReleaseRefused("missing_file", "the update's tensors are not beside it")
    base = float_tensors((home.packages / plan.package_id / MODEL_FILE).read_bytes())
    try:
        read_update(
            files[UPDATE_FILE],
            base,
            clip_norm=terms.clip_norm,
            noise_multiplier=terms.noise_multiplier,
        )
    except ProtocolError as error:
        raise ReleaseRefused(
            str(error), "the update is not what clipping and noise make of the package's weights"
        ) from None


def _terms_of(message: ModelUpdateOffer) -> dict[str, float]:
    return message.model_dump(include={"clip_norm", "noise_multiplier", "delta"})


def _check_fields(plan: FederationPlan, report: SiteReport) -> None:
    unplanned = fields_said(report) - set(plan.permitted_outputs.site_report_fields)
    if unplanned:
        raise ReleaseRefused(
            "field_not_in_plan",
            f"plan {plan.plan_number}: does not let the report's '{min(unplanned)}' leave",
        )


def _check_group_size(message: SiteReportMessage, minimum: int) -> None:
    report = message.report
    too_small = report.minimum_group_size < minimum
    small_arms = [arm for arm in report.arms if arm.patients < minimum]
    too_small |= bool(report.vendors) and len(small_arms) == len(report.arms)
    for arm in small_arms:
        undefined = any(figure.undefined for figure in distributions(arm))
        too_small |= arm.failures is not None or undefined
    for arm in report.arms:  # whoever failed is known: a mean is also one of the others
        others = arm.dsc.n - (arm.failures or 0)
        given = arm.dsc.mean is not None or arm.nsd_at_1mm.mean is not None
        too_small |= given and 0 < others < minimum
    for figure in distributions(report):
        values = (figure.mean, figure.sd, figure.median, figure.q1, figure.q3, figure.sketch)
        too_small |= figure.n < minimum and any(value is not None for value in values)
        if figure.sketch is not None:
            too_small |= any(0 < count < minimum for count in figure.sketch.counts)
    too_small |= tells_of_a_small_subgroup(report, minimum)
    if report.revision is not None and report.revision.bins is not None:
        too_small |= report.revision.patients < minimum
    if too_small:
        raise ReleaseRefused(
            "minimum_group_size",
            f"the report holds a figure about fewer than {minimum} patients: suppress it, or wait "
            "for more patients",
        )


def _check_earlier(home: SiteHome, session: Session, message: SiteReportMessage) -> Told:
    """Check a report beside all that were released before, and return what to remember of it."""
    report = message.report
    figures = figures_by(session, report)
    told = keyed(
        {**told_by(session, report), **figures, **sketches_in(report, figures)}, memory_key(home)
    )
    minimum = report.minimum_group_size  # no smaller than the site's and the plan's
    if rule := differencing_rule(
        told, told_earlier(home, session), minimum_group_size=minimum, least_told=1
    ):
        raise ReleaseRefused(
            rule,
            f"beside an earlier report this one would tell of fewer than {minimum} patients: the "
            "earlier one stands, or wait for more patients",
        )
    return told


def told_earlier(home: SiteHome, session: Session) -> list[Told]:
    """Return whom every report that left is about, as it is remembered.

    Raises:
        DataError: the site's secret for pseudonyms is missing.
        ProtocolError: a memory, or a copy that is read in place of one, is missing or changed.
    """
    released = select(LedgerRow).where(
        LedgerRow.state == "released", LedgerRow.kind == "site_report"
    )
    return [_remembered(home, session, row) for row in session.scalars(released)]


def _remembered(home: SiteHome, session: Session, row: LedgerRow) -> Told:
    if MEMORY in row.detail:
        held = session.get(ReleaseMemoryRow, row.sequence)
        if held is None or _memory_sha256(held.memory) != row.detail[MEMORY]:
            raise _damaged_memory(row.sequence)
        return unpacked(held.memory)
    # Versions that remembered less, or in the entry itself, kept the report.
    body = _read_copy(_message_copy(home, row), row.message_sha256, row)
    report = SiteReportMessage.model_validate_json(body).report
    told: Told = row.detail.get("told", told_by(session, report))
    least = report.minimum_group_size
    told = {group: members for group, members in told.items() if len(members) >= least}
    figures: Told = row.detail.get("figures", figures_by(session, report))
    return keyed({**told, **figures, **sketches_in(report, figures)}, memory_key(home))


def _check_files(message: LeavingMessage, files: Mapping[str, bytes]) -> None:
    if not files:
        return
    if not isinstance(message, SourcePackageOffer | ModelUpdateOffer):
        raise ReleaseRefused("files_not_allowed", "only packages and updates may carry files")
    offered = message.manifest if isinstance(message, SourcePackageOffer) else message
    entries: dict[str, FileEntry] = {str(n): one for n, one in offered.files.items()}
    for name, content in files.items():
        entry = entries.get(name)
        if entry is None or entry.sha256 != sha256_hex(content):
            raise ReleaseRefused("unnamed_file", "a file is not the one that the message names")
        if residues(content, Known(), ("pseudonym",)):
            raise ReleaseRefused("residue_pseudonym", "a file holds a pseudonym")
    if MODEL_FILE in files:
        try:
            read_safetensors_header(files[MODEL_FILE])
        except PackageRefused as refusal:
            raise ReleaseRefused(refusal.rule, str(refusal)) from None


def _check_residues(
    home: SiteHome,
    engine: Engine,
    message: LeavingMessage,
    body: bytes,
    files: Mapping[str, bytes],
) -> None:
    """Look through the very bytes that are about to leave.

    Here even the UIDs that replace the original ones are refused: they point at a case.
    """
    known = known_patients(home, engine)
    own_words = _own_words(home, type(message))
    texts = list(_strings(json.loads(body)))
    for name in {MODEL_FILE, UPDATE_FILE} & set(files):
        texts += _strings(read_safetensors_header(files[name]))
    for text in texts:
        if found := known_residue(text, known, own_words=own_words):
            raise ReleaseRefused(f"residue_{found}", f"the message holds a known {found}")
        if found := text_residue(text):
            raise ReleaseRefused(f"residue_{found}", f"the message holds what looks like a {found}")
    # Of an update every byte is known to be a number, and noise spells short names by chance.
    for content in (data for name, data in files.items() if name != UPDATE_FILE):
        if broken := residues(content, known, uid_roots=(), own_words=own_words):
            raise ReleaseRefused(f"residue_{broken[0]}", f"a file holds a {broken[0]}")


def _own_words(home: SiteHome, message: type[BaseModel]) -> set[str]:
    """Words that a message says of itself, whoever is called so: of its schema and this site."""
    texts = (*_strings(message.model_json_schema()), home.config.name, home.config.study)
    return {word for text in texts for word in re.findall(r"[^\W\d_]+", text)}


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
    home: SiteHome,
    engine: Engine,
    kind: str,
    body: bytes,
    detail: Mapping[str, Any],
    now: datetime,
) -> None:
    row = None
    with transaction(engine) as session:
        states = set(
            session.scalars(
                select(LedgerRow.state).where(LedgerRow.message_sha256 == sha256_hex(body))
            )
        )
        if "approved" in states:
            return
        if "held" not in states:
            row = _record(session, kind, body, "held", detail, now)
            _stage_copies(home, row, (body,))
    if row is not None:
        _settle_copies(home, row)
    raise ReleaseHeld(
        f"{kind}: held until a person at this site has read it ('fedgtv-site ledger show') and "
        "approves it"
    )


def _record(
    session: Session, kind: str, body: bytes, state: str, detail: Mapping[str, Any], now: datetime
) -> LedgerRow:
    sequence, previous = audit_log.next_link(session, LedgerRow)
    return _add(
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


def _add(session: Session, **fields: object) -> LedgerRow:
    row = LedgerRow(**fields, sha256=audit_log.entry_sha256(fields))
    session.add(row)
    session.flush()
    return row


def _record_refusal(
    engine: Engine, kind: str, unchecked: bytes, refusal: ReleaseRefused, now: datetime
) -> None:
    """Record a refusal; asked for again and refused alike, a message adds no further entry."""
    detail, digest = {"rule": refusal.rule}, sha256_hex(unchecked)
    newest_first = select(LedgerRow).order_by(LedgerRow.sequence.desc())
    with transaction(engine) as session:
        last = session.scalars(newest_first.where(LedgerRow.kind == kind).limit(1)).first()
        seen = last is not None and last.state == "refused" and last.message_sha256 == digest
        if last is None or not seen or last.detail != detail:
            _record(session, kind, unchecked, "refused", detail, now)


def _kind(message: object) -> str:
    kind = getattr(message, "kind", None)
    return kind if type(message) in LEAVING and isinstance(kind, str) else "unknown"


def _copies(home: SiteHome, row: LedgerRow) -> dict[Path, str]:
    """Return the copies that are kept of an entry, with their SHA-256."""
    if row.state not in KEPT:
        return {}
    copies = {_message_copy(home, row): row.message_sha256}
    if row.state == "released":
        for entry in row.detail.get("files", {}).values():
            copies[home.ledger / "files" / entry["sha256"]] = entry["sha256"]
    return copies


def _message_copy(home: SiteHome, row: LedgerRow) -> Path:
    folder = home.ledger / "held" if row.state == "held" else home.ledger
    return folder / f"{row.sequence:06d}-{row.kind}.json"


def _stage_copies(home: SiteHome, row: LedgerRow, contents: Iterable[bytes]) -> None:
    """Write the copies of an entry that is about to be committed, under names that do not count.

    Raises:
        ProtocolError: when another copy is there already; it is evidence and stays as it is.
    """
    by_digest = {sha256_hex(content): content for content in contents}
    for file, digest in _copies(home, row).items():
        if file.is_file():
            if sha256_hex(file.read_bytes()) != digest:
                raise ProtocolError(
                    f"ledger: another copy {file.name} is there already: the database is older "
                    "than the ledger, or the copy was changed; restore them from a backup"
                )
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        with _staged(file).open("wb") as part:
            part.write(by_digest[digest])
            part.flush()
            os.fsync(part.fileno())


def _settle_copies(home: SiteHome, row: LedgerRow) -> None:
    for file in _copies(home, row):
        _settle(file)


def _settle(file: Path) -> None:
    """Give a staged copy its name; its entry is committed."""
    if not file.is_file() and _staged(file).is_file():
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            _staged(file).replace(file)


def _staged(file: Path) -> Path:
    return file.with_name(f".{file.name}.part")


def _read_copy(file: Path, digest: str, row: LedgerRow) -> bytes:
    _settle(file)  # a kill may have come between the entry and its copy
    content = file.read_bytes() if file.is_file() else None
    if content is None or sha256_hex(content) != digest:
        raise ProtocolError(
            f"ledger: the copy {file.name} of entry {row.sequence} is missing or changed: compare "
            "with a backup"
        )
    return content
