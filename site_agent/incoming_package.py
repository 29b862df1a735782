"""Packages that arrive in parts: nothing is kept of one whose signature is not trusted.

Every part comes with the signed manifest, so that a part needs no memory of the parts before it.
`packages/.incoming/ID.part` is the package's stream as far as it is here: its length is how far.
It is used only when it is whole and all that the manifest says of it is true.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import PackageReceipt
from algorithms.contracts.model_package import MANIFEST_FILE, Manifest
from algorithms.contracts.package_stream import stream_bytes, stream_spans
from site_agent.config import SiteHome
from site_agent.database import PackageRow
from site_agent.package_store import PackageRefused, load_package, store_package, verify_manifest
from site_agent.site_keys import trusted_keys


def receive_part(
    home: SiteHome, engine: Engine, manifest: bytes, signature: bytes, offset: int, content: bytes
) -> PackageReceipt:
    """Keep a part of a package, and store the package once it is whole.

    A part that is here already, or would leave a gap before it, changes nothing: the receipt says
    where to go on. `content` may be empty, to ask just that.

    Returns:
        The receipt: accepted when the package is stored, refused by a rule, or how far it is.
    """
    package_id = sha256_hex(manifest)
    held, accepted, rule = 0, False, None
    try:
        parsed = _admit(home, manifest, signature, offset, content)
        accepted = _is_stored(home, engine, package_id)
        if not accepted:
            held = _append(home, package_id, offset, content)
            if held >= stream_bytes(parsed.files):
                _store(home, engine, manifest, signature, parsed)
                accepted = True
    except PackageRefused as refusal:
        rule = refusal.rule
    return PackageReceipt(
        site=home.config.name,
        package_id=package_id,
        accepted=accepted,
        refused_by_rule=rule,
        bytes_held=0 if accepted or rule is not None else held,
    )


def forget_stored(home: SiteHome, package_ids: Iterable[str]) -> None:
    """Remove what a kill left of the parts of packages that are stored."""
    for package_id in package_ids:
        _part_file(home, package_id).unlink(missing_ok=True)


def _admit(
    home: SiteHome, manifest: bytes, signature: bytes, offset: int, content: bytes
) -> Manifest:
    """Check all that can be checked before a byte is kept.

    Raises:
        PackageRefused: naming the rule.
    """
    trusted, study = trusted_keys(home), home.config.study
    parsed = verify_manifest(manifest, signature, trusted, study=study)
    size = stream_bytes(parsed.files)
    if size > home.config.max_package_bytes:
        raise PackageRefused(
            "package_too_large",
            f"{MANIFEST_FILE}: names {size} bytes, more than max_package_bytes in site.toml allows",
        )
    if offset < 0 or offset + len(content) > size:
        raise PackageRefused(
            "part_outside", f"{MANIFEST_FILE}: a part reaches beyond the files that it names"
        )
    return parsed


def _is_stored(home: SiteHome, engine: Engine, package_id: str) -> bool:
    """Say whether a package is stored and undamaged; a damaged one is received once more."""
    with Session(engine) as session:
        if session.get(PackageRow, package_id) is None:
            return False
    try:
        load_package(home, package_id)
    except (DataError, PackageRefused):
        return False
    return True


def _append(home: SiteHome, package_id: str, offset: int, content: bytes) -> int:
    """Write what continues the stream, and return its length.

    Bytes are written at their place, not at the end: two processes that were handed the same part
    write the same.
    """
    file = _part_file(home, package_id)
    held = file.stat().st_size if file.is_file() else 0
    fresh = content[held - offset :] if offset <= held else b""
    if not fresh:
        return held
    file.parent.mkdir(parents=True, exist_ok=True)
    for other in set(file.parent.iterdir()) - {file}:
        other.unlink(missing_ok=True)  # one package at a time: what was begun before is given up
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.seek(held)
        stream.write(fresh)
        stream.flush()
        os.fsync(stream.fileno())
    return held + len(fresh)


def _store(
    home: SiteHome, engine: Engine, manifest: bytes, signature: bytes, parsed: Manifest
) -> None:
    """Store a package whose stream is whole; what was received is gone then, right or wrong."""
    file, spans = _part_file(home, sha256_hex(manifest)), stream_spans(parsed.files)
    with file.open("rb") as stream:
        files = {name: stream.read(len(span)) for name, span in spans.items()}
    try:
        store_package(home, engine, manifest, signature, files)
    except PackageRefused:
        file.unlink(missing_ok=True)
        raise
    file.unlink(missing_ok=True)


def _part_file(home: SiteHome, package_id: str) -> Path:
    return home.packages / ".incoming" / f"{package_id}.part"
