"""Answers what hospitals ask to be enrolled with, and takes enrolments back.

A request that is not a renewal is answered only when a person has compared its fingerprint with
what the hospital reads out: that ties the keys to the people. From then on the hospital's signing
key speaks for it. Every answer is kept, so that the same request gets the same answer again.
"""

from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from algorithms.contracts.enrolment import (
    MOST_BYTES,
    Enrolment,
    EnrolmentRequest,
    same_fingerprint,
)
from algorithms.contracts.errors import DataError, ProtocolError
from coordinator.config import CoordinatorHome
from coordinator.package_publisher import public_key_hex, read_signing_key
from coordinator.study_keys import encryption_key, study_authority, write_revocation_list
from coordinator.study_store import SiteKeyRow, StudyStore


def read_request(file: Path) -> EnrolmentRequest:
    """Read what `fedgtv-site enrol` wrote.

    Raises:
        DataError: it is not there, or no request of this version.
    """
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        raise DataError(f"{file}: no such request: give the file that the hospital sent")
    try:
        return EnrolmentRequest.model_validate_json(file.read_bytes())
    except ValidationError:
        raise DataError(
            f"{file}: no request of this version: have 'fedgtv-site enrol' write it again"
        ) from None


def enrol(
    home: CoordinatorHome,
    store: StudyStore,
    request: EnrolmentRequest,
    *,
    typed_fingerprint: str | None,
    now: datetime,
) -> Enrolment:
    """Certify a hospital's keys and answer it; the same request gets the same answer.

    Unless it is a renewal, whatever was certified for the hospital before is revoked.

    Args:
        home: of the coordinator.
        store: the study database.
        request: of the hospital.
        typed_fingerprint: as the hospital read it out; a renewal needs none.
        now: UTC with its zone.

    Raises:
        DataError: the fingerprint was not given.
        ProtocolError: naming the rule that the request breaks.
    """
    _check(home, store, request, typed_fingerprint)
    for row in store.site_keys():
        if row.request_sha256 == request.sha256:
            if row.revoked_at is not None:
                raise ProtocolError("revoked: what this request asked for was revoked since")
            return Enrolment.model_validate(row.answer)
    authority = study_authority(home, now)
    certificate = authority.site_certificate(request.certificate_request_pem, request.site, now)
    draft = Enrolment(
        study=request.study,
        site=request.site,
        certificate_pem=certificate.public_bytes(Encoding.PEM).decode("ascii"),
        ca_certificate_pem=authority.certificate_pem.decode("ascii"),
        coordinator_address=home.config.address,
        coordinator_signing_key_hex=public_key_hex(home),
        coordinator_encryption_key_hex=encryption_key(home).public_key().public_bytes_raw().hex(),
        request_sha256=request.sha256,
        issued_at=now,
        signature_hex="0" * 128,
    )
    signature = read_signing_key(home).sign(draft.signed_bytes()).hex()
    answer = draft.model_copy(update={"signature_hex": signature})
    row = SiteKeyRow(
        certificate_serial=f"{certificate.serial_number:x}",
        site=request.site,
        signing_public_key_hex=request.signing_public_key_hex,
        encryption_public_key_hex=request.encryption_public_key_hex,
        node_public_key=request.node_public_key,
        not_after=certificate.not_valid_after_utc.replace(tzinfo=None),
        request_sha256=request.sha256,
        requested_at=_naive(request.created_at),
        issued_at=_naive(now),
        answer=answer.model_dump(mode="json"),
    )
    store.add_site_key(row, replaces=not request.renews)
    write_revocation_list(home, store, now)
    return answer


def revoke(home: CoordinatorHome, store: StudyStore, site: str, now: datetime) -> int:
    """Revoke whatever was certified for a site and write the list that the proxy reads.

    Returns:
        How many certificates it took back; none when it was run already.

    Raises:
        DataError: there is no such site, or it was never enrolled.
    """
    if site not in home.config.sites:
        raise DataError(f"{site}: not in this study; its sites are {', '.join(home.config.sites)}")
    if not any(row.site == site for row in store.site_keys()):
        raise DataError(f"{site}: was never enrolled: there is nothing to revoke")
    count = store.revoke_site(site, _naive(now))
    write_revocation_list(home, store, now)  # again, too, after a kill between the two
    return count


def _check(
    home: CoordinatorHome, store: StudyStore, request: EnrolmentRequest, typed: str | None
) -> None:
    if request.study != home.config.study:
        raise ProtocolError("wrong_study: the request is for another study")
    if request.site not in home.config.sites:
        raise ProtocolError(f"unknown_site: {request.site} is not in this study")
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(request.signing_public_key_hex)).verify(
            bytes.fromhex(request.signature_hex), request.signed_bytes()
        )
    except (InvalidSignature, ValueError):
        raise ProtocolError("bad_signature: the request was changed on the way") from None
    known = store.site_key(request.site)
    if request.renews:
        if known is None or known.signing_public_key_hex != request.signing_public_key_hex:
            raise ProtocolError(
                "unknown_key: the renewal is not signed with a key that the hospital is enrolled "
                "with: have it run 'fedgtv-site enrol --new-keys'"
            )
        asked = _naive(request.created_at)
        if request.sha256 != known.request_sha256 and asked < known.requested_at:
            raise ProtocolError("stale_request: a newer one was answered already")
    elif typed is None:
        # The fingerprint is not shown here: it has to come from the other end of the telephone.
        raise DataError(
            "call the hospital, on a number that you know, have the fingerprint read out that "
            "'fedgtv-site enrol' printed there, and give it with --fingerprint"
        )
    elif not same_fingerprint(typed, request.sha256):
        raise ProtocolError(
            "wrong_fingerprint: this is not what the hospital made, or it was mistyped: compare "
            "again, all 64 digits, and do not go on before they are the same"
        )


def _naive(at: datetime) -> datetime:
    """Return a moment as the database holds it: UTC, without its zone."""
    return at.astimezone(UTC).replace(tzinfo=None)
