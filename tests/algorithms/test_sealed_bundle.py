"""The sealed file: whole or refused, read by its receiver only, and as its description says."""

import hashlib
import io
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms import sealed_bundle
from algorithms.contracts.bundle import (
    COORDINATOR,
    BundleHeader,
    BundleRefused,
    CarriedMessage,
    Direction,
)
from algorithms.sealed_bundle import (
    CHUNK_BYTES,
    MAGIC,
    SIGNED,
    SealedBundle,
    SealedWriter,
    read_message,
    read_messages,
    read_objects,
)

NOW = datetime(2031, 5, 6, tzinfo=UTC)
SENDER, RECEIVER = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
NAME = "ab" * 32


def header(**changes: object) -> BundleHeader:
    fields: dict[str, object] = {
        "study": "npc-gtv",
        "direction": Direction.TO_SITE,
        "sender": COORDINATOR,
        "receiver": "hospital-c",
        "sequence": 1,
        "created_at": NOW,
        "expires_at": NOW + timedelta(days=30),
        "answers_sha256": None,
        "signing_key_hex": SENDER.public_key().public_bytes_raw().hex(),
        "encryption_key_hex": RECEIVER.public_key().public_bytes_raw().hex(),
    }
    return BundleHeader.model_validate(fields | changes)


def message(content: bytes) -> CarriedMessage:
    return CarriedMessage(type="query.status", asked=NAME, objects=((NAME, len(content)),))


def sealed(*contents: bytes, key: Ed25519PrivateKey = SENDER, **changes: object) -> bytes:
    file = io.BytesIO()
    writer = SealedWriter(file, header(**changes), lambda data: key.sign(data).hex())
    for content in contents:
        writer.add(message(content), {NAME: content})
    assert writer.finish() == hashlib.sha256(file.getvalue()[:-32]).hexdigest()
    return file.getvalue()


def opened(data: bytes, key: X25519PrivateKey = RECEIVER) -> list[bytes]:
    bundle = SealedBundle.open(io.BytesIO(data))
    bundle.verify()
    content = bundle.unseal(key)
    return [read_objects(content, one)[NAME] for _, one in read_messages(content)]


def signed_again(body: bytes, key: Ed25519PrivateKey = SENDER) -> bytes:
    """Do what only who has the key can: sign other content."""
    whole = body + key.sign(SIGNED + hashlib.sha256(body).digest())
    return whole + hashlib.sha256(whole).digest()


def parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return what is outside, the sealed key and the sealed content, by the description alone."""
    size = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 4], "big")
    outside = len(MAGIC) + 4 + size
    return data[:outside], data[outside : outside + 80], data[outside + 80 : -96]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 64))
def test_what_was_sealed_comes_out_in_chunks_of_any_size(contents, chunk_bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed_bundle, "CHUNK_BYTES", chunk_bytes)
        assert opened(sealed(*contents)) == contents


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_last_chunk_may_be_full(extra: int) -> None:
    around = len(message(b"x" * CHUNK_BYTES).model_dump_json()) + 4
    content = bytes(range(256)) * (CHUNK_BYTES // 256)
    content = content[: CHUNK_BYTES - around + extra]
    assert opened(sealed(content)) == [content]
    chunks = -(-(around + len(content)) // CHUNK_BYTES)
    assert len(parts(sealed(content))[2]) == around + len(content) + 16 * chunks


def test_it_is_read_by_a_reader_written_from_the_description() -> None:
    data = sealed(b"first", b"second")
    outside, key, content = parts(data)
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
    opener = ChaCha20Poly1305(suite.decrypt(key, RECEIVER, info=outside))
    plain = opener.decrypt(bytes(12), content, bytes(12) + b"\1")
    assert plain.endswith(b"second")
    size = int.from_bytes(plain[:4], "big")
    assert CarriedMessage.model_validate_json(plain[4 : 4 + size]) == message(b"first")
    SENDER.public_key().verify(data[-96:-32], SIGNED + hashlib.sha256(data[:-96]).digest())


def test_nothing_of_the_content_can_be_read_outside() -> None:
    assert b"a secret" not in sealed(b"a secret")
    assert sealed(b"a secret") != sealed(b"a secret")  # a key is drawn for each


def test_one_flipped_byte_anywhere_is_found() -> None:
    data = sealed(b"content")
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(BundleRefused, match=r"^tampered"):
            SealedBundle.open(io.BytesIO(bytes(changed)))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_what_is_no_bundle_is_named_so(data: bytes) -> None:
    for nonsense in (data, signed_again(data), signed_again(MAGIC + data)):
        with pytest.raises(BundleRefused, match=r"^tampered"):
            SealedBundle.open(io.BytesIO(nonsense))


@pytest.mark.parametrize("cut", [1, 96, 97, 400])
def test_a_bundle_that_was_cut_off_or_grew_is_found(cut: int) -> None:
    data = sealed(b"content" * 100)
    for changed in (data[:-cut], data + b"x" * cut, data[cut:]):
        with pytest.raises(BundleRefused, match=r"^tampered"):
            SealedBundle.open(io.BytesIO(changed))


def test_who_makes_the_checksum_anew_still_lacks_the_signature() -> None:
    body = bytearray(sealed(b"content")[:-96])
    body[-1] ^= 1
    forged = signed_again(bytes(body), Ed25519PrivateKey.generate())
    bundle = SealedBundle.open(io.BytesIO(forged))
    with pytest.raises(BundleRefused, match=r"^bad_signature"):
        bundle.verify()


def test_another_key_opens_nothing() -> None:
    with pytest.raises(BundleRefused, match=r"^wrong_key"):
        opened(sealed(b"content"), X25519PrivateKey.generate())


@pytest.mark.parametrize("change", [{"sequence": 2}, {"receiver": "hospital-b"}, {"study": "x"}])
def test_the_key_is_bound_to_what_is_written_outside(change: dict[str, object]) -> None:
    """Even who may sign cannot put sealed content of another under a header of his own."""
    data = sealed(b"content")
    outside, key, content = parts(data)
    other, _, _ = parts(sealed(b"content", **change))
    assert opened(signed_again(outside + key + content)) == [b"content"]
    with pytest.raises(BundleRefused, match=r"^wrong_key"):
        opened(signed_again(other + key + content))


def test_chunks_cannot_be_left_out_swapped_or_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_bundle, "CHUNK_BYTES", 64)
    outside, key, content = parts(sealed(b"x" * 300))
    step = 64 + 16
    chunks = [content[i : i + step] for i in range(0, len(content), step)]
    assert len(chunks) > 4
    for wrong in (
        chunks[:-1],
        chunks[1:],
        [chunks[1], chunks[0], *chunks[2:]],
        [chunks[0], chunks[0], *chunks[2:]],
        [*chunks, chunks[-1]],
        [*chunks[:-1], chunks[-1][:15]],
        [],
    ):
        with pytest.raises(BundleRefused, match=r"^tampered"):
            opened(signed_again(outside + key + b"".join(wrong)))


def test_a_message_that_ends_too_early_or_is_none_is_refused() -> None:
    file = io.BytesIO()
    writer = SealedWriter(file, header(), lambda data: SENDER.sign(data).hex())
    writer.add(message(b"123456"), {NAME: b"123"})
    writer.finish()
    with pytest.raises(BundleRefused, match=r"^tampered"):
        opened(file.getvalue())
    for nonsense in (b"\0\0\0\1{", b"\xff\xff\xff\xff", b"\0"):
        with pytest.raises(BundleRefused, match=r"^tampered"):
            list(read_messages(io.BytesIO(nonsense)))


def test_messages_are_passed_over_unread_and_read_later() -> None:
    contents = (b"one", b"two" * 999, b"three")
    content = SealedBundle.open(io.BytesIO(sealed(*contents))).unseal(RECEIVER)
    positions = [position for position, _ in read_messages(content)]
    for position, expected in reversed(list(zip(positions, contents, strict=True))):
        assert read_message(content, position) == (message(expected), {NAME: expected})
    with pytest.raises(BundleRefused, match=r"^tampered"):
        read_message(content, 10**6)


def test_there_are_not_too_many_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_bundle, "MOST_MESSAGES", 3)
    assert opened(sealed(b"", b"")) == [b"", b""]
    with pytest.raises(BundleRefused, match=r"^tampered"):
        opened(sealed(*[b""] * 4))


def test_a_disk_that_says_something_else_when_asked_again_gains_nothing() -> None:
    """Anybody can seal to the receiver: what was checked must be what is used."""
    honest, forged = sealed(b"honest"), sealed(b"forged", key=Ed25519PrivateKey.generate())
    assert len(honest) == len(forged)
    disk = io.BytesIO(honest)
    bundle = SealedBundle.open(disk)
    disk.seek(0)
    disk.write(forged)
    bundle.verify()
    content = bundle.unseal(RECEIVER)
    with pytest.raises(BundleRefused, match=r"^tampered"):
        list(read_messages(content))
