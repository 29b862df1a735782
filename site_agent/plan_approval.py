"""The second signature under a federation plan: the hospital's."""

from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from algorithms.contracts.messages import PlanApproval
from site_agent.config import SiteHome
from site_agent.site_keys import SIGNING_KEY, SiteKeys


def sign_approval(home: SiteHome, plan_sha256: str, *, now: datetime) -> PlanApproval:
    """Sign that this hospital works by a plan; `now` is UTC.

    Raises:
        DataError: the hospital's key is lost or damaged.
    """
    keys = SiteKeys.open(home)
    unsigned = PlanApproval(
        site=home.config.name,
        study=home.config.study,
        plan_sha256=plan_sha256,
        approved_at_unix_s=int(now.replace(tzinfo=UTC).timestamp()),
        public_key_hex=keys.signing_public_key_hex,
        signature_hex="0" * 128,
    )
    signature = keys.sign(unsigned.signed_bytes())
    return unsigned.model_copy(update={"signature_hex": signature})


def is_signed_here(home: SiteHome, approval: PlanApproval) -> bool:
    """Say whether an approval carries the signature of the key that this hospital has now."""
    if not (home.keys / SIGNING_KEY).is_file():
        return False
    public = SiteKeys.open(home).signing_public_key_hex
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(
            bytes.fromhex(approval.signature_hex), approval.signed_bytes()
        )
    except InvalidSignature:
        return False
    return approval.public_key_hex == public
