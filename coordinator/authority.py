"""The study's own certificate authority: the one place where certificates are made.

It certifies the reverse proxy and the hospitals of one study and nobody else, so that neither side
has to trust a public authority. Whoever reads its key can let anybody in.
"""

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from algorithms.contracts.errors import DataError, ProtocolError

AUTHORITY_LASTS = timedelta(days=3653)
CERTIFICATE_LASTS = timedelta(days=365)
_CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its key and its own certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, name: str, now: datetime) -> Self:
        """Make an authority for the study `name`; `now` is UTC with its zone."""
        return cls._certified(new_key(), name, now)

    @classmethod
    def open_or_create(
        cls, key_file: Path, certificate_file: Path, *, name: str, now: datetime
    ) -> Self:
        """Read the authority of a study, or make it where there is none yet.

        Raises:
            DataError: its key is lost or damaged: a new one would lock out every hospital.
        """
        if not key_file.is_file():
            if certificate_file.is_file():
                raise DataError(f"{key_file}: the authority's key is missing: restore it")
            write_secret(key_file, private_pem(new_key()))
        try:
            key = load_pem_private_key(key_file.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - we write no other
            if certificate_file.is_file():
                certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
                if certificate.public_key() != key.public_key():
                    raise ValueError
                return cls(key, certificate)
        except (ValueError, TypeError, AssertionError):
            raise DataError(
                f"{key_file}, {certificate_file}: damaged, or not of one another: restore both "
                "from a backup"
            ) from None
        authority = cls._certified(key, name, now)  # the first time, or after a kill
        write_public(certificate_file, authority.certificate_pem)
        return authority

    @classmethod
    def _certified(cls, key: ec.EllipticCurvePrivateKey, name: str, now: datetime) -> Self:
        subject = _name(f"fedgtv study {name}")
        certificate = (
            _builder(subject, subject, key.public_key(), now, AUTHORITY_LASTS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA384())
        )
        return cls(key, certificate)

    @property
    def certificate_pem(self) -> bytes:
        """What everybody in the study trusts."""
        return self.certificate.public_bytes(Encoding.PEM)

    def server_certificate(self, hosts: Sequence[str], now: datetime) -> tuple[bytes, bytes]:
        """Make a key and its certificate for a server.

        Args:
            hosts: names or IP addresses at which it is reached.
            now: UTC with its zone.

        Returns:
            The key and the certificate, PEM.
        """
        key = new_key()
        certificate = (
            self._issued(_name(hosts[0]), key.public_key(), now)
            .add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self.key, hashes.SHA384())
        )
        return private_pem(key), certificate.public_bytes(Encoding.PEM)

    def site_certificate(self, request_pem: str, site: str, now: datetime) -> x509.Certificate:
        """Certify the key of a hospital; of its request nothing but the key is taken over.

        Raises:
            ProtocolError: the request is damaged, not signed by its own key, or not on P-384.
        """
        try:
            request = x509.load_pem_x509_csr(request_pem.encode("ascii"))
            key = request.public_key()
            genuine = request.is_signature_valid
        except (ValueError, UnicodeEncodeError):
            raise ProtocolError("bad_certificate_request: it cannot be read") from None
        if not genuine:
            raise ProtocolError("bad_certificate_request: it is not signed by its own key")
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            raise ProtocolError("weak_key: the key of a hospital is on the curve P-384")
        return (
            self._issued(_name(site), key, now)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self.key, hashes.SHA384())
        )

    def revocation_list(self, revoked: Iterable[tuple[int, datetime]], now: datetime) -> bytes:
        """Make the list of what is not to be trusted any more, PEM.

        It lies beside the proxy that reads it and is written anew with every revocation. So it
        lasts as long as the authority: one that runs out would lock out every hospital.

        Args:
            revoked: serial number of each certificate, and when it was revoked.
            now: UTC with its zone.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - _CLOCKS_DIFFER)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(self._identifier, critical=False)
        )
        for serial, at in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            )
        return builder.sign(self.key, hashes.SHA384()).public_bytes(Encoding.PEM)

    @property
    def _identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())

    def _issued(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
    ) -> x509.CertificateBuilder:
        return (
            _builder(subject, self.certificate.subject, key, now, CERTIFICATE_LASTS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(self._identifier, critical=False)
        )


def new_key() -> ec.EllipticCurvePrivateKey:
    """Draw a key on P-384."""
    return ec.generate_private_key(ec.SECP384R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_secret(file: Path, content: bytes) -> None:
    """Write a file that only its owner may read, in one step."""
    _write(file, content, mode=0o600)


def write_public(file: Path, content: bytes) -> None:
    """Write a file that anybody may read, in one step."""
    _write(file, content, mode=0o644)


def _write(file: Path, content: bytes, *, mode: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}", host):
        raise DataError(f"{host!r}: no host name or IP address: correct --host")
    return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    lasts: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + lasts)
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )
