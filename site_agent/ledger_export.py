"""The ledger in files that an auditor takes along: every entry, every message that left, signed.

ledger.jsonl     one entry a line, canonical JSON with its hash and the hash of the one before
messages/        what left or waits, byte for byte; files beside messages by their SHA-256
signature.json   the last hash and the number of entries, under the hospital's key

Whoever has the folder and the hospital's public key can check all of it without this site:
`verify_export` does.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Engine

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.enrolment import KeyHex, SignatureHex
from algorithms.contracts.errors import DataError, ProtocolError
from site_agent.audit_log import GENESIS, entry_sha256
from site_agent.config import SiteHome
from site_agent.database import LedgerRow
from site_agent.egress import list_entries, named_copies, verify_ledger
from site_agent.site_keys import SiteKeys

LEDGER_FILE, MESSAGES, SIGNATURE_FILE = "ledger.jsonl", "messages", "signature.json"


class Head(BaseModel):
    """What is signed: whose ledger, how long it is and how it ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fedgtv_ledger"] = "fedgtv_ledger"
    site: str
    study: str
    entries: int
    last_sha256: str


class SignedHead(BaseModel):
    """The head, and the hospital's signature over its canonical JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: Head
    public_key_hex: KeyHex
    signature_hex: SignatureHex


def export_ledger(home: SiteHome, engine: Engine, output: Path) -> int:
    """Write the whole ledger into a new folder, signed; return the number of entries.

    Raises:
        DataError: `output` is there already.
        ProtocolError: the ledger is broken; nothing is written then.
    """
    if output.exists():
        raise DataError(f"{output}: is there already: choose another folder")
    keys = SiteKeys.open(home)
    verify_ledger(home, engine)
    rows = list_entries(engine)
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / MESSAGES).mkdir(parents=True)
    lines = [canonical_json(_fields(row) | {"sha256": row.sha256}) for row in rows]
    (part / LEDGER_FILE).write_bytes(b"".join(line + b"\n" for line in lines))
    for file in named_copies(home, rows):
        shutil.copyfile(file, part / MESSAGES / sha256_hex(file.read_bytes()))
    head = Head(
        site=home.config.name,
        study=home.config.study,
        entries=len(rows),
        last_sha256=rows[-1].sha256 if rows else GENESIS,
    )
    signed = SignedHead(
        head=head,
        public_key_hex=keys.signing_public_key_hex,
        signature_hex=keys.sign(_signed_bytes(head)),
    )
    (part / SIGNATURE_FILE).write_bytes(canonical_json(signed.model_dump(mode="json")))
    part.replace(output)
    return len(rows)


def verify_export(folder: Path, public_key_hex: str) -> int:
    """Check an exported ledger with nothing but the hospital's public key; return its length.

    Raises:
        DataError: there is no exported ledger there.
        ProtocolError: naming the first file or entry that is not as it was exported.
    """
    try:
        signature = (folder / SIGNATURE_FILE).read_bytes()
        lines = (folder / LEDGER_FILE).read_bytes().splitlines()
    except OSError:
        raise DataError(
            f"{folder}: no exported ledger: name the folder that was exported"
        ) from None
    try:
        signed = SignedHead.model_validate_json(signature)
    except ValidationError:
        raise ProtocolError(f"{SIGNATURE_FILE}: no signature of a ledger any more") from None
    if signed.public_key_hex != public_key_hex.replace(" ", "").lower():
        raise ProtocolError(f"{SIGNATURE_FILE}: signed with another key than the hospital's")
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signed.public_key_hex)).verify(
            bytes.fromhex(signed.signature_hex), _signed_bytes(signed.head)
        )
    except (InvalidSignature, ValueError):
        raise ProtocolError(f"{SIGNATURE_FILE}: the signature does not hold") from None
    previous = GENESIS
    for number, line in enumerate(lines, start=1):
        previous = _check_entry(folder, number, line, previous)
    if (len(lines), previous) != (signed.head.entries, signed.head.last_sha256):
        raise ProtocolError(f"{LEDGER_FILE}: entries are missing at its end, or were added")
    return len(lines)


def _check_entry(folder: Path, number: int, line: bytes, previous: str) -> str:
    broken = ProtocolError(f"{LEDGER_FILE}: entry {number} was changed, removed or put in")
    try:
        entry: dict[str, Any] = json.loads(line)
        digest = str(entry.pop("sha256"))
        linked = entry["sequence"] == number and entry["previous_sha256"] == previous
        kept = entry["state"] in ("released", "held")
        message, detail = str(entry["message_sha256"]), entry["detail"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise broken from None
    if not linked or digest != entry_sha256(entry):
        raise broken
    if kept:
        _check_copy(folder, message)
    if entry["state"] == "released":
        for one in detail.get("files", {}).values():
            _check_copy(folder, one["sha256"])
    return digest


def _check_copy(folder: Path, digest: str) -> None:
    file = folder / MESSAGES / Path(digest).name
    if not file.is_file() or sha256_hex(file.read_bytes()) != digest:
        raise ProtocolError(f"{MESSAGES}/{digest}: missing or changed")


def _fields(row: LedgerRow) -> dict[str, Any]:
    columns = LedgerRow.__table__.columns
    return {c.key: getattr(row, c.key) for c in columns if c.key != "sha256"}


def _signed_bytes(head: Head) -> bytes:
    return canonical_json(head.model_dump(mode="json"))
