"""Asks the coordinator to enrol this hospital, and takes the answer in.

A request is a file that a person carries: no patient is in it and no private key, and it goes
nowhere by itself, so that it does not pass the door of `egress`; the audit log has it.

What a request makes anew waits in `keys/next` and takes effect with its answer. A renewal makes
the TLS key anew; with new keys all are made, as for a hospital that comes for the first time.
"""

import shutil
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from pydantic import ValidationError
from sqlalchemy import Engine

from algorithms.contracts.enrolment import (
    MOST_BYTES,
    Enrolment,
    EnrolmentRequest,
    same_fingerprint,
)
from algorithms.contracts.errors import DataError, ProtocolError
from site_agent import audit_log
from site_agent.config import SiteHome
from site_agent.database import transaction, utc_now
from site_agent.site_keys import (
    CA_CERTIFICATE,
    ENROLMENT,
    NEXT,
    NODE_PUBLIC_KEY,
    PRIVATE_KEYS,
    TLS_CERTIFICATE,
    TLS_KEY,
    SiteKeys,
    new_tls_key,
    read_enrolment,
    trusted_keys,
)
from supervision.working_folder import write_whole

ENROLLED = "enrolled"  # event of the audit log

REQUEST = "request.json"


class Asking(StrEnum):
    """What a hospital asks for."""

    FIRST = "first"
    RENEWAL = "renewal"  # a new TLS key, signed with the known signing key
    NEW_KEYS = "new_keys"  # all of them: some were lost, or somebody else may have them


def request_enrolment(
    home: SiteHome, engine: Engine, asking: Asking, *, actor: str, now: datetime
) -> EnrolmentRequest:
    """Make what is asked for and the request for it; one that waits already is given again.

    Args:
        home: of the site.
        engine: of its database.
        asking: what for; new keys are made anew every time.
        actor: for the audit log.
        now: UTC with its zone.

    Raises:
        DataError: a renewal without an enrolment, or a first request with one.
    """
    enrolled = asking is not Asking.NEW_KEYS and read_enrolment(home) is not None
    if asking is Asking.RENEWAL and not enrolled:
        raise DataError("not enrolled yet: run 'fedgtv-site enrol' without --renew")
    if asking is Asking.FIRST and enrolled:
        raise DataError(
            "enrolled already: --renew asks for the next certificate, --new-keys starts anew"
        )
    waiting = _waiting(home)
    renews = asking is Asking.RENEWAL
    if waiting is not None and asking is not Asking.NEW_KEYS and waiting.renews == renews:
        return waiting
    folder = home.keys / NEXT
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    home.keys.chmod(0o700)
    new = asking is Asking.NEW_KEYS
    keys = SiteKeys.open_folder(folder, may_make=True) if new else SiteKeys.open(home)
    request = _make_request(home, keys, renews=renews, now=now.replace(microsecond=0))
    write_whole(folder / REQUEST, request.model_dump_json(indent=1).encode(), mode=0o644)
    _log(home, engine, actor, "enrolment_requested", asking=asking.value, sha256=request.sha256)
    return request


def read_answer(file: Path) -> Enrolment:
    """Read what `fedgtv-coordinator enrol` wrote.

    Raises:
        DataError: it is not there, or no answer of this version.
    """
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        raise DataError(f"{file}: no such answer: give the file that the coordinator sent")
    try:
        return Enrolment.model_validate_json(file.read_bytes())
    except ValidationError:
        raise DataError(
            f"{file}: no answer of this version: ask the coordinator to send it again"
        ) from None


def accept_answer(
    home: SiteHome,
    engine: Engine,
    answer: Enrolment,
    *,
    typed_fingerprint: str | None,
    actor: str,
    now: datetime,
) -> None:
    """Check an answer and put it and the keys that it certifies in place; may be repeated.

    Args:
        home: of the site.
        engine: of its database.
        answer: of the coordinator.
        typed_fingerprint: as the coordinator read it out; one whose key is trusted needs none.
        actor: for the audit log.
        now: UTC with its zone.

    Raises:
        DataError: there is no request that waits, or the fingerprint was not given.
        ProtocolError: naming the rule that the answer breaks; nothing is changed then.
    """
    request = _waiting(home)
    if request is None:
        if answer == read_enrolment(home):
            return
        raise DataError("no request waits for an answer: run 'fedgtv-site enrol' first")
    _check_origin(home, request, answer, typed_fingerprint)
    _check_certificate(home, answer, now)
    folder = home.keys / NEXT
    # The answer last but for the request: after a kill before it, the same command goes on.
    for name in (*PRIVATE_KEYS, NODE_PUBLIC_KEY):
        if (folder / name).exists():
            mode = 0o600 if name in PRIVATE_KEYS else 0o644
            write_whole(home.keys / name, (folder / name).read_bytes(), mode=mode)
    for name, content in (
        (TLS_CERTIFICATE, answer.certificate_pem),
        (CA_CERTIFICATE, answer.ca_certificate_pem),
        (ENROLMENT, answer.model_dump_json(indent=1)),
    ):
        write_whole(home.keys / name, content.encode(), mode=0o644)
    _log(home, engine, actor, ENROLLED, sha256=answer.sha256)
    shutil.rmtree(folder)


def _make_request(
    home: SiteHome, keys: SiteKeys, *, renews: bool, now: datetime
) -> EnrolmentRequest:
    tls_key = new_tls_key()
    pem = tls_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_whole(home.keys / NEXT / TLS_KEY, pem, mode=0o600)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, home.config.name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(tls_key, hashes.SHA384())
    draft = EnrolmentRequest(
        study=home.config.study,
        site=home.config.name,
        certificate_request_pem=csr.public_bytes(Encoding.PEM).decode("ascii"),
        node_public_key=keys.node_public_key,
        signing_public_key_hex=keys.signing_public_key_hex,
        encryption_public_key_hex=keys.encryption_public_key_hex,
        renews=renews,
        created_at=now,
        signature_hex="0" * 128,
    )
    return draft.model_copy(update={"signature_hex": keys.sign(draft.signed_bytes())})


def _waiting(home: SiteHome) -> EnrolmentRequest | None:
    file = home.keys / NEXT / REQUEST
    if not file.is_file():
        return None
    try:
        return EnrolmentRequest.model_validate_json(file.read_bytes())
    except ValidationError:  # of another version: it is made anew
        return None


def _check_origin(
    home: SiteHome, request: EnrolmentRequest, answer: Enrolment, typed: str | None
) -> None:
    if (answer.study, answer.site) != (home.config.study, home.config.name):
        raise ProtocolError("wrong_site: the answer is for another hospital or study")
    if answer.request_sha256 != request.sha256:
        raise ProtocolError(
            "wrong_answer: it is not to the request that waits here: send that one "
            "('fedgtv-site enrol' prints it again)"
        )
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(answer.coordinator_signing_key_hex))
        key.verify(bytes.fromhex(answer.signature_hex), answer.signed_bytes())
    except (InvalidSignature, ValueError):
        raise ProtocolError("bad_signature: the answer was changed on the way") from None
    if typed is not None and not same_fingerprint(typed, answer.sha256):
        raise ProtocolError(
            "wrong_fingerprint: this is not what the coordinator made, or it was mistyped: compare "
            "again, all 64 digits, and do not go on before they are the same"
        )
    if typed is None and answer.coordinator_signing_key_hex not in trusted_keys(home):
        raise DataError(
            "this site does not know the coordinator's key yet: have the fingerprint read out that "
            "'fedgtv-coordinator enrol' printed there, and give it with --fingerprint"
        )


def _check_certificate(home: SiteHome, answer: Enrolment, now: datetime) -> None:
    try:
        authority = x509.load_pem_x509_certificate(answer.ca_certificate_pem.encode("ascii"))
        certificate = x509.load_pem_x509_certificate(answer.certificate_pem.encode("ascii"))
        certificate.verify_directly_issued_by(authority)
        key = load_pem_private_key((home.keys / NEXT / TLS_KEY).read_bytes(), None)
    except (ValueError, TypeError, InvalidSignature):
        raise ProtocolError(
            "bad_certificate: it cannot be read, or is not of the study's authority"
        ) from None
    if certificate.public_key() != key.public_key():
        raise ProtocolError("wrong_key: the certificate is for another key than the one made here")
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [home.config.name]:
        raise ProtocolError("wrong_name: the certificate is for another hospital")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ProtocolError(
            "not_valid_now: the certificate is expired or not valid yet: compare the clock here "
            "with the coordinator's, and ask again"
        )


def _log(home: SiteHome, engine: Engine, actor: str, event: str, **detail: str) -> None:
    with transaction(engine) as session:
        audit_log.append(
            session,
            actor=actor,
            event=event,
            subject=home.config.name,
            detail=detail,
            at=utc_now(),
        )
