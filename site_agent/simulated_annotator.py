"""The demo's stand-in for doctors: reads the held-back reference contours, and says so.

It answers the same tasks through the same store as people do. Whatever it makes carries the
provenance "simulated_annotator" and the author "simulated annotator", in the database, in every log
line and in the report. No time is recorded for it: it has none.
"""

from typing import Any

import numpy as np

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.scribble_simulation import draw_scribble
from site_agent.case_store import REFERENCE, CaseStore
from site_agent.database import RoundRow
from site_agent.review import record_review

AUTHOR = "simulated annotator"
_SIMULATED = Provenance.SIMULATED


def annotate_open_tasks(store: CaseStore) -> int:
    """Answer every open annotation task from the reference contour; return how many.

    Where a scribble is asked for, one is drawn inside and around the contour.
    """
    latest = _round(store)
    tasks = store.tasks(latest.round_id, state="open")
    who: dict[str, Any] = {"author": AUTHOR, "provenance": _SIMULATED, "active_s": None}
    for task in tasks:
        mask = _reference(store, task.case_id).mask.voxels[task.slice_z]
        if task.kind == "scribble":
            rng = np.random.default_rng([latest.seed, task.rank])
            store.complete_task_by_scribble(task.id, draw_scribble(mask, rng=rng), **who)
        else:
            store.complete_task(task.id, mask, **who)
    return len(tasks)


def review_cases(store: CaseStore) -> int:
    """Revise every unreviewed prediction to the reference contour; return how many."""
    round_id = _round(store).round_id
    reviewed = {review.case_id for review in store.reviews(round_id)}
    done = 0
    for case in store.cases():
        if case.case_id in reviewed or not case.has_reference:
            continue
        if store.contour(case.case_id, purpose="adapted", round_id=round_id) is None:
            continue
        revised = _reference(store, case.case_id).mask
        record_review(store, round_id, case.case_id, revised, author=AUTHOR, simulated=True)
        done += 1
    return done


def _round(store: CaseStore) -> RoundRow:
    latest = store.latest_round()
    if latest is None:
        raise DataError("no adaptation round has started: run 'fedgtv-site work' first")
    return latest


def _reference(store: CaseStore, case_id: str) -> Contour:
    contour = store.contour(case_id, purpose=REFERENCE)
    if contour is None:
        raise DataError(
            f"{case_id}: has no reference contour, so it cannot be simulated: annotate it"
        )
    return contour
