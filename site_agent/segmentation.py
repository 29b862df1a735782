"""Segment a case on its original grid: by a package's network, or by a doctor's clicks.

A doctor contours an asked-for slice by clicks (`open_task`), or corrects the contour of a whole
case, whatever made it (`open_case`). Every step is in the database before its contour is shown, and
opening the same again goes on from there: a browser or process that is killed loses nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch

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
        self._written = 0
        # Of the contour before the first step, and after every step that stands.
        self._results = [click_store.mask_sha256(segmenter.mask)]
        self._replay()

    @property
    def mask(self) -> MaskArray:
        """The contour so far: bool `[y, x]` for a slice, `[z, y, x]` for a case."""
        return self._segmenter.mask

    @property
    def clicks(self) -> tuple[Points, Points]:
        """The clicks that stand, inside the target and outside of it, to be drawn."""
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

    def undo(self) -> MaskArray:
        """Take the last step back, which stays on record; without one, nothing happens."""
        if len(self._results) > 1:
            self._write("undo", self._results[-2])
            self._results.pop()
            self._segmenter.undo()
        return self.mask

    def accept(self, *, active_s: float | None = None) -> None:
        """Store the contour as the author's, and close the session, as one.

        On a slice an empty contour says that there is no target. A contour that nobody changed
        keeps the provenance of what made it, as in a review.

        Args:
            active_s: how long the author was busy with it; None when nobody measured it.

        Raises:
            DataError: accepted before, went on in another window, another author was faster with
                this slice, or nothing was marked on a case.
        """
        row, mask, start = self._row, self.mask, self._start
        result = click_store.mask_sha256(mask)
        provenance = Provenance.SEMIAUTOMATIC
        if start is not None and result == self._results[0]:
            provenance = start.provenance
        finish = partial(
            click_store.finish,
            session_id=row.session_id,
            steps_seen=self._written,
            active_s=active_s,
            result=result,
        )
        if row.task_id is not None:
            self._store.complete_task(
                row.task_id,
                mask,
                author=row.author,
                provenance=provenance,
                active_s=active_s,
                also=finish,
            )
            return
        if not self._written and not mask.any():
            raise DataError(f"{row.case_id}: nothing is marked yet: click the target first")
        roi_name = TARGET_ROI if start is None else start.roi_name
        contour = Contour(roi_name, Mask(mask, self._store.geometry(row.case_id)), provenance)
        with transaction(self._store.engine) as session:
            finish(session)
            self._store.add_contour(
                session, row.case_id, contour, CORRECTED, row.round_id, row.author
            )

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
        click_store.add_step(self._store, step)
        self._written += 1

    def _replay(self) -> None:
        """Make the steps on record again, but for those that were taken back."""
        written = click_store.steps(self._store, self.session_id)
        standing: list[ClickStepRow] = []
        for step in written:
            if step.kind == "undo":
                standing.pop()
            elif step.kind != "replayed":
                standing.append(step)
        for step in standing:
            if step.kind == "segment":
                self._segmenter.segment(np.array(step.foreground))
            else:
                self._segmenter.refine(np.array(step.foreground), np.array(step.background))
            self._results.append(click_store.mask_sha256(self._segmenter.mask))
        self._written = len(written)
        # Another processor may round otherwise; then the record says what the author goes on from.
        if written and written[-1].mask_sha256 != self._results[-1]:
            self._write("replayed", self._results[-1])


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
