"""What a hospital proves itself with: keys that are made here and never leave.

keys/signing.key      Ed25519, hexadecimal: signs what the hospital agrees to
keys/encryption.key   X25519, hexadecimal: opens bundles that are encrypted to it
keys/node.key, .pub   P-384, OpenSSH: by which the SuperLink knows the SuperNode
keys/tls.key, .crt    P-384, PEM: the client certificate and its key
keys/ca.crt           the study's authority, the only one that is trusted
keys/enrolment.json   what the coordinator answered
keys/next/            what waits for an answer
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from pydantic import ValidationError

from algorithms.contracts.enrolment import Enrolment
from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome
from supervision.working_folder import write_whole

SIGNING_KEY, ENCRYPTION_KEY = "signing.key", "encryption.key"
NODE_KEY, NODE_PUBLIC_KEY = "node.key", "node.pub"
TLS_KEY, TLS_CERTIFICATE, CA_CERTIFICATE = "tls.key", "tls.crt", "ca.crt"
ENROLMENT, NEXT = "enrolment.json", "next"
Key = TypeVar("Key")
PRIVATE_KEYS = (SIGNING_KEY, ENCRYPTION_KEY, NODE_KEY, TLS_KEY)


@dataclass(frozen=True)
class SiteKeys:
    """The keys that a hospital is known by; its TLS key changes with every certificate."""

    signing: Ed25519PrivateKey
    encryption: X25519PrivateKey
    node: ec.EllipticCurvePrivateKey

    @classmethod
    def open(cls, home: SiteHome) -> Self:
        """Read the keys of a site; what is missing is made, as long as nobody knows it by them.

        Raises:
            DataError: a key is damaged, or missing although the site is enrolled.
        """
        return cls.open_folder(home.keys, may_make=read_enrolment(home) is None)

    @classmethod
    def open_folder(cls, folder: Path, *, may_make: bool) -> Self:
        """Read the keys in `folder`, and make what is missing where `may_make` says so.

        Raises:
            DataError: a key is damaged, or missing and not to be made.
        """
        if may_make:
            _make_missing(folder)
        try:
            node = load_ssh_private_key(_read(folder / NODE_KEY), None)
        except ValueError:
            raise _damaged(folder / NODE_KEY) from None
        if not isinstance(node, ec.EllipticCurvePrivateKey):
            raise _damaged(folder / NODE_KEY)
        return cls(
            _raw(folder / SIGNING_KEY, Ed25519PrivateKey.from_private_bytes),
            _raw(folder / ENCRYPTION_KEY, X25519PrivateKey.from_private_bytes),
            node,
        )

    def sign(self, data: bytes) -> str:
        """Sign in the name of the hospital: 128 hexadecimal digits."""
        return self.signing.sign(data).hex()

    @property
    def signing_public_key_hex(self) -> str:
        """By which others check what the hospital signed."""
        return self.signing.public_key().public_bytes_raw().hex()

    @property
    def encryption_public_key_hex(self) -> str:
        """To which others encrypt what only the hospital may read."""
        return self.encryption.public_key().public_bytes_raw().hex()

    @property
    def node_public_key(self) -> str:
        """The line by which the SuperLink knows the SuperNode."""
        return _node_public_key(self.node).decode("ascii")


def read_enrolment(home: SiteHome) -> Enrolment | None:
    """Return what the coordinator answered; None when the site is not enrolled.

    Raises:
        DataError: the file is damaged.
    """
    file = home.keys / ENROLMENT
    if not file.is_file():
        return None
    try:
        return Enrolment.model_validate_json(file.read_bytes())
    except ValidationError:
        raise _damaged(file) from None


def trusted_keys(home: SiteHome) -> tuple[str, ...]:
    """Return the coordinators' public keys that count here: configured, and of the enrolment."""
    enrolment = read_enrolment(home)
    enrolled = () if enrolment is None else (enrolment.coordinator_signing_key_hex,)
    return tuple(dict.fromkeys(key.lower() for key in (*home.config.trusted_keys, *enrolled)))


def certificate_not_after(home: SiteHome) -> datetime | None:
    """Return the end of the certificate's validity, UTC with its zone; None when not enrolled.

    Raises:
        DataError: the enrolment is damaged.
    """
    enrolment = read_enrolment(home)
    if enrolment is None:
        return None
    try:
        pem = enrolment.certificate_pem.encode("ascii")
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc
    except ValueError:
        raise _damaged(home.keys / ENROLMENT) from None


def tls_context(home: SiteHome) -> ssl.SSLContext:
    """Make the context for calling the coordinator: with our certificate, trusting the study's CA.

    Raises:
        DataError: the site is not enrolled, or its certificate and key are damaged.
    """
    if read_enrolment(home) is None:
        raise DataError(f"{home.keys}: not enrolled: run 'fedgtv-site enrol'")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=home.keys / CA_CERTIFICATE)
        # Without a password a locked key would ask at the terminal, which a service has not.
        context.load_cert_chain(home.keys / TLS_CERTIFICATE, home.keys / TLS_KEY, password="")
    except OSError:  # which ssl.SSLError is one of
        raise DataError(
            f"{home.keys}: certificate and key cannot be read or do not belong together: import "
            "the answer again, or run 'fedgtv-site enrol --new-keys'"
        ) from None
    return context


def new_tls_key() -> ec.EllipticCurvePrivateKey:
    """Draw a key for a client certificate."""
    return ec.generate_private_key(ec.SECP384R1())


def _make_missing(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    drawn: dict[str, Callable[[], bytes]] = {
        SIGNING_KEY: lambda: Ed25519PrivateKey.generate().private_bytes_raw().hex().encode(),
        ENCRYPTION_KEY: lambda: X25519PrivateKey.generate().private_bytes_raw().hex().encode(),
        NODE_KEY: lambda: ec.generate_private_key(ec.SECP384R1()).private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        ),
    }
    for name, draw in drawn.items():
        if not (folder / name).exists():
            write_whole(folder / name, draw(), mode=0o600)
    if not (folder / NODE_PUBLIC_KEY).exists():
        node = load_ssh_private_key((folder / NODE_KEY).read_bytes(), None)
        assert isinstance(node, ec.EllipticCurvePrivateKey)  # noqa: S101 - drawn above
        write_whole(folder / NODE_PUBLIC_KEY, _node_public_key(node), mode=0o644)


def _node_public_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def _raw(file: Path, parse: Callable[[bytes], Key]) -> Key:
    try:
        return parse(bytes.fromhex(_read(file).decode("ascii").strip()))
    except ValueError:  # not ASCII, not hexadecimal, or not 32 bytes
        raise _damaged(file) from None


def _read(file: Path) -> bytes:
    if not file.is_file():
        raise DataError(
            f"{file}: missing: copy it back from where you keep the keys, or make new ones with "
            "'fedgtv-site enrol --new-keys'"
        )
    return file.read_bytes()


def _damaged(file: Path) -> DataError:
    return DataError(
        f"{file}: damaged: copy it back from where you keep the keys, or make new ones with "
        "'fedgtv-site enrol --new-keys'"
    )
