"""What is saved of the asked-for slices of a case, as layers to show."""

from collections.abc import Iterable

import numpy as np

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.volume import MaskArray
from clinical_ui.case_layers import Layer
from site_agent.case_store import CaseStore
from site_agent.database import AnnotationTaskRow


def saved_slices(
    store: CaseStore, tasks: Iterable[AnnotationTaskRow]
) -> tuple[dict[Layer, MaskArray], list[str]]:
    """Return what is saved of a case's slices, and names of those that cannot be read.

    Contours and scribbles are layers of their own, `[z, y, x]`; there is none where nothing is
    saved. A scribble that leaves nothing open is a contour.
    """
    found: dict[Layer, MaskArray] = {}
    unreadable = []
    for task in tasks:
        if task.state != "done":
            continue
        try:
            label = store.task_label(task)
        except (OSError, ValueError):
            unreadable.append(f"slice {task.slice_z + 1}")
            continue
        said = {Layer.ANNOTATION: label == 1}
        if (label == NOT_ANNOTATED).any():
            said = {Layer.INSIDE: label == 1, Layer.OUTSIDE: label == 0}
        for layer, drawn in said.items():
            whole = found.setdefault(layer, np.zeros(store.geometry(task.case_id).shape_zyx, bool))
            whole[task.slice_z] = drawn
    return found, unreadable
