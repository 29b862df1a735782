"""One package at one site: what a round works with and learns from."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from algorithms.contracts.case import Split
from algorithms.contracts.contour import Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import MODEL_FILE, Manifest, Supervision
from algorithms.contracts.volume import ImageArray
from algorithms.finetuning import LabelledSlice, ValidationCase
from algorithms.networks import UNet2d, build_network
from algorithms.sample_selection import REPRESENTATIVE
from algorithms.training import device
from site_agent.case_store import CaseStore, TaskKind
from site_agent.checkpoints import load_weights
from site_agent.database import RoundRow
from site_agent.learning_data import PreparedCase, annotated_slice, prepare
from site_agent.package_store import load_package

log = logging.getLogger("fedgtv.adaptation")

ACTOR = "worker"
DIRECT, ADAPTED, TARGET_TRAINED = "direct", "adapted", "target_trained"
TASK_KINDS: dict[Supervision, TaskKind] = {"dense": "contour", "scribble": "scribble"}


@dataclass(frozen=True, eq=False)
class KnownLabel:
    """What a person said about a slice.

    Attributes:
        label: uint8 `[y, x]`, 1 target, 0 not, `NOT_ANNOTATED` beside a scribble.
        role: why the slice was asked for, see `algorithms.sample_selection.Selection`.
        simulated: it was said by the simulated annotator.
    """

    label: NDArray[np.uint8]
    role: str
    simulated: bool


@dataclass(frozen=True)
class Round:
    """One package at one site: what every step below is given."""

    store: CaseStore
    round_id: str
    seed: int
    manifest: Manifest
    package: Path

    @property
    def folder(self) -> Path:
        """Weights and checkpoints of this round."""
        return self.store.home.rounds / self.round_id

    def source_network(self) -> UNet2d:
        """Return the package's network with its weights, placed and laid out as training does.

        So a stage that was loaded computes, bit for bit, what the one just trained computed.
        """
        network = build_network(self.manifest.network)
        network.load_state_dict(load_weights(self.package / MODEL_FILE))
        network.to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network


def open_round(store: CaseStore, row: RoundRow) -> Round:
    """Load what a round works with; the package's files are verified again."""
    manifest, package = load_package(store.home, row.package_id)
    return Round(store, row.round_id, row.seed, manifest, package)


def prepared(current: Round, split: Split) -> list[PreparedCase]:
    """Return the site's cases of a split, preprocessed as the package says."""
    return prepare(current.store, current.store.cases(split), current.manifest.preprocessing)


KnownLabels = Mapping[tuple[str, int], KnownLabel]  # by case and slice


def known_labels(current: Round) -> dict[tuple[str, int], KnownLabel]:
    """Return what this round knows of slices.

    That is what doctors answered for this round; what they answered for rounds before it, about the
    same target and in the same way; and every slice of patients who joined after a reviewer had
    corrected them (`next_round`). The last word counts. What was said elsewhere since this round
    began is for the one after it, so that a round that is resumed learns from what it began with.
    """
    store, manifest = current.store, current.manifest
    began = store.round(current.round_id).started_at
    kind = TASK_KINDS[manifest.adaptation.supervision]
    tasks = store.answered_tasks(kind, before=began)
    about = {task.round_id: _target_of(store, task.round_id) for task in tasks}
    tasks = [task for task in tasks if about[task.round_id] == manifest.roi_name]
    known = {}
    for task in (*tasks, *store.tasks(current.round_id, state="done")):
        simulated = task.provenance == Provenance.SIMULATED.value
        said = KnownLabel(store.task_label(task), task.role, simulated)
        known[task.case_id, task.slice_z] = said
    for case in store.cases(Split.TRAINING):
        correction = store.last_correction(case.case_id, manifest.roi_name, before=began)
        if correction is None:
            continue
        corrected = correction.contour
        simulated = corrected.provenance is Provenance.SIMULATED
        for z, voxels in enumerate(corrected.mask.voxels):
            # All slices of a patient are a fair sample of them.
            said = KnownLabel(voxels.astype(np.uint8), REPRESENTATIVE, simulated)
            known.setdefault((case.case_id, z), said)
    return known


def _target_of(store: CaseStore, round_id: str) -> str | None:
    """Return the region that a round is about; None where its package cannot be read any more."""
    try:
        return load_package(store.home, store.round(round_id).package_id)[0].roi_name
    except DataError as error:
        log.warning("the annotations of round %s are not used: %s", round_id, error)
        return None


def annotated_slices(
    current: Round, labels: KnownLabels, cases: Sequence[PreparedCase]
) -> tuple[list[LabelledSlice], list[ImageArray]]:
    """Return the slices of `cases` that have a label, and the images of all their others."""
    recipe = current.manifest.preprocessing
    annotated, others = [], []
    for case in cases:
        for z, image in enumerate(case.slices):
            said = labels.get((case.case_id, z))
            if said is None:
                others.append(image)
            else:
                annotated.append(annotated_slice(image, said.label, case.geometry, recipe))
    return annotated, others


def known_cases(
    current: Round, labels: KnownLabels, cases: Sequence[PreparedCase], *, role: str | None = None
) -> list[ValidationCase]:
    """Return the cases that have labels (of this role), with what is known of their slices."""
    recipe = current.manifest.preprocessing
    found = []
    for case in cases:
        label = np.zeros(case.slices.shape, dtype=np.uint8)
        known = np.zeros(case.slices.shape, dtype=bool)
        for z, image in enumerate(case.slices):
            said = labels.get((case.case_id, z))
            if said is not None and role in (None, said.role):
                given = annotated_slice(image, said.label, case.geometry, recipe)
                label[z] = given.label
                known[z] = True if given.weight is None else given.weight > 0
        if known.any():
            found.append(ValidationCase(case.slices, label, known))
    return found
