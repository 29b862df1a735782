"""Adapting to another hospital with few labels: every strategy on the same patients (chapter 6).

A unit is one seed, one target hospital and one fold of its patients: the fold is tested, the others
are the pool that doctors may be asked about. All arms of a unit begin with the same source model,
see the same batches as far as they learn from the same slices, and are tested with their last
weights. (The presets were chosen by looking at the tested patients of seed 0.)
"""

import copy
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from algorithms.adapted_share import interpolate_weights
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import NetworkSpec, PreprocessingRecipe, TrainingSchedule
from algorithms.contracts.volume import MaskArray
from algorithms.features import describe_slices, latent_features
from algorithms.finetuning import (
    ContourLearner,
    LabelledSlice,
    bare_slice,
    draw_batch,
    finetune,
)
from algorithms.inference import torch_predictor
from algorithms.label_free_comparators.adami import AdaMi
from algorithms.label_free_comparators.cbmt import ClassBalancedMeanTeacher
from algorithms.label_free_comparators.dpl import DenoisedPseudoLabels
from algorithms.label_free_comparators.histogram_matching import grey_quantiles, match_histogram
from algorithms.label_free_comparators.tent import Tent
from algorithms.networks import UNet2d, build_network
from algorithms.preprocessing import restore
from algorithms.pseudo_labels import pseudo_label
from algorithms.reference_points import fit_reference_points
from algorithms.sample_selection import select
from algorithms.slice_description import SliceDescription
from algorithms.training import Learner, train
from evaluation.benchmarks.hospital_images import HospitalImage, HospitalImages, HospitalPatient
from evaluation.benchmarks.training_files import read_rows, train_resumably, write_rows
from evaluation.case_metrics import measure_case
from evaluation.overlap import dice

DIRECT, ALL_LABELS = "direct", "all labels"
HISTOGRAM_MATCHING = "HistMatch"
LABEL_FREE: dict[str, Callable[[UNet2d], Learner[torch.Tensor]]] = {
    "CBMT": ClassBalancedMeanTeacher,
    "AdaMI": AdaMi,
    "DPL": DenoisedPseudoLabels,
    "Tent": Tent,
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One way to adapt.

    Attributes:
        strategy: a name in `sample_selection.STRATEGIES`; "" for the ends of the scale.
        budget: share of the pool's slices that are annotated; 0 is direct use.
        stages: pseudo labels and stage 3 follow.
        per_patient: the budget is shared out among the patients.
        share: how far the weights go from the source model; None is the preset's.
        without_labels: a method that adapts to the pool's images alone, as published.
    """

    strategy: str = ""
    budget: float = 0.0
    stages: bool = False
    per_patient: bool = False
    share: float | None = None
    without_labels: str = ""

    @property
    def name(self) -> str:
        """What tables call it.

        >>> Arm("stdr", 0.025, per_patient=True, stages=True).name
        'stdr per patient + stages, 2.5 %'
        """
        if self.without_labels:
            return f"without labels: {self.without_labels}"
        if not self.strategy:
            return ALL_LABELS if self.budget else DIRECT
        words = self.strategy + (" per patient" if self.per_patient else "")
        words += " + stages" if self.stages else ""
        words += "" if self.share is None else f", share {self.share:g}"
        return f"{words}, {100 * self.budget:g} %"


@dataclass(frozen=True)
class AdaptationPreset:
    """How large and how long.

    Attributes:
        recipe: how images are prepared.
        network: of every arm.
        source_training: at the source hospital, on all its patients.
        stage1: on annotated slices, whatever the budget.
        stage3: on those and pseudo-labelled ones.
        adapted_share: how far the weights go from the source model, see `algorithms.adapted_share`.
        min_confidence: of pseudo labels, see `algorithms.pseudo_labels`.
        folds: into how many parts a hospital's patients are put.
        tested_folds: so many of them are tested for every seed, the others are no more than pool.
        reference_points: K of (6-4).
    """

    recipe: PreprocessingRecipe
    network: NetworkSpec
    source_training: TrainingSchedule
    stage1: TrainingSchedule
    stage3: TrainingSchedule
    adapted_share: float = 0.6
    min_confidence: float = 0.8
    folds: int = 3
    tested_folds: int = 3
    reference_points: int = 10


@dataclass(frozen=True)
class AdaptationStudy:
    """Which hospitals, and how; it can be pickled.

    Attributes:
        name: of the benchmark.
        inputs: says which hospitals these are.
        preset: how large and how long.
        hospitals: seed -> the source and its targets.
        revision: raised when a method changes, so that results of before are not read.
    """

    name: str
    inputs: str
    preset: AdaptationPreset
    hospitals: Callable[[int], tuple[HospitalImages, tuple[HospitalImages, ...]]]
    revision: int = 2

    @property
    def settings(self) -> Row:
        """All that the results depend on, as JSON holds it."""
        return {
            "name": self.name,
            "revision": self.revision,
            "inputs": self.inputs,
            **{
                key: value.model_dump(mode="json") if hasattr(value, "model_dump") else value
                for key, value in vars(self.preset).items()
            },
        }


_HOME_TEST_SHARE = 0.2


def home_patients(
    source: HospitalImages, seed: int
) -> tuple[list[HospitalPatient], list[HospitalPatient]]:
    """Part the source hospital's patients: those its model learns from, those who test it."""
    count = round(_HOME_TEST_SHARE * len(source.patients))
    order = np.random.default_rng([seed, 1]).permutation(len(source.patients))
    tested = {source.patients[i].name for i in order[:count]}
    learnt = [p for p in source.patients if p.name not in tested]
    return learnt, [p for p in source.patients if p.name in tested]


def folds_of(patients: Sequence[HospitalPatient], count: int, seed: int) -> list[list[str]]:
    """Part patients at random into so many parts of nearly one size; names, sorted."""
    order = np.random.default_rng(seed).permutation(len(patients))
    return [sorted(patients[i].name for i in order[part::count]) for part in range(count)]


def run_adaptation(
    study: AdaptationStudy,
    folder: Path,
    arms: Sequence[Arm],
    *,
    seeds: Sequence[int],
    jobs: int = 0,
) -> list[Row]:
    """Run every arm in every unit; what is done below `folder` is read.

    Args:
        study: what is compared.
        folder: a file per unit, and the source model of every seed.
        arms: beside direct use and all labels, which are always run.
        seeds: of phantoms, splits, weights and batches.
        jobs: processes; 0 is one per core, or one where there is an accelerator.

    Returns:
        One row per arm, seed, hospital and tested patient.

    Raises:
        DataError: results of other settings in `folder`.
    """
    wanted = tuple(dict.fromkeys([Arm(), Arm(budget=1.0), *arms]))
    jobs = jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    units = []
    for seed in seeds:
        _, targets = _hospitals(study, seed)
        for hospital in targets:
            if len(hospital.patients) < max(study.preset.folds, 2):
                raise DataError(
                    f"'{hospital.name}' has {len(hospital.patients)} patients: at least "
                    f"{max(study.preset.folds, 2)} are needed, one for each fold"
                )
        tested = range(min(study.preset.tested_folds, study.preset.folds))
        units += [(seed, t, f) for t, f in product(range(len(targets)), tested)]
    rows: list[Row] = []
    if jobs == 1:
        for unit in units:
            rows += _run_unit(study, folder, wanted, *unit)
    else:
        # One thread per process: such small networks gain nothing from a second.
        with ProcessPoolExecutor(jobs, get_context("spawn"), _begin_worker, (jobs,)) as pool:
            for trained in [pool.submit(_train_source, study, folder, seed) for seed in seeds]:
                trained.result()
            running = [pool.submit(_run_unit, study, folder, wanted, *unit) for unit in units]
            for done in running:
                rows += done.result()
    names = {arm.name for arm in wanted}
    return [row for row in rows if row["arm"] in names]


def _begin_worker(jobs: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """Whoever kills the command kills its workers; what they were at is run again."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@lru_cache(maxsize=1)
def _hospitals(
    study: AdaptationStudy, seed: int
) -> tuple[HospitalImages, tuple[HospitalImages, ...]]:
    return study.hospitals(seed)


def _train_source(study: AdaptationStudy, folder: Path, seed: int) -> UNet2d:
    """Return the source model of a seed, trained on four in five of its patients: (6-1)."""
    network = build_network(study.preset.network, seed=seed)
    file = folder / f"source-seed{seed}.safetensors"
    learnt, _ = home_patients(_hospitals(study, seed)[0], seed)
    slices = [s for p in learnt for s in labelled_slices(p)]
    schedule = study.preset.source_training

    def draw(rng: np.random.Generator) -> Any:
        return draw_batch(
            slices,
            size=schedule.batch_size,
            patch_yx=study.preset.recipe.patch_yx,
            rng=rng,
            target_share=schedule.target_share,
            augmentation=schedule.augmentation,
        )

    train_resumably(
        ContourLearner(network),
        draw,
        schedule,
        seed=seed,
        checkpoint=file,
        settings=study.settings,
        progress=lambda i, n, loss: _say(f"  source, seed {seed}: {i} of {n}, loss {loss:.3f}"),
    )
    return network


def _run_unit(
    study: AdaptationStudy, folder: Path, arms: Sequence[Arm], seed: int, target: int, fold: int
) -> list[Row]:
    hospital = _hospitals(study, seed)[1][target]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", hospital.name).strip("-")
    file = folder / f"{slug}-seed{seed}-fold{fold}.json"
    rows = read_rows(file, study.settings) or []
    missing = [arm for arm in arms if arm.name not in {row["arm"] for row in rows}]
    if not missing:
        return rows
    unit = Unit(study, folder, hospital, seed, fold)
    for arm in missing:
        found = unit.run(arm)
        rows += found
        write_rows(file, study.settings, rows)
        score = 100 * float(np.mean([row["dsc"] for row in found]))
        _say(f"{hospital.name}, seed {seed}, fold {fold}: {arm.name}: Dice {score:.1f} %")
    return rows


def gentle(schedule: TrainingSchedule) -> TrainingSchedule:
    """Return the schedule of the methods without labels: half as long, at 1/200 of the rate.

    Nothing tells them when they go wrong: at the rate of fine-tuning most unlearn the target.
    """
    return schedule.model_copy(
        update={
            "iterations": -(-schedule.iterations // 2),
            "learning_rate": schedule.learning_rate / 200,
        }
    )


class Unit:
    """One seed, target hospital and fold: what all of its arms share."""

    def __init__(
        self, study: AdaptationStudy, folder: Path, hospital: HospitalImages, seed: int, fold: int
    ) -> None:
        self.preset, self.hospital, self.seed, self.fold = study.preset, hospital, seed, fold
        tested = set(folds_of(hospital.patients, self.preset.folds, seed)[fold])
        self.tested = [p for p in hospital.patients if p.name in tested]
        pool = [p for p in hospital.patients if p.name not in tested]
        self.pool = [s for p in pool for s in labelled_slices(p)]
        self.whose = [p.name for p in pool for _ in labelled_slices(p)]
        self.source = _train_source(study, folder, seed)
        patch = self.preset.recipe.patch_yx
        learnt, self.home = home_patients(_hospitals(study, seed)[0], seed)
        home = [s.image for p in learnt for s in labelled_slices(p)]
        self.home_quantiles = grey_quantiles(home)
        self.matched: NDArray[np.float64] | None = None
        features = latent_features(self.source, home, patch_yx=patch)
        try:
            self.reference_points = fit_reference_points(
                features,
                self.preset.reference_points,
                seed,
                patients=[p.name for p in learnt for _ in labelled_slices(p)],
            )
        except ValueError as error:
            raise DataError(
                f"seed {seed}: {error}: look at the pack's labels, bring more patients, or try the "
                "preset 'full'"
            ) from None
        self.described: SliceDescription = describe_slices(
            self.source, [s.image for s in self.pool], patch_yx=patch
        )

    def run(self, arm: Arm) -> list[Row]:
        """Adapt and test."""
        chosen, network = self.adapt(arm)
        # Images are changed and not the network.
        self.matched = self.home_quantiles if arm.without_labels == HISTOGRAM_MATCHING else None
        told = {
            "arm": arm.name,
            "strategy": arm.strategy,
            "budget": arm.budget,
            "stages": arm.stages,
            "seed": self.seed,
            "hospital": self.hospital.name,
            "fold": self.fold,
            "annotated": len(chosen),
            "annotated_with_target": sum(self.pool[i].has_target for i in chosen),
            "annotated_patients": len({self.whose[i] for i in chosen}),
            "home_dsc": self._at_home(arm, network),
        }
        return [
            told | {"patient": patient.name} | self.measure(network, patient)
            for patient in self.tested
        ]

    def adapt(self, arm: Arm) -> tuple[list[int], UNet2d]:
        """Return which slices of the pool are asked about, and the network that learnt them."""
        chosen = self._chosen(arm)
        return chosen, self._adapted(arm, chosen)

    def _at_home(self, arm: Arm, network: UNet2d) -> float | None:
        """Mean Dice on the source hospital's test patients, where it shows what is forgotten."""
        if not self.home or arm.without_labels or (arm.strategy and not arm.stages):
            return None
        return float(np.mean([self.measure(network, p, dsc_only=True)["dsc"] for p in self.home]))

    def _chosen(self, arm: Arm) -> list[int]:
        if not arm.strategy:
            return list(range(len(self.pool))) if arm.budget else []
        selection = select(
            self.described.features,
            self.reference_points,
            max(1, round(arm.budget * len(self.pool))),
            strategy=arm.strategy,
            patients=self.whose if arm.per_patient else None,
            described=self.described,
            rng=np.random.default_rng([self.seed, self.fold]),
        )
        return list(selection.ids)

    def _adapted(self, arm: Arm, chosen: Sequence[int]) -> UNet2d:
        network = copy.deepcopy(self.source)
        patch = self.preset.recipe.patch_yx
        if arm.without_labels in LABEL_FREE:
            images = [bare_slice(s.image) for s in self.pool]
            schedule = gentle(self.preset.stage1)

            def draw(rng: np.random.Generator) -> torch.Tensor:
                return draw_batch(
                    images,
                    size=schedule.batch_size,
                    patch_yx=patch,
                    rng=rng,
                    augmentation=schedule.augmentation,
                )[0]

            train(LABEL_FREE[arm.without_labels](network), draw, schedule, seed=self.seed)
        if not chosen:
            return network
        annotated = [self.pool[i] for i in chosen]
        finetune(network, annotated, self.preset.stage1, patch_yx=patch, seed=self.seed)
        share = self.preset.adapted_share if arm.share is None else arm.share
        if arm.stages:
            others = [s.image for i, s in enumerate(self.pool) if i not in set(chosen)]
            pseudo = pseudo_label(
                torch_predictor(self._towards(network, share), patch_yx=patch),
                others,
                min_confidence=self.preset.min_confidence,
            )
            finetune(
                network, annotated + pseudo, self.preset.stage3, patch_yx=patch, seed=self.seed
            )
        return self._towards(network, share)

    def _towards(self, adapted: UNet2d, share: float) -> UNet2d:
        """Return the model between the source's and the adapted one."""
        network = copy.deepcopy(adapted)
        network.load_state_dict(
            interpolate_weights(self.source.state_dict(), adapted.state_dict(), share)
        )
        return network

    def measure(self, network: UNet2d, patient: HospitalPatient, *, dsc_only: bool = False) -> Row:
        """Dice over all of a patient's images together; the mean distance over those with one."""
        masks = [(image.reference, self.predict(network, image)) for image in patient.images]
        dsc = dice(*(np.concatenate([pair[k].ravel() for pair in masks]) for k in (0, 1)))
        distances = [
            measure_case(r, p, spacing_zyx_mm=image.geometry.spacing_zyx_mm).hd95_mm
            for image, (r, p) in zip(patient.images, masks, strict=True)
            if image.distances and not dsc_only
        ]
        known = [distance for distance in distances if np.isfinite(distance)]
        return {"dsc": float(dsc), "hd95_mm": float(np.mean(known)) if known else None}

    def predict(self, network: UNet2d, image: HospitalImage) -> MaskArray:
        """Segment an image on its own grid."""
        predictor = torch_predictor(network, patch_yx=self.preset.recipe.patch_yx)
        slices = image.slices
        if self.matched is not None:
            slices = match_histogram(slices, self.matched)
        found: MaskArray = restore(predictor(slices), image.geometry) > 0.5
        return found


def labelled_slices(patient: HospitalPatient) -> list[LabelledSlice]:
    """Return all slices of a patient with their labels."""
    return [
        LabelledSlice(image, label)
        for volume in patient.images
        for image, label in zip(volume.slices, volume.label, strict=True)
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
