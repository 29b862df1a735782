"""What a doctor clicked, when, and what came of it: the only file that writes it.

A session is one author's way to one contour. Its rows are only ever added to, so that they say
what happened; taking a step back is a row of its own.
"""

import hashlib
from typing import Any

import numpy as np
from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.contour import Contour
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray
from site_agent import audit_log
from site_agent.case_store import CaseStore
from site_agent.database import (
    AnnotationTaskRow,
    ClickSessionRow,
    ClickStepRow,
    transaction,
    utc_now,
)

FINISHED = "finished"
PAINTED, UNDO, REPLAYED = "painted", "undo", "replayed"  # steps that no network answered
_OPEN = "open"


def open_task_row(store: CaseStore, task_id: int) -> AnnotationTaskRow:
    """Return a task that still waits for its contour.

    Raises:
        DataError: there is no such task, or it is done.
    """
    with Session(store.engine) as session:
        task = session.get(AnnotationTaskRow, task_id)
    if task is None:
        raise DataError(f"annotation task {task_id} is unknown: take one from the worklist")
    if task.state != _OPEN:
        raise DataError(_task_is_done(task))
    return task


def begin(
    store: CaseStore,
    *,
    case_id: str,
    task_id: int | None,
    round_id: str,
    author: str,
    start: Contour | None,
    settings: dict[str, Any],
) -> ClickSessionRow:
    """Return this author's unfinished session with the same start and network, or a new one.

    `task_id` is None for a whole case; `start` is the contour to correct, None to begin with
    nothing; of `settings`, JSON values, "network_sha256" names the weights.
    """
    start_sha256 = "" if start is None else mask_sha256(start.mask.voxels)
    weights = settings["network_sha256"]
    attempt = 0
    while True:
        # The same on every call: a process that was killed, and two that open at the same time,
        # find one session.
        key = [case_id, task_id, round_id, author, start_sha256, weights, attempt]
        row = ClickSessionRow(
            session_id=sha256_hex(canonical_json(key))[:16],
            case_id=case_id,
            task_id=task_id,
            round_id=round_id,
            author=author,
            start_sha256=start_sha256,
            settings=settings,
            state=_OPEN,
            opened_at=utc_now(),
        )
        with Session(store.engine) as session:
            held = session.get(ClickSessionRow, row.session_id)
        if held is None:
            held = _add(store, row, start)
        if held.state == _OPEN:
            return held
        attempt += 1


def _add(store: CaseStore, row: ClickSessionRow, start: Contour | None) -> ClickSessionRow:
    """Write a new session together with the contour it starts from; return what is held then."""
    session_id = row.session_id
    try:
        with transaction(store.engine) as session:
            session.add(row)
            session.flush()
            if start is not None:
                purpose = _start_purpose(session_id)
                store.add_contour(session, row.case_id, start, purpose, row.round_id, row.author)
    except IntegrityError:
        pass  # another process was faster with the same one
    with Session(store.engine) as session:
        return session.get_one(ClickSessionRow, session_id)


def begun(store: CaseStore, case_id: str, *, round_id: str, author: str) -> set[int | None]:
    """Return where an author has unfinished steps: ids of tasks, and None for the whole case."""
    statement = (
        select(ClickSessionRow.task_id)
        .join(ClickStepRow, ClickStepRow.session_id == ClickSessionRow.session_id)
        .where(
            ClickSessionRow.case_id == case_id,
            ClickSessionRow.round_id == round_id,
            ClickSessionRow.author == author,
            ClickSessionRow.state == _OPEN,
        )
    )
    with Session(store.engine) as session:
        return set(session.scalars(statement))


def start_contour(store: CaseStore, row: ClickSessionRow) -> Contour | None:
    """Return the contour that a session started from, as it was then."""
    return store.contour(row.case_id, purpose=_start_purpose(row.session_id), round_id=row.round_id)


def steps(store: CaseStore, session_id: str) -> list[ClickStepRow]:
    """Return all steps of a session in order, those that were taken back too."""
    statement = (
        select(ClickStepRow)
        .where(ClickStepRow.session_id == session_id)
        .order_by(ClickStepRow.sequence)
    )
    with Session(store.engine) as session:
        return list(session.scalars(statement))


def add_step(store: CaseStore, step: ClickStepRow, painted: MaskArray | None = None) -> None:
    """Write a step; its sequence number is how many came before it.

    `painted` is the contour as a hand left it, of such a step.

    Raises:
        DataError: the session was accepted, or went on in another window.
    """
    with transaction(store.engine) as session:
        _hold(session, step.session_id, step.sequence, {"state": _OPEN})
        if painted is not None:
            case_id = session.get_one(ClickSessionRow, step.session_id).case_id
            step.file = store.write_mask(case_id, painted)
        session.add(step)


def painted(
    store: CaseStore, row: ClickSessionRow, step: ClickStepRow, shape: tuple[int, ...]
) -> MaskArray:
    """Return the contour that a hand left in a step.

    Raises:
        DataError: its file is missing.
    """
    if step.file is None or not (store.home.folder / step.file).is_file():
        raise DataError(
            f"{row.case_id}: a contour drawn by hand is missing: restore it from a backup"
        )
    return store.read_mask(step.file, shape)


def finish(
    session: Session, session_id: str, *, steps_seen: int, active_s: float | None, result: str
) -> None:
    """Close a session inside the transaction that stores its contour.

    The accepted contour, whose hash is `result`, comes from `steps_seen` steps; the author was busy
    with it for `active_s`, if somebody measured it. Counted are all clicks and seconds, also those
    of steps that were taken back.

    Raises:
        DataError: accepted before, went on in another window, or the task is done.
    """
    _hold(
        session,
        session_id,
        steps_seen,
        {"state": FINISHED, "finished_at": utc_now(), "active_s": active_s},
    )
    row = session.get_one(ClickSessionRow, session_id)
    if row.task_id is not None:
        task = session.get_one(AnnotationTaskRow, row.task_id)
        if task.state != _OPEN:
            raise DataError(_task_is_done(task))
    made = session.scalars(select(ClickStepRow).where(ClickStepRow.session_id == session_id)).all()
    row.clicks = sum(len(step.foreground) + len(step.background) for step in made)
    row.compute_s = round(sum(step.seconds for step in made), 6)
    audit_log.append(
        session,
        actor=row.author,
        event="clicks_accepted",
        subject=row.case_id,
        detail={
            "session": session_id,
            "task": row.task_id,
            "clicks": row.clicks,
            "steps": len(made),
            "compute_s": row.compute_s,
            "active_s": active_s,
            "mask_sha256": result,
        },
        at=utc_now(),
    )


def mask_sha256(mask: MaskArray) -> str:
    """Return the hash of a mask: SHA-256 over its shape and its packed bits."""
    return hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()


def _hold(session: Session, session_id: str, steps_seen: int, values: dict[str, Any]) -> None:
    """Change an open session, and refuse unless the caller has seen all its steps.

    One transaction writes at a time, so what is read here stays true until the commit.
    """
    changed = session.execute(
        update(ClickSessionRow)
        .where(ClickSessionRow.session_id == session_id, ClickSessionRow.state == _OPEN)
        .values(values)
    )
    if not isinstance(changed, CursorResult) or changed.rowcount != 1:
        raise DataError("this contour was accepted already: open it again to correct it further")
    held = select(func.count()).where(ClickStepRow.session_id == session_id)
    if session.scalar(held) != steps_seen:
        raise DataError("somebody went on with these clicks in another window: open it again here")


def _start_purpose(session_id: str) -> str:
    return f"start-{session_id}"


def _task_is_done(task: AnnotationTaskRow) -> str:
    return (
        f"annotation task {task.id} (slice {task.slice_z} of {task.case_id}) is done already: take "
        "the next one from the worklist"
    )
