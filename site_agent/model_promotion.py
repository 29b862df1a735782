"""What becomes of a round's model: compared, brought into use, given to patients who come later."""

import logging
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from algorithms.contracts.case import Split
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import MODEL_FILE
from algorithms.finetuning import ValidationCase, mean_dice
from algorithms.networks import build_network
from site_agent.adaptation_round import (
    ACTOR,
    ADAPTED,
    Round,
    known_cases,
    known_labels,
    open_round,
    prepared,
)
from site_agent.checkpoints import load_weights
from site_agent.model_store import Comparison, active_model, offer, read_model
from site_agent.progress import progress_bar
from site_agent.segmentation import segment

log = logging.getLogger("fedgtv.adaptation")


def offer_for_use(current: Round) -> None:
    """Compare the adapted model with the one in use, on the validation patients; offer it.

    What is in use is the site's active model, or else the package's own. A model of another kind of
    network, or of images prepared otherwise, or whose weights are damaged, cannot be compared: then
    a person decides. Cases none of whose annotated slices shows the target are left out: there, a
    model that finds nothing is perfect.

    The same slices chose the candidate's best checkpoint, which favours it a little; the margin
    should be no wider than that is worth.
    """
    store, candidate = current.store, current.folder / f"{ADAPTED}.safetensors"
    incumbent = _comparable_incumbent(current)
    by_patient: defaultdict[str, list[ValidationCase]] = defaultdict(list)
    patient_of = {case.case_id: case.patient_id for case in store.cases(Split.VALIDATION)}
    labels = known_labels(current)
    for case in prepared(current, Split.VALIDATION):
        known = known_cases(current, labels, [case])
        by_patient[patient_of[case.case_id]] += [k for k in known if (k.label[k.known] > 0).any()]
    patients = [cases for cases in by_patient.values() if cases]
    network, patch_yx = current.source_network(), current.manifest.preprocessing.patch_yx

    def score(file: Path | None) -> float | None:
        if file is None or not patients:
            return None
        network.load_state_dict(load_weights(file))
        measures = [mean_dice(cases, patch_yx=patch_yx) for cases in patients]
        return fmean(measure(network) for measure in measures if measure is not None)

    compared = Comparison(
        patients=len(patients),
        candidate_dsc=score(candidate),
        incumbent_dsc=score(incumbent),
        margin=current.manifest.adaptation.promotion_margin,
    )
    weights = candidate.read_bytes()
    offer(store.home, store.engine, weights, current.round_id, compared, actor=ACTOR)


def _comparable_incumbent(current: Round) -> Path | None:
    """Return the weights of the model in use, if they fit the candidate's network and images."""
    active = active_model(current.store.engine)
    if active is None:
        return current.package / MODEL_FILE
    try:
        other = open_round(current.store, current.store.round(active.round_id)).manifest
        file = read_model(current.store.home, active)
    except DataError as error:
        log.warning("the model in use cannot be compared: %s", error)
        return None
    mine = current.manifest
    fits = (other.network, other.preprocessing) == (mine.network, mine.preprocessing)
    return file if fits else None


def segment_new_patients(current: Round) -> int:
    """Segment patients who came after the study's with the model in use; return how many cases.

    Reviewed ones keep their contour. After `model activate` or `rollback` the others are segmented
    again, by the model then in use.
    """
    store, round_id = current.store, current.round_id
    active = active_model(store.engine)
    serving = current if active is None else open_round(store, store.round(active.round_id))
    file = serving.package / MODEL_FILE if active is None else read_model(store.home, active)
    author = f"model {'package' if active is None else active.sha256[:16]}"
    reviewed = {review.case_id for review in store.reviews(round_id)}
    modality = serving.manifest.modality
    waiting = [
        case
        for case in store.cases(Split.UNASSIGNED)
        if case.modality == modality
        and case.case_id not in reviewed
        and store.contour_author(case.case_id, purpose=ADAPTED, round_id=round_id) != author
    ]
    if not waiting:
        return 0
    network = build_network(serving.manifest.network)
    network.load_state_dict(load_weights(file))
    key = {"purpose": ADAPTED, "round_id": round_id, "author": author}
    with progress_bar("segmenting new patients", store.home) as progress:
        for done, case in enumerate(waiting, start=1):
            mask = segment(store, case.case_id, network, serving.manifest.preprocessing)
            contour = Contour(serving.manifest.roi_name, mask, Provenance.AUTOMATIC)
            store.save_contour(case.case_id, contour, **key)
            progress(done, len(waiting), -1.0)
    return len(waiting)
