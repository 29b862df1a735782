"""Several raters of one hospital: the same adaptation to each one's way of drawing (6.3).

All raters draw the same patients of a phantom hospital. The source model is adapted to each by a
tenth of their labels; the models then differ as their raters do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.model_package import PreprocessingRecipe
from evaluation.agreement import agreement_matrix, mean_agreement
from evaluation.benchmarks.adaptation_benchmarks import OWN, PHANTOMS, PRESETS
from evaluation.benchmarks.adaptation_study import AdaptationStudy, Arm, Unit
from evaluation.benchmarks.few_labels import Preset
from evaluation.benchmarks.hospital_images import HospitalImages, phantom_hospital
from evaluation.benchmarks.phantom_hospitals import HOSPITALS, ContouringStyle
from evaluation.benchmarks.training_files import read_rows, write_rows

STYLES: Mapping[str, ContouringStyle] = {
    "careful": ContouringStyle(margin_mm=0.0, smoothing_mm=1.0, jitter_mm=0.3),
    "generous": ContouringStyle(margin_mm=3.0, smoothing_mm=2.0, jitter_mm=0.6),
    "tight": ContouringStyle(margin_mm=-1.5, smoothing_mm=1.5, jitter_mm=0.3),
    "restless": ContouringStyle(margin_mm=1.0, smoothing_mm=0.5, jitter_mm=1.8),
}
_ARM = Arm(OWN, 0.1, stages=True, share=1.0)  # a style is what the source does not know
Row = dict[str, Any]


def _raters(
    recipe: PreprocessingRecipe, seed: int
) -> tuple[HospitalImages, tuple[HospitalImages, ...]]:
    source, hospital, *_ = HOSPITALS
    raters = []
    for name, style in STYLES.items():
        drawn = phantom_hospital(replace(hospital, contouring=style), recipe, seed=seed)
        raters.append(HospitalImages(name, drawn.patients))
    return phantom_hospital(source, recipe, seed=seed), tuple(raters)


def run_annotator_styles(
    folder: Path, kind: Preset, *, seeds: Sequence[int], log: Callable[[str], None] = print
) -> list[Row]:
    """Adapt to every rater; what is done below `folder` is read.

    Returns:
        One row per seed, with Dice on the tested patients: between raters, between their models,
        of every model (row) with every rater (column), and of the source model with every rater.

    Raises:
        DataError: results of other settings in `folder`.
    """
    recipe = PRESETS[PHANTOMS][kind].recipe
    digest = sha256_hex(repr((HOSPITALS[:2], STYLES)).encode())

    def hospitals(seed: int) -> tuple[HospitalImages, tuple[HospitalImages, ...]]:
        return _raters(recipe, seed)

    study = AdaptationStudy("annotator-styles", digest, PRESETS[PHANTOMS][kind], hospitals)
    rows: list[Row] = []
    for seed in seeds:
        file = folder / f"styles-seed{seed}.json"
        found = read_rows(file, study.settings)
        if found is None:
            found = [_row(study, folder, seed, log)]
            write_rows(file, study.settings, found)
        rows += found
    return rows


def _row(study: AdaptationStudy, folder: Path, seed: int, log: Callable[[str], None]) -> Row:
    references, adapted, direct = [], [], []
    for rater in study.hospitals(seed)[1]:
        unit = Unit(study, folder, rater, seed, fold=0)
        images = [image for patient in unit.tested for image in patient.images]
        _, network = unit.adapt(_ARM)
        references.append([image.reference for image in images])
        adapted.append([unit.predict(network, image) for image in images])
        direct.append([unit.predict(unit.source, image) for image in images])
        log(f"annotator styles, seed {seed}: adapted to the {rater.name} rater")
    return {
        "seed": seed,
        "patients": len(references[0]),
        "raters": list(STYLES),
        "between_raters": mean_agreement(agreement_matrix(references)),
        "between_models": mean_agreement(agreement_matrix(adapted)),
        "model_with_rater": agreement_matrix(adapted, references).tolist(),
        "source_with_rater": agreement_matrix(direct[:1], references)[0].tolist(),
    }


def annotator_styles_table(rows: Sequence[Row]) -> str:
    """Show Dice in %, averaged over seeds: a line per model, a column per rater."""
    raters = rows[0]["raters"]
    matrix = np.mean([row["model_with_rater"] for row in rows], axis=0)
    source = np.mean([row["source_with_rater"] for row in rows], axis=0)
    lines = [["model", *(f"{rater} rater" for rater in raters)], ["---"] * (len(raters) + 1)]
    lines.append(["source", *(f"{100 * value:.1f}" for value in source)])
    for name, values in zip(raters, matrix, strict=True):
        lines.append([f"of the {name} rater", *(f"{100 * value:.1f}" for value in values)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    between = {
        key: [100 * row[key] for row in rows] for key in ("between_raters", "between_models")
    }
    own = [100 * float(np.mean(np.diag(row["model_with_rater"]))) for row in rows]
    return (
        f"{table}\n\nDice between raters {np.mean(between['between_raters']):.1f} %, between their "
        f"models {np.mean(between['between_models']):.1f} %; of a model with its own rater "
        f"{np.mean(own):.1f} %, of the source model {100 * float(np.mean(source)):.1f} %"
    )
