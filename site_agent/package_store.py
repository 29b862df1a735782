"""Model packages that came in: verified step by step, stored as a whole, approved by a person."""

import io
import json
import math
import os
import shutil
import struct
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError
from safetensors.numpy import load as load_safetensors
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.model_package import (
    MANIFEST_FILE,
    MODEL_FILE,
    PACKAGE_FILES,
    REFERENCE_POINTS_FILE,
    SIGNATURE_FILE,
    Manifest,
    Signature,
)
from algorithms.sample_selection import STRATEGIES
from site_agent import audit_log
from site_agent.config import SiteHome
from site_agent.database import AuditRow, PackageRow, transaction, utc_now
from site_agent.site_keys import trusted_keys

OPTIONAL_FILES = ("model.onnx",)
SEND_AGAIN = "ask the coordinator to send it again"
TENSOR_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}


class PackageRefused(ProtocolError):  # noqa: N818  # an answer more than an error
    """A package broke a rule; `rule` is the short name that the coordinator may learn."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def verify_package(
    manifest: bytes,
    signature: bytes,
    files: Mapping[str, bytes],
    trusted_keys: Iterable[str],
    *,
    study: str | None = None,
) -> Manifest:
    """Check a package in ten steps; what a step needs was checked by the steps before it.

    The signature covers the bytes of the manifest as they came. They are read only afterwards, so
    a package signed before a field with a default came to be stays genuine, under the same id.

    `files` is every file of the package but the manifest and the signature, `trusted_keys` are
    Ed25519 public keys of 64 hexadecimal digits, and `study` None skips step 4.

    Raises:
        PackageRefused: at the first rule that is broken.
    """
    parsed = verify_manifest(manifest, signature, trusted_keys, study=study)  # 1 to 5, names of 6
    _verify_names(parsed, files)  # 6
    _verify_contents(parsed, files)  # 7
    _verify_reference_points(parsed, files[REFERENCE_POINTS_FILE])  # 8
    header = read_safetensors_header(files[MODEL_FILE])  # 9
    _verify_weights(parsed, header, files[MODEL_FILE])  # 10
    return parsed


def verify_manifest(
    manifest: bytes, signature: bytes, trusted_keys: Iterable[str], *, study: str | None = None
) -> Manifest:
    """Check what can be checked before the other files are here: `verify_package`'s first steps.

    Raises:
        PackageRefused: at the first rule that is broken.
    """
    verify_key_and_signature(manifest, _parse_signature(signature), trusted_keys)  # 1, 2
    parsed = _parse_manifest(manifest)  # 3
    if study is not None and parsed.study != study:  # 4
        raise PackageRefused(
            "wrong_study",
            f"{MANIFEST_FILE}: made for study '{parsed.study}', but this site takes part in "
            f"'{study}': ask the coordinator for the right package",
        )
    if parsed.adaptation.selection_strategy not in STRATEGIES:  # 5
        raise PackageRefused(
            "unknown_strategy",
            f"{MANIFEST_FILE}: this version knows no selection strategy "
            f"'{parsed.adaptation.selection_strategy}': {SEND_AGAIN}, or update fedgtv",
        )
    _verify_names(parsed, parsed.files)  # 6, as far as it is about the manifest
    return parsed


def verify_folder(
    folder: Path, trusted_keys: Iterable[str], *, study: str | None = None
) -> tuple[bytes, bytes, dict[str, bytes]]:
    """Read and verify a package directory, as it came on a disk.

    Returns:
        Manifest, signature and the other files: what `store_package` takes.

    Raises:
        DataError: when the folder holds no manifest or no signature.
        PackageRefused: at the first rule that is broken.
    """
    for name in (MANIFEST_FILE, SIGNATURE_FILE):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: no such file: name the folder of a signed package")
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    manifest, signature = files.pop(MANIFEST_FILE), files.pop(SIGNATURE_FILE)
    verify_package(manifest, signature, files, trusted_keys, study=study)
    return manifest, signature, files


def store_package(
    home: SiteHome, engine: Engine, manifest: bytes, signature: bytes, files: Mapping[str, bytes]
) -> str:
    """Verify a package and keep the bytes that came; storing a package again changes nothing.

    The folder appears as a whole, then its row: a killed process leaves at worst an unnamed folder.
    Where the site approves by itself, it does so in the same transaction.

    Returns:
        The package id: SHA-256 of the manifest.

    Raises:
        PackageRefused: when a rule is broken; nothing is written then.
    """
    trusted, study = trusted_keys(home), home.config.study
    model_version = verify_package(manifest, signature, files, trusted, study=study).model_version
    package_id, signed_by = sha256_hex(manifest), _parse_signature(signature).key_id
    contents = {**files, MANIFEST_FILE: manifest, SIGNATURE_FILE: signature}
    _write_folder(home.packages / package_id, contents)
    with transaction(engine) as session:
        audit_log.next_link(session, AuditRow)  # one writer at a time from here on
        row = session.get(PackageRow, package_id)
        if row is None:
            now = utc_now()
            row = PackageRow(
                package_id=package_id,
                model_version=model_version,
                signed_by=signed_by,
                state="stored",
                received_at=now,
            )
            session.add(row)
            audit_log.append(
                session,
                actor="federation",
                event="package_stored",
                subject=package_id,
                detail={"model_version": model_version, "signed_by": signed_by},
                at=now,
            )
        if home.config.auto_approve and _may_follow(session, row):
            _activate(session, row, actor="auto_approve")
    return package_id


def load_package(home: SiteHome, package_id: str) -> tuple[Manifest, Path]:
    """Return the manifest and folder of a stored package, its hashes checked once more.

    Raises:
        DataError: when there is no such package.
        PackageRefused: when a file was changed since.
    """
    manifest, folder = read_manifest(home, package_id), home.packages / package_id
    files = {n: (folder / n).read_bytes() for n in manifest.files if (folder / n).is_file()}
    _verify_names(manifest, files)
    _verify_contents(manifest, files)
    return manifest, folder


def read_manifest(home: SiteHome, package_id: str) -> Manifest:
    """Return what a stored package says about itself; its other files are not looked at.

    Raises:
        DataError: when there is no such package.
        PackageRefused: when the manifest was changed since.
    """
    file = home.packages / package_id / MANIFEST_FILE
    if not file.is_file():
        raise DataError(f"package {package_id} is not stored here: see 'fedgtv-site package list'")
    content = file.read_bytes()
    if sha256_hex(content) != package_id:
        raise PackageRefused(
            "wrong_hash", f"{MANIFEST_FILE}: was changed since it was stored: {SEND_AGAIN}"
        )
    return _parse_manifest(content)


def verify_stored(home: SiteHome, package_id: str) -> Manifest:
    """Verify a stored package once more, in all ten steps, before a person lets it in.

    Raises:
        DataError: when there is no such package.
        PackageRefused: at the first rule that is broken, or when it was changed since.
    """
    manifest = read_manifest(home, package_id)
    content, *_ = verify_folder(
        home.packages / package_id, trusted_keys(home), study=home.config.study
    )
    if sha256_hex(content) != package_id:
        raise PackageRefused(
            "wrong_hash", f"{MANIFEST_FILE}: was changed since it was stored: {SEND_AGAIN}"
        )
    return manifest


def approve(engine: Engine, package_id: str, *, actor: str) -> None:
    """Let the site work with a package; the one approved before is retired (or rolled back to).

    Raises:
        DataError: when there is no such package.
    """
    with transaction(engine) as session:
        row = session.get(PackageRow, package_id)
        if row is None:
            raise DataError(
                f"package {package_id} is not stored here: see 'fedgtv-site package list'"
            )
        _activate(session, row, actor=actor)


def _activate(session: Session, row: PackageRow, *, actor: str) -> None:
    if row.state == "approved":
        return
    for other in session.scalars(select(PackageRow).where(PackageRow.state == "approved")):
        other.state = "retired"
    row.state = "approved"
    audit_log.append(
        session,
        actor=actor,
        event="package_approved",
        subject=row.package_id,
        detail={},
        at=utc_now(),
    )


def _may_follow(session: Session, row: PackageRow) -> bool:
    """Say whether a package may be approved without a person.

    One that was retired, or came before the one in use, may not: its signature is good for ever,
    and whoever sends it again must not undo a newer package.
    """
    active = session.scalars(select(PackageRow).where(PackageRow.state == "approved")).first()
    newest = active is None or active.received_at <= row.received_at
    return row.state == "stored" and newest


def active_package(engine: Engine) -> PackageRow | None:
    """Return the approved package, if there is one."""
    with Session(engine) as session:
        return session.scalars(select(PackageRow).where(PackageRow.state == "approved")).first()


def packages_held(engine: Engine) -> list[PackageRow]:
    """Return every stored package, oldest first."""
    order = (PackageRow.received_at, PackageRow.package_id)
    with Session(engine) as session:
        return list(session.scalars(select(PackageRow).order_by(*order)))


def read_safetensors_header(data: bytes) -> dict[str, Any]:
    """Parse the header of a safetensors file without loading a tensor, and return it.

    The layout is checked as the format's specification asks: the tensors fill the rest of the file
    without holes or overlaps, and each is as long as its type and shape say.

    Raises:
        PackageRefused: not_safetensors.
    """
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length].decode("utf-8"))
        spans = sorted(_tensor_span(entry) for name, entry in header.items() if name[:2] != "__")
        ends = [0, *(end for _, end in spans)]
        contiguous = all(begin == end for (begin, _), end in zip(spans, ends, strict=False))
        if not spans or not contiguous or 8 + length + ends[-1] != len(data):
            raise ValueError("the tensors do not fill the file")
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PackageRefused(
            "not_safetensors", f"{MODEL_FILE}: not a safetensors file: {SEND_AGAIN}"
        ) from None
    return dict(header)


def _tensor_span(entry: Mapping[str, Any]) -> tuple[int, int]:
    begin, end = (int(offset) for offset in entry["data_offsets"])
    bits = TENSOR_BITS[entry["dtype"]]
    for size in entry["shape"]:
        if not isinstance(size, int) or size < 0:
            raise ValueError("a shape is not made of counts")
        bits *= size
    if begin < 0 or (end - begin) * 8 != bits:
        raise ValueError("a tensor is not as long as its shape says")
    return begin, end


def _parse_manifest(content: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "JSON"
        raise PackageRefused(
            "unreadable_manifest",
            f"{MANIFEST_FILE}: not a manifest of this version (at {where}): {SEND_AGAIN}, or update"
            " fedgtv",
        ) from None


def _parse_signature(content: bytes) -> Signature:
    try:
        return Signature.model_validate_json(content)
    except ValidationError:
        raise PackageRefused(
            "bad_signature", f"{SIGNATURE_FILE}: not an Ed25519 signature file: {SEND_AGAIN}"
        ) from None


def verify_key_and_signature(
    content: bytes,
    signature: Signature,
    trusted_keys: Iterable[str],
    *,
    name: str = f"{MANIFEST_FILE} and {SIGNATURE_FILE}",
) -> None:
    """Check who signed `content`, which a person knows as `name`.

    Raises:
        PackageRefused: unknown_key or bad_signature.
    """
    trusted = {sha256_hex(bytes.fromhex(key))[:16]: bytes.fromhex(key) for key in trusted_keys}
    if signature.key_id not in trusted:
        raise PackageRefused(
            "unknown_key",
            f"{name}: signed with key {signature.key_id}, which this site does not trust:"
            " compare with 'fedgtv-coordinator public-key' by telephone, then add the key to"
            " trusted_keys in site.toml, or enrol",
        )
    try:
        Ed25519PublicKey.from_public_bytes(trusted[signature.key_id]).verify(
            bytes.fromhex(signature.signature_hex), content
        )
    except InvalidSignature:
        raise PackageRefused(
            "bad_signature",
            f"{name}: the signature does not fit: one was changed on the way; {SEND_AGAIN}",
        ) from None


def _verify_names(manifest: Manifest, files: Collection[str]) -> None:
    allowed = {*PACKAGE_FILES, *OPTIONAL_FILES}
    for name in sorted({*PACKAGE_FILES, *manifest.files}):
        if name not in allowed:
            raise PackageRefused(
                "extra_file", f"{MANIFEST_FILE}: names a file no package has: {SEND_AGAIN}"
            )
        if name not in files or name not in manifest.files:
            raise PackageRefused("missing_file", f"{name}: missing from the package: {SEND_AGAIN}")
    if extra := sorted(set(files) - set(manifest.files)):
        raise PackageRefused(
            "extra_file",
            f"{extra[0]}: not named by the manifest: remove the file, or {SEND_AGAIN}",
        )


def _verify_contents(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    for name, entry in sorted(manifest.files.items()):
        if len(files[name]) != entry.size_bytes:
            raise PackageRefused(
                "wrong_size",
                f"{name}: {len(files[name])} bytes where the manifest says {entry.size_bytes}: the "
                f"package was changed on the way; {SEND_AGAIN}",
            )
        if sha256_hex(files[name]) != entry.sha256:
            raise PackageRefused(
                "wrong_hash",
                f"{name}: its SHA-256 is not the one in the manifest: the package was changed on "
                f"the way; {SEND_AGAIN}",
            )


def _verify_reference_points(manifest: Manifest, data: bytes) -> None:
    """Refuse what does not fit the network's features; read no more than the file is long."""
    from algorithms.features import GRID_YX  # with torch, without which most commands do

    expected = (manifest.reference_point_count, math.prod(GRID_YX))
    stream = io.BytesIO(data)
    try:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        good = (
            (shape, manifest.reference_point_dimension) == (expected, expected[1])
            and dtype == np.float32
            and len(data) - stream.tell() == math.prod(expected) * 4
            and bool(np.isfinite(np.frombuffer(data, dtype, offset=stream.tell())).all())
        )
    except (ValueError, TypeError, RecursionError, MemoryError):
        good = False
    if not good:
        raise PackageRefused(
            "bad_reference_points",
            f"{REFERENCE_POINTS_FILE}: not {expected[0]} x {expected[1]} finite float32 numbers: "
            f"{SEND_AGAIN}",
        )


def _verify_weights(manifest: Manifest, header: Mapping[str, Any], data: bytes) -> None:
    """Refuse weights that are not those of the manifest's network, or not finite."""
    import torch  # most commands do without

    from algorithms.networks import build_network

    with torch.device("meta"):  # names and shapes, no numbers
        expected = build_network(manifest.network).state_dict()
    found = {name: (one["dtype"], one["shape"]) for name, one in header.items() if name[:2] != "__"}
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    if found != {name: (kinds[one.dtype], list(one.shape)) for name, one in expected.items()}:
        raise PackageRefused(
            "wrong_network",
            f"{MODEL_FILE}: not the weights of the network that the manifest names: {SEND_AGAIN}",
        )
    tensors = load_safetensors(data).values()
    if not all(np.isfinite(tensor).all() for tensor in tensors):
        raise PackageRefused(
            "bad_weights", f"{MODEL_FILE}: some weights are no finite numbers: {SEND_AGAIN}"
        )


def _write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    if folder.is_dir():
        if all(
            (folder / n).is_file() and (folder / n).read_bytes() == c for n, c in contents.items()
        ):
            return
        shutil.rmtree(folder)  # damaged since: the verified bytes at hand replace it
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # what a killed attempt left
    part.mkdir(mode=0o700, parents=True)
    try:
        for name, content in contents.items():
            with (part / name).open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())  # or a power cut leaves the name with no content
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
