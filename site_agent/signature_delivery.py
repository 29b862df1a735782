"""Bring what was signed to the PACS as an APPROVED structure set: exactly one for each signature.

The export is made once. Its bytes are kept, sealed like the crosswalk, in the same transaction
that puts it on record: a run that was killed sends those again, under the same UIDs, and the PACS
has one object. On the way it is a file in a private folder outside the home, which is removed.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.contour import Contour
from algorithms.contracts.errors import DataError
from site_agent import audit_log
from site_agent.case_store import CaseStore
from site_agent.click_store import mask_sha256
from site_agent.config import SiteHome
from site_agent.database import CaseRow, ExportRow, SignatureRow, transaction, utc_now
from site_agent.dicom_elements import without_remarks
from site_agent.export_store import check_passed
from site_agent.pacs import Pacs, open_pacs
from site_agent.pacs_export import export_rtstruct
from site_agent.rtstruct import ReviewSignature
from site_agent.signing import is_outdated


class _KeptMeanwhile(Exception):  # noqa: N818 - no error
    """Another process exported the same signature first."""


def send_signed(home: SiteHome, store: CaseStore, signature_id: int, *, actor: str) -> None:
    """Send the signed contour to the PACS; what was sent already is not sent again.

    Raises:
        DataError: there is no `[pacs]`, it does not answer or refuses, the signature is outdated,
            the case never was DICOM, or the export gate refused. The signature is kept and waits.
    """
    _send(home, store, open_pacs(home), signature_id, actor)


def send_waiting(
    home: SiteHome, store: CaseStore, *, actor: str, say: Callable[[str], None]
) -> None:
    """Send everything that waits; `say` is told what became of each.

    Raises:
        DataError: something could not be sent, and still waits.
    """
    pacs = open_pacs(home)
    left = 0
    for signature in waiting(store):
        try:
            _send(home, store, pacs, signature.id, actor)
            say(f"{signature.case_id}: sent to {pacs.name}")
        except DataError as error:
            left += 1
            say(f"{signature.case_id}: {str(error).removeprefix(f'{signature.case_id}: ')}")
            pacs.echo()  # one that is away is not asked for each
    if left:
        raise DataError(f"{left} signed contours still wait: see the lines above")


def waiting(store: CaseStore) -> list[SignatureRow]:
    """Return the signatures that count and are not in the PACS yet, the earliest first.

    Cases that came as NIfTI have no place in the PACS and do not wait.
    """
    statement = (
        select(SignatureRow)
        .join(CaseRow, CaseRow.case_id == SignatureRow.case_id)
        .where(SignatureRow.sent_at.is_(None), CaseRow.identity_sealed.is_not(None))
        .order_by(SignatureRow.id)
    )
    with Session(store.engine) as session:
        return [row for row in session.scalars(statement) if not is_outdated(session, row)]


def signed_rtstruct(
    home: SiteHome, store: CaseStore, signature_id: int, *, actor: str
) -> tuple[bytes, str]:
    """Return the APPROVED structure set of a signature, for hand delivery, and a name for its file.

    The content names the patient; the file name is made of pseudonyms.

    Raises:
        DataError: as `send_signed`, but for the PACS.
    """
    signature, content = _exported(home, store, signature_id, actor)
    with transaction(store.engine) as session:
        audit_log.append(
            session,
            actor=actor,
            event="signed_contour_downloaded",
            subject=signature.case_id,
            detail={"content_sha256": sha256_hex(content)},
            at=utc_now(),
        )
    return content, f"{signature.case_id}-signed-{signature_id}.dcm"


def _send(home: SiteHome, store: CaseStore, pacs: Pacs, signature_id: int, actor: str) -> None:
    if _signature(store, signature_id).sent_at is not None:
        return
    signature, content = _exported(home, store, signature_id, actor)
    with without_remarks(), tempfile.TemporaryDirectory(prefix="fedgtv-") as folder:
        file = Path(folder) / f"signed-{signature_id}.dcm"
        file.touch(0o600)  # it names the patient
        file.write_bytes(content)
        check_passed(store, file)
        pacs.send([file])
    with transaction(store.engine) as session:
        row = session.get_one(SignatureRow, signature_id)
        if row.sent_at is not None:
            return  # another process sent the same bytes meanwhile
        row.sent_at = utc_now()
        audit_log.append(
            session,
            actor=actor,
            event="signed_contour_sent",
            subject=signature.case_id,
            detail={"to": pacs.name, "content_sha256": sha256_hex(content)},
            at=row.sent_at,
        )


def _exported(
    home: SiteHome, store: CaseStore, signature_id: int, actor: str
) -> tuple[SignatureRow, bytes]:
    """Return the structure set of a signature that counts; it is made once and kept."""
    signature = _signature(store, signature_id)
    with Session(store.engine) as session:
        if is_outdated(session, signature):
            raise DataError(_is_outdated(signature.case_id))
    if signature.export_id is None:
        with suppress(_KeptMeanwhile):
            _export(home, store, signature, actor)
        signature = _signature(store, signature_id)
    return signature, _kept(home, store, signature)


def _export(home: SiteHome, store: CaseStore, signature: SignatureRow, actor: str) -> None:
    """Export through the gate, and keep what passed together with its record."""
    key = Fernet(home.secret("crosswalk.key"))

    def keep(session: Session, export: ExportRow, contour: Contour, content: bytes) -> None:
        row = session.get_one(SignatureRow, signature.id)
        if row.export_id is not None:
            raise _KeptMeanwhile
        if is_outdated(session, row) or mask_sha256(contour.mask.voxels) != row.mask_sha256:
            raise DataError(_is_outdated(row.case_id))
        file = _kept_file(home, row)
        part = file.with_name(f"{file.name}.part")
        part.write_bytes(key.encrypt(content))
        part.replace(file)
        row.export_id = export.id

    by = ReviewSignature(signature.person_name, signature.signed_at.replace(tzinfo=UTC))
    with tempfile.TemporaryDirectory(prefix="fedgtv-") as folder:
        output = Path(folder) / "signed.dcm"
        export_rtstruct(
            home, store, signature.case_id, output, signature=by, actor=actor, also=keep
        )


def _kept(home: SiteHome, store: CaseStore, signature: SignatureRow) -> bytes:
    """Open the structure set that was kept, and check that it is what passed the gate.

    Raises:
        DataError: it is gone or damaged, or was sealed with another key.
    """
    with Session(store.engine) as session:
        wanted = session.get_one(ExportRow, signature.export_id).content_sha256
    file = _kept_file(home, signature)
    try:
        content = Fernet(home.secret("crosswalk.key")).decrypt(file.read_bytes())
    except (FileNotFoundError, InvalidToken):
        content = b""
    if sha256_hex(content) != wanted:
        raise DataError(
            f"{file}: the signed structure set is gone or damaged, or was sealed with another "
            "crosswalk.key: restore both from one backup, or review and sign again"
        )
    return content


def _kept_file(home: SiteHome, signature: SignatureRow) -> Path:
    """Name the sealed file; it lies with the case, so that an erasure takes it along."""
    return home.cases / signature.case_id / f"signed-{signature.id}.sealed"


def _signature(store: CaseStore, signature_id: int) -> SignatureRow:
    with Session(store.engine) as session:
        row = session.get(SignatureRow, signature_id)
    if row is None:
        raise DataError(f"signature {signature_id} is unknown: see 'fedgtv-site signatures'")
    return row


def _is_outdated(case_id: str) -> str:
    return f"{case_id}: another contour or verdict came after it was signed: sign again"
