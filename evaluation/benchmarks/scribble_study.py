"""Learning from scribbles on ACDC: mixed pseudo labels beside every comparator (4.3).

The CPU preset shrinks slices and network, so that a method takes minutes; the full preset is the
thesis's schedule. Patients are split by name. Predictions go back onto each slice's own grid and
are stacked before they are measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import TrainingSchedule
from algorithms.contracts.volume import ImageArray
from algorithms.networks import DualBranch, UNet
from algorithms.preprocessing import resize_scribble
from algorithms.scribble_comparators.entropy_minimisation import EntropyMinimisation
from algorithms.scribble_comparators.full_supervision import FullSupervision
from algorithms.scribble_comparators.gated_crf import GatedCrf
from algorithms.scribble_comparators.mumford_shah import MumfordShah
from algorithms.scribble_comparators.random_walker_labels import walk
from algorithms.scribble_comparators.scribble2label import Scribble2Label
from algorithms.scribble_comparators.two_branches import (
    ConsistencyRegularisation,
    CrossPseudoSupervision,
)
from algorithms.scribble_comparators.ustm import Ustm
from algorithms.scribble_supervision import MixedPseudoLabels, ScribbleBatch
from algorithms.training import Draw, Learner, apply
from evaluation.benchmarks.few_labels import FewLabelStudy, Preset, TestCase
from evaluation.benchmarks.image_packs import pack_patients, read_volumes

_REVISION = 1  # raised when a method changes, so that results of before are not read
_PACK = "acdc-lv"
_NOT_ANNOTATED_IN_PACK = 4
_CLASSES = {"right ventricle": 1, "myocardium": 2, "left ventricle": 3}
_SPACING_ZYX_MM = (8.0, 1.5, 1.5)  # nominal: the files hold none
_FULL, _WALKED = "all contours", "random-walker labels"


@dataclass(frozen=True)
class ScribblePreset:
    """How large and how long.

    Attributes:
        side: slices are resized to `side` x `side` pixels.
        base_channels: of the U-Net.
        levels: of the U-Net.
        asked: how often USTM's teacher is asked under noise.
        schedule: of the training.
    """

    side: int
    base_channels: int
    levels: int
    asked: int
    schedule: TrainingSchedule


SCRIBBLE_PRESETS: dict[Preset, ScribblePreset] = {
    "cpu": ScribblePreset(
        side=64,
        base_channels=16,
        levels=4,
        asked=2,
        schedule=TrainingSchedule(
            iterations=1200, batch_size=12, learning_rate=0.1, validate_every=100
        ),
    ),
    "full": ScribblePreset(  # 4.3.1
        side=256,
        base_channels=16,
        levels=5,
        asked=8,
        schedule=TrainingSchedule(
            iterations=30_000, batch_size=24, learning_rate=0.01, validate_every=1000
        ),
    ),
}


@dataclass(frozen=True, eq=False)
class ScribbledSlice:
    """One slice on the network's grid, `[h, w]`: float32, and uint8 class or `NOT_ANNOTATED`."""

    image: ImageArray
    scribble: NDArray[np.uint8]


def shrink(image: ImageArray, marks: NDArray[np.uint8], side: int) -> ScribbledSlice:
    """Resize a slice with its lines, or with contours, of which nothing is `NOT_ANNOTATED`."""
    picture = torch.from_numpy(np.array(image, dtype=np.float32))[None, None]
    small = _resized(picture, side)[0, 0].numpy()
    if (marks == NOT_ANNOTATED).any():
        return ScribbledSlice(small, resize_scribble(marks, (side, side)))
    rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in marks.shape)
    return ScribbledSlice(small, marks[np.ix_(rows, columns)])


def _resized(pictures: torch.Tensor, side: int) -> torch.Tensor:
    return functional.interpolate(pictures, (side, side), mode="area")


def draw_scribbles(
    slices: Sequence[ScribbledSlice], size: int
) -> Callable[[np.random.Generator], ScribbleBatch]:
    """Return what draws batches of `size` slices, turned by quarters and flipped."""

    def draw(rng: np.random.Generator) -> ScribbleBatch:
        images, drawn = [], []
        for index in rng.choice(len(slices), size, replace=len(slices) < size):
            turns, flip = int(rng.integers(4)), int(rng.choice([-1, 1]))
            images.append(np.rot90(slices[index].image, turns)[::flip])
            drawn.append(np.rot90(slices[index].scribble, turns)[::flip])
        return (
            torch.from_numpy(np.stack(images))[:, None],
            torch.from_numpy(np.stack(drawn).astype(np.int64)),
        )

    return draw


def scribble_learners(
    preset: ScribblePreset,
) -> dict[str, Callable[[int], Learner[ScribbleBatch]]]:
    """Return what makes the learner of every method for a seed.

    All begin with the same weights. "random-walker labels" is partial cross-entropy on other
    labels.
    """

    def network(seed: int) -> UNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return UNet(
                out_channels=1 + len(_CLASSES),
                base_channels=preset.base_channels,
                levels=preset.levels,
            )

    def branches(seed: int) -> DualBranch:
        return DualBranch(network(seed), seed=seed + 1)

    return {
        "partial cross-entropy": lambda seed: EntropyMinimisation(network(seed), weight=0.0),
        "DMPLS": lambda seed: MixedPseudoLabels(branches(seed)),
        _FULL: lambda seed: FullSupervision(network(seed)),
        _WALKED: lambda seed: EntropyMinimisation(network(seed), weight=0.0),
        "entropy minimisation": lambda seed: EntropyMinimisation(network(seed)),
        "gated CRF": lambda seed: GatedCrf(network(seed)),
        "Mumford-Shah": lambda seed: MumfordShah(network(seed)),
        "USTM": lambda seed: Ustm(network(seed), samples=preset.asked),
        "Scribble2Label": lambda seed: Scribble2Label(network(seed)),
        "dual branch CR": lambda seed: ConsistencyRegularisation(branches(seed)),
        "dual branch CPS": lambda seed: CrossPseudoSupervision(branches(seed)),
        "dual branch fixed a": lambda seed: MixedPseudoLabels(branches(seed), mixing=0.5),
    }


def split_patients(patients: Sequence[str]) -> dict[str, list[str]]:
    """Split by name: every fourth patient is tested, the others are learnt from."""
    ordered = sorted(patients)
    return {
        "training": [p for i, p in enumerate(ordered) if i % 4 != 3],
        "test": ordered[3::4],
    }


def acdc_scribble_study(packs: Path, kind: Preset) -> FewLabelStudy:
    """Read the pack and put the study together.

    Raises:
        DataError: the pack is not there, or holds no scribbles.
    """
    preset = SCRIBBLE_PRESETS[kind]
    split = split_patients(pack_patients(packs, _PACK))
    dense: list[ScribbledSlice] = []
    drawn: list[ScribbledSlice] = []
    for volume in read_volumes(packs, _PACK, set(split["training"])):
        if volume.scribble is None:
            raise DataError(f"{packs / 'acdc'}: {volume.name} holds no scribbles: fetch it again")
        lines = np.where(volume.scribble == _NOT_ANNOTATED_IN_PACK, NOT_ANNOTATED, volume.scribble)
        for image, label, line in zip(_scaled(volume.image), volume.label, lines, strict=True):
            if (line != NOT_ANNOTATED).any():
                dense.append(shrink(image, label, preset.side))
                drawn.append(shrink(image, line, preset.side))
    tests = [
        TestCase(v.name, v.patient, _scaled(v.image), v.label, _SPACING_ZYX_MM)
        for v in read_volumes(packs, _PACK, set(split["test"]))
    ]
    size = preset.schedule.batch_size

    def prepared(name: str, learner: Learner[ScribbleBatch]) -> tuple[Learner[Any], Draw]:
        if name == _WALKED:
            walked = [ScribbledSlice(s.image, walk(s.image, s.scribble)) for s in drawn]
            return learner, draw_scribbles(walked, size)
        return learner, draw_scribbles(dense if name == _FULL else drawn, size)

    return FewLabelStudy(
        name="acdc-scribble",
        settings={
            "revision": _REVISION,
            "split": split,
            "spacing_zyx_mm": list(_SPACING_ZYX_MM),
            "side": preset.side,
            "base_channels": preset.base_channels,
            "levels": preset.levels,
            "asked": preset.asked,
            "schedule": preset.schedule.model_dump(mode="json"),
        },
        schedule=preset.schedule,
        methods={
            name: lambda seed, name=name, make=make: prepared(name, make(seed))  # type: ignore[misc]
            for name, make in scribble_learners(preset).items()
        },
        classes=_CLASSES,
        test_cases=tests,
        predict=partial(predict_classes, side=preset.side),
        upper_bound=_FULL,
    )


def _scaled(image: ImageArray) -> ImageArray:
    """Undo the storage as bytes: grey values in [0, 1]."""
    return (image / np.float32(255.0)).astype(np.float32)


@torch.inference_mode()
def predict_classes(network: nn.Module, image: ImageArray, *, side: int) -> NDArray[np.uint8]:
    """Segment a volume slice by slice and bring probabilities back onto its own grid."""
    network.eval()
    place = next(network.parameters()).device
    picture = torch.from_numpy(np.array(image, dtype=np.float32))[:, None].to(place)
    probability = apply(network, _resized(picture, side)).softmax(dim=1)
    back = functional.interpolate(
        probability, image.shape[1:], mode="bilinear", align_corners=False
    )
    classes: NDArray[np.uint8] = back.argmax(dim=1).to(torch.uint8).cpu().numpy()
    return classes
