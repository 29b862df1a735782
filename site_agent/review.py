"""What an oncologist made of a segmentation: kept and measured, in one way for all who review.

Apart from `segmentation`, so that reviewing needs no torch, whose import takes seconds.
"""

from typing import Literal, get_args

from sqlalchemy.orm import Session

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Mask, MaskArray
from evaluation.revision import revision_degree_percent
from site_agent.case_store import REJECTED, CaseStore
from site_agent.database import ContourRow, ReviewRow, transaction, utc_now

Verdict = Literal["accepted", "revised", "rejected"]
RejectionReason = Literal[
    "wrong_target",  # another structure was contoured
    "missed_target",  # nothing of the target was found
    "needs_redrawing",  # correcting takes longer than drawing anew
    "image_unusable",  # artefacts, wrong series
    "no_target",  # this patient has none
    "other",
]
REJECTION_REASONS: tuple[RejectionReason, ...] = get_args(RejectionReason)


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
    with transaction(store.engine) as session:
        review, _ = put_review(
            session,
            store,
            round_id,
            case_id,
            revised.voxels,
            author=author,
            simulated=simulated,
            active_s=active_s,
            wall_s=wall_s,
        )
        return review.revision_degree_percent


def put_review(
    session: Session,
    store: CaseStore,
    round_id: str,
    case_id: str,
    revised: MaskArray | None,
    *,
    author: str,
    simulated: bool = False,
    active_s: float | None = None,
    wall_s: float | None = None,
    likert: int | None = None,
    reason: str = "",
) -> tuple[ReviewRow, ContourRow | None]:
    """Store a review inside `session`; the masks decide between accepted and revised.

    Args:
        session: of the transaction that this is part of.
        store: of the site.
        round_id: whose model segmented the case.
        case_id: of the case.
        revised: bool `[z, y, x]`, what the reviewer left; None: rejected, nothing of it is kept.
        author: who reviewed.
        simulated: the author is no person.
        active_s: seconds of work, to which those of this person's review that it replaces are
            added; None when nobody measured them.
        wall_s: seconds that passed, added up likewise.
        likert: 1 (unusable) to 5 (as I would draw it), if the reviewer said so.
        reason: of a rejection, one of `REJECTION_REASONS`.

    Returns:
        The review, and the contour as it was stored; None where the case was rejected.

    Raises:
        DataError: another score or reason, or a reason for what was not rejected.
        ValueError: when the model has not segmented this case in this round.
    """
    if likert is not None and likert not in range(1, 6):
        raise DataError("a score is 1 (unusable) to 5 (as I would draw it): choose one, or none")
    if (revised is None) != (reason in REJECTION_REASONS) or (revised is not None and reason):
        raise DataError(f"a rejection has a reason: choose one of {', '.join(REJECTION_REASONS)}")
    model = store.contour(case_id, purpose="adapted", round_id=round_id)
    if model is None:
        raise ValueError("the model has not segmented this case in this round")
    verdict: Verdict = REJECTED
    degree, contour = 100.0, None
    if revised is not None:
        degree = revision_degree_percent(model.mask.voxels, revised)
        accepted = bool((model.mask.voxels == revised).all())
        verdict = "accepted" if accepted else "revised"
        provenance = Provenance.AUTOMATIC if accepted else Provenance.SEMIAUTOMATIC
        contour = Contour(
            model.roi_name,
            Mask(revised, model.mask.geometry),
            Provenance.SIMULATED if simulated else provenance,
        )
    review = ReviewRow(
        round_id=round_id,
        case_id=case_id,
        verdict=verdict,
        revision_degree_percent=degree,
        active_s=active_s,
        wall_s=wall_s,
        author=author,
        simulated=simulated,
        reviewed_at=utc_now(),
        likert=likert,
        reason=reason,
    )
    return review, store.put_review(session, review, contour)
