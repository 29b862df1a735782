"""Give a contour back to the PACS, under the original identity and through the export gate."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset

from algorithms.contracts.contour import Contour
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Volume
from site_agent.case_store import REJECTED, CaseStore
from site_agent.config import SiteHome
from site_agent.database import utc_now
from site_agent.deidentification import OriginalIdentity, mapped_uid, unseal
from site_agent.dicom_elements import without_remarks
from site_agent.dicom_seg import write_segmentation
from site_agent.export_gate import check_export
from site_agent.export_rules import Expected
from site_agent.export_store import (
    Also,
    ExportKind,
    ExportUids,
    newest_export,
    record_export,
    uids_of,
    used_uids,
)
from site_agent.rtstruct import ReviewSignature, exported_name, write_rtstruct
from supervision.working_folder import put_in_place

LABEL = "fedgtv"


def export_rtstruct(
    home: SiteHome,
    store: CaseStore,
    case_id: str,
    output: Path,
    *,
    signature: ReviewSignature | None = None,
    actor: str,
    also: Also | None = None,
) -> str:
    """Write the newest contour of a case as RTSTRUCT under its original identity.

    What a doctor left last, in any round, goes before the model's own, which is named `GTVp^AI` and
    is that of the latest round. Each save has a UID of its own and names the one before as its
    predecessor. Without a signature it is UNAPPROVED. `also` is part of the transaction that puts
    it on record, and may refuse.

    Returns:
        The name of the region that was written.

    Raises:
        DataError: the case was neither reviewed nor segmented in the latest round, its contour was
            rejected there, it never was DICOM, `output` is there already or lies in the home, or
            the gate refused the export (`export_rules.ExportRefused`): nothing was written.
    """
    before = newest_export(store, case_id, "rtstruct")
    predecessor = None if before is None else uids_of(store, before).sop_instance_uid

    def write(volume: Volume, contour: Contour, identity: OriginalIdentity) -> Dataset:
        return write_rtstruct(
            volume,
            [contour],
            identity=identity,
            label=LABEL,
            now=datetime.now(UTC),
            signature=signature,
            predecessor=predecessor,
        )

    return _export(
        home, store, case_id, output, "rtstruct", write, signature, predecessor, actor, also
    )


def export_segmentation(
    home: SiteHome, store: CaseStore, case_id: str, output: Path, *, actor: str
) -> str:
    """Write the newest contour of a case as DICOM SEG, as `export_rtstruct` does.

    Raises:
        DataError: as `export_rtstruct`, or nothing is drawn.
    """

    def write(volume: Volume, contour: Contour, identity: OriginalIdentity) -> Dataset:
        return write_segmentation(volume, [contour], identity=identity, now=datetime.now(UTC))

    return _export(home, store, case_id, output, "seg", write, None, None, actor, None)


def _export(
    home: SiteHome,
    store: CaseStore,
    case_id: str,
    output: Path,
    kind: ExportKind,
    write: Callable[[Volume, Contour, OriginalIdentity], Dataset],
    signature: ReviewSignature | None,
    predecessor: str | None,
    actor: str,
    also: Also | None,
) -> str:
    _refuse_place(home, output)
    volume = store.volume(case_id)
    identity = original_of(home, store, case_id, volume)
    round_id, contour = _newest_contour(store, case_id)
    buffer = BytesIO()
    with without_remarks():  # values of a hospital that break a rule of DICOM are kept as they are
        dataset = write(volume, contour, identity)
        dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    used = used_uids(store, case_id)
    check_export(content, Expected([contour], identity, signature, predecessor, used))
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.{secrets.token_hex(4)}.part")
    try:
        part.touch(0o600, exist_ok=False)  # it names the patient
        part.write_bytes(content)
        # On record before it is there: what comes back has to be known.
        record_export(
            store,
            case_id,
            contour,
            kind=kind,
            round_id=round_id,
            uids=ExportUids(str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)),
            content=content,
            approved=signature is not None,
            actor=actor,
            also=also,
        )
        put_in_place(part, output)
    finally:
        part.unlink(missing_ok=True)
    return exported_name(contour)


def _refuse_place(home: SiteHome, output: Path) -> None:
    """Refuse to write over something, or among what the site holds de-identified.

    Raises:
        DataError: `output` is there already, lies in the home, or has no name.
    """
    if not output.name or output.exists():
        raise DataError(f"{output}: is there already: give the name of a new file")
    if output.resolve().is_relative_to(home.folder.resolve()):
        raise DataError(
            f"{output}: lies in the site's home, which holds nobody's name: give a place outside"
        )


def original_of(home: SiteHome, store: CaseStore, case_id: str, volume: Volume) -> OriginalIdentity:
    """Open the identity of a case, and check by the key that it is that of the stored images.

    Raises:
        DataError: it came as NIfTI, or the sealed identity is that of other images.
    """
    sealed = store.identity_sealed(case_id)
    if sealed is None:
        raise DataError(f"{case_id}: came as NIfTI and has no identity in the PACS")
    identity = unseal(sealed, home.secret("crosswalk.key"))
    key = home.secret("pseudonym.key")
    mapped = (
        mapped_uid(identity.study_instance_uid, key),
        mapped_uid(identity.series_instance_uid, key),
        mapped_uid(identity.frame_of_reference_uid, key),
        tuple(mapped_uid(uid, key) for uid in identity.sop_instance_uids),
    )
    stored = (
        volume.study_instance_uid,
        volume.series_instance_uid,
        volume.frame_of_reference_uid,
        volume.sop_instance_uids,
    )
    if mapped != stored:
        raise DataError(
            f"{case_id}: the sealed identity is not that of the stored images: restore both from "
            "one backup, or ingest the series again"
        )
    return identity


def _newest_contour(store: CaseStore, case_id: str) -> tuple[str, Contour]:
    """Return what a doctor left last, in any round; else the model's, of the latest; its round."""
    corrected = store.last_correction(case_id, before=utc_now())
    if corrected is not None:
        return corrected.round_id, corrected.contour
    latest = store.latest_round()
    round_id = latest.round_id if latest is not None else ""
    contour = store.contour(case_id, purpose="adapted", round_id=round_id)
    if contour is None:
        raise DataError(f"{case_id}: not segmented yet: run 'fedgtv-site work' first")
    said = next((one for one in store.reviews(round_id) if one.case_id == case_id), None)
    if said is not None and said.verdict == REJECTED:
        raise DataError(
            f"{case_id}: the model's contour was rejected in its review: revise it first"
        )
    return round_id, contour
