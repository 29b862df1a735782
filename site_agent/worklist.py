"""What a worklist is made of, read together: what is asked for, who holds it, what is done."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from algorithms.contracts.case import Case
from site_agent import accounts, claims
from site_agent.blinding import blinded_cases
from site_agent.case_store import RETURNED, REVIEWED, CaseStore
from site_agent.database import (
    AnnotationTaskRow,
    ClaimRow,
    ContourRow,
    ReviewRow,
    RoundRow,
    SignatureRow,
)

MODEL_CONTOUR = "adapted"


@dataclass(frozen=True)
class Worklist:
    """The work of one round.

    Attributes:
        cases: all of the site, by patient and case.
        tasks: the asked-for slices, by rank.
        holders: who holds a (case, purpose).
        segmented: cases of which the round holds the model's contour.
        signatures: by case that was signed, whether its newest signature still counts.
        superseded: cases of which another contour came after this round's review: another round's,
            or one from a planning system; nobody signs these before they are reviewed again.
        names: what people are called, by user name.
        blinded: cases in a blinded reading of who looks.
        slice_s: how long each annotated slice took, as far as people were timed; in any round.
        review_s: the same of each review of this round.
    """

    round: RoundRow
    cases: tuple[Case, ...]
    tasks: tuple[AnnotationTaskRow, ...]
    reviews: tuple[ReviewRow, ...]
    holders: Mapping[tuple[str, str], ClaimRow]
    segmented: frozenset[str]
    signatures: Mapping[str, bool]
    superseded: frozenset[str]
    names: Mapping[str, str]
    blinded: frozenset[str]
    slice_s: tuple[float, ...]
    review_s: tuple[float, ...]


def read_worklist(store: CaseStore, current: RoundRow, *, looks: str) -> Worklist:
    """Read the work of a round, as whoever `looks` may see it."""
    round_id = current.round_id
    tasks, reviews = store.tasks(round_id), store.reviews(round_id)
    signatures = (
        select(SignatureRow.case_id, func.max(SignatureRow.signed_at))
        .where(SignatureRow.round_id == round_id)
        .group_by(SignatureRow.case_id)
    )
    said = (
        select(ContourRow.case_id, func.max(ContourRow.saved_at))
        .where(ContourRow.purpose.in_((REVIEWED, RETURNED)))
        .group_by(ContourRow.case_id)
    )
    last_words = select(func.max(ContourRow.id)).where(ContourRow.purpose.in_((REVIEWED, RETURNED)))
    superseded = select(ContourRow.case_id).where(
        ContourRow.id.in_(last_words.group_by(ContourRow.case_id)),
        or_(ContourRow.purpose == RETURNED, ContourRow.round_id != round_id),
    )
    said_by_review = {review.case_id: review.reviewed_at for review in reviews}
    contours = select(ContourRow.case_id).where(
        ContourRow.purpose == MODEL_CONTOUR, ContourRow.round_id == round_id
    )
    with Session(store.engine) as session:
        segmented = frozenset(session.scalars(contours))
        signed_at = {row[0]: row[1] for row in session.execute(signatures)}
        said_at = {row[0]: row[1] for row in session.execute(said)}
        overtaken = frozenset(session.scalars(superseded))
        blinded = blinded_cases(session, looks)
    return Worklist(
        round=current,
        cases=tuple(store.cases()),
        tasks=tuple(tasks),
        reviews=tuple(reviews),
        holders=claims.holders(store, round_id),
        segmented=segmented,
        signatures={
            case_id: at >= max(said_at.get(case_id, at), said_by_review.get(case_id, at))
            for case_id, at in signed_at.items()
        },
        superseded=overtaken,
        names=accounts.display_names(store.engine),
        blinded=blinded,
        slice_s=tuple(store.annotation_seconds("scribble" if _by_scribble(tasks) else "contour")),
        review_s=tuple(r.active_s for r in reviews if r.active_s is not None and not r.simulated),
    )


def _by_scribble(tasks: list[AnnotationTaskRow]) -> bool:
    """Say whether scribbles are asked for; the tasks of a round are all of one kind."""
    return bool(tasks) and tasks[0].kind == "scribble"
