"""Training of the interactive network with simulated clicks (3.2.1, 3.3.2).

Every sample is drawn from `(seed, iteration, place in the batch)`, so a run that was killed and
continued from a checkpoint sees the same samples.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from algorithms.click_simulation import interior_margin_points
from algorithms.contracts.volume import ImageArray, MaskArray
from algorithms.interactive_network import (
    InteractiveNetworkSpec,
    crop_box,
    normalise,
    resize,
    seeds_in,
)
from algorithms.losses import soft_dice_loss
from algorithms.training import device, half_precision

_MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam, by torch's names
_THICK = 0.5  # of the samples in 3-D: slices thicker than their pixels
_FEWEST_SLICES = 6  # that show the target then
_CUT_SHORT = 0.4  # of the samples: the image ends inside the target
_CONTEXT = 0.8  # of the target's extent is kept around it, for turning and for wide boxes


class InteractiveSchedule(BaseModel):
    """How long and how fast: constant rate for the first half, then halved five times (3.3.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = 1e-4
    save_every: int = Field(default=200, ge=1)


@dataclass(frozen=True, eq=False)
class Target:
    """One target to learn from: the region around it, image `[y, x]` or `[z, y, x]` and mask."""

    image: ImageArray
    mask: MaskArray


@dataclass(eq=False)
class InteractiveState:
    """Everything needed to go on: weights, and Adam's moments by parameter."""

    iteration: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)


# Of the map that the 2-D networks read, chosen among 0, 0.1, 0.2, 0.3 and 0.5 (see ADR 0016).
_LENGTH_WEIGHT = 0.3

PRESETS: dict[
    tuple[Literal["cpu", "gpu"], Literal[2, 3]],
    tuple[InteractiveNetworkSpec, InteractiveSchedule],
] = {
    ("cpu", 2): (
        InteractiveNetworkSpec(
            dimensions=2,
            input_shape=(64, 64),
            base_channels=16,
            encoding_length_weight=_LENGTH_WEIGHT,
        ),
        InteractiveSchedule(iterations=3000, batch_size=16, learning_rate=1e-3),
    ),
    ("cpu", 3): (
        InteractiveNetworkSpec(dimensions=3, input_shape=(32, 64, 64), base_channels=12),
        InteractiveSchedule(iterations=5000, batch_size=2, learning_rate=1e-3),
    ),
    # The thesis's rate and batch; its 300 and 2000 epochs as iterations.
    ("gpu", 2): (
        InteractiveNetworkSpec(
            dimensions=2,
            input_shape=(64, 64),
            base_channels=16,
            encoding_length_weight=_LENGTH_WEIGHT,
        ),
        InteractiveSchedule(iterations=100_000, batch_size=4, learning_rate=1e-4),
    ),
    ("gpu", 3): (
        InteractiveNetworkSpec(dimensions=3, input_shape=(64, 96, 96), base_channels=8),
        InteractiveSchedule(iterations=100_000, batch_size=4, learning_rate=1e-4),
    ),
}


def cut_target(image: NDArray[np.floating], mask: MaskArray) -> Target:
    """Keep of an image only what training on its target can reach."""
    places = np.argwhere(mask)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    margin = np.ceil(_CONTEXT * (high - low)).astype(int) + 4
    box = tuple(
        slice(int(max(a - m, 0)), int(min(b + m, n)))
        for a, b, m, n in zip(low, high, margin, mask.shape, strict=True)
    )
    return Target(np.ascontiguousarray(image[box], dtype=np.float32), mask[box].copy())


def learning_rate(schedule: InteractiveSchedule, iteration: int) -> float:
    """Return the rate: constant for half of the way, then halved after each tenth.

    >>> s = InteractiveSchedule(iterations=100, batch_size=1, learning_rate=8.0)
    >>> [learning_rate(s, i) for i in (0, 49, 50, 60, 99)]
    [8.0, 8.0, 4.0, 2.0, 0.25]
    """
    tenths = int(10 * iteration / schedule.iterations)
    return float(schedule.learning_rate * 0.5 ** max(tenths - 4, 0))


def draw_sample(
    target: Target, spec: InteractiveNetworkSpec, rng: np.random.Generator
) -> tuple[ImageArray, ImageArray]:
    """Turn, scale and flip a target, click into it and crop it as in use.

    Returns:
        Network input float32 `[2, *input_shape]` and label float32 `[*input_shape]`.
    """
    for _ in range(3):
        image, mask = _turned(target, spec, rng)
        if mask.any():
            break
    else:
        image, mask = target.image, target.mask
    spacing = (1.0,) * mask.ndim
    if spec.dimensions == 3 and rng.random() < _THICK:
        image, mask, spacing = _thick_slices(image, mask, rng)
    if rng.random() < _CUT_SHORT:
        image, mask = _cut_short(image, mask, rng)
    points = interior_margin_points(
        mask, rng=rng, inward_mm_or_voxels=rng.uniform(1.0, 4.0), spacing_mm=spacing
    )
    box = crop_box(points, mask.shape, spec)
    grey = _changed(normalise(resize(image[box], spec.input_shape)), rng)
    label = resize(mask[box].astype(np.float32), spec.input_shape)
    clicks = spec.encode(grey, seeds_in(points, box, spec.input_shape))
    return np.stack([grey, clicks]), (label >= 0.5).astype(np.float32)


def _turned(
    target: Target, spec: InteractiveNetworkSpec, rng: np.random.Generator
) -> tuple[ImageArray, MaskArray]:
    """Sample the surroundings on a turned, scaled and flipped grid."""
    axes = spec.dimensions
    matrix = np.eye(axes)
    planes = [(0, 1)] if axes == 2 else [(0, 1), (0, 2), (1, 2)]
    for first, second in planes:  # x, y, z: the order of affine grids
        limit = 0.6 if (first, second) == (0, 1) else 0.2
        angle = rng.uniform(-limit, limit)
        turn = np.eye(axes)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    scale = np.exp(rng.uniform(-0.25, 0.25, axes))
    flip = rng.choice([-1.0, 1.0], axes)
    affine = np.concatenate([matrix @ np.diag(flip * scale), np.zeros((axes, 1))], axis=1)
    # As fine as the source, as far as the network can tell; a crop is about half of it.
    shape = [
        int(min(n, 1.5 * m)) for n, m in zip(target.image.shape, spec.input_shape, strict=True)
    ]
    both = torch.from_numpy(np.stack([target.image, target.mask.astype(np.float32)]))[None]
    grid = functional.affine_grid(
        torch.from_numpy(affine.astype(np.float32))[None], [1, 1, *shape], align_corners=False
    )
    image = functional.grid_sample(both[:, :1], grid, padding_mode="border", align_corners=False)
    mask = functional.grid_sample(both[:, 1:], grid, align_corners=False)
    return image[0, 0].numpy(), mask[0, 0].numpy() >= 0.5


def _thick_slices(
    image: ImageArray, mask: MaskArray, rng: np.random.Generator
) -> tuple[ImageArray, MaskArray, tuple[float, ...]]:
    """Average neighbouring slices into thick ones, with their spacing in pixels.

    A person clicks on the last slice that shows the target, however thick it is.
    """
    slices = int(mask.any(axis=(1, 2)).sum())
    count = int(len(image) / rng.uniform(1.0, max(slices / _FEWEST_SLICES, 1.0)))
    both = torch.from_numpy(np.stack([image, mask.astype(np.float32)]))[None]
    coarse = functional.interpolate(both, size=(count, *image.shape[1:]), mode="area")[0].numpy()
    thick = coarse[1] >= 0.5
    if not thick.any():
        return image, mask, (1.0, 1.0, 1.0)
    return coarse[0].copy(), thick, (len(image) / count, 1.0, 1.0)


def _cut_short(
    image: ImageArray, mask: MaskArray, rng: np.random.Generator
) -> tuple[ImageArray, MaskArray]:
    """Let the image end inside the target at one side or two, as first and last slices often do."""
    axis = int(rng.integers(mask.ndim))
    for _ in range(int(rng.integers(1, 3))):
        image, mask = np.flip(image, axis), np.flip(mask, axis)
        places = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        start = places[int(rng.uniform(0.0, 0.3) * len(places))]
        keep = (slice(None),) * axis + (slice(int(start), None),)
        image, mask = image[keep], mask[keep]
    if rng.random() < 0.5:
        image, mask = np.flip(image, axis), np.flip(mask, axis)
    return image.copy(), mask.copy()


def _changed(grey: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Change contrast, resolution and noise, and turn black to white in half of all samples."""
    if rng.random() < 0.5:  # small targets and thick slices arrive blurred
        coarse = [max(int(n / rng.uniform(1.0, 3.0)), 2) for n in grey.shape]
        grey = resize(resize(grey, tuple(coarse)), grey.shape)
    low, high = float(grey.min()), float(grey.max())
    span = max(high - low, 1e-6)
    curved = ((grey - low) / span) ** np.exp(rng.uniform(-0.5, 0.5)) * span
    if rng.random() < 0.5:
        curved = -curved
    noise = rng.standard_normal(grey.shape, dtype=np.float32) * rng.uniform(0.0, 0.1) * span / 4
    return normalise((curved + noise).astype(np.float32))


def train_interactive(
    network: nn.Module,
    targets: Sequence[Sequence[Target]],
    spec: InteractiveNetworkSpec,
    schedule: InteractiveSchedule,
    *,
    seed: int,
    state: InteractiveState | None = None,
    save: Callable[[InteractiveState], None] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train `network` in place with the Dice loss and Adam.

    Args:
        network: trained in place.
        targets: sets of targets; each sample first draws a set, so that all count alike.
        spec: of the network.
        schedule: how long and how fast.
        seed: samples are drawn from it.
        state: a checkpoint to continue from.
        save: called with a checkpoint every `schedule.save_every` iterations.
        progress: called with (iteration, iterations, mean loss) then.

    Raises:
        ValueError: a set without targets, or no set.
    """
    if not targets or not all(targets):
        raise ValueError("there is a set without targets to learn from")
    place = device()
    layout = torch.channels_last_3d if spec.dimensions == 3 else torch.channels_last
    network.to(place, memory_format=layout)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    state = state or InteractiveState()
    if state.iteration:
        network.load_state_dict(state.weights)
        _set_moments(network, optimiser, state)
    network.train()
    losses: list[float] = []

    def batch(iteration: int) -> tuple[Tensor, Tensor]:
        samples = []
        for place_in_batch in range(schedule.batch_size):
            rng = np.random.default_rng([seed, iteration, place_in_batch])
            chosen = targets[int(rng.integers(len(targets)))]
            samples.append(draw_sample(chosen[int(rng.integers(len(chosen)))], spec, rng))
        inputs, labels = (np.stack(part) for part in zip(*samples, strict=True))
        return torch.from_numpy(inputs), torch.from_numpy(labels)

    # The next batch is drawn while the network learns from this one.
    with ThreadPoolExecutor(max_workers=1) as ahead:
        coming = ahead.submit(batch, state.iteration)
        while state.iteration < schedule.iterations:
            inputs, labels = coming.result()
            coming = ahead.submit(batch, state.iteration + 1)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(schedule, state.iteration)
            with torch.autocast(place.type, torch.bfloat16, enabled=half_precision(place)):
                logits = network(inputs.to(place).contiguous(memory_format=layout))
            loss = soft_dice_loss(logits.float().sigmoid()[:, 0], labels.to(place))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(float(loss.detach()))
            state.iteration += 1
            if state.iteration % schedule.save_every and state.iteration < schedule.iterations:
                continue
            if save is not None:
                state.weights = {
                    k: v.detach().cpu().clone() for k, v in network.state_dict().items()
                }
                state.moments = _moments(network, optimiser)
                save(state)
            if progress is not None:
                progress(state.iteration, schedule.iterations, float(np.mean(losses)))
            losses.clear()
    network.eval()


def _moments(network: nn.Module, optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    return {
        f"{moment}/{name}": optimiser.state[parameter][moment].detach().cpu().clone()
        for name, parameter in network.named_parameters()
        for moment in _MOMENTS
    }


def _set_moments(network: nn.Module, optimiser: torch.optim.Adam, state: InteractiveState) -> None:
    for name, parameter in network.named_parameters():
        optimiser.state[parameter] = {
            "step": torch.tensor(float(state.iteration)),
            **{
                moment: state.moments[f"{moment}/{name}"].to(parameter.device)
                for moment in _MOMENTS
            },
        }
