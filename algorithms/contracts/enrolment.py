"""How a hospital joins a study: what it asks for, what it is answered, and how both are compared.

Both are files that people carry: private keys are in neither. What a person compares by telephone
is `fingerprint`, so that nobody on the way can put keys of his own in.
"""

import re
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.messages import SITE_NAME_PATTERN

WARN_BELOW_DAYS = 30
MOST_BYTES = 64 * 1024  # of a request or an answer as a file
ADDRESS_PATTERN = r"^([A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:]{2,39}\]):[0-9]{1,5}$"

Name = Annotated[str, Field(pattern=SITE_NAME_PATTERN)]
KeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SignatureHex = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Pem = Annotated[str, Field(max_length=8192, pattern=r"^-----BEGIN [A-Z ]+-----\n[A-Za-z0-9+/=\n-]")]


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    signature_hex: SignatureHex

    def signed_bytes(self) -> bytes:
        """Return what the signature is over: the canonical JSON of all other fields."""
        return canonical_json(self.model_dump(mode="json", exclude={"signature_hex"}))

    @property
    def sha256(self) -> str:
        """SHA-256 of what is signed; its `fingerprint` is what people compare."""
        return sha256_hex(self.signed_bytes())


class EnrolmentRequest(_Signed):
    """What a hospital asks the coordinator to certify.

    Attributes:
        study, site: as both parties name them.
        certificate_request_pem: PKCS #10 request for the client certificate of its TLS key.
        node_public_key: OpenSSH line of the key by which the SuperLink knows its SuperNode.
        signing_public_key_hex: Ed25519; the hospital signs with it what it agrees to.
        encryption_public_key_hex: X25519; bundles for the hospital are encrypted to it.
        renews: asked for by a hospital that is enrolled and signs with the key known of it.
        created_at: UTC.
        signature_hex: by the hospital's signing key.
    """

    study: Name
    site: Name
    certificate_request_pem: Pem
    node_public_key: str = Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]{100,300}$")
    signing_public_key_hex: KeyHex
    encryption_public_key_hex: KeyHex
    renews: bool
    created_at: AwareDatetime


class Enrolment(_Signed):
    """What the coordinator answers.

    Attributes:
        study, site: of the request.
        certificate_pem: the hospital's client certificate.
        ca_certificate_pem: of the study's own authority, the only one that is trusted.
        coordinator_address: "host:port" of the reverse proxy.
        coordinator_signing_key_hex: Ed25519 public key that signs packages and plans.
        coordinator_encryption_key_hex: X25519 public key for bundles to the coordinator.
        request_sha256: of the request that it answers.
        issued_at: UTC.
        signature_hex: by the study's signing key.
    """

    study: Name
    site: Name
    certificate_pem: Pem
    ca_certificate_pem: Pem
    coordinator_address: str = Field(pattern=ADDRESS_PATTERN)
    coordinator_signing_key_hex: KeyHex
    coordinator_encryption_key_hex: KeyHex
    request_sha256: KeyHex
    issued_at: AwareDatetime


def fingerprint(sha256: str) -> str:
    """Write a SHA-256 in groups that can be read over the telephone.

    >>> fingerprint("0123456789abcdef" * 4)[:24]
    '0123 4567 89ab cdef 0123'
    """
    return " ".join(sha256[start : start + 4] for start in range(0, len(sha256), 4))


def same_fingerprint(typed: str, sha256: str) -> bool:
    """Say whether what a person typed is the whole of `fingerprint(sha256)`, however spaced.

    >>> same_fingerprint("0123-4567", "01234567" * 8)
    False
    """
    return re.sub(r"[\s:-]", "", typed).lower() == sha256


def days_left(not_after: AwareDatetime, now: AwareDatetime) -> int:
    """Return how many whole days a certificate is still valid; negative when it is not any more."""
    return (not_after - now).days


def host_of(address: str) -> str:
    """Return the host of "host:port", an IPv6 address without its brackets.

    >>> host_of("[::1]:8443"), host_of("study.example.org:443")
    ('::1', 'study.example.org')
    """
    return address.rpartition(":")[0].strip("[]")
