"""Signs what the source hospital offered; the weights are bytes here and are never loaded."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.model_package import (
    MANIFEST_FILE,
    PACKAGE_FILES,
    SIGNATURE_FILE,
    FileEntry,
    Manifest,
    Signature,
)
from algorithms.contracts.package_stream import stream_bytes, stream_spans
from coordinator.config import CoordinatorHome


@dataclass(frozen=True)
class PublishedPackage:
    """A package on disk, for sending: its files are one stream, of which only parts are read.

    Attributes:
        manifest, signature: the two JSON files as bytes.
        files: what the manifest says of the others.
        folder: where they lie.
    """

    manifest: bytes
    signature: bytes
    files: Mapping[str, FileEntry]
    folder: Path

    @property
    def size_bytes(self) -> int:
        """Length of the stream."""
        return stream_bytes(self.files)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Read a part of the stream; it is shorter where the stream ends.

        Raises:
            DataError: when a file is gone or shorter than it was.
        """
        parts = []
        wanted = range(offset, min(offset + size_bytes, self.size_bytes))
        for name, span in stream_spans(self.files).items():
            begin, end = max(wanted.start, span.start), min(wanted.stop, span.stop)
            if begin < end:
                parts.append(_read_piece(self.folder / name, begin - span.start, end - begin))
        return b"".join(parts)


def create_key(file: Path) -> None:
    """Make the study's Ed25519 signing key, readable by its owner only.

    Raises:
        DataError: when there is one already; replacing it would orphan every site.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise DataError(f"{file}: there is a signing key already: choose another folder") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(Ed25519PrivateKey.generate().private_bytes_raw().hex())


def public_key_hex(home: CoordinatorHome) -> str:
    """Return the public key that sites put into `trusted_keys`: 64 hexadecimal digits."""
    return read_signing_key(home).public_key().public_bytes_raw().hex()


def sign(home: CoordinatorHome, content: bytes) -> Signature:
    """Sign bytes with the study's key.

    Raises:
        DataError: when the key is missing or damaged.
    """
    key = read_signing_key(home)
    return Signature(
        key_id=sha256_hex(key.public_key().public_bytes_raw())[:16],
        signature_hex=key.sign(content).hex(),
    )


def publish(home: CoordinatorHome, manifest: Manifest, files: Mapping[str, bytes]) -> str:
    """Check an offered package against its manifest, sign it and write its folder; idempotent.

    Returns:
        The package id.

    Raises:
        ProtocolError: naming the rule that the offer breaks.
    """
    _check_offer(home, manifest, files)
    signed_bytes = manifest.signed_bytes()
    signature = sign(home, signed_bytes)
    contents = {
        **files,
        MANIFEST_FILE: signed_bytes,
        SIGNATURE_FILE: canonical_json(signature.model_dump(mode="json")),
    }
    folder = home.packages / manifest.package_id
    if not folder.is_dir():
        _write_folder(folder, contents)
    return manifest.package_id


def open_package(home: CoordinatorHome, package_id: str) -> PublishedPackage:
    """Open a published package for sending.

    Raises:
        DataError: when its folder is not there.
    """
    folder = home.packages / package_id
    if not folder.is_dir():
        raise DataError(f"{folder}: the published package is gone: restore it from backup")
    manifest = (folder / MANIFEST_FILE).read_bytes()
    # Only what is sent: another version may have written fields that this one does not know.
    named = json.loads(manifest)["files"].items()
    files = {name: FileEntry.model_validate(entry) for name, entry in named}
    return PublishedPackage(manifest, (folder / SIGNATURE_FILE).read_bytes(), files, folder)


def _write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write a folder that appears at once, with all files; a part from a kill is replaced."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
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


def _read_piece(file: Path, offset: int, size_bytes: int) -> bytes:
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            piece = stream.read(size_bytes)
    except FileNotFoundError:
        piece = b""
    if len(piece) != size_bytes:
        raise DataError(f"{file}: the published package is damaged: restore it from backup")
    return piece


def _check_offer(home: CoordinatorHome, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    if manifest.study != home.config.study:
        raise ProtocolError("wrong_study: the offered package belongs to another study")
    missing = set(PACKAGE_FILES) - set(manifest.files)
    if missing or set(manifest.files) != set(files):
        raise ProtocolError("missing_file: the offer lacks a file, or has one too many")
    for name, entry in manifest.files.items():
        if Path(name).name != name or name in (MANIFEST_FILE, SIGNATURE_FILE):
            raise ProtocolError("bad_file_name: the offer names a file that no package may have")
        if len(files[name]) != entry.size_bytes or sha256_hex(files[name]) != entry.sha256:
            raise ProtocolError(f"wrong_hash: {name} is not the file that the manifest names")


def read_signing_key(home: CoordinatorHome) -> Ed25519PrivateKey:
    """Read the study's signing key.

    Raises:
        DataError: it is missing or damaged.
    """
    file = home.signing_key
    if not file.is_file():
        raise DataError(f"{file}: the signing key is missing: restore it from backup")
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(file.read_text("ascii").strip()))
    except ValueError:  # not ASCII, not hexadecimal, or not 32 bytes
        raise DataError(f"{file}: not a signing key any more: restore it from backup") from None
