"""Answers a bundle that came on a disk, for a hospital that no network reaches.

Every question in it goes to the handlers that answer on the network, under the same checks, and
every answer passes the same door; only what carries them is another. What was taken in stands in
the audit log, so that a kill is followed by the same command and a replay by a refusal.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from algorithms.contracts.bundle import (
    COORDINATOR,
    BundleHeader,
    BundleRefused,
    CarriedMessage,
    Direction,
    check_expiry,
    check_order,
    replayed,
)
from algorithms.contracts.enrolment import Enrolment
from algorithms.contracts.errors import DataError
from algorithms.sealed_bundle import SealedBundle, SealedWriter, read_messages, read_objects
from site_agent import audit_log
from site_agent.client_app import app as installed_app
from site_agent.config import SiteHome
from site_agent.database import AuditRow, transaction, utc_now
from site_agent.message_check import (
    MessageRefused,
    checked_reply,
    note_refusal,
    put_together,
)
from site_agent.site_keys import SiteKeys, read_enrolment, trusted_keys
from supervision.working_folder import put_in_place

TAKEN, ANSWERED, REFUSED = "bundle_taken", "bundle_answered", "bundle_refused"
KNOWN_TYPES = frozenset(installed_app._registered_funcs)
NODE_ID = 1
ClientAppCall = Callable[[Message, Context], Message]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnsweredBundle:
    """What was written: how many answers, and for what has none, the name of the reason."""

    sequence: int
    answers: int
    errors: tuple[str, ...]


def answer_bundle(
    home: SiteHome,
    engine: Engine,
    file: Path,
    output: Path,
    *,
    actor: str,
    now: datetime,
    client_app: ClientAppCall = installed_app,
) -> AnsweredBundle:
    """Answer the questions of a bundle into another one; after a kill, the same command goes on.

    Args:
        home: of the site.
        engine: of its database.
        file: as the coordinator wrote it.
        output: file to write; it appears when it is whole.
        actor: for the audit log.
        now: UTC with its zone.
        client_app: what answers.

    Raises:
        DataError: there is no such file, the output exists, or the site is not enrolled.
        BundleRefused: naming the rule; the audit log has it.
    """
    enrolment = read_enrolment(home)
    if enrolment is None:
        raise DataError(f"{home.keys}: not enrolled: run 'fedgtv-site enrol'")
    if not file.is_file():
        raise DataError(f"{file}: no such bundle: give the file that the coordinator wrote")
    keys = SiteKeys.open(home)
    try:
        with file.open("rb") as stream:
            bundle = SealedBundle.open(stream)
            _check_origin(home, bundle)
            check_expiry(bundle.header, now)
            content = bundle.unseal(keys.encryption)
            _take_in(engine, bundle, actor)
            done = AnsweredBundle(bundle.header.sequence, 0, ())
            if not output.exists():
                header = _answer_header(home, keys, enrolment, bundle, now)
                part = output.with_name(f".{output.name}.part")
                with part.open("wb") as answer:
                    writer = SealedWriter(answer, header, keys.sign)
                    done = _answer_all(home, engine, client_app, bundle, content, writer)
                    writer.finish()
                    answer.flush()
                    os.fsync(answer.fileno())
                put_in_place(part, output)
            elif not _answers(output, bundle, keys):
                raise DataError(f"{output}: exists already: give another name")
    except BundleRefused as refusal:
        _note(engine, actor, REFUSED, "bundle", {"rule": refusal.rule})
        raise
    _note(engine, actor, ANSWERED, _subject(bundle), _named(bundle))
    return done


def _check_origin(home: SiteHome, bundle: SealedBundle) -> None:
    header = bundle.header
    if header.study != home.config.study:
        raise BundleRefused("wrong_study", "it is of another study")
    coming = header.direction is Direction.TO_SITE and header.sender == COORDINATOR
    if not coming or header.receiver != home.config.name:
        raise BundleRefused("wrong_site", "it is not from the coordinator to this hospital")
    if header.signing_key_hex not in trusted_keys(home):
        raise BundleRefused("unknown_key", "it is signed with a key that is not trusted here")
    bundle.verify()


def _take_in(engine: Engine, bundle: SealedBundle, actor: str) -> None:
    """Note that a bundle came, once, or let it go on that was not answered to the end.

    Raises:
        BundleRefused: "replayed" or "stale".
    """
    sequence, named = bundle.header.sequence, _named(bundle)
    with transaction(engine) as session:
        audit_log.next_link(session, AuditRow)  # one writer from here on
        taken = _noted(session, TAKEN)
        check_order(sequence, bundle.sha256, taken)
        if sequence in _noted(session, ANSWERED):
            raise replayed(sequence)
        if sequence not in taken:
            audit_log.append(
                session,
                actor=actor,
                event=TAKEN,
                subject=_subject(bundle),
                detail=named,
                at=utc_now(),
            )


def _noted(session: Session, event: str) -> dict[int, str]:
    """Return the bundles to which something happened: SHA-256 by number."""
    rows = session.scalars(select(AuditRow).where(AuditRow.event == event))
    return {row.detail["sequence"]: row.detail["sha256"] for row in rows}


def _answer_header(
    home: SiteHome, keys: SiteKeys, enrolment: Enrolment, bundle: SealedBundle, now: datetime
) -> BundleHeader:
    asked = bundle.header
    return BundleHeader(
        study=home.config.study,
        direction=Direction.TO_COORDINATOR,
        sender=home.config.name,
        receiver=COORDINATOR,
        sequence=asked.sequence,
        created_at=now,
        expires_at=now + (asked.expires_at - asked.created_at),
        answers_sha256=bundle.sha256,
        signing_key_hex=keys.signing_public_key_hex,
        encryption_key_hex=enrolment.coordinator_encryption_key_hex,
    )


def _answer_all(
    home: SiteHome,
    engine: Engine,
    client_app: ClientAppCall,
    bundle: SealedBundle,
    content: BinaryIO,
    writer: SealedWriter,
) -> AnsweredBundle:
    # Flower's Message() asks this process-wide object who is speaking.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, NODE_ID, 1
    context = Context(
        run_id=1,
        node_id=NODE_ID,
        node_config={"home": str(home.folder)},
        state=RecordDict(),
        run_config={},
    )
    answers, errors = 0, []
    for _, question in read_messages(content):
        try:
            message = _message(home, question, content)
            reply = checked_reply(client_app(message, context), message, engine)
        except MessageRefused as refusal:
            _log.warning("refused: %s", refusal.rule)
            known = question.type if question.type in KNOWN_TYPES else "unknown"
            note_refusal(engine, refusal, known, utc_now())
            error: str | None = refusal.rule
        else:
            error = reply.error.reason if reply.has_error() else None
        if error is None:
            answers += 1
            objects = {
                name: item.deflate() for name, item in get_all_nested_objects(reply.content).items()
            }
        else:
            errors.append(error)
            objects = {}
        sizes = tuple((name, len(item)) for name, item in objects.items())
        answer = CarriedMessage(
            type=question.type, asked=question.asked, error=error, objects=sizes
        )
        writer.add(answer, objects)
    return AnsweredBundle(bundle.header.sequence, answers, tuple(errors))


def _message(home: SiteHome, question: CarriedMessage, content: BinaryIO) -> Message:
    """Read one question from where the stream stands.

    Raises:
        MessageRefused: naming the rule; nothing of it is run.
    """
    if question.type not in KNOWN_TYPES:
        raise MessageRefused("unknown_message_type")
    if question.size_bytes > home.config.max_message_bytes:
        raise MessageRefused("oversized_message")
    if not question.objects:
        raise MessageRefused("malformed_message")
    root = question.objects[-1][0]
    objects = read_objects(content, question)
    limit_bytes = home.config.max_message_bytes
    asked = put_together(root, objects, RecordDict, limit_bytes=limit_bytes)
    return Message(asked, NODE_ID, question.type)


def _answers(output: Path, bundle: SealedBundle, keys: SiteKeys) -> bool:
    """Say whether `output` is this site's answer already: a kill came just behind it."""
    with output.open("rb") as file:
        try:
            answer = SealedBundle.open(file)
            answer.verify()
        except BundleRefused:
            return False
    ours = answer.header.signing_key_hex == keys.signing_public_key_hex
    return ours and answer.header.answers_sha256 == bundle.sha256


def _note(engine: Engine, actor: str, event: str, subject: str, detail: dict[str, object]) -> None:
    with transaction(engine) as session:
        audit_log.append(
            session, actor=actor, event=event, subject=subject, detail=detail, at=utc_now()
        )


def _subject(bundle: SealedBundle) -> str:
    return f"bundle-{bundle.header.sequence}"


def _named(bundle: SealedBundle) -> dict[str, object]:
    return {"sequence": bundle.header.sequence, "sha256": bundle.sha256}
