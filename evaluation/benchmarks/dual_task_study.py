"""Learning from few contours on the left atrium: dual-task consistency beside comparators (5.3).

The files' names are split in their official order: the first 8 are labelled, the next 8 are not,
the last 8 are tested. The CPU preset takes a quarter of the resolution and of the crops, half of
the channels and of the iterations, and two levels off; the full preset is the thesis's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import TrainingSchedule
from algorithms.contracts.volume import ImageArray
from algorithms.dual_task_consistency import DualTaskConsistency, PartlyLabelledBatch
from algorithms.networks import DualBranch, DualTask, Normalisation, VNet
from algorithms.semi_supervised_comparators.adversarial import Dan, Discriminator, Sassnet
from algorithms.semi_supervised_comparators.entropy_minimisation import EntropyMinimisation
from algorithms.semi_supervised_comparators.mean_teacher import MeanTeacher
from algorithms.semi_supervised_comparators.supervised_only import SupervisedOnly
from algorithms.semi_supervised_comparators.two_views import (
    CrossConsistency,
    CrossPseudoSupervision,
)
from algorithms.signed_distance import level_sets
from algorithms.training import Draw, Learner, apply
from evaluation.benchmarks.few_labels import FewLabelStudy, Preset, TestCase
from evaluation.benchmarks.image_packs import pack_patients, read_volumes

_REVISION = 1  # raised when a method changes, so that results of before are not read
_PACK = "la"
_LABELLED, _UNLABELLED = 8, 8
_SPACING_ZYX_MM = (0.625, 0.625, 0.625)
_FULL = "all contours"


@dataclass(frozen=True)
class AtriumPreset:
    """How large and how long.

    Attributes:
        coarser: volumes are averaged over cubes of so many voxels a side.
        crop_zyx: of a training sample, in coarse voxels; square in the plane.
        stride_zyx: of the sliding window, in coarse voxels.
        base_channels: of the V-Net.
        convolutions: of the V-Net, per level.
        normalisation: of the V-Net.
        dropout: of the V-Net.
        asked: how often UA-MT's teacher is asked under noise.
        schedule: of the training; half of each batch is labelled.
    """

    coarser: int
    crop_zyx: tuple[int, int, int]
    stride_zyx: tuple[int, int, int]
    base_channels: int
    convolutions: tuple[int, ...]
    normalisation: Normalisation
    dropout: float
    asked: int
    schedule: TrainingSchedule


ATRIUM_PRESETS: dict[Preset, AtriumPreset] = {
    "cpu": AtriumPreset(
        coarser=4,
        crop_zyx=(20, 28, 28),
        stride_zyx=(4, 14, 14),
        base_channels=8,
        convolutions=(1, 2, 3),
        normalisation="instance",  # four crops are few to take statistics of
        dropout=0.0,
        asked=2,
        schedule=TrainingSchedule(
            iterations=3000,
            batch_size=4,
            learning_rate=0.01,
            decay="step",
            decay_every=1250,
            validate_every=500,
        ),
    ),
    "full": AtriumPreset(  # 5.3.1
        coarser=1,
        crop_zyx=(80, 112, 112),
        stride_zyx=(4, 18, 18),
        base_channels=16,
        convolutions=(1, 2, 3, 3, 3),
        normalisation="batch",
        dropout=0.5,
        asked=8,
        schedule=TrainingSchedule(
            iterations=6000,
            batch_size=4,
            learning_rate=0.01,
            decay="step",
            decay_every=2500,
            validate_every=500,
        ),
    ),
}


@dataclass(frozen=True, eq=False)
class AtriumCase:
    """One volume on the network's grid, `[z, y, x]`; the level set is computed once.

    Attributes:
        label: 0 or 1; None where it is not shown to the method.
        level_set: of the label, normalised.
    """

    image: ImageArray
    label: NDArray[np.uint8] | None = None
    level_set: ImageArray | None = None


def split_names(names: Sequence[str]) -> dict[str, list[str]]:
    """Split by name: the first are labelled, the next are not, the others are tested."""
    ordered = sorted(names)
    known = _LABELLED + _UNLABELLED
    return {
        "labelled": ordered[:_LABELLED],
        "unlabelled": ordered[_LABELLED:known],
        "test": ordered[known:],
    }


def draw_crops(
    labelled: Sequence[AtriumCase],
    unlabelled: Sequence[AtriumCase],
    size: int,
    crop_zyx: tuple[int, int, int],
) -> Callable[[np.random.Generator], PartlyLabelledBatch]:
    """Return what draws batches: half labelled, and after them half not; turned and flipped.

    Without unlabelled cases the whole batch is labelled.
    """
    told = size - size // 2 if unlabelled else size

    def draw(rng: np.random.Generator) -> PartlyLabelledBatch:
        cases = [labelled[i] for i in _drawn(rng, len(labelled), told)]
        cases += [unlabelled[i] for i in _drawn(rng, len(unlabelled), size - told)]
        samples = [_crop(case, crop_zyx, rng) for case in cases]
        images = np.stack([sample[0] for sample in samples])[:, None]
        labels, distances = (
            np.stack([sample[part] for sample in samples[:told]])[:, None] for part in (1, 2)
        )
        return torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(distances)

    return draw


def _drawn(rng: np.random.Generator, among: int, count: int) -> NDArray[np.int64]:
    return rng.choice(among, count, replace=among < count) if count else np.empty(0, np.int64)


def _crop(
    case: AtriumCase, crop_zyx: tuple[int, int, int], rng: np.random.Generator
) -> list[NDArray[np.float32]]:
    """Cut image, label and level set at one random place; quarter turns in the plane and a flip."""
    parts: list[NDArray[Any]] = [
        part for part in (case.image, case.label, case.level_set) if part is not None
    ]
    gaps = [max(c - n, 0) for c, n in zip(crop_zyx, case.image.shape, strict=True)]
    margins = [(gap // 2, gap - gap // 2) for gap in gaps]
    if any(gaps):
        parts = [np.pad(part, margins, mode="edge") for part in parts]
    low = [int(rng.integers(n - c + 1)) for n, c in zip(parts[0].shape, crop_zyx, strict=True)]
    box = tuple(slice(a, a + c) for a, c in zip(low, crop_zyx, strict=True))
    turns, flip = int(rng.integers(4)), int(rng.choice([-1, 1]))
    return [np.rot90(part[box], turns, (1, 2))[:, ::flip].astype(np.float32) for part in parts]


def atrium_learners(
    preset: AtriumPreset,
) -> dict[str, Callable[[int], Learner[PartlyLabelledBatch]]]:
    """Return what makes the learner of every method for a seed; all begin with the same weights."""

    def network(seed: int) -> VNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return VNet(
                base_channels=preset.base_channels,
                convolutions=preset.convolutions,
                normalisation=preset.normalisation,
                dropout=preset.dropout,
            )

    def discriminator(seed: int) -> Discriminator:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            return Discriminator(3, channels=preset.base_channels)

    return {
        "labelled alone": lambda seed: SupervisedOnly(network(seed)),
        "DTC": lambda seed: DualTaskConsistency(DualTask(network(seed), seed=seed + 1)),
        "mean teacher": lambda seed: MeanTeacher(network(seed)),
        _FULL: lambda seed: SupervisedOnly(network(seed)),
        "UA-MT": lambda seed: MeanTeacher(network(seed), samples=preset.asked),
        "entropy minimisation": lambda seed: EntropyMinimisation(network(seed)),
        "CCT": lambda seed: CrossConsistency(DualBranch(network(seed), seed=seed + 1)),
        "CPS": lambda seed: CrossPseudoSupervision(network(seed), network(seed + 1000)),
        "DAN": lambda seed: Dan(network(seed), discriminator(seed)),
        "SASSNet": lambda seed: Sassnet(
            DualTask(network(seed), seed=seed + 1), discriminator(seed)
        ),
    }


def la_dual_task_study(packs: Path, kind: Preset) -> FewLabelStudy:
    """Read the pack and put the study together.

    Raises:
        DataError: the pack is not there, or has too few volumes.
    """
    preset = ATRIUM_PRESETS[kind]
    split = split_names(pack_patients(packs, _PACK))
    if not split["test"]:
        raise DataError(f"{packs / 'la'}: fewer than 17 volumes: fetch the pack again")
    cases: dict[str, AtriumCase] = {}
    tests = []
    for volume in read_volumes(packs, _PACK):
        image = _standardised(volume.image)
        if volume.name in split["test"]:
            tests.append(TestCase(volume.name, volume.name, image, volume.label, _SPACING_ZYX_MM))
            continue
        label = (_coarse(volume.label, preset.coarser) >= 0.5).astype(np.uint8)
        cases[volume.name] = AtriumCase(
            _coarse(image, preset.coarser), label, level_sets(label, 2)[0]
        )
    labelled = [cases[name] for name in split["labelled"]]
    others = [cases[name] for name in split["unlabelled"]]
    size, crop = preset.schedule.batch_size, preset.crop_zyx

    def prepared(name: str, learner: Learner[PartlyLabelledBatch]) -> tuple[Learner[Any], Draw]:
        if name == _FULL:
            return learner, draw_crops([*labelled, *others], (), size, crop)
        hidden = [AtriumCase(case.image) for case in others]
        return learner, draw_crops(labelled, hidden, size, crop)

    return FewLabelStudy(
        name="la-dual-task",
        settings={
            "revision": _REVISION,
            "split": split,
            "coarser": preset.coarser,
            "crop_zyx": list(crop),
            "stride_zyx": list(preset.stride_zyx),
            "base_channels": preset.base_channels,
            "convolutions": list(preset.convolutions),
            "normalisation": preset.normalisation,
            "dropout": preset.dropout,
            "asked": preset.asked,
            "schedule": preset.schedule.model_dump(mode="json"),
        },
        schedule=preset.schedule,
        methods={
            name: lambda seed, name=name, make=make: prepared(name, make(seed))  # type: ignore[misc]
            for name, make in atrium_learners(preset).items()
        },
        classes={"left atrium": 1},
        test_cases=tests,
        predict=partial(predict_atrium, preset=preset),
        upper_bound=_FULL,
    )


def _standardised(image: ImageArray) -> ImageArray:
    scaled: ImageArray = (image - image.mean()) / max(float(image.std()), 1e-6)
    return scaled


def _coarse(voxels: NDArray[Any], factor: int) -> ImageArray:
    """Average over cubes; what does not fill one at the far ends is left out."""
    if factor == 1:
        return voxels.astype(np.float32)
    picture = torch.from_numpy(voxels.astype(np.float32))[None, None]
    coarse: ImageArray = functional.avg_pool3d(picture, factor)[0, 0].numpy()
    return coarse


@torch.inference_mode()
def predict_atrium(
    network: nn.Module, image: ImageArray, *, preset: AtriumPreset
) -> NDArray[np.uint8]:
    """Segment a volume by a sliding window, on its own grid; nothing is done to it afterwards."""
    network.eval()
    place = next(network.parameters()).device
    picture = torch.from_numpy(_coarse(image, preset.coarser))[None, None].to(place)
    overlap = [1.0 - s / c for s, c in zip(preset.stride_zyx, preset.crop_zyx, strict=True)]

    def found(crops: torch.Tensor) -> torch.Tensor:
        probability: torch.Tensor = apply(network, crops).sigmoid()
        return probability

    windows = sliding_window_inference(picture, preset.crop_zyx, 4, found, overlap=overlap)
    probability = torch.as_tensor(windows)
    if preset.coarser > 1:
        covered = [n // preset.coarser * preset.coarser for n in image.shape]
        probability = functional.interpolate(
            probability, covered, mode="trilinear", align_corners=False
        )
        gaps = [n - c for n, c in zip(image.shape, covered, strict=True)]
        ends = [length for gap in reversed(gaps) for length in (0, gap)]
        probability = functional.pad(probability, ends, mode="replicate")
    mask: NDArray[np.uint8] = (probability[0, 0] > 0.5).to(torch.uint8).cpu().numpy()
    return mask
