"""How far a round is, in numbers."""

from dataclasses import dataclass

from sqlalchemy import distinct, func, select
from sqlalchemy.orm import Session

from algorithms.contracts.case import Split
from site_agent.case_store import CaseStore
from site_agent.database import AnnotationTaskRow, CaseRow, ContourRow, ReviewRow, RoundRow

ADAPTED = "adapted"


@dataclass(frozen=True)
class RoundCounts:
    """Numbers of a round; all 0 before it begins.

    Attributes:
        slices_asked, cases_asked: what doctors are asked to annotate.
        slices_annotated: of them.
        test_cases: of this site.
        test_segmented, test_reviewed: of them, in this round.
        report_ready: the site report is made.
    """

    slices_asked: int = 0
    cases_asked: int = 0
    slices_annotated: int = 0
    test_cases: int = 0
    test_segmented: int = 0
    test_reviewed: int = 0
    report_ready: bool = False


def count_round(store: CaseStore, round_id: str) -> RoundCounts:
    """Count what there is of a round."""
    task, contour, review = AnnotationTaskRow, ContourRow, ReviewRow
    asked = select(func.count(), func.count(distinct(task.case_id))).where(
        task.round_id == round_id
    )
    done = select(func.count()).where(task.round_id == round_id, task.state == "done")
    test = select(CaseRow.case_id).where(CaseRow.split == Split.TEST.value)
    segmented = select(func.count(distinct(contour.case_id))).where(
        contour.round_id == round_id, contour.purpose == ADAPTED, contour.case_id.in_(test)
    )
    reviewed = select(func.count()).where(review.round_id == round_id, review.case_id.in_(test))
    with Session(store.engine) as session:
        slices_asked, cases_asked = session.execute(asked).one()
        return RoundCounts(
            slices_asked=slices_asked,
            cases_asked=cases_asked,
            slices_annotated=session.scalar(done) or 0,
            test_cases=session.scalar(select(func.count()).select_from(test.subquery())) or 0,
            test_segmented=session.scalar(segmented) or 0,
            test_reviewed=session.scalar(reviewed) or 0,
            report_ready=session.get_one(RoundRow, round_id).report is not None,
        )
