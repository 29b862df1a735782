r"""The file of a bundle: sealed to one key and signed as a whole, written and read in one pass.

    "fedgtv bundle 1\n"
    header      its length (4 bytes) and canonical JSON
    key         80 bytes: a key drawn for this file, sealed by HPKE (RFC 9180, base mode: X25519,
                HKDF-SHA256, ChaCha20-Poly1305) to the receiver; all before it is bound as info
    content     in chunks of 1 MiB, each sealed by ChaCha20-Poly1305 under that key; nonce: its
                number; associated data: its number and whether it is the last (the STREAM
                construction of Hoang, Reyhanitabar, Rogaway and Vizar, 2015)
    signature   64 bytes: Ed25519 over the SHA-256 of all before it
    checksum    32 bytes: SHA-256 of all before it; the bundle is named by it

HPKE in the library seals one message in memory; a package has gigabytes. Hence the chunks.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Self

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from pydantic import ValidationError

from algorithms.contracts.bundle import (
    MOST_DESCRIPTION_BYTES,
    MOST_HEADER_BYTES,
    MOST_MESSAGES,
    BundleHeader,
    BundleRefused,
    CarriedMessage,
)

MAGIC = b"fedgtv bundle 1\n"
SIGNED = b"fedgtv bundle signature 1\n"  # no other signature of the same key is one of these
CHUNK_BYTES, TAG_BYTES = 2**20, 16
SEALED_KEY_BYTES, SIGNATURE_BYTES, CHECKSUM_BYTES = 80, 64, 32
_LENGTH_BYTES, _NONCE_BYTES = 4, 12
_LARGEST_BEGIN_BYTES = len(MAGIC) + _LENGTH_BYTES + MOST_HEADER_BYTES + SEALED_KEY_BYTES
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)

Sign = Callable[[bytes], str]  # returns hexadecimal digits


class SealedWriter:
    """Writes a bundle to `file`; only `finish` makes it one.

    Args:
        file: empty, open for writing.
        header: its `encryption_key_hex` is who can read it.
        sign: by the key of `header.signing_key_hex`.
    """

    def __init__(self, file: BinaryIO, header: BundleHeader, sign: Sign) -> None:
        self._file, self._sign = file, sign
        self._hash = hashlib.sha256()
        self._waiting = bytearray()
        self._chunks = 0
        key = ChaCha20Poly1305.generate_key()
        self._seal = ChaCha20Poly1305(key).encrypt
        outside = _outside(header.to_bytes())
        receiver = X25519PublicKey.from_public_bytes(bytes.fromhex(header.encryption_key_hex))
        self._put(outside)
        self._put(_SUITE.encrypt(key, receiver, info=outside))

    def add(self, message: CarriedMessage, objects: Mapping[str, bytes]) -> None:
        """Append a message; `objects` by the names that it says."""
        description = message.model_dump_json().encode()
        self._write(len(description).to_bytes(_LENGTH_BYTES, "big") + description)
        for name, _ in message.objects:
            self._write(objects[name])

    def finish(self) -> str:
        """Seal the last chunk and sign; return the SHA-256 that names the bundle."""
        self._seal_chunk(bytes(self._waiting), last=True)
        self._put(bytes.fromhex(self._sign(SIGNED + self._hash.digest())))
        checksum = self._hash.digest()
        self._file.write(checksum)
        return checksum.hex()

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while len(self._waiting) + len(view) > CHUNK_BYTES:  # so that something is left to be last
            taken = CHUNK_BYTES - len(self._waiting)
            self._seal_chunk(bytes(self._waiting) + view[:taken], last=False)
            self._waiting.clear()
            view = view[taken:]
        self._waiting += view

    def _seal_chunk(self, content: bytes, *, last: bool) -> None:
        number = self._chunks
        self._chunks += 1
        self._put(self._seal(_nonce(number), content, _associated(number, last=last)))

    def _put(self, content: bytes) -> None:
        self._hash.update(content)
        self._file.write(content)


@dataclass(frozen=True)
class _Read:
    """What was read and hashed on the way through a file; none of it is read again."""

    outside: bytes
    sealed_key: bytes
    signature: bytes
    signed_sha256: bytes
    content: range  # where the chunks are


class SealedBundle:
    """A bundle that came in, undamaged; it says who signed it, which `verify` has to confirm.

    A disk may answer otherwise when it is asked again. Only chunks are read twice, and those fit no
    key but the one that was signed.
    """

    def __init__(self, file: BinaryIO, header: BundleHeader, sha256: str, read: _Read) -> None:
        self._file, self._read = file, read
        self.header, self.sha256 = header, sha256

    @classmethod
    def open(cls, file: BinaryIO) -> Self:
        """Read a file once, check that it is as it was written, and return what it says outside.

        Args:
            file: seekable, open for reading; it stays open as long as the bundle is used.

        Raises:
            BundleRefused: "tampered", for whatever is not a whole bundle.
        """
        left = file.seek(0, io.SEEK_END) - SIGNATURE_BYTES - CHECKSUM_BYTES
        file.seek(0)
        digest = hashlib.sha256()
        begin = file.read(min(max(left, 0), _LARGEST_BEGIN_BYTES))
        digest.update(begin)
        left -= len(begin)
        while left > 0 and (block := file.read(min(left, CHUNK_BYTES))):
            digest.update(block)
            left -= len(block)
        end = file.tell()
        signed, signature = digest.digest(), file.read(SIGNATURE_BYTES)
        digest.update(signature)
        if left != 0 or file.read() != digest.digest():
            raise _tampered()
        header, outside = _parse_header(begin)
        content = range(len(outside) + SEALED_KEY_BYTES, end)
        sealed_key = begin[len(outside) : content.start]
        read = _Read(outside, sealed_key, signature, signed, content)
        return cls(file, header, digest.hexdigest(), read)

    def verify(self) -> None:
        """Check that the key which the header names signed the whole.

        Raises:
            BundleRefused: "bad_signature".
        """
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.header.signing_key_hex))
            key.verify(self._read.signature, SIGNED + self._read.signed_sha256)
        except (InvalidSignature, ValueError):
            raise BundleRefused(
                "bad_signature", "whoever made it does not have the key that it names"
            ) from None

    def unseal(self, key: X25519PrivateKey) -> BinaryIO:
        """Return the content as a seekable stream, deciphered while it is read.

        Raises:
            BundleRefused: "wrong_key" here; "tampered" while it is read.
        """
        try:
            content_key = _SUITE.decrypt(self._read.sealed_key, key, info=self._read.outside)
            opener = ChaCha20Poly1305(content_key)
        except (InvalidTag, ValueError):
            raise BundleRefused(
                "wrong_key", "it is sealed to another key than the one here: have it written again"
            ) from None
        return io.BufferedReader(_Content(self._file, opener, self._read.content), CHUNK_BYTES)


def read_messages(content: BinaryIO) -> Iterator[tuple[int, CarriedMessage]]:
    """Yield every message with the position where it begins, the stream standing at its objects.

    Wherever it is left standing, the next message is found.

    Raises:
        BundleRefused: "tampered", where the sender wrote what is no message, or too many.
    """
    position = 0
    for _ in range(MOST_MESSAGES):
        message = _read_message(content, position)
        if message is None:
            return
        behind = content.tell() + message.size_bytes
        yield position, message
        position = behind
    raise _tampered()


def read_message(content: BinaryIO, position: int) -> tuple[CarriedMessage, dict[str, bytes]]:
    """Read the message that begins at a position, with its objects.

    Raises:
        BundleRefused: "tampered", where there is none, or it ends too early.
    """
    message = _read_message(content, position)
    if message is None:
        raise _tampered()
    return message, read_objects(content, message)


def read_objects(content: BinaryIO, message: CarriedMessage) -> dict[str, bytes]:
    """Read the objects of a message, which begin where the stream stands.

    Raises:
        BundleRefused: "tampered", where the stream ends before they do.
    """
    objects = {name: content.read(size) for name, size in message.objects}
    if any(len(objects[name]) != size for name, size in message.objects):
        raise _tampered()
    return objects


def _read_message(content: BinaryIO, position: int) -> CarriedMessage | None:
    content.seek(position)
    length = content.read(_LENGTH_BYTES)
    if not length:
        return None
    size = int.from_bytes(length, "big")
    if len(length) != _LENGTH_BYTES or size > MOST_DESCRIPTION_BYTES:
        raise _tampered()
    try:
        return CarriedMessage.model_validate_json(content.read(size))
    except ValidationError:
        raise _tampered() from None


class _Content(io.RawIOBase):
    """The deciphered content; one chunk of it is in memory."""

    def __init__(self, file: BinaryIO, opener: ChaCha20Poly1305, sealed: range) -> None:
        self._file, self._opener, self._sealed = file, opener, sealed
        self._count = -(-len(sealed) // (CHUNK_BYTES + TAG_BYTES))
        last_bytes = len(sealed) - (self._count - 1) * (CHUNK_BYTES + TAG_BYTES)
        if self._count < 1 or last_bytes < TAG_BYTES:
            raise _tampered()
        self._size = len(sealed) - self._count * TAG_BYTES
        self._position = 0
        self._number, self._chunk = -1, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        number, start = divmod(self._position, CHUNK_BYTES)
        self._load(min(number, self._count - 1))
        piece = self._chunk[start : start + len(buffer)] if number < self._count else b""
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _load(self, number: int) -> None:
        if number == self._number:
            return
        at = self._sealed.start + number * (CHUNK_BYTES + TAG_BYTES)
        self._file.seek(at)
        sealed = self._file.read(min(CHUNK_BYTES + TAG_BYTES, self._sealed.stop - at))
        associated = _associated(number, last=number == self._count - 1)
        try:
            self._chunk = self._opener.decrypt(_nonce(number), sealed, associated)
        except InvalidTag:
            raise _tampered() from None
        self._number = number


def _outside(header: bytes) -> bytes:
    return MAGIC + len(header).to_bytes(_LENGTH_BYTES, "big") + header


def _parse_header(begin: bytes) -> tuple[BundleHeader, bytes]:
    """Return the header, and the bytes up to its end, of a file that begins so."""
    size = int.from_bytes(begin[len(MAGIC) : len(MAGIC) + _LENGTH_BYTES], "big")
    written = begin[len(MAGIC) + _LENGTH_BYTES :][: min(size, MOST_HEADER_BYTES)]
    try:
        header = BundleHeader.model_validate_json(written)
    except ValidationError:
        raise _tampered() from None
    outside = _outside(written)
    if not begin.startswith(outside) or header.to_bytes() != written:
        raise _tampered()
    return header, outside


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_BYTES, "big")


def _associated(number: int, *, last: bool) -> bytes:
    return _nonce(number) + bytes([last])


def _tampered() -> BundleRefused:
    return BundleRefused(
        "tampered", "it was damaged or changed on the way, or is no bundle: have it written again"
    )
