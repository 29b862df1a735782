"""Stages 1 and 3: fine-tuning on annotated slices, alone and together with others (6-7).

A plan says what doctors draw and what is done with slices that nobody annotated:

- contours: Dice and cross-entropy, (6-7); slices with pseudo labels (stage 2) count alike;
- scribbles: mixed pseudo labels, (4-4), which label the other slices of stage 3 as well;
- contours and dual-task consistency: (5-7), the other slices being the unlabelled half of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from algorithms.augmentation import augment
from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.model_package import Supervision, TrainingSchedule
from algorithms.contracts.volume import ImageArray
from algorithms.dual_task_consistency import consistency_weight, dual_task_loss
from algorithms.inference import torch_predictor
from algorithms.losses import dice_cross_entropy_loss
from algorithms.networks import DualBranch, DualTask, UNet2d
from algorithms.scribble_supervision import MixedPseudoLabels, ScribbleBatch
from algorithms.signed_distance import level_set
from algorithms.training import (
    Draw,
    Learner,
    Progress,
    Save,
    Step,
    TrainingState,
    Validate,
    apply,
    train,
)


@dataclass(frozen=True, eq=False)
class LabelledSlice:
    """One slice to learn from.

    Attributes:
        image: float32 `[h, w]`, preprocessed.
        label: uint8 `[h, w]`, 0 or 1.
        weight: float32 `[h, w]`, loss weight per pixel, 0 where nobody said anything; None means 1.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    weight: NDArray[np.float32] | None = None

    @cached_property
    def has_target(self) -> bool:
        """Tell whether the label marks anything."""
        return bool(self.label.any())

    @cached_property
    def level_set(self) -> ImageArray:
        """The normalised level set of the label, computed once: float32 `[h, w]`."""
        return level_set(self.label > 0)


def scribbled_slice(image: ImageArray, scribble: NDArray[np.uint8]) -> LabelledSlice:
    """Return a slice on which only what was drawn counts.

    Args:
        image: float32 `[h, w]`, preprocessed.
        scribble: uint8 `[h, w]`, 0, 1 or `NOT_ANNOTATED`.
    """
    drawn = scribble != NOT_ANNOTATED
    return LabelledSlice(image, (drawn & (scribble > 0)).astype(np.uint8), drawn.astype(np.float32))


def bare_slice(image: ImageArray) -> LabelledSlice:
    """Return a slice that nobody annotated."""
    return scribbled_slice(image, np.full(image.shape, NOT_ANNOTATED, dtype=np.uint8))


def draw_batch(
    slices: Sequence[LabelledSlice],
    *,
    size: int,
    patch_yx: tuple[int, int],
    rng: np.random.Generator,
    target_share: float = 0.0,
    augmentation: float = 1.0,
    level_sets: bool = False,
) -> tuple[Tensor, ...]:
    """Draw slices, cut random patches and augment them.

    Each of the two parts of a batch is drawn without replacement as far as its slices last. Most
    slices of a patient show no target: drawn evenly, a batch would teach little about it.

    Args:
        slices: what to draw from.
        size: of the batch, B.
        patch_yx: size of the patches.
        rng: what is drawn with.
        target_share: so much of the batch comes from slices with target, the rest from all, those
            with target among them; 0 where no slice has one.
        augmentation: strength of the random changes.
        level_sets: cut and turn those too. They are normalised, so scaling leaves them alone.

    Returns:
        Images `[B, 1, Y, X]`, labels `[B, Y, X]` (int64), loss weights `[B, Y, X]`, and the level
        sets likewise where they are asked for.
    """
    with_target = [item for item in slices if item.has_target]
    certain = round(size * target_share) if with_target else 0
    drawn = [*_draw(with_target, certain, rng), *_draw(slices, size - certain, rng)]
    patches = [_patch(item, patch_yx, rng, level_sets=level_sets) for item in drawn]
    images, labels, weights, *maps = (
        torch.from_numpy(np.stack(part)) for part in zip(*patches, strict=True)
    )
    return augment(images[:, None], labels, weights, rng, *maps, strength=augmentation)


def _draw(
    slices: Sequence[LabelledSlice], count: int, rng: np.random.Generator
) -> list[LabelledSlice]:
    order: list[int] = []
    while len(order) < count:
        order.extend(rng.permutation(len(slices)))
    return [slices[index] for index in order[:count]]


def _patch(
    item: LabelledSlice,
    patch_yx: tuple[int, int],
    rng: np.random.Generator,
    *,
    level_sets: bool,
) -> list[NDArray[Any]]:
    """Cut a patch at a random place; a smaller slice is mirrored outwards, without loss there.

    Mirroring keeps the grey values of a patch like those of a slice. A constant border would give
    small images other statistics in training than in use.
    """
    weight = np.ones(item.image.shape, dtype=np.float32) if item.weight is None else item.weight
    window, padding = [], []
    for length, side in zip(item.image.shape, patch_yx, strict=True):
        start = int(rng.integers(0, abs(length - side) + 1))
        window.append(slice(start, start + side) if length > side else slice(None))
        missing = max(side - length, 0)
        before = start if missing else 0
        padding.append((before, missing - before))
    cut = tuple(window)
    maps: list[NDArray[Any]] = [item.label, weight]
    if level_sets:
        maps.append(item.level_set)
    image = np.pad(item.image[cut], padding, mode="symmetric")
    return [image, *(np.pad(part[cut], padding) for part in maps)]


class ContourLearner(Learner[tuple[Tensor, Tensor, Tensor]]):
    """Learns from contours, by Dice and cross-entropy: (6-1), (6-7)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, batch: tuple[Tensor, Tensor, Tensor], step: Step) -> Tensor:
        """Return the loss of images `[B, 1, Y, X]`, labels `[B, Y, X]` and weights per pixel."""
        images, labels, weights = batch
        return dice_cross_entropy_loss(apply(self.network, images), labels, weights)


class PartlyContouredLearner(Learner[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Learns from contours and from slices without, by dual-task consistency: (5-7)."""

    def __init__(self, network: DualTask) -> None:
        super().__init__()
        self.network = network
        self._both = network.both

    def loss(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], step: Step) -> Tensor:
        """Return the loss of images; the first have labels, weights and level sets."""
        images, labels, weights, level_sets = batch
        logits, distance = apply(self._both, images)
        return dual_task_loss(
            logits,
            distance,
            labels[:, None],
            level_sets[:, None],
            weight=consistency_weight(step.number, step.total),
            label_weight=weights[:, None],
        )


def finetune(
    network: UNet2d,
    slices: Sequence[LabelledSlice],
    schedule: TrainingSchedule,
    *,
    patch_yx: tuple[int, int],
    seed: int,
    supervision: Supervision = "dense",
    dual_task: Sequence[LabelledSlice] = (),
    validate: Validate | None = None,
    state: TrainingState | None = None,
    save: Save | None = None,
    progress: Progress | None = None,
    start_is_candidate: bool = False,
) -> TrainingState:
    """Train `network` in place on annotated slices; see `training.train`.

    Args:
        network: trained in place.
        slices: what to learn from.
        schedule: how long and how fast.
        patch_yx: size of the training patches.
        seed: batches are drawn from it and the iteration.
        supervision: "dense", or "scribble": pixels without weight are labelled by (4-2).
        dual_task: slices without annotation to learn from by dual-task consistency; half of every
            batch. Only with contours.
        validate: score of `network`; see `training.train`, as all that follows.
        state: a checkpoint.
        save: takes a checkpoint.
        progress: is told.
        start_is_candidate: the starting weights may be kept.

    Raises:
        ValueError: when there is nothing to learn from, or dual-task consistency is asked for
            without contours.
    """
    if not slices:
        raise ValueError("there are no slices to learn from")
    if dual_task and supervision == "scribble":
        raise ValueError("a scribble has no level set: dual-task consistency needs contours")
    if dual_task and schedule.batch_size < 2:
        raise ValueError("dual-task consistency needs batches of at least 2")
    unlabelled = schedule.batch_size // 2 if dual_task else 0

    def contours(rng: np.random.Generator) -> tuple[Tensor, ...]:
        return draw_batch(
            slices,
            size=schedule.batch_size - unlabelled,
            patch_yx=patch_yx,
            rng=rng,
            target_share=schedule.target_share,
            augmentation=schedule.augmentation,
            level_sets=unlabelled > 0,
        )

    def scribbles(rng: np.random.Generator) -> ScribbleBatch:
        images, labels, weights = contours(rng)
        return images, labels.masked_fill(weights == 0, NOT_ANNOTATED)

    def partly(rng: np.random.Generator) -> tuple[Tensor, ...]:
        images, *known = contours(rng)
        others, *_ = draw_batch(
            dual_task,
            size=unlabelled,
            patch_yx=patch_yx,
            rng=rng,
            augmentation=schedule.augmentation,
        )
        return torch.cat([images, others]), *known

    if supervision == "scribble":
        # A stage begins with a network that knows the target; so does its second branch.
        method: tuple[Learner[Any], Draw] = (
            MixedPseudoLabels(DualBranch(network, seed=None)),
            scribbles,
        )
    elif dual_task:
        method = (PartlyContouredLearner(DualTask(network, seed=seed)), partly)
    else:
        method = (ContourLearner(network), contours)
    return train(
        *method,
        schedule,
        seed=seed,
        validate=None if validate is None else lambda _: validate(network),
        state=state,
        save=save,
        progress=progress,
        start_is_candidate=start_is_candidate,
    )


@dataclass(frozen=True, eq=False)
class ValidationCase:
    """A patient held out to choose the best weights.

    Attributes:
        slices: preprocessed, float32 `[z, h, w]`.
        label: uint8 `[z, h, w]`.
        known: bool `[z, h, w]`: pixels whose label a doctor has given, whole slices where they were
            contoured; only these are scored.
    """

    slices: ImageArray
    label: NDArray[np.uint8]
    known: NDArray[np.bool_]


def mean_dice(
    cases: Sequence[ValidationCase], *, patch_yx: tuple[int, int] = (1, 1)
) -> Validate | None:
    """Return the score that `training.train` maximises: mean Dice over patients, or None."""
    if not cases:
        return None

    def score(model: nn.Module) -> float:
        if not isinstance(model, UNet2d):
            raise TypeError(f"a 2-D U-Net is scored here, not {type(model).__name__}")
        predictor = torch_predictor(model, patch_yx=patch_yx)
        dice = []
        for case in cases:
            seen = case.known.any(axis=(1, 2))
            known = case.known[seen]
            predicted = (predictor(case.slices[seen]) > 0.5) & known
            reference = (case.label[seen] > 0) & known
            size = int(predicted.sum() + reference.sum())
            dice.append(2.0 * float((predicted & reference).sum()) / size if size else 1.0)
        return float(np.mean(dice))

    return score
