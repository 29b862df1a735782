"""The second signature under a federation plan: the hospital's."""

import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import PlanApproval
from site_agent.config import SiteHome


def sign_approval(home: SiteHome, plan_sha256: str, *, now: datetime) -> PlanApproval:
    """Sign that this hospital works by a plan; `now` is UTC."""
    key = hospital_signing_key(home)
    unsigned = PlanApproval(
        site=home.config.name,
        study=home.config.study,
        plan_sha256=plan_sha256,
        approved_at_unix_s=int(now.replace(tzinfo=UTC).timestamp()),
        public_key_hex=key.public_key().public_bytes_raw().hex(),
        signature_hex="0" * 128,
    )
    signature = key.sign(unsigned.signed_bytes()).hex()
    return unsigned.model_copy(update={"signature_hex": signature})


def is_signed_here(home: SiteHome, approval: PlanApproval) -> bool:
    """Say whether an approval carries the signature of the key that this hospital has now."""
    file = _key_file(home)
    if not file.is_file():
        return False
    public = _read_key(file).public_key().public_bytes_raw()
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(
            bytes.fromhex(approval.signature_hex), approval.signed_bytes()
        )
    except InvalidSignature:
        return False
    return approval.public_key_hex == public.hex()


def hospital_signing_key(home: SiteHome) -> Ed25519PrivateKey:
    """Read the hospital's Ed25519 signing key; it is made when it is needed first.

    Raises:
        DataError: the file is damaged.
    """
    file = _key_file(home)
    if not file.is_file():
        file.parent.mkdir(mode=0o700, exist_ok=True)
        part = file.with_name(file.name + ".part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(Ed25519PrivateKey.generate().private_bytes_raw().hex())
        part.replace(file)
    return _read_key(file)


def _key_file(home: SiteHome) -> Path:
    return home.folder / "keys" / "signing.key"


def _read_key(file: Path) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(file.read_text("ascii").strip()))
    except ValueError:  # not ASCII, not hexadecimal, or not 32 bytes
        raise DataError(f"{file}: damaged: copy it back from where you keep the keys") from None
