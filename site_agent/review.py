"""What an oncologist made of a segmentation: kept, measured, and returned to the PACS.

Apart from `segmentation`, so that reviewing needs no torch, whose import takes seconds.
"""

from datetime import UTC, datetime
from pathlib import Path

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Mask
from evaluation.revision import revision_degree_percent
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.database import ReviewRow, utc_now
from site_agent.deidentification import unseal
from site_agent.rtstruct import exported_name, write_rtstruct


def record_review(
    store: CaseStore,
    round_id: str,
    case_id: str,
    revised: Mask,
    *,
    author: str,
    simulated: bool,
    active_s: float | None = None,
    wall_s: float | None = None,
) -> float:
    """Store the final contour of a reviewed case; the revision degree is computed here.

    Returns:
        The revision degree, 100 * (1 - Dice(model, revised)) %.

    Raises:
        ValueError: when the model has not segmented this case in this round.
    """
    model = store.contour(case_id, purpose="adapted", round_id=round_id)
    if model is None:
        raise ValueError("the model has not segmented this case in this round")
    degree = revision_degree_percent(model.mask.voxels, revised.voxels)
    accepted = bool((model.mask.voxels == revised.voxels).all())
    provenance = Provenance.AUTOMATIC if accepted else Provenance.SEMIAUTOMATIC
    store.add_review(
        ReviewRow(
            round_id=round_id,
            case_id=case_id,
            verdict="accepted" if accepted else "revised",
            revision_degree_percent=degree,
            active_s=active_s,
            wall_s=wall_s,
            author=author,
            simulated=simulated,
            reviewed_at=utc_now(),
        ),
        Contour(model.roi_name, revised, Provenance.SIMULATED if simulated else provenance),
    )
    return degree


def export_rtstruct(home: SiteHome, store: CaseStore, case_id: str, output: Path) -> str:
    """Write the newest contour of a case as RTSTRUCT under its original identity.

    What a reviewer left last, in any round, goes before the model's own, which is named `GTVp^AI`
    and is that of the latest round. Nothing here is APPROVED: that takes an oncologist's electronic
    signature.

    Returns:
        The name of the region that was written.

    Raises:
        DataError: when the case was neither reviewed nor segmented in the latest round, or never
            was DICOM.
    """
    latest = store.latest_round()
    sealed = store.identity_sealed(case_id)
    if sealed is None:
        raise DataError(f"{case_id}: came as NIfTI and has no identity in the PACS")
    round_id = latest.round_id if latest is not None else ""
    reviewed = store.corrected_contour(case_id, before=utc_now())
    contour = reviewed or store.contour(case_id, purpose="adapted", round_id=round_id)
    if contour is None:
        raise DataError(f"{case_id}: not segmented yet: run 'fedgtv-site work' first")
    dataset = write_rtstruct(
        store.volume(case_id),
        [contour],
        identity=unseal(sealed, home.secret("crosswalk.key")),
        label="fedgtv",
        now=datetime.now(UTC),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(output, enforce_file_format=True)
    return exported_name(contour)
