"""The pieces of work on the worklist: what is to do, in which order, and how long it will take."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import chain
from statistics import median

from algorithms.contracts.case import Case, Split
from algorithms.contracts.messages import RoundState
from site_agent.case_store import REJECTED
from site_agent.claims import Purpose
from site_agent.database import AnnotationTaskRow, ReviewRow
from site_agent.worklist import Worklist

ANNOTATION: Purpose = "annotation"
REVIEW: Purpose = "review"
# What a slice and a case take until enough were timed here. Round figures, and shown as such.
ASSUMED_S = {"contour": 60.0, "scribble": 20.0, REVIEW: 300.0}
ENOUGH_TIMED = 5


class State(StrEnum):
    """How far a piece of work is."""

    OPEN = "open"
    WAITING = "waiting"  # for the model
    TO_SIGN = "to sign"  # reviewed by who looks, whose signature it lacks or has lost
    DONE = "done"
    BLINDED = "blinded"  # in a blinded reading of who looks, who is told no more


class Show(StrEnum):
    """Which pieces of work are listed."""

    TO_DO = "to do"
    MINE = "mine"
    FREE = "free"
    OTHERS = "with others"
    DONE = "done"
    ALL = "all"


@dataclass(frozen=True)
class Holder:
    """Who works on a case.

    Attributes:
        name: what the person is called.
        since: UTC.
        mine: it is who looks at the list.
    """

    name: str
    since: datetime
    mine: bool


@dataclass(frozen=True)
class Verdict:
    """What came of a review; `signed` False and `outdated` True: changed after it was signed."""

    verdict: str
    degree_percent: float
    author: str
    simulated: bool
    signed: bool
    outdated: bool


@dataclass(frozen=True)
class WorkItem:
    """What one doctor can take: the asked-for slices of a case, or the review of a case.

    Attributes:
        slices: of the image.
        tasks: the asked-for slices by position; none in a review.
        new_patient: came after the study's patients; in a review.
        verdict: of a review that was saved; who looks may have begun it again.
    """

    case: Case
    purpose: Purpose
    state: State
    holder: Holder | None
    tasks: tuple[AnnotationTaskRow, ...] = ()
    new_patient: bool = False
    verdict: Verdict | None = None

    @property
    def case_id(self) -> str:
        """Pseudonym of the case."""
        return self.case.case_id

    @property
    def slices(self) -> int:
        """How many slices the image has."""
        return self.case.shape_zyx[0]

    @property
    def open_tasks(self) -> tuple[AnnotationTaskRow, ...]:
        """The asked-for slices that are still to do, the most wanted first."""
        open_ones = (task for task in self.tasks if task.state == "open")
        return tuple(sorted(open_ones, key=lambda task: task.rank))

    @property
    def mine(self) -> bool:
        """Say whether who looks holds it."""
        return self.holder is not None and self.holder.mine

    @property
    def with_others(self) -> bool:
        """Say whether somebody else holds it."""
        return self.holder is not None and not self.holder.mine


@dataclass(frozen=True)
class Expected:
    """How long pieces of one kind take; `timed` is how many were timed here, 0: assumed."""

    each_s: float
    timed: int

    def minutes(self, pieces: int) -> float:
        """Return how many minutes `pieces` of them take."""
        return pieces * self.each_s / 60


def expected(timed_s: Sequence[float], kind: str) -> Expected:
    """Return what a piece takes: the median of those timed here, or a round figure.

    >>> expected([30.0, 40.0, 50.0, 60.0, 900.0], "contour")
    Expected(each_s=50.0, timed=5)
    >>> expected([30.0], "contour")
    Expected(each_s=60.0, timed=0)
    """
    if len(timed_s) < ENOUGH_TIMED:
        return Expected(ASSUMED_S[kind], 0)
    return Expected(float(median(timed_s)), len(timed_s))


def annotation_work(listed: Worklist, *, looks: str) -> list[WorkItem]:
    """Return the asked-for slices by case, in the order of `ordered`.

    Args:
        listed: the work of the round.
        looks: user name of who looks at it.
    """
    by_case: defaultdict[str, list[AnnotationTaskRow]] = defaultdict(list)
    for task in listed.tasks:
        by_case[task.case_id].append(task)
    items = []
    for case in listed.cases:
        tasks = tuple(sorted(by_case[case.case_id], key=lambda task: task.slice_z))
        if tasks:
            done = all(task.state == "done" for task in tasks)
            state = State.DONE if done else State.OPEN
            holder = None if done else _holder(listed, case.case_id, ANNOTATION, looks)
            items.append(WorkItem(case, ANNOTATION, state, holder, tasks))
    return ordered(items)


def review_work(listed: Worklist, *, looks: str) -> list[WorkItem]:
    """Return the test cases and the new patients to review, in the order of `ordered`.

    A new patient of a modality that the study does not have takes no part.
    """
    modalities = {case.modality for case in listed.cases if case.split is not Split.UNASSIGNED}
    reviews = {review.case_id: review for review in listed.reviews}
    closed = RoundState(listed.round.state) not in (
        RoundState.AWAITING_REVIEW,
        RoundState.REPORTED,
    )
    items = []
    for case in listed.cases:
        new = case.split is Split.UNASSIGNED
        if not (case.split is Split.TEST or (new and case.modality in modalities)):
            continue
        review = reviews.get(case.case_id)
        holder = _holder(listed, case.case_id, REVIEW, looks)
        if case.case_id in listed.blinded:
            state, review = State.BLINDED, None
            holder = holder if holder is not None and holder.mine else None
        elif review is not None:
            again = holder is not None and holder.mine
            lacks = _lacks_signature(listed, review, looks)
            state = State.OPEN if again else State.TO_SIGN if lacks else State.DONE
        else:
            waits = closed or case.case_id not in listed.segmented
            state = State.WAITING if waits else State.OPEN
        items.append(
            WorkItem(
                case,
                REVIEW,
                state,
                holder,
                new_patient=new,
                verdict=None if review is None else _verdict(listed, review),
            )
        )
    return ordered(items)


def ordered(items: Iterable[WorkItem]) -> list[WorkItem]:
    """Put first what I hold, then what is free, what others hold, what waits, and what is done.

    What lacks my signature comes before what waits for others.

    Within these, by the rank of the most wanted slice, test cases before new patients, then by
    patient, so that cases of one patient stand together.
    """
    groups = {State.TO_SIGN: 3, State.WAITING: 4, State.BLINDED: 4, State.DONE: 5}

    def place(item: WorkItem) -> tuple[int, int, bool, str, str]:
        if item.state is State.OPEN:
            group = 0 if item.mine else 2 if item.with_others else 1
        else:
            group = groups[item.state]
        wanted = item.open_tasks or item.tasks
        rank = min((task.rank for task in wanted), default=0)
        return group, rank, item.new_patient, item.case.patient_id, item.case_id

    return sorted(items, key=place)


def next_work(*lists: Sequence[WorkItem]) -> WorkItem | None:
    """Return what to do next out of ordered items, of which the first list is wanted most.

    What I hold, in any list; else the first that is free; else the first to sign.
    """
    items = [item for listed in lists for item in listed]
    mine = (item for item in items if item.state is State.OPEN and item.mine)
    free = (item for item in items if item.state is State.OPEN and item.holder is None)
    to_sign = (item for item in items if item.state is State.TO_SIGN)
    return next(chain(mine, free, to_sign), None)


def matching(
    items: Iterable[WorkItem], show: Show, *, role: str | None = None, text: str = ""
) -> list[WorkItem]:
    """Return the items to list.

    Args:
        items: to choose from.
        show: by state and holder.
        role: the reason of choice that some asked-for slice must have; None: any. It says nothing
            about reviews.
        text: part of the pseudonym of case or patient.
    """
    wanted = text.strip().lower()
    return [
        item
        for item in items
        if _shown(item, show)
        and (role is None or not item.tasks or any(task.role == role for task in item.tasks))
        and (wanted in item.case_id or wanted in item.case.patient_id)
    ]


def _shown(item: WorkItem, show: Show) -> bool:
    unfinished = item.state is not State.DONE
    free = item.state is State.OPEN and item.holder is None
    return {
        Show.TO_DO: unfinished,
        Show.MINE: item.mine,
        Show.FREE: free,
        Show.OTHERS: item.with_others,
        Show.DONE: not unfinished,
        Show.ALL: True,
    }[show]


def _holder(listed: Worklist, case_id: str, purpose: Purpose, looks: str) -> Holder | None:
    row = listed.holders.get((case_id, purpose))
    if row is None:
        return None
    name = listed.names.get(row.author, row.author)
    return Holder(name, row.claimed_at, row.author == looks)


def _lacks_signature(listed: Worklist, review: ReviewRow, looks: str) -> bool:
    """Say whether who looks may sign a review, and has not since it was saved."""
    case_id = review.case_id
    mine = review.author == looks and not review.simulated
    kept = review.verdict != REJECTED and case_id not in listed.superseded
    return mine and kept and listed.signatures.get(case_id) is not True


def _verdict(listed: Worklist, review: ReviewRow) -> Verdict:
    counts = listed.signatures.get(review.case_id)
    return Verdict(
        verdict=review.verdict,
        degree_percent=review.revision_degree_percent,
        author=listed.names.get(review.author, review.author),
        simulated=review.simulated,
        signed=counts is True,
        outdated=counts is False,
    )
