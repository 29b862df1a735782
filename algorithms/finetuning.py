"""Stages 1 and 3: fine-tuning on annotated slices, alone and together with pseudo labels (6-7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from algorithms.augmentation import augment
from algorithms.contracts.model_package import TrainingSchedule
from algorithms.contracts.volume import ImageArray
from algorithms.inference import torch_predictor
from algorithms.losses import dice_cross_entropy_loss
from algorithms.networks import UNet2d
from algorithms.training import (
    Learner,
    Progress,
    Save,
    Step,
    TrainingState,
    Validate,
    Weights,
    apply,
    train,
)


@dataclass(frozen=True, eq=False)
class LabelledSlice:
    """One slice to learn from.

    Attributes:
        image: float32 `[h, w]`, preprocessed.
        label: uint8 `[h, w]`, 0 or 1.
        weight: float32 `[h, w]`, loss weight per pixel; None means 1.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    weight: NDArray[np.float32] | None = None

    @cached_property
    def has_target(self) -> bool:
        """Tell whether the label marks anything."""
        return bool(self.label.any())


def draw_batch(
    slices: Sequence[LabelledSlice],
    *,
    size: int,
    patch_yx: tuple[int, int],
    rng: np.random.Generator,
    target_share: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
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

    Returns:
        Images `[B, 1, Y, X]`, labels `[B, Y, X]` (int64) and loss weights `[B, Y, X]`.
    """
    with_target = [item for item in slices if item.has_target]
    certain = round(size * target_share) if with_target else 0
    drawn = [*_draw(with_target, certain, rng), *_draw(slices, size - certain, rng)]
    patches = [_patch(item, patch_yx, rng) for item in drawn]
    images, labels, weights = (
        torch.from_numpy(np.stack(part)) for part in zip(*patches, strict=True)
    )
    return augment(images[:, None], labels, weights, rng)


def _draw(
    slices: Sequence[LabelledSlice], count: int, rng: np.random.Generator
) -> list[LabelledSlice]:
    order: list[int] = []
    while len(order) < count:
        order.extend(rng.permutation(len(slices)))
    return [slices[index] for index in order[:count]]


def _patch(
    item: LabelledSlice, patch_yx: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
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
    return (
        np.pad(item.image[cut], padding, mode="symmetric"),
        np.pad(item.label[cut], padding),
        np.pad(weight[cut], padding),
    )


class Supervised(Learner[tuple[Tensor, Tensor, Tensor]]):
    """Learns from contours, by Dice and cross-entropy: (6-1), (6-7)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, batch: tuple[Tensor, Tensor, Tensor], step: Step) -> Tensor:
        """Return the loss of images `[B, 1, Y, X]`, labels `[B, Y, X]` and weights per pixel."""
        images, labels, weights = batch
        return dice_cross_entropy_loss(apply(self.network, images), labels, weights)


def finetune(
    network: nn.Module,
    slices: Sequence[LabelledSlice],
    schedule: TrainingSchedule,
    *,
    patch_yx: tuple[int, int],
    seed: int,
    validate: Validate | None = None,
    state: TrainingState | None = None,
    save: Save | None = None,
    progress: Progress | None = None,
    start_is_candidate: bool = False,
) -> TrainingState:
    """Train `network` in place on labelled slices; see `training.train`.

    Args:
        network: trained in place.
        slices: what to learn from.
        schedule: how long and how fast.
        patch_yx: size of the training patches.
        seed: batches are drawn from it and the iteration.
        validate: see `training.train`, as all that follows.
        state: a checkpoint.
        save: takes a checkpoint.
        progress: is told.
        start_is_candidate: the starting weights may be kept.

    Raises:
        ValueError: when there is nothing to learn from.
    """
    if not slices:
        raise ValueError("there are no slices to learn from")

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        return draw_batch(
            slices,
            size=schedule.batch_size,
            patch_yx=patch_yx,
            rng=rng,
            target_share=schedule.target_share,
        )

    return train(
        Supervised(network),
        draw,
        schedule,
        seed=seed,
        validate=validate,
        state=state,
        save=save,
        progress=progress,
        start_is_candidate=start_is_candidate,
    )


def interpolate_weights(source: Weights, adapted: Weights, share: float) -> Weights:
    """Return (1 - share) * source + share * adapted, tensor by tensor.

    Fine-tuning on a handful of patients forgets what other patients look like. Weights between
    those before and after keep most of both (Wortsman et al., Robust fine-tuning of zero-shot
    models, CVPR 2022). Counters, which are whole numbers, are those of `adapted`.

    Args:
        source: weights before fine-tuning.
        adapted: weights after it, of the same network.
        share: 0 is the source model, 1 the adapted one.

    Raises:
        ValueError: when the two are not of one network.
    """
    if source.keys() != adapted.keys():
        raise ValueError("weights of two different networks cannot be interpolated")
    return {
        name: torch.lerp(source[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in adapted.items()
    }


SHARES = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True, eq=False)
class ValidationCase:
    """A patient held out to choose the best weights.

    Attributes:
        slices: preprocessed, float32 `[z, h, w]`.
        label: uint8 `[z, h, w]`.
        known: bool `[z]`: slices whose label a doctor has given; only these are scored.
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
            predicted = predictor(case.slices[case.known]) > 0.5
            reference = case.label[case.known] > 0
            size = int(predicted.sum() + reference.sum())
            dice.append(2.0 * float((predicted & reference).sum()) / size if size else 1.0)
        return float(np.mean(dice))

    return score


def choose_share(
    network: UNet2d,
    source: Weights,
    folds: Sequence[tuple[Weights, Sequence[ValidationCase]]],
    *,
    patch_yx: tuple[int, int] = (1, 1),
) -> float:
    """Choose how far to go from the source model, by patients the fine-tuning has not seen.

    With few patients fine-tuning can learn what is true of them alone. Each fold holds weights
    fine-tuned without some annotated patients, and these patients. The share whose interpolated
    weights find them best, in mean Dice over all of them, is taken; of equals the smallest.

    Args:
        network: of the right kind; its weights are overwritten.
        source: weights before fine-tuning.
        folds: (weights after fine-tuning on the other patients, the held-out patients).
        patch_yx: size of the training patches.

    Returns:
        One of `SHARES`; 1 when there is nobody to measure it on.
    """
    measurable = [(weights, cases) for weights, cases in folds if cases]
    if not measurable:
        return 1.0
    scores = []
    for share in SHARES:
        total, patients = 0.0, 0
        for weights, cases in measurable:
            network.load_state_dict(interpolate_weights(source, weights, share))
            validate = mean_dice(cases, patch_yx=patch_yx)
            total += validate(network) * len(cases) if validate is not None else 0.0
            patients += len(cases)
        scores.append(total / patients)
    return SHARES[int(np.argmax(scores))]
