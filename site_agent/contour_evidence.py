"""Save what a doctor drew, with the evidence of how: one transaction, or nothing happened.

Contour, task or review, times, actions, what was measured, claim, draft and audit entry go
together. Nothing here is taken from the browser but the contour and the times, which were checked
on their way in; what a contour differs by is measured on the masks as they are stored.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray
from evaluation.added_path_length import added_path_length_mm
from evaluation.revision import revision_degree_percent, revision_degrees_of_slices
from site_agent import audit_log, claims, drafts, review
from site_agent.case_store import REJECTED, CaseStore
from site_agent.claims import WorkKey
from site_agent.click_store import mask_sha256
from site_agent.database import (
    AnnotationTaskRow,
    ContourSaveRow,
    DraftRow,
    transaction,
    utc_now,
)
from site_agent.review import Verdict
from site_agent.revision_clock import UNBOUND, WorkTime
from site_agent.work_message import WorkMessage

if TYPE_CHECKING:  # with torch, whose import takes seconds and which reviewing does without
    from site_agent.segmentation import ClickSession


def save_annotation(
    store: CaseStore,
    key: WorkKey,
    *,
    author: str,
    message: WorkMessage,
    slices: Sequence[int],
    click_sessions: "Mapping[int, ClickSession] | None" = None,
    now: datetime | None = None,
) -> list[ContourSaveRow]:
    """Store the contours or scribbles of asked-for slices, and complete their tasks.

    Slices that are not among them stay in the draft, under a new epoch, with the time they took so
    far. With the last slice the draft goes and the case is released. The same message again
    gives the same answer and changes nothing.

    Args:
        store: of the site.
        key: what is worked on, which the author has claimed.
        author: who drew.
        message: with the contour of the whole volume.
        slices: that are done; an empty contour says that there is no target.
        click_sessions: by slice, where the model was asked; they are accepted with it.
        now: UTC; None for the clock's.

    Returns:
        The evidence, one row for each slice, in their order.

    Raises:
        DataError: the case is not the author's any more, the message does not fit, or a slice is
            not asked for or, with scribbles, has nothing drawn on it.
    """
    at = utc_now() if now is None else now
    if known := _saved_before(store, key, author, message):
        return known
    if not slices:
        raise DataError("no slice is marked as done: mark those that are")
    # First as a draft: what comes next may fail, and is tried again.
    drafts.take(store, key, author=author, message=message, now=at)
    sessions = dict(click_sessions or {})
    for z in slices:
        if z in sessions:
            sessions[z].take(message.target[z])
    with transaction(store.engine) as session:
        row, superseded = drafts.receive(
            session, store, key, author=author, message=message, now=at
        )
        tasks = drafts.open_tasks(session, key) or {}
        if not set(slices) <= tasks.keys():
            raise DataError(
                f"{key.case_id}: a slice is not asked for, or done already: reload the page"
            )
        _refuse_superseded(row, message)
        time = drafts.worked(row, until=at)
        seconds = time.of_slices(slices)
        saves = []
        for z in slices:
            _answer(session, store, tasks[z], message, author, seconds[z], sessions.get(z))
            saves.append(_slice_save(store, row, tasks[z], message, time, slices, seconds[z], at))
        session.add_all(saves)
        _log(session, key, author, message, {"slices": list(slices), "active_s": time.active_s})
        superseded |= drafts.files_of(row)
        if set(slices) == tasks.keys():
            session.delete(row)
            claims.let_go(session, key, author)
        else:
            drafts.renew(row, tuple(slices))
    store.remove_superseded(superseded)
    return saves


def save_review(
    store: CaseStore,
    key: WorkKey,
    *,
    author: str,
    message: WorkMessage | None,
    verdict: Verdict,
    likert: int | None = None,
    reason: str = "",
    click_session: "ClickSession | None" = None,
    now: datetime | None = None,
) -> ContourSaveRow | None:
    """Store the review of a model's contour, and release the case.

    Whether it was accepted or revised, the masks decide. A rejected one leaves no contour, and its
    revision degree is 100 %. The same message again changes nothing.

    Args:
        store: of the site.
        key: what is worked on, which the author has claimed and begun a draft of.
        author: who reviewed.
        message: with the contour and times; None takes the draft as it stands.
        verdict: what the reviewer chose.
        likert: 1 (unusable) to 5 (as I would draw it), or None.
        reason: of a rejection, one of `review.REJECTION_REASONS`.
        click_session: where the model was asked; it is closed with it.
        now: UTC; None for the clock's.

    Returns:
        The evidence; None where the case was rejected, whose times are in the review.

    Raises:
        DataError: the case is not the author's any more, the message does not fit, nothing was
            begun, or a score or reason is none.
        ValueError: the model has not segmented this case in this round.
    """
    at = utc_now() if now is None else now
    if message is not None and (known := _saved_before(store, key, author, message)):
        return known[0]
    if message is not None and click_session is not None:
        drafts.take(store, key, author=author, message=message, now=at)
        click_session.take(message.target)
    with transaction(store.engine) as session:
        row, superseded = _received(session, store, key, author, message, at)
        model = store.contour_row(key.case_id, purpose="adapted", round_id=key.round_id)
        if model is None:
            raise ValueError("the model has not segmented this case in this round")
        time = drafts.worked(row, until=at)
        said, contour = review.put_review(
            session,
            store,
            key.round_id,
            key.case_id,
            None if verdict == REJECTED else _drawn(store, row),
            author=author,
            active_s=time.active_s,
            wall_s=time.wall_s,
            likert=likert,
            reason=reason,
        )
        saved = None
        if contour is not None:
            saved = _review_save(store, row, model.file, contour.file, time, at)
            session.add(saved)
        if click_session is not None:
            click_session.close_within(session, active_s=time.active_s)
        _log(session, key, author, message, {"verdict": said.verdict, "active_s": time.active_s})
        superseded |= drafts.files_of(row)
        session.delete(row)
        claims.let_go(session, key, author)
    store.remove_superseded(superseded)
    return saved


def saves(store: CaseStore, round_id: str, case_id: str | None = None) -> list[ContourSaveRow]:
    """Return the evidence of a round in order, of one case or of all."""
    statement = select(ContourSaveRow).where(ContourSaveRow.round_id == round_id)
    if case_id is not None:
        statement = statement.where(ContourSaveRow.case_id == case_id)
    with Session(store.engine) as session:
        return list(session.scalars(statement.order_by(ContourSaveRow.id)))


# -- parts of a save -----------------------------------------------------------------------------


def _saved_before(
    store: CaseStore, key: WorkKey, author: str, message: WorkMessage
) -> list[ContourSaveRow]:
    """Return what this was saved as, where the answer was lost and the browser sends it again."""
    drawn = mask_sha256(message.target)
    return [
        row
        for row in saves(store, key.round_id, key.case_id)
        if (row.purpose, row.author) == (key.purpose, author)
        and row.sittings["epoch"] == message.epoch
        and row.sittings["sitting"] == message.sitting
        and row.sittings["drawn_sha256"] == drawn
    ]


def _answer(
    session: Session,
    store: CaseStore,
    task: AnnotationTaskRow,
    message: WorkMessage,
    author: str,
    active_s: float,
    clicks: "ClickSession | None",
) -> None:
    """Complete a task: through the clicks that led to it, or as it was drawn."""
    z, target, drawn = task.slice_z, message.target[task.slice_z], None
    if task.kind == "scribble" and message.outside is not None:
        drawn = target | message.outside[z]
        if not drawn.any():
            raise DataError(f"slice {z + 1}: nothing is drawn: scribble inside or outside first")
    if clicks is not None and drawn is None:
        clicks.accept_within(session, active_s=active_s)
        return
    store.answer_task(
        session,
        task.id,
        target,
        drawn,
        author=author,
        provenance=Provenance.MANUAL,
        active_s=active_s,
    )


def _slice_save(
    store: CaseStore,
    row: DraftRow,
    task: AnnotationTaskRow,
    message: WorkMessage,
    time: WorkTime,
    slices: Sequence[int],
    active_s: float,
    at: datetime,
) -> ContourSaveRow:
    """Make the evidence of one slice; waiting is shared out among those saved together."""
    z, shape = task.slice_z, message.target.shape
    assert task.file is not None  # noqa: S101 - it was answered just now
    masks = (2 if task.kind == "scribble" else 1, *shape[1:])
    stored = store.read_mask(task.file, masks)[0]
    spacing_mm = store.geometry(task.case_id).spacing_zyx_mm
    degree = path_mm = None
    degrees: dict[str, float] = {}
    if row.start_file is not None:
        start = store.read_mask(row.start_file, shape)[z]
        degree = revision_degree_percent(start, stored)
        degrees = {str(z): degree} if (start | stored).any() else {}
        path_mm = added_path_length_mm(stored, start, spacing_mm[1:])
    return ContourSaveRow(
        **_who(row),
        task_id=task.id,
        start_file=row.start_file,
        file=task.file,
        mask_sha256=mask_sha256(stored),
        sittings=_evidence(row, mask_sha256(message.target), (z, UNBOUND)),
        active_s=active_s,
        model_wait_s=time.model_wait_s / len(slices),
        wall_s=time.wall_s,
        revision_degree_percent=degree,
        slice_degrees_percent=degrees,
        added_path_length_mm=path_mm,
        saved_at=at,
    )


def _review_save(
    store: CaseStore, row: DraftRow, start_file: str, file: str, time: WorkTime, at: datetime
) -> ContourSaveRow:
    geometry = store.geometry(row.case_id)
    model, stored = (store.read_mask(name, geometry.shape_zyx) for name in (start_file, file))
    degrees = revision_degrees_of_slices(model, stored)
    drawn_sha256 = mask_sha256(stored)
    return ContourSaveRow(
        **_who(row),
        task_id=None,
        start_file=start_file,
        file=file,
        mask_sha256=drawn_sha256,
        sittings=_evidence(row, drawn_sha256, None),
        active_s=time.active_s,
        model_wait_s=time.model_wait_s,
        wall_s=time.wall_s,
        revision_degree_percent=revision_degree_percent(model, stored),
        slice_degrees_percent={
            str(z): float(degree) for z, degree in enumerate(degrees) if not math.isnan(degree)
        },
        added_path_length_mm=added_path_length_mm(stored, model, geometry.spacing_zyx_mm),
        saved_at=at,
    )


def _received(
    session: Session,
    store: CaseStore,
    key: WorkKey,
    author: str,
    message: WorkMessage | None,
    at: datetime,
) -> tuple[DraftRow, set[str]]:
    if message is not None:
        received = drafts.receive(session, store, key, author=author, message=message, now=at)
        _refuse_superseded(received[0], message)
        return received
    claims.hold(session, key, author)
    row = drafts.find(session, key, author)
    if row is None:
        raise DataError(f"{key.case_id}: no revision was started: start it first")
    return row, set()


def _refuse_superseded(row: DraftRow, message: WorkMessage) -> None:
    """Refuse to save what was drawn over since; only the newest message may be saved."""
    if row.sittings[message.sitting]["sequence"] != message.sequence:
        raise DataError("this contour was drawn on since: save it again")


def _drawn(store: CaseStore, row: DraftRow) -> MaskArray:
    """Return the contour that the draft ends in, from its file."""
    if row.file is None:
        raise DataError(f"{row.case_id}: nothing is drawn yet: draw the target, or reject")
    return store.read_mask(row.file, store.geometry(row.case_id).shape_zyx)


def _who(row: DraftRow) -> dict[str, str]:
    names = ("round_id", "case_id", "purpose", "author")
    return {name: getattr(row, name) for name in names}


def _evidence(row: DraftRow, drawn_sha256: str, slices: tuple[int, ...] | None) -> dict[str, Any]:
    """Return the draft's sittings for the record, with the actions on some slices or on all.

    `drawn_sha256` is of the whole volume, as the viewer shows it.
    """
    return {
        "epoch": row.epoch,
        "sitting": row.sitting,
        "drawn_sha256": drawn_sha256,
        "begun_at": row.begun_at.isoformat(),
        "sittings": {
            name: {
                **record,
                "actions": [
                    action for action in record["actions"] if slices is None or action[2] in slices
                ],
            }
            for name, record in row.sittings.items()
        },
    }


def _log(
    session: Session,
    key: WorkKey,
    author: str,
    message: WorkMessage | None,
    detail: dict[str, Any],
) -> None:
    screen = {} if message is None else {"screen_sha256": mask_sha256(message.target)}
    audit_log.append(
        session,
        actor=author,
        event="contour_saved",
        subject=key.case_id,
        detail={"round": key.round_id, "purpose": key.purpose, **detail, **screen},
        at=utc_now(),
    )
