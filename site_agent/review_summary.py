"""What reviewers made of the model's contours, by reviewer and in all: inside the hospital only.

A patient with several cases counts once, with the average of their reviews, as in the site's report
(`adaptation`). What leaves goes through `evaluation.disclosure_control`; this does not leave.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from evaluation.revision import PatientRevision, RevisionOverview, summarise_revisions
from site_agent.case_store import CaseStore
from site_agent.database import CaseRow, ContourSaveRow, ReviewRow


@dataclass(frozen=True)
class ReviewerSummary:
    """The reviews of one reviewer, or of all.

    Attributes:
        author: the reviewer; None is the whole site.
        simulated: the demo's stand-in.
        overview: per patient, and per slice where the slices are known.
        accepted, revised, rejected: cases by verdict.
    """

    author: str | None
    simulated: bool
    overview: RevisionOverview
    accepted: int
    revised: int
    rejected: int


@dataclass(frozen=True)
class _Review:
    row: ReviewRow
    patient_id: str
    slice_degrees_percent: tuple[float, ...]


def summarise_reviews(
    store: CaseStore, round_id: str | None = None, *, without: Collection[str] = ()
) -> list[ReviewerSummary]:
    """Summarise the reviews of a round, or of all rounds: the site first, then every reviewer.

    Cases in `without` are left out. Without reviews nothing is returned.
    """
    reviews = [one for one in _reviews(store, round_id) if one.row.case_id not in without]
    if not reviews:
        return []
    by_author: defaultdict[str, list[_Review]] = defaultdict(list)
    for review in reviews:
        by_author[review.row.author].append(review)
    return [
        _summary(None, reviews),
        *(_summary(author, by_author[author]) for author in sorted(by_author)),
    ]


def _summary(author: str | None, reviews: Sequence[_Review]) -> ReviewerSummary:
    of_patient: defaultdict[tuple[str, str], list[_Review]] = defaultdict(list)
    for review in reviews:
        of_patient[review.row.round_id, review.patient_id].append(review)
    verdicts = Counter(review.row.verdict for review in reviews)
    return ReviewerSummary(
        author=author,
        simulated=all(review.row.simulated for review in reviews),
        overview=summarise_revisions([_average(each) for each in of_patient.values()]),
        accepted=verdicts["accepted"],
        revised=verdicts["revised"],
        rejected=verdicts["rejected"],
    )


def _average(reviews: Sequence[_Review]) -> PatientRevision:
    slices = [degree for review in reviews for degree in review.slice_degrees_percent]
    return PatientRevision(
        degree_percent=fmean(review.row.revision_degree_percent for review in reviews),
        slice_degrees_percent=np.array(slices, dtype=np.float64),
        active_s=_mean(review.row.active_s for review in reviews),
        wall_s=_mean(review.row.wall_s for review in reviews),
    )


def _mean(times_s: Iterable[float | None]) -> float:
    taken = [time for time in times_s if time is not None]
    return fmean(taken) if taken else math.nan


def _reviews(store: CaseStore, round_id: str | None) -> list[_Review]:
    reviews = select(ReviewRow, CaseRow.patient_id).join(CaseRow)
    saves = select(ContourSaveRow).where(ContourSaveRow.purpose == "review")
    if round_id is not None:
        reviews = reviews.where(ReviewRow.round_id == round_id)
        saves = saves.where(ContourSaveRow.round_id == round_id)
    with Session(store.engine) as session:
        # The last save of a case is what its review says; the earlier ones stay as evidence.
        of_slices = {
            (save.round_id, save.case_id): save.slice_degrees_percent
            for save in session.scalars(saves.order_by(ContourSaveRow.id))
        }
        return [
            _Review(
                row,
                patient_id,
                tuple(
                    float(degree)
                    for degree in of_slices.get((row.round_id, row.case_id), {}).values()
                ),
            )
            for row, patient_id in session.execute(reviews.order_by(ReviewRow.id)).tuples()
        ]
