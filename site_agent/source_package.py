"""At the source hospital: train the first model and prepare its package for the coordinator."""

import hashlib
import logging
import math
import shutil
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from algorithms.contracts.canonical_json import canonical_json
from algorithms.contracts.case import Case, Split
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import (
    MANIFEST_FILE,
    MODEL_FILE,
    PACKAGE_FILES,
    REFERENCE_POINTS_FILE,
    FileEntry,
    Manifest,
    SourceValidation,
    StudyPlan,
)
from algorithms.features import latent_features
from algorithms.finetuning import finetune, mean_dice
from algorithms.networks import UNet2d, build_network
from algorithms.reference_points import FEWEST_PATIENTS, fit_reference_points
from algorithms.sample_selection import STRATEGIES
from evaluation.overlap import dice
from site_agent.case_store import CaseStore
from site_agent.checkpoints import file_sha256, load_state, save_state, save_weights
from site_agent.config import SiteHome
from site_agent.egress import known_identifiers, tells_of_few
from site_agent.learning_data import fully_known, fully_labelled, prepare
from site_agent.patient_split import assign_patients
from site_agent.progress import progress_bar
from site_agent.residue import text_residue
from site_agent.segmentation import segment

log = logging.getLogger("fedgtv.source")


def train_source(home: SiteHome, store: CaseStore, plan: StudyPlan) -> Manifest:
    """Train on the site's reference contours (6-1), fit reference points (6-4), write the package.

    A killed run continues from its checkpoint; a finished one with the same plan, cases and seed
    is returned as it is.

    Raises:
        DataError: when the site is not a source or has too few patients with contours, or when the
            plan could not be carried out or its package would not be let out.
    """
    if home.config.role != "source":
        raise DataError(
            "this site's role is 'target': only a source hospital trains the source model"
        )
    _check_plan(home, store, plan)
    assign_patients(store, plan.modality)
    work = home.folder / "source-training" / _key(store, plan)
    manifest = _finished(work / "package")
    # The minimum may have been raised since: the weights are there, the figures are made again.
    if manifest is None or tells_of_few(manifest.source_validation, home.config.minimum_group_size):
        manifest = _make_package(home, store, plan, work)
    _publish_folder(work / "package", home.source_package)  # another plan's may lie there
    return manifest


def _check_plan(home: SiteHome, store: CaseStore, plan: StudyPlan) -> None:
    """Find what would only fail at the targets, or at the door after hours of training."""
    strategy = plan.adaptation.selection_strategy
    if strategy not in STRATEGIES:
        known = ", ".join(sorted(STRATEGIES))
        raise DataError(
            f"plan: key 'adaptation.selection_strategy': '{strategy}' is unknown: one of {known}"
        )
    texts = {
        "site.toml: key 'study'": home.config.study,
        "plan: key 'model_version'": plan.model_version,
        "plan: key 'roi_name'": plan.roi_name,
    }
    identifiers = known_identifiers(home, store.engine)
    for where, text in texts.items():
        names_somebody = any(identifier in text for identifier in identifiers)
        looks_like = "identifier of this site" if names_somebody else text_residue(text)
        if looks_like:
            raise DataError(
                f"{where}: looks like a {looks_like}, with which no package may leave: choose "
                "another"
            )


def _make_package(home: SiteHome, store: CaseStore, plan: StudyPlan, work: Path) -> Manifest:
    recipe, seed = plan.preprocessing, home.config.seed
    training = prepare(store, _contoured(store, Split.TRAINING), recipe)
    patient_of = {case.case_id: case.patient_id for case in store.cases()}
    patients = [patient_of[case.case_id] for case in training for _ in case.slices]
    if len(set(patients)) < FEWEST_PATIENTS:
        raise DataError(
            f"{len(set(patients))} patients to train with: a package needs {FEWEST_PATIENTS}, so "
            "that what leaves describes none of them: ingest more, or lower test_share"
        )
    slices = fully_labelled(store, training, recipe)
    held_out = _contoured(store, Split.VALIDATION)
    validation = fully_known(store, prepare(store, held_out, recipe), recipe)
    network = build_network(plan.network, seed=seed)
    checkpoint = work / "checkpoint.safetensors"
    with progress_bar("training the source model", home) as progress:
        state = finetune(
            network,
            slices,
            plan.source_training,
            patch_yx=recipe.patch_yx,
            seed=seed,
            validate=mean_dice(validation, patch_yx=recipe.patch_yx),
            state=load_state(checkpoint),
            save=lambda s: save_state(s, checkpoint),
            progress=progress,
        )
    features = latent_features(network, [item.image for item in slices], patch_yx=recipe.patch_yx)
    if not features.any():
        raise DataError(
            "the source model finds no target on any slice: train longer or check the contours"
        )
    try:
        points = fit_reference_points(features, plan.reference_points, seed, patients=patients)
    except ValueError as error:
        raise DataError(f"{error}: train with more patients") from None
    files = _write_files(network, points, work / "package")
    manifest = Manifest(
        study=home.config.study,
        model_version=plan.model_version,
        roi_name=plan.roi_name,
        modality=plan.modality,
        preprocessing=recipe,
        network=plan.network,
        adaptation=plan.adaptation,
        reference_point_count=points.shape[0],
        reference_point_dimension=points.shape[1],
        source_training_slices=len(slices),
        source_validation=_measured_at_home(store, network, plan, held_out, state.best_score),
        seed=seed,
        files=files,
    )
    (work / "package" / MANIFEST_FILE).write_bytes(canonical_json(manifest.model_dump(mode="json")))
    return manifest


def _contoured(store: CaseStore, split: Split) -> list[Case]:
    """Return the cases of a split that can be learnt from; a patient may have others beside them.

    Raises:
        DataError: when there are cases, but none of them has a contour.
    """
    cases = store.cases(split)
    contoured = [case for case in cases if case.has_reference]
    if cases and not contoured:
        raise DataError(f"the {split.value} split has no reference contour: ingest structure sets")
    if len(contoured) < len(cases):
        left_out = len(cases) - len(contoured)
        log.warning("%d %s cases without reference contour are left out", left_out, split.value)
    return contoured


def _key(store: CaseStore, plan: StudyPlan) -> str:
    cases = [[case.case_id, case.split.value, case.has_reference] for case in store.cases()]
    identity = [plan.model_dump(mode="json"), cases, store.home.config.seed]
    return hashlib.sha256(canonical_json(identity)).hexdigest()[:16]


def _write_files(
    network: UNet2d, points: np.ndarray[tuple[int, ...], np.dtype[np.float32]], folder: Path
) -> dict[str, FileEntry]:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    save_weights(weights, folder / MODEL_FILE)
    np.save(folder / REFERENCE_POINTS_FILE, points, allow_pickle=False)
    return {
        name: FileEntry(
            sha256=file_sha256(folder / name), size_bytes=(folder / name).stat().st_size
        )
        for name in PACKAGE_FILES
    }


def _measured_at_home(
    store: CaseStore,
    network: UNet2d,
    plan: StudyPlan,
    held_out: list[Case],
    validation_dsc: float,
) -> SourceValidation:
    """Say how good the model is on the site's own patients who were not learnt from.

    The manifest goes to every hospital of the study, so a figure about fewer patients than the
    site's minimum group size is left out.
    """
    scores = _test_at_home(store, network, plan)
    defined = [score for score in scores if not math.isnan(score)]
    validation_patients = len({case.patient_id for case in held_out})
    minimum = store.home.config.minimum_group_size
    return SourceValidation(
        validation_patients=validation_patients,
        validation_dsc=round(validation_dsc, 4) if validation_patients >= minimum else None,
        test_patients=len(scores),
        test_dsc=round(float(np.mean(defined)), 4) if len(defined) >= minimum else None,
    )


def _test_at_home(store: CaseStore, network: UNet2d, plan: StudyPlan) -> list[float]:
    """Return the Dice of every test patient with a reference, the mean over their cases.

    Two empty masks have no Dice; a patient of whom no case has one is NaN.
    """
    scores: dict[str, list[float]] = {}
    for case in store.cases(Split.TEST):
        reference = store.contour(case.case_id, purpose="reference")
        if reference is not None:
            predicted = segment(store, case.case_id, network, plan.preprocessing)
            of_patient = scores.setdefault(case.patient_id, [])
            of_patient.append(dice(reference.mask.voxels, predicted.voxels))
    defined = [[s for s in of_patient if not math.isnan(s)] for of_patient in scores.values()]
    return [float(np.mean(of_patient)) if of_patient else math.nan for of_patient in defined]


def _finished(folder: Path) -> Manifest | None:
    """Return the manifest of a package of which every file is as the manifest says."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
        whole = all(
            file_sha256(folder / name) == entry.sha256 for name, entry in manifest.files.items()
        )
    except (OSError, ValidationError):
        return None
    return manifest if whole else None


def _publish_folder(source: Path, target: Path) -> None:
    """Put the finished package in place in one step, so that nobody reads half of one."""
    if _finished(target) == _finished(source):
        return
    incoming = target.with_name(target.name + ".part")
    shutil.rmtree(incoming, ignore_errors=True)
    shutil.copytree(source, incoming)
    if target.exists():
        shutil.rmtree(target)
    incoming.rename(target)
