"""The keys of one study beside its signature: its authority, and for bundles that come to it.

Each is made the first time that it is needed, so that a study from before has them too.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from algorithms.contracts.enrolment import host_of
from algorithms.contracts.errors import DataError
from coordinator.authority import Authority, write_public, write_secret
from coordinator.config import CoordinatorHome
from coordinator.study_store import StudyStore

ON_LOOPBACK = ("localhost", "127.0.0.1")  # at which the reverse proxy reaches the SuperLink
WHAT_ENDS = (  # in `tls`, and what helps when it is near its end
    ("server.crt", "run 'fedgtv-coordinator certificate'"),
    ("ca.crt", "begin a new study, or enrol every site with a new authority"),
)


def study_authority(home: CoordinatorHome, now: datetime) -> Authority:
    """Return the study's authority; `now` is UTC with its zone.

    Raises:
        DataError: its key is lost or damaged.
    """
    return Authority.open_or_create(
        home.secrets / "ca.key", home.tls / "ca.crt", name=home.config.study, now=now
    )


def encryption_key(home: CoordinatorHome) -> X25519PrivateKey:
    """Return the key that opens what is encrypted to this coordinator.

    Raises:
        DataError: it is damaged.
    """
    file = home.secrets / "encryption.key"
    if not file.is_file():
        write_secret(file, X25519PrivateKey.generate().private_bytes_raw().hex().encode("ascii"))
    try:
        return X25519PrivateKey.from_private_bytes(bytes.fromhex(file.read_text("ascii").strip()))
    except ValueError:
        raise DataError(f"{file}: not a key any more: restore it from a backup") from None


def write_server_certificate(
    home: CoordinatorHome, store: StudyStore, more_hosts: Sequence[str], now: datetime
) -> datetime:
    """Write key and certificate of the reverse proxy, and all else that it reads, anew.

    Returns:
        The end of its validity, UTC with its zone.

    Raises:
        DataError: for what is no host, or when the authority is lost.
    """
    hosts = dict.fromkeys((host_of(home.config.address), *more_hosts, *ON_LOOPBACK))
    key, certificate = study_authority(home, now).server_certificate(tuple(hosts), now)
    write_revocation_list(home, store, now)
    write_secret(home.tls / "server.key", key)
    write_public(home.tls / "server.crt", certificate)
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def write_revocation_list(home: CoordinatorHome, store: StudyStore, now: datetime) -> None:
    """Write `tls/revoked.pem` as the study database has it."""
    revoked = [
        (int(row.certificate_serial, 16), row.revoked_at.replace(tzinfo=UTC))
        for row in store.site_keys()
        if row.revoked_at is not None
    ]
    content = study_authority(home, now).revocation_list(revoked, now)
    write_public(home.tls / "revoked.pem", content)


def not_valid_after(certificate: Path) -> datetime | None:
    """Return the end of a certificate's validity, UTC with its zone; None when there is none.

    Raises:
        DataError: the file is damaged.
    """
    if not certificate.is_file():
        return None
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except ValueError:
        raise DataError(
            f"{certificate}: damaged: run 'fedgtv-coordinator certificate' again"
        ) from None
