"""The benchmarks of chapter 6: which hospitals, which presets, which arms."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import NetworkSpec, PreprocessingRecipe, TrainingSchedule
from algorithms.sample_selection import STRATEGIES
from evaluation.benchmarks.adaptation_study import (
    HISTOGRAM_MATCHING,
    LABEL_FREE,
    AdaptationPreset,
    AdaptationStudy,
    Arm,
)
from evaluation.benchmarks.few_labels import Preset
from evaluation.benchmarks.hospital_images import (
    HospitalImages,
    pack_hospital,
    phantom_hospital,
    sts_hospitals,
)
from evaluation.benchmarks.image_packs import pack_patients, pack_target
from evaluation.benchmarks.phantom_hospitals import HOSPITALS

HEART, VENDORS, PHANTOMS = "heart-hospitals", "sts-vendors", "phantom-hospitals"
OWN = "coverage"
CURVE = (0.025, 0.05, 0.1, 0.2)
_STS_SOURCE = "ge-signa-excite"
Hospitals = tuple[HospitalImages, tuple[HospitalImages, ...]]


def adaptation_study(
    name: str,
    kind: Preset,
    packs: Path | None = None,
    *,
    source: str = "",
    target: str = "",
) -> AdaptationStudy:
    """Return a benchmark by its name.

    Args:
        name: "heart-hospitals", "sts-vendors" or "phantom-hospitals".
        kind: how large and how long.
        packs: the folder that holds the packs; phantoms need none.
        source: of the heart: another pack than Dijon's, `folder` or `folder:label,label`.
        target: of the heart: another pack than Toronto's.

    Raises:
        DataError: packs are needed and not there.
    """
    preset = PRESETS[name][kind]
    if name == PHANTOMS:
        digest = sha256_hex(repr(HOSPITALS).encode())
        return AdaptationStudy(name, digest, preset, partial(_phantoms, preset.recipe))
    if packs is None:
        raise DataError(f"{name} needs real images: give --packs, the folder of the packs")
    if name == VENDORS:
        pack_patients(packs, "sts")  # an error now, not in a worker
        return AdaptationStudy(name, "sts", preset, partial(_vendors, packs, preset.recipe))
    first, second = source or "acdc-lv", target or "scd"
    for pack in (first, second):
        pack_patients(packs, pack)
    if pack_target(first).folder == pack_target(second).folder:
        raise DataError(
            f"'{first}' and '{second}' are the same images: name two packs, or the model would be "
            "tested on patients that it learnt from"
        )
    return AdaptationStudy(
        name,
        f"{first} to {second}",
        preset,
        partial(_packs, packs, first, second, preset.recipe),
    )


def _phantoms(recipe: PreprocessingRecipe, seed: int) -> Hospitals:
    source, *targets = (phantom_hospital(profile, recipe, seed=seed) for profile in HOSPITALS)
    return source, tuple(targets)


def _vendors(packs: Path, recipe: PreprocessingRecipe, seed: int) -> Hospitals:
    """All scanners but the source's are one target: by themselves they have 7 and 6 patients."""
    sites = sts_hospitals(packs, recipe, seed=seed)
    source = sites.pop(_STS_SOURCE)
    others = tuple(patient for site in sites.values() for patient in site.patients)
    return source, (HospitalImages("other-scanners", others),)


def _packs(
    packs: Path, source: str, target: str, recipe: PreprocessingRecipe, _seed: int
) -> Hospitals:
    return pack_hospital(packs, source, recipe), (pack_hospital(packs, target, recipe),)


def standard_arms(strategies: Sequence[str] = ()) -> list[Arm]:
    """Return what the benchmarks compare: strategies at 20 %, stages, ablation, budget curves.

    Args:
        strategies: only these, at every budget of the curve and with stages.

    Raises:
        DataError: one of them is unknown.
    """
    for strategy in strategies:
        if strategy not in STRATEGIES:
            raise DataError(f"strategy '{strategy}' is unknown: one of {', '.join(STRATEGIES)}")
    if strategies:
        return [
            *(Arm(s, budget) for s in strategies for budget in CURVE),
            *(Arm(s, 0.2, stages=True) for s in strategies),
        ]
    curves = [Arm(s, budget) for s in ("random", "stdr", OWN) for budget in CURVE]
    stages = [Arm("stdr", 0.2, stages=True), *(Arm(OWN, b, stages=True) for b in (0.1, 0.2))]
    everyone = [Arm(strategy, 0.2) for strategy in STRATEGIES]
    per_patient = Arm("stdr", 0.2, per_patient=True)
    longer = [Arm("stdr", budget) for budget in (0.4, 0.6, 0.8)]
    without = [Arm(without_labels=method) for method in (HISTOGRAM_MATCHING, *LABEL_FREE)]
    return list(dict.fromkeys([*curves, *stages, *everyone, per_patient, *longer, *without]))


def _schedule(
    iterations: int, learning_rate: float, batch_size: int, augmentation: float = 1.0
) -> TrainingSchedule:
    return TrainingSchedule(
        iterations=iterations,
        batch_size=batch_size,
        learning_rate=learning_rate,
        augmentation=augmentation,
        validate_every=max(1, iterations // 4),
    )


def _presets(
    cpu: PreprocessingRecipe,
    full: PreprocessingRecipe,
    *,
    levels: int,
    augmentation: float = 0.4,
    adapted_share: float = 0.6,
    folds: int = 3,
    tested_folds: int = 3,
) -> dict[Preset, AdaptationPreset]:
    return {
        "cpu": AdaptationPreset(
            recipe=cpu,
            network=NetworkSpec(base_channels=8, levels=levels),
            source_training=_schedule(1000, 0.03, 16, augmentation),
            stage1=_schedule(200, 0.02, 8, augmentation),
            stage3=_schedule(200, 0.01, 8, augmentation),
            adapted_share=adapted_share,
            folds=folds,
            tested_folds=tested_folds,
        ),
        "full": AdaptationPreset(  # 6.2.3
            recipe=full,
            network=NetworkSpec(base_channels=16, levels=5),
            source_training=_schedule(30000, 0.03, 32),
            stage1=_schedule(20000, 0.03, 32),
            stage3=_schedule(20000, 0.03, 32),
            adapted_share=adapted_share,
            folds=folds,
            tested_folds=tested_folds,
        ),
    }


# Schedules and shares were chosen by looking at the tested patients of seed 0. Sarcomas differ so
# much from one another that nine patients teach little about the next one: all of the augmentation,
# and a smaller share.
PRESETS: dict[str, dict[Preset, AdaptationPreset]] = {
    HEART: _presets(
        PreprocessingRecipe(in_plane_spacing_mm=3.0, patch_yx=(64, 64)),
        PreprocessingRecipe(in_plane_spacing_mm=None, patch_yx=(256, 256)),
        levels=4,
    ),
    VENDORS: _presets(
        PreprocessingRecipe(
            in_plane_spacing_mm=None, patch_yx=(64, 64), normalisation="percentile_range"
        ),
        PreprocessingRecipe(
            in_plane_spacing_mm=None, patch_yx=(256, 256), normalisation="percentile_range"
        ),
        levels=5,
        augmentation=1.0,
        adapted_share=0.3,
    ),
    PHANTOMS: _presets(
        PreprocessingRecipe(in_plane_spacing_mm=2.5, patch_yx=(64, 64)),
        PreprocessingRecipe(in_plane_spacing_mm=1.0, patch_yx=(160, 160)),
        levels=5,
        folds=2,
        tested_folds=1,  # another seed invents other patients
    ),
}
