"""What a doctor has drawn and not saved yet, kept so that no crash of anything loses it.

    begin -> take, take, ... -> (`contour_evidence` saves it) | discard

A draft belongs to one author and one piece of work, and is named by its epoch, which is new
whenever it begins from something else. Of its sittings, the loads of the viewer that drew on it,
the newest may go on; an older window is refused before it overwrites. The contour is a mask file of
the case store: the file is there before the row names it, and goes after none does.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray
from site_agent import audit_log, claims
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.database import AnnotationTaskRow, DraftRow, transaction, utc_now
from site_agent.revision_clock import UNBOUND, Sitting, WorkTime, measure
from site_agent.work_message import WorkMessage

MOST_SITTINGS = 500
# A clock of the server that was put right, and network delays: not a way to gain working time.
_SLACK = timedelta(seconds=10)


@dataclass(frozen=True, eq=False)
class Draft:
    """A draft as it stands.

    Attributes:
        epoch: names it.
        revision: counts the messages that were taken.
        start: bool `[z, y, x]`, what it began from; None: nothing.
        target: bool `[z, y, x]`, the contour so far; None: nothing is drawn.
        outside: bool `[z, y, x]`, of scribbles; None without any.
        sittings: what each load of the viewer noted, as stored.
        begun_at: UTC.
        active_s: work so far.
    """

    epoch: str
    revision: int
    start: MaskArray | None
    target: MaskArray | None
    outside: MaskArray | None
    sittings: Mapping[str, Any]
    begun_at: datetime
    active_s: float


def begin(
    store: CaseStore,
    key: WorkKey,
    *,
    author: str,
    start: MaskArray | None = None,
    now: datetime | None = None,
) -> Draft:
    """Begin a draft and start its clock, or go on with the one that is there, whatever `start` is.

    Args:
        store: of the site.
        key: what is worked on, which the author has claimed.
        author: whose draft.
        start: bool `[z, y, x]`, such as the model's contour; None to begin with nothing.
        now: UTC; None for the clock's.

    Raises:
        DataError: somebody else has the case, or nobody.
        ValueError: the mask is not one of the case's grid.
    """
    shape = store.geometry(key.case_id).shape_zyx
    if start is not None and (start.shape != shape or start.dtype != bool):
        raise ValueError(f"a contour {start.dtype} {start.shape} for a case of {shape}")
    at = utc_now() if now is None else now
    with transaction(store.engine) as session:
        claims.hold(session, key, author)
        row = find(session, key, author)
        if row is None:
            file = None if start is None else store.write_mask(key.case_id, start)
            row = DraftRow(
                **key.columns,
                author=author,
                epoch=new_epoch(),
                sitting="",
                revision=0,
                start_file=file,
                file=file,
                outside_file=None,
                sittings={},
                begun_at=at,
                saved_at=at,
            )
            session.add(row)
    return _read(store, row)


def restore(store: CaseStore, key: WorkKey, *, author: str) -> Draft | None:
    """Return the author's draft; None where none was begun."""
    with Session(store.engine) as session:
        row = find(session, key, author)
    return None if row is None else _read(store, row)


def epoch_of(store: CaseStore, key: WorkKey, *, author: str) -> str | None:
    """Return the epoch of the author's draft; None where none was begun."""
    with Session(store.engine) as session:
        row = find(session, key, author)
        return None if row is None else row.epoch


def active_s(store: CaseStore, key: WorkKey, *, author: str) -> float:
    """Return how long the author has worked on the draft so far; 0 where none was begun."""
    with Session(store.engine) as session:
        row = find(session, key, author)
        return 0.0 if row is None else worked(row, until=row.saved_at).active_s


def take(
    store: CaseStore,
    key: WorkKey,
    *,
    author: str,
    message: WorkMessage,
    now: datetime | None = None,
) -> int:
    """Store what the viewer sent; the same message again, or an older one, changes nothing.

    Returns:
        The draft's revision, for the next message.

    Raises:
        DataError: the case is not the author's any more, or the message does not fit the draft.
    """
    with transaction(store.engine) as session:
        row, superseded = receive(session, store, key, author=author, message=message, now=now)
        revision = row.revision
    store.remove_superseded(superseded)
    return revision


def discard(
    store: CaseStore, key: WorkKey, *, author: str, now: datetime | None = None
) -> Draft | None:
    """Throw away what was drawn, and go back to what the draft began from; its clock goes on.

    Raises:
        DataError: somebody else has the case, or nobody.
    """
    with transaction(store.engine) as session:
        claims.hold(session, key, author)
        row = find(session, key, author)
        if row is None:
            return None
        superseded = files_of(row)
        row.epoch, row.revision = new_epoch(), row.revision + 1
        row.file, row.outside_file = row.start_file, None
        row.saved_at = utc_now() if now is None else now
    store.remove_superseded(superseded - files_of(row))
    return _read(store, row)


def editable_slices(store: CaseStore, key: WorkKey) -> tuple[int, ...] | None:
    """Return the slices that may be drawn on: those still asked for; None, all, in a review."""
    with Session(store.engine) as session:
        tasks = open_tasks(session, key)
    return None if tasks is None else tuple(sorted(tasks))


def log_refused(store: CaseStore, key: WorkKey, author: str, why: object) -> None:
    """Note in the audit log that something from a browser was refused, and why; never what it was.

    Args:
        store: of the site.
        key: of the page that it came to.
        author: who is signed in there.
        why: the `DataError`.
    """
    with transaction(store.engine) as session:
        audit_log.append(
            session,
            actor=author,
            event="payload_refused",
            subject=key.case_id,
            detail={"round": key.round_id, "purpose": key.purpose, "why": str(why)[:300]},
            at=utc_now(),
        )


# -- inside a transaction, for saving ------------------------------------------------------------


def find(session: Session, key: WorkKey, author: str) -> DraftRow | None:
    """Return the row of a draft."""
    return session.get(DraftRow, (*key.columns.values(), author))


def open_tasks(session: Session, key: WorkKey) -> dict[int, AnnotationTaskRow] | None:
    """Return what a doctor is still asked for in a case, by slice; None in a review."""
    if key.purpose == "review":
        return None
    statement = select(AnnotationTaskRow).where(
        AnnotationTaskRow.round_id == key.round_id,
        AnnotationTaskRow.case_id == key.case_id,
        AnnotationTaskRow.state == "open",
    )
    return {task.slice_z: task for task in session.scalars(statement)}


def receive(
    session: Session,
    store: CaseStore,
    key: WorkKey,
    *,
    author: str,
    message: WorkMessage,
    now: datetime | None = None,
) -> tuple[DraftRow, set[str]]:
    """Write a message into its draft inside `session`, as `take` does.

    Returns:
        The row, and the masks that it named before and names no more.
    """
    at = utc_now() if now is None else now
    claims.hold(session, key, author)
    row = find(session, key, author)
    if row is None or row.epoch != message.epoch:
        raise DataError(
            "this contour was saved or begun anew meanwhile: reload the page to see how it stands"
        )
    held = row.sittings.get(message.sitting)
    if held is not None and row.sitting != message.sitting:
        raise DataError("this case was opened in another window later: go on there, or reload")
    if held is not None and message.sequence <= held["sequence"]:
        return row, set()
    _check_revision(row, held, message)
    record = _record(row, held, message, at)
    tasks = open_tasks(session, key)
    _check_drawing(store, row, message, tasks)
    before = files_of(row)
    row.file = store.write_mask(key.case_id, message.target)
    row.outside_file = None
    if message.outside is not None:
        row.outside_file = store.write_mask(key.case_id, message.outside)
    row.sitting, row.revision = message.sitting, row.revision + 1
    row.sittings = {**row.sittings, message.sitting: record}
    row.saved_at = at
    return row, before - files_of(row)


def renew(row: DraftRow, counted: tuple[int, ...]) -> None:
    """Give a draft of which some slices were saved a new epoch, and count their time no more."""
    row.epoch, row.revision = new_epoch(), row.revision + 1
    row.sittings = {
        name: {
            **record,
            "counted": {
                **record["counted"],
                **{str(z): record["elapsed_ms"] for z in (UNBOUND, *counted)},
            },
        }
        for name, record in row.sittings.items()
    }


def worked(row: DraftRow, *, until: datetime) -> WorkTime:
    """Return how long a draft took up to some moment, UTC."""
    sittings = [
        Sitting(
            began_ms=record["began_ms"],
            active=[(start, stop, z) for start, stop, z in record["active"]],
            waiting=[(start, stop) for start, stop in record["waiting"]],
            counted={int(z): ms for z, ms in record["counted"].items()},
        )
        for record in row.sittings.values()
    ]
    return measure(sittings, wall_ms=_ms(until - row.begun_at))


def files_of(row: DraftRow) -> set[str]:
    """Return the masks that a draft names."""
    return {file for file in (row.start_file, row.file, row.outside_file) if file is not None}


def new_epoch() -> str:
    """Make a name that no browser can guess."""
    return secrets.token_hex(8)


def _check_revision(row: DraftRow, held: dict[str, Any] | None, message: WorkMessage) -> None:
    """Refuse a window that has not seen what was drawn in another one."""
    known = row.revision if held is None else held["revision"]
    if not known <= message.revision <= row.revision:
        raise DataError(
            "this contour was drawn on in another window meanwhile: reload the page to see it"
        )
    if held is None and len(row.sittings) >= MOST_SITTINGS:
        raise DataError(
            "this contour was opened too often without being saved: save it, or begin anew"
        )


def _record(
    row: DraftRow, held: dict[str, Any] | None, message: WorkMessage, at: datetime
) -> dict[str, Any]:
    """Return what a sitting noted, with when it came; it can only have begun before that."""
    if held is not None and message.elapsed_ms < held["elapsed_ms"]:
        raise DataError("the browser's clock went back: reload the page")
    began_ms = _ms(at - row.begun_at) - message.elapsed_ms
    busy = [span[0] for span in (*message.active, *message.waiting)]
    counted = {} if held is None else held["counted"]
    # The viewer may have been open before the draft was begun; work on it cannot.
    if not counted and busy and began_ms + min(busy) < -_ms(_SLACK):
        raise DataError("the browser says that more time was worked than passed: reload the page")
    if held is not None:
        began_ms = min(began_ms, held["began_ms"])  # the message that was under way the shortest
    return {
        "sequence": message.sequence,
        "revision": message.revision,
        "began_ms": began_ms,
        "began_at": message.began_at,
        "elapsed_ms": message.elapsed_ms,
        "active": [list(interval) for interval in message.active],
        "waiting": [list(span) for span in message.waiting],
        "actions": [list(action) for action in message.actions],
        "counted": counted,
        "first_received_at": at.isoformat() if held is None else held["first_received_at"],
        "last_received_at": at.isoformat(),
    }


def _check_drawing(
    store: CaseStore,
    row: DraftRow,
    message: WorkMessage,
    tasks: dict[int, AnnotationTaskRow] | None,
) -> None:
    """Refuse what was drawn where nobody was asked to draw."""
    shape = message.target.shape
    if tasks is None:
        if message.outside is not None:
            raise DataError("what the browser sent was refused: a review has no scribbles: reload")
        return
    if message.outside is not None and not any(t.kind == "scribble" for t in tasks.values()):
        raise DataError(
            "what the browser sent was refused: contours are asked for, not scribbles: reload"
        )
    fixed = np.ones(shape[0], bool)
    fixed[list(tasks)] = False
    for drawn, file in ((message.target, row.file), (message.outside, row.outside_file)):
        if drawn is None:
            continue
        kept = drawn[fixed]
        same = (
            not kept.any()
            if file is None
            else np.array_equal(kept, store.read_mask(file, shape)[fixed])
        )
        if not same:
            raise DataError(
                "what the browser sent was refused: it changes a slice that is not asked for: "
                "reload the page"
            )


def _read(store: CaseStore, row: DraftRow) -> Draft:
    shape = store.geometry(row.case_id).shape_zyx

    def mask(file: str | None) -> MaskArray | None:
        return None if file is None else store.read_mask(file, shape)

    return Draft(
        epoch=row.epoch,
        revision=row.revision,
        start=mask(row.start_file),
        target=mask(row.file),
        outside=mask(row.outside_file),
        sittings=row.sittings,
        begun_at=row.begun_at,
        active_s=worked(row, until=row.saved_at).active_s,
    )


def _ms(time: timedelta) -> int:
    return time // timedelta(milliseconds=1)
