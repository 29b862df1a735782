"""Cases, contours, annotation tasks, reviews and rounds: the only file that writes them.

Images and masks are files below the site's home; everything about them is in the database. A file
is written before the row that names it, so a killed process leaves at worst an unnamed file.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Column, ColumnElement, Engine, and_, func, select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.case import Case, Split
from algorithms.contracts.contour import NOT_ANNOTATED, Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState
from algorithms.contracts.subgroups import TStage
from algorithms.contracts.volume import Geometry, Mask, MaskArray, Volume
from site_agent import audit_log
from site_agent.case_workflow import RoundEvent, next_state
from site_agent.config import SiteHome
from site_agent.database import (
    AnnotationTaskRow,
    Base,
    CaseRow,
    ContourRow,
    MeasurementRow,
    ReviewRow,
    RoundRow,
    open_database,
    transaction,
    utc_now,
)
from site_agent.site_lock import SiteBusyError, superseded_masks_may_go

REFERENCE = "reference"
REVIEWED = "reviewed"
REJECTED: Final = "rejected"  # of a review: nothing of the model's contour is kept
RETURNED = "returned"  # from a planning system

TaskKind = Literal["contour", "scribble"]


@dataclass(frozen=True)
class NewCase:
    """A case on its way in: de-identified, with the contours that came with it.

    Attributes:
        volume: the image, its UIDs already mapped.
        identity_sealed: encrypted original identity; None for images that never were DICOM.
        source: the file or folder it was read from, for messages; not stored.
    """

    case_id: str
    patient_id: str
    volume: Volume
    identity_sealed: bytes | None
    contours: tuple[Contour, ...]
    source: str = ""


@dataclass(frozen=True)
class Intake:
    """What became of the cases that were given: their ids.

    Attributes:
        new: stored now.
        contoured: held before without reference, which they got now.
        unchanged: held before and left as they are.
    """

    new: list[str]
    contoured: list[str]
    unchanged: list[str]


@dataclass(frozen=True)
class SliceChoice:
    """A slice that the selection asks a doctor to contour."""

    case_id: str
    slice_z: int
    role: str
    score: float


@dataclass(frozen=True)
class Correction:
    """What a doctor left of a case, and the round whose segmentation it was."""

    contour: Contour
    round_id: str


class CaseStore:
    """What a site knows about its cases."""

    def __init__(self, home: SiteHome, engine: Engine | None = None) -> None:
        self.home = home
        self.engine = engine if engine is not None else open_database(home.database_url)

    # -- cases ------------------------------------------------------------------------------

    def add_cases(self, cases: Iterable[NewCase], *, actor: str) -> Intake:
        """Store new cases, and contours that held cases lacked, in one transaction.

        A case that is held with a reference is left as it is. Images are written as they come, so
        that `cases` may be read one by one; when one fails, those are removed again.

        Raises:
            DataError: another image is held as the same case; or what reading `cases` raises.
        """
        held = {case.case_id: case for case in self.cases()}
        new: list[tuple[CaseRow, list[ContourRow]]] = []
        late: list[tuple[str, list[ContourRow]]] = []
        unchanged: list[str] = []
        # While one image is written the next is read.
        with self._removed_on_failure() as written, ThreadPoolExecutor(1) as writer:
            writing: Future[None] | None = None
            for case in cases:
                if case.case_id not in held:
                    if writing is not None:
                        writing.result()  # no more than two in memory
                    written.append(case.case_id)
                    writing = writer.submit(self._write_image, case)
                    new.append((_case_row(case), self._references(case, actor)))
                    continue
                self._check_same_image(case)
                if case.contours and not held[case.case_id].has_reference:
                    late.append((case.case_id, self._references(case, actor)))
                else:
                    unchanged.append(case.case_id)
            if writing is not None:
                writing.result()
        with transaction(self.engine) as session:
            for row, contours in new:
                session.add(row)
                session.flush()
                _add_references(session, row.case_id, contours, actor, "case_ingested")
            for case_id, contours in late:
                _existing(session, case_id).has_reference = True
                _add_references(session, case_id, contours, actor, "reference_added")
        return Intake([row.case_id for row, _ in new], [case_id for case_id, _ in late], unchanged)

    def _check_same_image(self, case: NewCase) -> None:
        held = self.volume(case.case_id)
        same = held.geometry.matches(case.volume.geometry) and np.array_equal(
            held.image, case.volume.image
        )
        if not same:
            raise DataError(
                f"{case.source or case.case_id}: another image is held under this name already "
                f"(as {case.case_id}): rename the file, or export the series as it was before"
            )

    @contextmanager
    def _removed_on_failure(self) -> Iterator[list[str]]:
        """Yield a list for the ids of cases whose files are written and that have no rows yet."""
        written: list[str] = []
        try:
            yield written
        except BaseException:
            for case_id in written:
                shutil.rmtree(self.home.cases / case_id, ignore_errors=True)
            raise

    def _references(self, case: NewCase, author: str) -> list[ContourRow]:
        return [self._contour_row(case.case_id, c, REFERENCE, "", author) for c in case.contours]

    def cases(self, split: Split | None = None) -> list[Case]:
        """Return the cases, ordered by patient and case, optionally of one split only."""
        statement = select(CaseRow).order_by(CaseRow.patient_id, CaseRow.case_id)
        if split is not None:
            statement = statement.where(CaseRow.split == split.value)
        with Session(self.engine) as session:
            return [_case(row) for row in session.scalars(statement)]

    def case(self, case_id: str) -> Case:
        """Return one case.

        Raises:
            DataError: when there is no such case.
        """
        with Session(self.engine) as session:
            return _case(_existing(session, case_id))

    def volume(self, case_id: str) -> Volume:
        """Read the de-identified image of a case."""
        with Session(self.engine) as session:
            series = _existing(session, case_id).series
        stored = np.load(self.home.cases / case_id / "image.npy", allow_pickle=False)
        return Volume(
            image=stored.astype(np.float32),
            geometry=_geometry(series),
            modality=series["modality"],
            frame_of_reference_uid=series["frame_of_reference_uid"],
            sop_instance_uids=tuple(series["sop_instance_uids"]),
            series_instance_uid=series["series_instance_uid"],
            study_instance_uid=series["study_instance_uid"],
            scanner=dict(series["scanner"]),
        )

    def geometry(self, case_id: str) -> Geometry:
        """Return the grid of a case without reading its image."""
        with Session(self.engine) as session:
            return _geometry(_existing(session, case_id).series)

    def identity_sealed(self, case_id: str) -> bytes | None:
        """Return the encrypted original identity of a case."""
        with Session(self.engine) as session:
            return _existing(session, case_id).identity_sealed

    def assign_splits(self, splits: dict[str, Split], modality: str | None = None) -> None:
        """Set the split of patients, given as `patient_id -> split`, once and for all.

        Cases of another modality than `modality` take no part; None lets all of them.
        """
        with transaction(self.engine) as session:
            for row in session.scalars(select(CaseRow)):
                if modality not in (None, row.modality):
                    continue
                if row.split == Split.UNASSIGNED.value and row.patient_id in splits:
                    row.split = splits[row.patient_id].value

    def join_training(self, patients: Collection[str], modality: str, *, actor: str) -> None:
        """Make patients who came after the split part of what the next round learns from."""
        with transaction(self.engine) as session:
            for row in session.scalars(select(CaseRow).where(CaseRow.patient_id.in_(patients))):
                if row.split != Split.UNASSIGNED.value or row.modality != modality:
                    continue
                row.split = Split.TRAINING.value
                audit_log.append(
                    session,
                    actor=actor,
                    event="case_joined_training",
                    subject=row.case_id,
                    detail={},
                    at=utc_now(),
                )

    def set_t_stages(self, stages: Mapping[str, TStage], *, actor: str) -> None:
        """Keep the T stage of cases, given as `case_id -> stage`; all or none.

        The audit log says that there was one, and not which: it outlives an erasure.

        Raises:
            DataError: when there is no such case.
        """
        with transaction(self.engine) as session:
            for case_id, stage in sorted(stages.items()):
                _existing(session, case_id).t_stage = stage
                audit_log.append(
                    session,
                    actor=actor,
                    event="t_stage_set",
                    subject=case_id,
                    detail={},
                    at=utc_now(),
                )

    # -- contours ---------------------------------------------------------------------------

    def save_contour(
        self, case_id: str, contour: Contour, *, purpose: str, round_id: str = "", author: str
    ) -> None:
        """Keep a contour; an earlier one of the same purpose and round stays as history."""
        with transaction(self.engine) as session:
            self.add_contour(session, case_id, contour, purpose, round_id, author)

    def add_contour(
        self,
        session: Session,
        case_id: str,
        contour: Contour,
        purpose: str,
        round_id: str,
        author: str,
    ) -> None:
        """Keep a contour inside `session`, as `save_contour` does."""
        self._add_contour(session, case_id, contour, purpose, round_id, author)

    def _add_contour(
        self,
        session: Session,
        case_id: str,
        contour: Contour,
        purpose: str,
        round_id: str,
        author: str,
    ) -> ContourRow:
        row = self._contour_row(case_id, contour, purpose, round_id, author)
        session.add(row)
        return row

    def _contour_row(
        self, case_id: str, contour: Contour, purpose: str, round_id: str, author: str
    ) -> ContourRow:
        """Write the mask; the file is nobody's until the row is stored."""
        return ContourRow(
            case_id=case_id,
            purpose=purpose,
            round_id=round_id,
            roi_name=contour.roi_name,
            provenance=contour.provenance.value,
            author=author,
            file=self.write_mask(case_id, contour.mask.voxels),
            saved_at=utc_now(),
        )

    def add_contours(
        self, contours: Iterable[tuple[str, Contour]], *, purpose: str, author: str, actor: str
    ) -> None:
        """Keep contours of one purpose, given as (case, contour), that came in from elsewhere."""
        with transaction(self.engine) as session:
            for case_id, contour in contours:
                self._add_contour(session, case_id, contour, purpose, "", author)
                audit_log.append(
                    session,
                    actor=actor,
                    event="contour_added",
                    subject=case_id,
                    detail={"purpose": purpose},
                    at=utc_now(),
                )

    def contour(self, case_id: str, *, purpose: str, round_id: str = "") -> Contour | None:
        """Return the newest contour of a purpose ("reference", "adapted", ...) or None.

        A case that a reviewer rejected has no reviewed one, whatever an earlier review left.
        """
        with Session(self.engine) as session:
            row = _newest_contour(session, case_id, purpose, round_id)
        return None if row is None else self.contour_of(row)

    def contour_row(self, case_id: str, *, purpose: str, round_id: str = "") -> ContourRow | None:
        """Return the row of the contour that `contour` reads: who made it, and its file."""
        with Session(self.engine) as session:
            return _newest_contour(session, case_id, purpose, round_id)

    def contour_of(self, row: ContourRow) -> Contour:
        """Read the contour that a row is about."""
        geometry = self.geometry(row.case_id)
        voxels = self.read_mask(row.file, geometry.shape_zyx)
        return Contour(row.roi_name, Mask(voxels, geometry), Provenance(row.provenance))

    def contour_author(self, case_id: str, *, purpose: str, round_id: str) -> str | None:
        """Return who made the newest contour of a purpose, or None where there is none."""
        row = self.contour_row(case_id, purpose=purpose, round_id=round_id)
        return None if row is None else row.author

    def last_correction(
        self, case_id: str, roi_name: str | None = None, *, before: datetime
    ) -> Correction | None:
        """Return what a doctor left last before some moment, in any round, or None.

        A contour that came back from a planning system counts as one that was reviewed here; one
        whose case was rejected later does not count. `roi_name` asks for one region; None takes
        any.
        """
        statement = (
            select(ContourRow)
            .where(
                ContourRow.case_id == case_id,
                ContourRow.purpose.in_((REVIEWED, RETURNED)),
                *([] if roi_name is None else [ContourRow.roi_name == roi_name]),
                ContourRow.saved_at < before,
                ~_rejected(ReviewRow.reviewed_at < before),
            )
            .order_by(ContourRow.id.desc())
            .limit(1)
        )
        with Session(self.engine) as session:
            row = session.scalars(statement).first()
        return None if row is None else Correction(self.contour_of(row), row.round_id)

    # -- rounds -----------------------------------------------------------------------------

    def start_round(self, package_id: str, *, seed: int) -> RoundRow:
        """Return the round of (package, case set, seed), creating it when it is new."""
        with transaction(self.engine) as session:
            case_set = case_set_sha256(session)
            wanted = {"package_id": package_id, "case_set_sha256": case_set, "seed": seed}
            oldest_first = select(RoundRow).order_by(RoundRow.started_at)
            row = session.scalars(oldest_first.filter_by(**wanted)).first()
            if row is None:
                identity: list[object] = [package_id, case_set, seed]
                # A round from which a patient was erased keeps the key of the set it began with.
                while session.get(RoundRow, key := sha256_hex(canonical_json(identity))[:16]):
                    identity.append("again")
                now = utc_now()
                row = RoundRow(
                    round_id=key,
                    package_id=package_id,
                    case_set_sha256=case_set,
                    seed=seed,
                    state=RoundState.RECEIVED.value,
                    report=None,
                    started_at=now,
                    changed_at=now,
                )
                session.add(row)
        return row

    def round(self, round_id: str) -> RoundRow:
        """Return a round."""
        with Session(self.engine) as session:
            row = session.get(RoundRow, round_id)
        if row is None:
            raise DataError(f"round {round_id} is unknown: see 'fedgtv-site status'")
        return row

    def latest_round(self) -> RoundRow | None:
        """Return the round that was started last."""
        with Session(self.engine) as session:
            return session.scalars(
                select(RoundRow).order_by(RoundRow.started_at.desc()).limit(1)
            ).first()

    def advance(
        self,
        round_id: str,
        event: RoundEvent,
        *,
        actor: str,
        detail: dict[str, Any] | None = None,
        also: Callable[[Session, RoundRow], None] | None = None,
    ) -> RoundState:
        """Apply an event: state, its effects (`also`) and audit entry are one transaction."""
        with transaction(self.engine) as session:
            row = session.get_one(RoundRow, round_id)
            row.state = next_state(RoundState(row.state), event).value
            row.changed_at = utc_now()
            if also is not None:
                also(session, row)
            audit_log.append(
                session,
                actor=actor,
                event=event.value,
                subject=f"round-{round_id}",
                detail=detail or {},
                at=row.changed_at,
            )
            return RoundState(row.state)

    # -- annotation -------------------------------------------------------------------------

    def open_tasks(
        self,
        round_id: str,
        choices: Sequence[SliceChoice],
        *,
        actor: str,
        kind: TaskKind = "contour",
    ) -> None:
        """Ask doctors for these slices, in order of rank, and move the round on."""

        def add(session: Session, _row: RoundRow) -> None:
            for rank, choice in enumerate(choices):
                session.add(
                    AnnotationTaskRow(
                        round_id=round_id,
                        rank=rank,
                        state="open",
                        kind=kind,
                        **asdict(choice),
                    )
                )

        self.advance(
            round_id,
            RoundEvent.SLICES_SELECTED,
            actor=actor,
            detail={"slices": len(choices)},
            also=add,
        )

    def tasks(self, round_id: str, *, state: str | None = None) -> list[AnnotationTaskRow]:
        """Return the annotation tasks of a round by rank; `state` is "open" or "done"."""
        statement = (
            select(AnnotationTaskRow)
            .where(AnnotationTaskRow.round_id == round_id)
            .order_by(AnnotationTaskRow.rank)
        )
        if state is not None:
            statement = statement.where(AnnotationTaskRow.state == state)
        with Session(self.engine) as session:
            return list(session.scalars(statement))

    def answered_tasks(self, kind: TaskKind, *, before: datetime) -> list[AnnotationTaskRow]:
        """Return all tasks of a kind that were answered before some moment, the earliest first."""
        statement = (
            select(AnnotationTaskRow)
            .where(
                AnnotationTaskRow.state == "done",
                AnnotationTaskRow.kind == kind,
                AnnotationTaskRow.done_at < before,
            )
            .order_by(AnnotationTaskRow.done_at, AnnotationTaskRow.id)
        )
        with Session(self.engine) as session:
            return list(session.scalars(statement))

    def annotation_seconds(self, kind: TaskKind) -> list[float]:
        """Return how long people took for each slice that they annotated so, in any round."""
        statement = select(AnnotationTaskRow.active_s).where(
            AnnotationTaskRow.state == "done",
            AnnotationTaskRow.kind == kind,
            AnnotationTaskRow.active_s.is_not(None),
            AnnotationTaskRow.provenance != Provenance.SIMULATED.value,
        )
        with Session(self.engine) as session:
            return [seconds for seconds in session.scalars(statement) if seconds is not None]

    def complete_task(
        self,
        task_id: int,
        mask_yx: MaskArray,
        *,
        author: str,
        provenance: Provenance,
        active_s: float | None,
        also: Callable[[Session], None] | None = None,
    ) -> None:
        """Store the contour of an asked-for slice: bool `[y, x]`; empty means no target there.

        `also` comes first in the same transaction, and may refuse.
        """
        self._complete(task_id, mask_yx, None, author, provenance, active_s, also)

    def complete_task_by_scribble(
        self,
        task_id: int,
        scribble_yx: NDArray[np.uint8],
        *,
        author: str,
        provenance: Provenance,
        active_s: float | None,
    ) -> None:
        """Store what was drawn on an asked-for slice, as it was drawn.

        Args:
            task_id: of the task.
            scribble_yx: 1 on the target, 0 outside it, `NOT_ANNOTATED` where nobody drew.
            author: who drew.
            provenance: how.
            active_s: how long the author was busy with it; None when nobody measured it.

        Raises:
            DataError: the package asks for contours.
            ValueError: another shape, another value, or nothing drawn.
        """
        if not np.isin(scribble_yx, (0, 1, NOT_ANNOTATED)).all():
            raise ValueError(f"a scribble holds 0, 1 and {NOT_ANNOTATED}")
        drawn = scribble_yx != NOT_ANNOTATED
        if not drawn.any():
            raise ValueError("nothing is drawn: an empty scribble says nothing")
        self._complete(task_id, scribble_yx == 1, drawn, author, provenance, active_s, None)

    def _complete(
        self,
        task_id: int,
        target: MaskArray,
        drawn: MaskArray | None,
        author: str,
        provenance: Provenance,
        active_s: float | None,
        also: Callable[[Session], None] | None,
    ) -> None:
        with transaction(self.engine) as session:
            if also is not None:
                also(session)
            self.answer_task(
                session,
                task_id,
                target,
                drawn,
                author=author,
                provenance=provenance,
                active_s=active_s,
            )

    def answer_task(
        self,
        session: Session,
        task_id: int,
        target: MaskArray,
        drawn: MaskArray | None,
        *,
        author: str,
        provenance: Provenance,
        active_s: float | None,
    ) -> AnnotationTaskRow:
        """Store what was drawn on an asked-for slice inside `session`, as `complete_task` does.

        `drawn` marks where a scribble says something; None for a contour.
        """
        task = session.get_one(AnnotationTaskRow, task_id)
        shape = _geometry(_existing(session, task.case_id).series).shape_zyx
        if target.shape != shape[1:]:
            raise ValueError(f"mask {target.shape} for a slice of {shape[1:]}")
        if drawn is not None and task.kind != "scribble":
            raise DataError(
                f"{task.case_id}, slice {task.slice_z}: this package asks for contours: draw "
                "the contour of the target instead of a scribble"
            )
        # A contour, where a scribble was asked for, is one that was drawn everywhere.
        said = [target]
        if task.kind == "scribble":
            said.append(np.ones_like(target) if drawn is None else drawn)
        task.file = self.write_mask(task.case_id, np.stack(said))
        task.state = "done"
        task.author, task.provenance = author, provenance.value
        task.active_s, task.done_at = active_s, utc_now()
        audit_log.append(
            session,
            actor=author,
            event="slice_annotated",
            subject=task.case_id,
            detail={
                "slice_z": task.slice_z,
                "kind": "contour" if drawn is None else "scribble",
                "provenance": provenance.value,
            },
            at=utc_now(),
        )
        return task

    def task_label(self, task: AnnotationTaskRow) -> NDArray[np.uint8]:
        """Read what a doctor said about a slice: uint8 `[y, x]`, 1 target, 0 not.

        Of a scribble, what was not drawn on is `NOT_ANNOTATED`.
        """
        if task.file is None:
            raise ValueError("the task is still open")
        masks = 2 if task.kind == "scribble" else 1
        shape = (masks, *self.geometry(task.case_id).shape_zyx[1:])
        target, *drawn = self.read_mask(task.file, shape)
        label = target.astype(np.uint8)
        return np.where(drawn[0], label, np.uint8(NOT_ANNOTATED)) if drawn else label

    def task_mask(self, task: AnnotationTaskRow) -> MaskArray:
        """Read the contour of a finished task, or what was drawn on the target: bool `[y, x]`."""
        marked: MaskArray = self.task_label(task) == 1
        return marked

    # -- review and measurement -------------------------------------------------------------

    def add_review(self, review: ReviewRow, revised: Contour | None) -> None:
        """Store an oncologist's verdict with the contour it ends in, as one.

        A rejected case ends in none.
        """
        with transaction(self.engine) as session:
            self.put_review(session, review, revised)

    def put_review(
        self, session: Session, review: ReviewRow, revised: Contour | None
    ) -> ContourRow | None:
        """Store a review inside `session`, in place of an earlier one, as `add_review` does.

        What the same person took for the earlier one counts into its times.
        """
        known = session.scalars(
            select(ReviewRow).where(
                ReviewRow.round_id == review.round_id, ReviewRow.case_id == review.case_id
            )
        ).first()
        if known is not None:
            by_whom = (review.author, review.simulated)
            if by_whom == (known.author, False):  # a touch-up is no review of a few seconds
                review.active_s = _together(known.active_s, review.active_s)
                review.wall_s = _together(known.wall_s, review.wall_s)
            session.delete(known)
            session.flush()
        session.add(review)
        row = None
        if revised is not None:
            row = self._add_contour(
                session, review.case_id, revised, REVIEWED, review.round_id, review.author
            )
        audit_log.append(
            session,
            actor=review.author,
            event="case_reviewed",
            subject=review.case_id,
            detail={"verdict": review.verdict, "simulated": review.simulated},
            at=utc_now(),
        )
        return row

    def reviews(self, round_id: str) -> list[ReviewRow]:
        """Return the reviews of a round."""
        with Session(self.engine) as session:
            return list(
                session.scalars(
                    select(ReviewRow)
                    .where(ReviewRow.round_id == round_id)
                    .order_by(ReviewRow.case_id)
                )
            )

    def replace_measurements(self, session: Session, rows: Iterable[MeasurementRow]) -> None:
        """Write measurement rows inside `session`, replacing those of the same key."""
        for row in rows:
            old = session.scalars(
                select(MeasurementRow).where(
                    MeasurementRow.round_id == row.round_id,
                    MeasurementRow.case_id == row.case_id,
                    MeasurementRow.arm == row.arm,
                )
            ).first()
            if old is not None:
                session.delete(old)
                session.flush()
            session.add(row)

    def counts(self) -> dict[str, int]:
        """Return how many cases there are by split."""
        statement = select(CaseRow.split, func.count()).group_by(CaseRow.split)
        with Session(self.engine) as session:
            return dict(session.execute(statement).tuples().all())

    # -- files ------------------------------------------------------------------------------

    def _write_image(self, case: NewCase) -> None:
        folder = self.home.cases / case.case_id
        folder.mkdir(parents=True, exist_ok=True)
        image = case.volume.image
        # Scanners store whole numbers: half the bytes, and exactly the same values.
        with np.errstate(invalid="ignore"):  # what does not fit is found by comparing
            whole = image.astype(np.int16)
        fits = np.array_equal(whole, image)
        _replace(folder / "image.npy", whole if fits else image)

    def write_mask(self, case_id: str, voxels: MaskArray) -> str:
        """Keep a mask and return its file, relative to the home.

        Until a row names it, it is nobody's: write it inside the transaction that adds the row, or
        somebody who removes such files takes it away.
        """
        packed = np.packbits(voxels)
        # Named by content: writing the same mask again is the same file.
        buffer = io.BytesIO()
        np.save(buffer, packed, allow_pickle=False)
        name = hashlib.sha256(repr(voxels.shape).encode() + buffer.getvalue()).hexdigest()[:24]
        relative = Path("cases") / case_id / f"mask-{name}.npy"
        file = self.home.folder / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            _replace(file, packed)
        return relative.as_posix()

    def read_mask(self, file: str, shape: tuple[int, ...]) -> MaskArray:
        """Read a mask of that shape from a file as rows name it."""
        packed = np.load(self.home.folder / file, allow_pickle=False)
        return np.unpackbits(packed, count=int(np.prod(shape))).reshape(shape).view(bool)

    def remove_superseded(self, files: Collection[str]) -> None:
        """Remove those of these masks that no row names any more.

        While a backup is made they stay, until the next erasure or compacting.
        """
        if not files:
            return
        # Whoever writes a mask and then its row is kept out meanwhile.
        with (
            suppress(SiteBusyError),
            transaction(self.engine) as session,
            superseded_masks_may_go(self.home),
        ):
            for file in files:
                if not any(_names(session, column, file) for column in _file_columns()):
                    (self.home.folder / file).unlink(missing_ok=True)


def _replace(file: Path, array: NDArray[Any]) -> None:
    temporary = file.with_name(file.name + ".part")
    with temporary.open("wb") as opened:
        np.save(opened, array, allow_pickle=False)
    temporary.replace(file)


def _file_columns() -> list[Column[Any]]:
    """Return all columns that name masks, whatever tables are added."""
    return [
        column
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if column.name.endswith("file")
    ]


def _names(session: Session, column: Column[Any], file: str) -> bool:
    return session.execute(select(column).where(column == file).limit(1)).first() is not None


def case_set_sha256(session: Session) -> str:
    """Return the hash of which cases take part in rounds: those whose split is assigned."""
    taking_part = select(CaseRow.case_id).where(CaseRow.split != Split.UNASSIGNED.value)
    return sha256_hex(canonical_json(sorted(session.scalars(taking_part))))


def _add_references(
    session: Session, case_id: str, contours: Sequence[ContourRow], actor: str, event: str
) -> None:
    session.add_all(contours)
    audit_log.append(
        session,
        actor=actor,
        event=event,
        subject=case_id,
        detail={"contours": len(contours)},
        at=utc_now(),
    )


def _newest_contour(
    session: Session, case_id: str, purpose: str, round_id: str
) -> ContourRow | None:
    statement = (
        select(ContourRow)
        .where(
            ContourRow.case_id == case_id,
            ContourRow.purpose == purpose,
            ContourRow.round_id == round_id,
            ~_rejected(),
        )
        .order_by(ContourRow.id.desc())
        .limit(1)
    )
    return session.scalars(statement).first()


def _rejected(*when: ColumnElement[bool]) -> ColumnElement[bool]:
    """Say that a contour is what a review left before the case was rejected."""
    verdict = select(ReviewRow.id).where(
        ReviewRow.round_id == ContourRow.round_id,
        ReviewRow.case_id == ContourRow.case_id,
        ReviewRow.verdict == REJECTED,
        *when,
    )
    return and_(ContourRow.purpose == REVIEWED, verdict.exists())


def _existing(session: Session, case_id: str) -> CaseRow:
    row = session.get(CaseRow, case_id)
    if row is None:
        raise DataError(f"case {case_id} is unknown: see 'fedgtv-site cases'")
    return row


def _together(*times_s: float | None) -> float | None:
    """Add times up; None where nothing was measured."""
    measured = [time_s for time_s in times_s if time_s is not None]
    return sum(measured) if measured else None


def _case_row(case: NewCase) -> CaseRow:
    volume = case.volume
    series = {
        "geometry": asdict(volume.geometry),
        "modality": volume.modality,
        "frame_of_reference_uid": volume.frame_of_reference_uid,
        "sop_instance_uids": list(volume.sop_instance_uids),
        "series_instance_uid": volume.series_instance_uid,
        "study_instance_uid": volume.study_instance_uid,
        "scanner": volume.scanner,
    }
    return CaseRow(
        case_id=case.case_id,
        patient_id=case.patient_id,
        modality=volume.modality,
        manufacturer=_text(volume.scanner.get("manufacturer", "")),
        scanner_model=_text(volume.scanner.get("model", "")),
        split=Split.UNASSIGNED.value,
        has_reference=bool(case.contours),
        series=json.loads(json.dumps(series)),
        identity_sealed=case.identity_sealed,
        ingested_at=utc_now(),
    )


def _text(said: str) -> str:
    """Return what a scanner says of itself without NUL, which PostgreSQL stores in no text."""
    return said.replace("\0", "")


def _case(row: CaseRow) -> Case:
    geometry = _geometry(row.series)
    return Case(
        case_id=row.case_id,
        patient_id=row.patient_id,
        modality=row.modality,
        manufacturer=row.manufacturer,
        scanner_model=row.scanner_model,
        shape_zyx=geometry.shape_zyx,
        spacing_zyx_mm=geometry.spacing_zyx_mm,
        split=Split(row.split),
        has_reference=row.has_reference,
        t_stage=cast(TStage | None, row.t_stage),
    )


def _geometry(series: dict[str, Any]) -> Geometry:
    stored = series["geometry"]
    x, y, z = (tuple(float(v) for v in axis) for axis in stored["axes_xyz"])
    return Geometry(
        shape_zyx=tuple(stored["shape_zyx"]),
        spacing_zyx_mm=tuple(stored["spacing_zyx_mm"]),
        origin_xyz_mm=tuple(stored["origin_xyz_mm"]),
        axes_xyz=(x, y, z),  # type: ignore[arg-type]  # three floats each, as stored
    )
