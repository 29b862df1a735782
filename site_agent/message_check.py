"""What may come in and what may go back, checked beside the handlers and not by them.

A message that is refused runs nothing. It is noted in the audit log by the name of the rule, never
by what it held, and the coordinator learns the same name.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import DecodeError
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.unfolded_size import is_too_large
from site_agent import audit_log
from site_agent.config import SiteHome
from site_agent.database import LedgerRow, transaction

# Names in the records on the wire; `coordinator/server_app.py` has the same ones.
ADDRESS, MESSAGE, PACKAGE, QUESTION, FILES = "address", "message", "package", "question", "files"
PLAN, PART = "plan", "part"
SITE_FAILED = 100  # Flower's own error codes lie below

Part = TypeVar("Part")
_REASON = re.compile(r"[A-Za-z_]{1,60}")  # a class or a rule; no text, number or path


class MessageRefused(ProtocolError):  # noqa: N818  # a decision more than an error
    """A message may not come in, or a reply not go back; `rule` names why."""

    def __init__(self, rule: str, **detail: str) -> None:
        super().__init__(rule)
        self.rule = rule
        self.detail = detail


def check_address(message: Message, home: SiteHome) -> None:
    """Check that a message says it is for this site and of its study.

    Raises:
        MessageRefused: it does not say, or says another.
    """
    if sent_text(message, ADDRESS, "study") != home.config.study:
        raise MessageRefused("another_study")
    if sent_text(message, ADDRESS, "site") != home.config.name:
        raise MessageRefused("another_site")


def sent_text(message: Message, record: str, key: str) -> str:
    """Return a text of a message.

    Raises:
        MessageRefused: it is not there, or something else.
    """
    return _sent(message, record, key, str)


def sent_bytes(message: Message, record: str, key: str) -> bytes:
    """Return bytes of a message.

    Raises:
        MessageRefused: they are not there, or something else.
    """
    return _sent(message, record, key, bytes)


def sent_count(message: Message, record: str, key: str) -> int:
    """Return a number of a message that counts something.

    Raises:
        MessageRefused: it is not there, negative, or something else.
    """
    value = _sent(message, record, key, int)
    if value < 0:
        raise MessageRefused("malformed_message")
    return value


def sent_files(message: Message, record: str) -> dict[str, bytes]:
    """Return the files of a message by name.

    Raises:
        MessageRefused: there are none, or something else.
    """
    arrays = message.content.array_records.get(record)
    if arrays is None or any(array.stype != "raw" for array in arrays.values()):
        raise MessageRefused("malformed_message")
    return {name: bytes(array.data) for name, array in arrays.items()}


def put_together(
    object_id: str, parts: dict[str, bytes], kind: type[Part], *, limit_bytes: int
) -> Part:
    """Make an object of Flower from its parts, by their names, as the network carries them.

    Raises:
        MessageRefused: they do not make one, one of another kind, or one larger than `limit_bytes`.
    """
    try:
        too_large = is_too_large(parts, limit_bytes)
    except ValueError:
        raise MessageRefused("malformed_message") from None
    if too_large:
        raise MessageRefused("oversized_message")
    try:
        whole = inflate_object_from_contents(object_id, parts)
    except (DecodeError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MessageRefused("malformed_message") from None
    if not isinstance(whole, kind):
        raise MessageRefused("malformed_message")
    return whole


def wrap_released(body: bytes, files: Mapping[str, bytes]) -> RecordDict:
    """Put released bytes into the one form in which something leaves."""
    content = RecordDict({MESSAGE: ConfigRecord({"json": body})})
    if files:
        arrays = {n: Array("uint8", (len(data),), "raw", data) for n, data in files.items()}
        content[FILES] = ArrayRecord(arrays)
    return content


def error_reply(message: Message, reason: str) -> Message:
    """Answer with the name of a class or a rule."""
    return Message(Error(SITE_FAILED, reason), reply_to=message)


def checked_reply(reply: Message, message: Message, engine: Engine) -> Message:
    """Return a reply to `message` made anew from what the ledger has as released, and nothing else.

    Raises:
        MessageRefused: the reply holds something else, or an error that is not a mere name.
    """
    if reply.has_error():
        reason = reply.error.reason or ""
        if not _REASON.fullmatch(reason):
            raise MessageRefused("reply_error_text")
        return error_reply(message, reason)
    files = sent_files(reply, FILES) if FILES in reply.content else {}
    body = sent_bytes(reply, MESSAGE, "json")
    if not _was_released(engine, body, files):
        raise MessageRefused("reply_not_released")
    again = Message(wrap_released(body, files), reply_to=message)
    if again.content != reply.content:
        raise MessageRefused("reply_not_released")
    return again


def note_refusal(engine: Engine, refusal: MessageRefused, kind: str, now: datetime) -> None:
    """Write a refusal into the audit log; `kind` is a known message type, or "unknown"."""
    with transaction(engine) as session:
        audit_log.append(
            session,
            actor="federation",
            event="message_refused",
            subject=kind,
            detail={"rule": refusal.rule, **refusal.detail},
            at=now,
        )


def _sent(message: Message, record: str, key: str, kind: type[Part]) -> Part:
    values = message.content.config_records.get(record)
    value = values.get(key) if values is not None else None
    if type(value) is not kind:  # exactly: a bool is no number here
        raise MessageRefused("malformed_message")
    return value


def _was_released(engine: Engine, body: bytes, files: Mapping[str, bytes]) -> bool:
    sent = {name: sha256_hex(data) for name, data in files.items()}
    mine = (LedgerRow.message_sha256 == sha256_hex(body), LedgerRow.state == "released")
    with Session(engine) as session:
        for row in session.scalars(select(LedgerRow).where(*mine)):
            named = row.detail.get("files", {})
            if {name: entry["sha256"] for name, entry in named.items()} == sent:
                return True
    return False
