"""Segment a case on its original grid: by a package's network, or by a doctor's clicks.

A doctor contours an asked-for slice by clicks (`open_task`), or corrects the contour of a whole
case, whatever made it (`open_case`); what a hand draws in between is a step too. Every step is in
the database before its contour is shown, and opening the same again goes on from there: a browser
or process that is killed loses nothing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from sqlalchemy.orm import Session

from algorithms.click_simulation import Points
from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import PreprocessingRecipe
from algorithms.contracts.volume import Mask, MaskArray
from algorithms.inference import predict, torch_predictor
from algorithms.interactive_network import default_network, default_weights
from algorithms.interactive_segmentation import Fusion, InteractiveSegmenter, default_fusion
from algorithms.networks import UNet2d
from algorithms.training import device
from site_agent import click_store
from site_agent.case_store import CaseStore
from site_agent.click_store import PAINTED, REPLAYED, UNDO
from site_agent.database import ClickSessionRow, ClickStepRow, transaction, utc_now

CORRECTED = "corrected"
TARGET_ROI = "GTVp"  # of a contour that starts from nothing

Clicks = Points | Sequence[Sequence[int]]


def segment(store: CaseStore, case_id: str, network: UNet2d, recipe: PreprocessingRecipe) -> Mask:
    """Segment one case on its original grid (step 10)."""
    predictor = torch_predictor(network.to(device()), patch_yx=recipe.patch_yx)
    return predict(store.volume(case_id), recipe, predictor)


def use_threads(threads: int) -> None:
    """Set how many CPU threads the methods use; 0 leaves the default."""
    if threads:
        torch.set_num_threads(threads)


class ClickSession:
    """One author's clicks on one slice or case, from `open_task` or `open_case`.

    Clicks are whole voxel indices in array order: `[n, 2]` (y, x) on a slice, `[n, 3]` (z, y, x) on
    a case. A step that is refused stores nothing and changes nothing. Every step raises `DataError`
    for clicks that make no sense, after the contour was accepted, and when the same author went on
    in another window.
    """

    def __init__(
        self,
        store: CaseStore,
        row: ClickSessionRow,
        segmenter: InteractiveSegmenter,
        start: Contour | None,
    ) -> None:
        self.session_id = row.session_id
        self._store = store
        self._row = row
        self._segmenter = segmenter
        self._start = start
        self._first = segmenter.mask if start is not None else None
        self._written = 0
        self._standing: list[ClickStepRow] = []
        # Of the contour before the first step, and after every step that stands.
        self._results = [click_store.mask_sha256(segmenter.mask)]
        self._replay()

    @property
    def mask(self) -> MaskArray:
        """The contour so far: bool `[y, x]` for a slice, `[z, y, x]` for a case."""
        return self._segmenter.mask

    @property
    def clicks(self) -> tuple[Points, Points]:
        """The clicks that stand since a hand drew last, inside the target and outside of it."""
        none = np.empty((0, self._segmenter.mask.ndim), dtype=np.int64)
        steps = self._segmenter.steps
        return (
            np.concatenate([none, *(step.foreground for step in steps)]),
            np.concatenate([none, *(step.background for step in steps)]),
        )

    def segment(self, points: Clicks) -> MaskArray:
        """Add the target that these points lie in, near its edge; return the contour."""
        self._segmenter.segment(np.asarray(points))
        return self._keep()

    def refine(self, foreground: Clicks = (), background: Clicks = ()) -> MaskArray:
        """Correct by clicks on what is missing and on what is too much; return the contour."""
        self._segmenter.refine(np.asarray(foreground), np.asarray(background))
        return self._keep()

    def take(self, mask: MaskArray) -> MaskArray:
        """Go on from the contour as a hand left it; return it.

        The contour that is there anyway is no step. One that was there before takes the steps since
        then back; any other is a step of its own, which the network's next answers start from.

        Raises:
            ValueError: another shape than that of the slice or case.
        """
        if mask.shape != self._segmenter.mask.shape or mask.dtype != bool:
            raise ValueError(f"{mask.dtype} {mask.shape} in place of {self._segmenter.mask.shape}")
        result = click_store.mask_sha256(mask)
        if result in self._results:
            newest = len(self._results) - 1 - self._results[::-1].index(result)
            self._take_back(len(self._results) - 1 - newest)
        else:
            self._write("painted", result, painted=mask)
            self._segmenter.set_contour(mask)
            self._results.append(result)
        return self.mask

    def undo(self) -> MaskArray:
        """Take the last step back, which stays on record; without one, nothing happens."""
        self._take_back(min(len(self._standing), 1))
        return self.mask

    def accept(
        self,
        *,
        active_s: float | None = None,
        also: Callable[[Session], None] | None = None,
    ) -> None:
        """Store the contour as the author's, and close the session, as one.

        On a slice an empty contour says that there is no target. A contour that nobody changed
        keeps the provenance of what made it, as in a review; one that only hands drew is manual.

        Args:
            active_s: how long the author was busy with it; None when nobody measured it.
            also: comes last in the same transaction, and may refuse.

        Raises:
            DataError: accepted before, went on in another window, another author was faster with
                this slice, or nothing was marked on a case.
        """
        with transaction(self._store.engine) as session:
            self.accept_within(session, active_s=active_s)
            if also is not None:
                also(session)

    def accept_within(self, session: Session, *, active_s: float | None = None) -> None:
        """Do what `accept` does, inside a transaction of the caller."""
        row, mask = self._row, self.mask
        self.close_within(session, active_s=active_s)
        if row.task_id is not None:
            self._store.answer_task(
                session,
                row.task_id,
                mask,
                None,
                author=row.author,
                provenance=self._provenance(),
                active_s=active_s,
            )
            return
        if not self._written and not mask.any():
            raise DataError(f"{row.case_id}: nothing is marked yet: click the target first")
        roi_name = TARGET_ROI if self._start is None else self._start.roi_name
        geometry = self._store.geometry(row.case_id)
        contour = Contour(roi_name, Mask(mask, geometry), self._provenance())
        self._store.add_contour(session, row.case_id, contour, CORRECTED, row.round_id, row.author)

    def close_within(self, session: Session, *, active_s: float | None = None) -> None:
        """Close the session where its contour is stored as something else, as by a review."""
        click_store.finish(
            session,
            session_id=self.session_id,
            steps_seen=self._written,
            active_s=active_s,
            result=self._results[-1],
        )

    def _provenance(self) -> Provenance:
        if self._start is not None:
            untouched = click_store.mask_sha256(self.mask) == self._results[0]
            return self._start.provenance if untouched else Provenance.SEMIAUTOMATIC
        by_hand = self._standing and all(step.kind == PAINTED for step in self._standing)
        return Provenance.MANUAL if by_hand else Provenance.SEMIAUTOMATIC

    # -- the record -------------------------------------------------------------------------

    def _keep(self) -> MaskArray:
        """Write the step that the segmenter just made, or take it back."""
        mask = self.mask
        result = click_store.mask_sha256(mask)
        kept = False
        try:
            step = self._segmenter.steps[-1]
            self._write(step.kind, result, step.foreground, step.background, step.seconds)
            kept = True
        finally:
            if not kept:
                self._segmenter.undo()
        self._results.append(result)
        return mask

    def _write(
        self,
        kind: str,
        result: str,
        foreground: Points | None = None,
        background: Points | None = None,
        seconds: float = 0.0,
        painted: MaskArray | None = None,
    ) -> None:
        step = ClickStepRow(
            session_id=self.session_id,
            sequence=self._written,
            kind=kind,
            foreground=[] if foreground is None else foreground.tolist(),
            background=[] if background is None else background.tolist(),
            seconds=seconds,
            mask_sha256=result,
            author=self._row.author,
            at=utc_now(),
        )
        click_store.add_step(self._store, step, painted)
        self._written += 1
        if kind == UNDO:
            self._standing.pop()
        elif kind != REPLAYED:
            self._standing.append(step)

    def _take_back(self, count: int) -> None:
        """Take some steps back: all that could be written of it."""
        taken: list[str] = []
        try:
            for _ in range(count):
                kind = self._standing[-1].kind
                self._write(UNDO, self._results[-2])
                self._results.pop()
                taken.append(kind)
        finally:
            if PAINTED in taken:  # before which the segmenter remembers nothing
                self._begin_again(self._results[-1])
            else:
                for _ in taken:
                    self._segmenter.undo()

    def _replay(self) -> None:
        """Make the steps on record again, but for those that were taken back."""
        written = click_store.steps(self._store, self.session_id)
        for step in written:
            if step.kind == UNDO:
                self._standing.pop()
            elif step.kind != REPLAYED:
                self._standing.append(step)
        self._results += [step.mask_sha256 for step in self._standing]
        self._written = len(written)
        if self._standing:
            self._begin_again(written[-1].mask_sha256)

    def _begin_again(self, recorded: str) -> None:
        """Bring the segmenter to where the standing steps lead.

        Another processor may round otherwise; then the record says what the author goes on from.
        """
        kinds = [step.kind for step in self._standing]
        painted = len(kinds) - 1 - kinds[::-1].index(PAINTED) if PAINTED in kinds else -1
        if painted >= 0:
            self._segmenter.set_contour(
                click_store.painted(
                    self._store, self._row, self._standing[painted], self.mask.shape
                )
            )
        elif self._first is not None:
            self._segmenter.set_contour(self._first)
        else:
            self._segmenter.clear()
        for number, step in enumerate(self._standing[painted + 1 :], start=painted + 1):
            if step.kind == "segment":
                self._segmenter.segment(np.array(step.foreground))
            else:
                self._segmenter.refine(np.array(step.foreground), np.array(step.background))
            self._results[number + 1] = click_store.mask_sha256(self._segmenter.mask)
        if self._results[-1] != recorded:
            self._write(REPLAYED, self._results[-1])


def open_task(
    store: CaseStore, task_id: int, *, author: str, start: Contour | None = None
) -> ClickSession:
    """Contour an asked-for slice, or go on with it.

    Everybody has a session of their own. `start` is a contour of the whole case whose slice is to
    be corrected; without it, it begins with nothing.

    Raises:
        DataError: the task is unknown or done, or the contour lies on another grid.
    """
    task = click_store.open_task_row(store, task_id)
    return _open(store, task.case_id, (task.id, task.slice_z), task.round_id, author, start)


def open_case(
    store: CaseStore,
    case_id: str,
    *,
    author: str,
    start: Contour | None = None,
    round_id: str = "",
) -> ClickSession:
    """Correct the contour of a whole case, or go on with it; accepted, it is "corrected".

    Everybody has a session of their own. `start` is the contour to correct, such as the store's
    "adapted" one, whatever made it; without it, it begins with nothing. The corrected contour
    belongs to `round_id`.

    Raises:
        DataError: the case is unknown, or the contour lies on another grid.
    """
    return _open(store, case_id, None, round_id, author, start)


def _open(
    store: CaseStore,
    case_id: str,
    task: tuple[int, int] | None,
    round_id: str,
    author: str,
    start: Contour | None,
) -> ClickSession:
    """Open a whole case, or the slice of a task, given as its id and its z."""
    volume = store.volume(case_id)
    if start is not None and not volume.geometry.matches(start.mask.geometry):
        raise DataError(
            f"{case_id}: the contour lies on another grid ({start.mask.voxels.shape} voxels) than "
            f"the image ({volume.image.shape} voxels): segment this case again"
        )
    dimensions: Literal[2, 3] = 3 if task is None else 2
    network = default_network(dimensions)
    row = click_store.begin(
        store,
        case_id=case_id,
        task_id=None if task is None else task[0],
        round_id=round_id,
        author=author,
        start=start,
        settings=_settings(dimensions),
    )
    where: slice | int = slice(None) if task is None else task[1]
    # As stored, not as they are today: the record names the parameters that made the contour.
    segmenter = InteractiveSegmenter(
        network, Fusion(**row.settings["fusion"]), clock=time.perf_counter
    )
    spacing_mm = volume.geometry.spacing_zyx_mm
    segmenter.set_image(volume.image[where], spacing_mm if task is None else spacing_mm[1:])
    start = click_store.start_contour(store, row)
    if start is not None:
        segmenter.set_contour(start.mask.voxels[where])
    return ClickSession(store, row, segmenter, start)


@cache
def _settings(dimensions: Literal[2, 3]) -> dict[str, Any]:
    """Return what makes contours from clicks, as JSON values."""
    return {
        "network": f"interactive-{dimensions}d",
        # Of the file, so that a release that only describes networks in more words opens no new
        # sessions beside those that doctors are in.
        "network_sha256": sha256_hex(default_weights(dimensions)),
        "network_spec": default_network(dimensions).spec.model_dump(mode="json"),
        "fusion": asdict(default_fusion(dimensions)),
        "software": version("fedgtv"),
    }
