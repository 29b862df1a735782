"""What a doctor has open on a case: takes what the viewer sends, answers clicks, saves.

The browser draws and keeps time. Each message is checked, kept as a draft, and answered here; what
does not fit is refused, told to the doctor and noted in the audit log. A desk lives as long as the
browser's session; all it knows lies in the database too, so another one goes on from there.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from algorithms.contracts.contour import Contour
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray
from site_agent import claims, click_store, contour_evidence, drafts, run_lengths
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.click_store import mask_sha256
from site_agent.drafts import Draft
from site_agent.work_message import Kind, Prompt, WorkMessage, read_message

if TYPE_CHECKING:  # with torch, whose import takes seconds; looking and drawing do without
    from site_agent.segmentation import ClickSession

WHOLE_CASE = -1  # in place of a slice
NO_EPOCH = "0" * 16  # of a case that is only looked at


class Desk:
    """One author's work on one case.

    Args:
        store: of the site.
        key: what is worked on.
        author: who is signed in.
        start: the contour that a review begins from; None where nothing is there yet.

    Raises:
        OSError, ValueError: what was drawn before cannot be read.
    """

    def __init__(
        self,
        store: CaseStore,
        key: WorkKey,
        author: str,
        *,
        start: Contour | None = None,
    ) -> None:
        self.store, self.key, self.author = store, key, author
        self.start = start
        self.shape_zyx = store.geometry(key.case_id).shape_zyx
        self.fresh = False
        self.answer: dict[str, Any] | None = None
        self.stored: dict[str, Any] | None = None
        self.refused: dict[str, Any] | None = None
        self.page_is_behind = False  # the case stands otherwise than the page says
        self.draft: Draft | None
        self.target: MaskArray | None
        self.outside: MaskArray | None
        self._clicks: dict[int, ClickSession] = {}  # by slice
        self._take_up(drafts.restore(store, key, author=author))

    @property
    def is_current(self) -> bool:
        """Say whether its draft is still the one that is kept, and not saved in another window."""
        if self.draft is None:
            return False
        return drafts.epoch_of(self.store, self.key, author=self.author) == self.draft.epoch

    def begin(self) -> None:
        """Claim the case and begin, which starts the clock; or go on with what was begun.

        Raises:
            DataError: somebody else has it.
        """
        claims.claim(self.store, self.key, author=self.author)
        start = None if self.start is None else self.start.mask.voxels
        self._take_up(drafts.begin(self.store, self.key, author=self.author, start=start))

    def discard(self) -> None:
        """Throw away what was drawn; the clock goes on.

        Raises:
            DataError: somebody else has the case, or nobody.
        """
        draft = drafts.discard(self.store, self.key, author=self.author)
        self._take_up(draft)
        self.fresh = True
        nothing = np.zeros(self.shape_zyx, bool)
        before = nothing if draft is None or draft.start is None else draft.start
        for z, session in self._begun().items():  # or what is drawn next would count as clicked
            session.take(before if z == WHOLE_CASE else before[z])

    def take(self, value: object) -> None:
        """Keep a draft."""
        message = self._read(value, "draft")
        if message is not None:
            self._keep(message)

    def prompt(self, value: object) -> None:
        """Keep the draft that came with the clicks, and answer them."""
        message = self._read(value, "prompt")
        if message is None or message.prompt is None or not self._keep(message):
            return
        answer: dict[str, Any] = {**_name(message), "target": None, "message": None}
        try:
            mask = self._segment(message.target, message.prompt)
        except DataError as error:  # clicks that make no sense; nothing was changed
            answer["message"] = str(error)
        else:
            answer["target"] = run_lengths.encode(mask)
        self.answer = answer

    def save(self, value: object) -> None:
        """Store what was drawn, with its evidence; a review ends with it."""
        message = self._read(value, "save")
        if message is None:
            return
        try:
            if self.key.purpose == "annotation":
                self._save_slices(message)
            else:
                self._save_review(message)
        except DataError as error:
            self._refuse(_name(message), error)
            self._catch_up()
            return
        finally:
            self.page_is_behind = True
        self._catch_up()
        self._stored(message, "save")

    def turn_away(self, value: object, why: DataError) -> None:
        """Take nothing just now, and say why, as to somebody who was signed out.

        The browser keeps it, and may send it again.
        """
        self.answer = self.stored = None
        self._refuse(_named(value), why, again=True)

    def state(self) -> dict[str, Any]:
        """Return what the viewer is told about the work: fields of `ViewerData`."""
        draft = self.draft
        return {
            "epoch": NO_EPOCH if draft is None else draft.epoch,
            "revision": self.revision,
            "target": self._runs(self.target),
            "outside": self._runs(self.outside),
            "fresh": self.fresh,
            "answer": self.answer,
            "stored": self.stored,
            "refused": self.refused,
            "earlier_active_s": 0.0 if draft is None else draft.active_s,
        }

    def _runs(self, mask: MaskArray | None) -> str | None:
        return None if mask is None else run_lengths.encode(mask)

    # -- steps ------------------------------------------------------------------------------

    def _segment(self, target: MaskArray, prompt: Prompt) -> MaskArray:
        """Answer clicks; they change the contour that was sent with them."""
        foreground, background = prompt.foreground, prompt.background
        if self.key.purpose == "review":
            session, mask = self._session(WHOLE_CASE), target
        else:
            slices = {int(z) for z in np.concatenate([foreground[:, 0], background[:, 0]])}
            if len(slices) != 1:
                raise DataError("clicks of one step lie on one slice: click again")
            (z,) = slices
            session, mask = self._session(z), target[z]
            foreground, background = foreground[:, 1:], background[:, 1:]
        session.take(mask)
        if prompt.kind == "segment":
            answered = session.segment(foreground)
        else:
            answered = session.refine(foreground, background)
        if self.key.purpose == "review":
            return answered
        whole = target.copy()
        whole[z] = answered
        return whole

    def _session(self, z: int) -> "ClickSession":
        """Return the clicks on a slice or on the whole case, those of earlier runs included."""
        if z not in self._clicks:
            try:
                self._clicks[z] = self._open(z)
            except (OSError, ValueError):
                raise DataError(
                    "the image of this case cannot be read: ask hospital IT to restore it"
                ) from None
        return self._clicks[z]

    def _open(self, z: int) -> "ClickSession":
        from site_agent.segmentation import open_case, open_task

        task_id = self._places().get(z)
        if task_id is not None:
            return open_task(self.store, task_id, author=self.author)
        if z != WHOLE_CASE:
            raise DataError("this slice is not asked for any more: reload the page")
        return open_case(
            self.store,
            self.key.case_id,
            author=self.author,
            start=self.start,
            round_id=self.key.round_id,
        )

    def _places(self) -> dict[int, int | None]:
        """Return where clicks can be, with the task that they answer: slices, or the whole case."""
        if self.key.purpose == "review":
            return {WHOLE_CASE: None}
        tasks = self.store.tasks(self.key.round_id)
        mine = (t for t in tasks if t.case_id == self.key.case_id and t.state == "open")
        return {task.slice_z: task.id for task in mine}

    def _begun(self, places: Collection[int] | None = None) -> "dict[int, ClickSession]":
        """Return the clicks that were made, at some places or anywhere; of earlier runs too."""
        tasks = click_store.begun(
            self.store, self.key.case_id, round_id=self.key.round_id, author=self.author
        )
        return {
            z: self._session(z)
            for z, task_id in self._places().items()
            if task_id in tasks and (places is None or z in places)
        }

    def _save_slices(self, message: WorkMessage) -> None:
        contour_evidence.save_annotation(
            self.store,
            self.key,
            author=self.author,
            message=message,
            slices=message.slices,
            click_sessions=self._begun(message.slices),
        )
        for z in message.slices:
            self._clicks.pop(z, None)

    def _save_review(self, message: WorkMessage) -> None:
        contour_evidence.save_review(
            self.store,
            self.key,
            author=self.author,
            message=message,
            verdict="rejected" if message.verdict == "reject" else "revised",
            likert=message.likert,
            reason=message.reason,
            click_session=self._begun().get(WHOLE_CASE),
        )
        self._clicks.clear()

    # -- messages ---------------------------------------------------------------------------

    def _read(self, value: object, kind: Kind) -> WorkMessage | None:
        """Read what the browser sent; what is no message of a viewer is refused."""
        self.answer = self.stored = self.refused = None
        self.fresh = False
        allowed = self.editable_z
        if kind == "save" and allowed is not None:  # what was saved is sent again if no answer came
            tasks = self.store.tasks(self.key.round_id)
            allowed = [task.slice_z for task in tasks if task.case_id == self.key.case_id]
        try:
            return read_message(value, kind, shape_zyx=self.shape_zyx, editable_z=allowed)
        except DataError as error:
            self._refuse(_named(value), error)
            return None

    def _keep(self, message: WorkMessage) -> bool:
        """Store a message as the draft; say whether it was taken."""
        try:
            revision = drafts.take(self.store, self.key, author=self.author, message=message)
        except DataError as error:
            self._refuse(_name(message), error)
            self._catch_up()  # the case was released, say, or drawn on in another window
            return False
        self.target, self.outside, self.revision = message.target, message.outside, revision
        if self.draft is not None:
            worked_s = drafts.active_s(self.store, self.key, author=self.author)
            self.draft = replace(self.draft, active_s=worked_s)
        self._stored(message, "draft")
        return True

    def _catch_up(self) -> None:
        """Know the case as it stands, and have the page drawn anew, which may say otherwise."""
        self.page_is_behind = True
        self._take_up(drafts.restore(self.store, self.key, author=self.author))

    def _stored(self, message: WorkMessage, kind: Kind) -> None:
        self.stored = {
            **_name(message),
            "revision": self.revision,
            "sha256": mask_sha256(message.target),
            "kind": kind,
        }

    def _refuse(self, name: dict[str, Any], error: DataError, *, again: bool = False) -> None:
        self.refused = {**name, "message": str(error), "again": again}
        if not again:
            drafts.log_refused(self.store, self.key, self.author, error)

    def _take_up(self, draft: Draft | None) -> None:
        self.draft = draft
        self.revision = 0 if draft is None else draft.revision
        start = None if self.start is None else self.start.mask.voxels
        self.target = start if draft is None else draft.target
        self.outside = None if draft is None else draft.outside
        self.editable_z: Collection[int] | None = drafts.editable_slices(self.store, self.key)


def _name(message: WorkMessage) -> dict[str, Any]:
    return {"sitting": message.sitting, "sequence": message.sequence}


def _named(value: object) -> dict[str, Any]:
    """Return how something that may be no message calls itself, so that its sender is answered."""
    sent: Mapping[str, Any] = value if isinstance(value, dict) else {}
    sitting, sequence = sent.get("sitting"), sent.get("sequence")
    is_name = isinstance(sitting, str) and re.fullmatch("[0-9a-f]{16}", sitting)
    is_count = type(sequence) is int and 0 <= sequence < 1 << 31
    return {"sitting": sitting if is_name else "", "sequence": sequence if is_count else 0}
