"""What an oncologist made of a segmentation: kept and measured.

Apart from `segmentation`, so that reviewing needs no torch, whose import takes seconds.
"""

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.volume import Mask
from evaluation.revision import revision_degree_percent
from site_agent.case_store import CaseStore
from site_agent.database import ReviewRow, utc_now


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
