"""One resumable training loop for every stage.

Batches are drawn from `(seed, iteration)` and not from a running generator, so a run that was
killed and continued from a checkpoint sees the same batches and ends in the same weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from algorithms.augmentation import augment
from algorithms.contracts.model_package import TrainingSchedule
from algorithms.losses import dice_cross_entropy_loss

Weights = dict[str, Tensor]


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


@dataclass(eq=False)
class TrainingState:
    """Everything needed to go on: saved as a checkpoint, returned at the end."""

    iteration: int = 0
    weights: Weights = field(default_factory=dict)
    momentum: Weights = field(default_factory=dict)
    best_weights: Weights = field(default_factory=dict)
    best_score: float = -1.0


Validate = Callable[[nn.Module], float]
Save = Callable[[TrainingState], None]
Progress = Callable[[int, int, float], None]


def device() -> torch.device:
    """Return the accelerator when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learning_rate(schedule: TrainingSchedule, iteration: int) -> float:
    """Return the polynomially decayed rate: lr * (1 - iteration / iterations) ** power.

    >>> learning_rate(TrainingSchedule(iterations=10, learning_rate=0.1, poly_power=1.0), 5)
    0.05
    """
    return float(
        schedule.learning_rate * (1.0 - iteration / schedule.iterations) ** schedule.poly_power
    )


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


def train(
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
    """Train `network` in place by SGD with Dice and cross-entropy (6-1), (6-7).

    Args:
        network: trained in place.
        slices: what to learn from.
        schedule: how long and how fast.
        patch_yx: size of the training patches.
        seed: batches are drawn from it and the iteration.
        validate: score to maximise, measured every `schedule.validate_every` iterations; the
            network ends with the best weights. Without it, it ends with the last.
        state: a checkpoint to continue from.
        save: called with a checkpoint at every validation.
        progress: called with (iteration, iterations, mean loss).
        start_is_candidate: the starting weights may be the best ones too, so that fine-tuning
            never ends worse on the validation patients than it began.

    Raises:
        ValueError: when there is nothing to learn from.
    """
    if not slices:
        raise ValueError("there are no slices to learn from")
    place = device()
    network.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=schedule.learning_rate,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
    )
    state = state or TrainingState()
    if state.iteration:
        network.load_state_dict(state.weights)
        _set_momentum(network, optimiser, state.momentum)
    elif validate is not None and start_is_candidate:
        state.best_score, state.best_weights = validate(network), _copy(network.state_dict())
    losses: list[float] = []
    while state.iteration < schedule.iterations:
        rng = np.random.default_rng([seed, state.iteration])
        batch = draw_batch(
            slices,
            size=schedule.batch_size,
            patch_yx=patch_yx,
            rng=rng,
            target_share=schedule.target_share,
        )
        losses.append(_step(network, optimiser, batch, learning_rate(schedule, state.iteration)))
        state.iteration += 1
        if state.iteration % schedule.validate_every and state.iteration < schedule.iterations:
            continue
        if validate is not None:
            score = validate(network)
            if score > state.best_score:
                state.best_score, state.best_weights = score, _copy(network.state_dict())
        if save is not None:
            state.weights, state.momentum = (
                _copy(network.state_dict()),
                _momentum(network, optimiser),
            )
            save(state)
        if progress is not None:
            progress(state.iteration, schedule.iterations, float(np.mean(losses)))
        losses.clear()
    if state.best_weights:
        network.load_state_dict(state.best_weights)
    network.eval()
    return state


def _step(
    network: nn.Module,
    optimiser: torch.optim.SGD,
    batch: tuple[Tensor, Tensor, Tensor],
    rate: float,
) -> float:
    place = next(network.parameters()).device
    images, labels, weights = (part.to(place) for part in batch)
    network.train()
    for group in optimiser.param_groups:
        group["lr"] = rate
    with torch.autocast(place.type, dtype=torch.bfloat16, enabled=half_precision(place)):
        logits = network(images.contiguous(memory_format=torch.channels_last))
    loss = dice_cross_entropy_loss(logits.float(), labels, weights)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()
    return float(loss.detach())


def half_precision(place: torch.device) -> bool:
    """bfloat16 where the hardware computes with it; elsewhere it would only be slower."""
    if place.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def _copy(weights: Weights) -> Weights:
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


def _momentum(network: nn.Module, optimiser: torch.optim.SGD) -> Weights:
    return {
        name: optimiser.state[parameter]["momentum_buffer"].detach().cpu().clone()
        for name, parameter in network.named_parameters()
        if "momentum_buffer" in optimiser.state.get(parameter, {})
    }


def _set_momentum(network: nn.Module, optimiser: torch.optim.SGD, momentum: Weights) -> None:
    for name, parameter in network.named_parameters():
        if name in momentum:
            optimiser.state[parameter]["momentum_buffer"] = momentum[name].to(parameter.device)
