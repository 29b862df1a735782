"""Training of the interactive network with simulated clicks (3.2.1, 3.3.2).

The loop is that of every training (`algorithms.training`), so a killed run goes on here too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from algorithms.click_simulation import interior_margin_points
from algorithms.contracts.model_package import TrainingSchedule
from algorithms.contracts.volume import ImageArray, MaskArray
from algorithms.interactive_network import (
    InteractiveNetworkSpec,
    crop_box,
    normalise,
    resize,
    seeds_in,
)
from algorithms.losses import soft_dice_loss
from algorithms.training import Learner, Step, apply

ClickBatch = tuple[Tensor, Tensor]  # inputs [B, 2, (Z,) Y, X] and labels [B, (Z,) Y, X], float32
_THICK = 0.5  # of the samples in 3-D: slices thicker than their pixels
_FEWEST_SLICES = 6  # that show the target then
_CUT_SHORT = 0.4  # of the samples: the image ends inside the target
_CONTEXT = 0.8  # of the target's extent is kept around it, for turning and for wide boxes


def click_schedule(
    iterations: int, *, batch_size: int, learning_rate: float, save_every: int = 200
) -> TrainingSchedule:
    """Return Adam at a constant rate for the first half, then halved with each tenth (3.3.2).

    >>> from algorithms.training import learning_rate
    >>> schedule = click_schedule(100, batch_size=1, learning_rate=0.8)
    >>> [learning_rate(schedule, i) for i in (0, 49, 50, 60, 99)]
    [0.8, 0.8, 0.4, 0.2, 0.025]
    """
    tenth = -(-iterations // 10)
    return TrainingSchedule(
        iterations=iterations,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimiser="adam",
        decay="step",
        decay_from=-(-iterations // 2) - tenth,
        decay_every=tenth,
        decay_factor=0.5,
        validate_every=save_every,
    )


@dataclass(frozen=True, eq=False)
class Target:
    """One target to learn from: the region around it, image `[y, x]` or `[z, y, x]` and mask."""

    image: ImageArray
    mask: MaskArray


# Of the map that the 2-D networks read, chosen among 0, 0.1, 0.2, 0.3 and 0.5 (see ADR 0016).
_LENGTH_WEIGHT = 0.3

PRESETS: dict[
    tuple[Literal["cpu", "gpu"], Literal[2, 3]],
    tuple[InteractiveNetworkSpec, TrainingSchedule],
] = {
    ("cpu", 2): (
        InteractiveNetworkSpec(
            dimensions=2,
            input_shape=(64, 64),
            base_channels=16,
            encoding_length_weight=_LENGTH_WEIGHT,
        ),
        click_schedule(3000, batch_size=16, learning_rate=1e-3),
    ),
    ("cpu", 3): (
        InteractiveNetworkSpec(dimensions=3, input_shape=(32, 64, 64), base_channels=12),
        click_schedule(5000, batch_size=2, learning_rate=1e-3),
    ),
    # The thesis's rate and batch; its 300 and 2000 epochs as iterations.
    ("gpu", 2): (
        InteractiveNetworkSpec(
            dimensions=2,
            input_shape=(64, 64),
            base_channels=16,
            encoding_length_weight=_LENGTH_WEIGHT,
        ),
        click_schedule(100_000, batch_size=4, learning_rate=1e-4),
    ),
    ("gpu", 3): (
        InteractiveNetworkSpec(dimensions=3, input_shape=(64, 96, 96), base_channels=8),
        click_schedule(100_000, batch_size=4, learning_rate=1e-4),
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


class ClickLearner(Learner[ClickBatch]):
    """Trains the network that turns clicks into a mask, by the Dice loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, batch: ClickBatch, step: Step) -> Tensor:
        """Return the Dice loss of a batch."""
        inputs, labels = batch
        return soft_dice_loss(apply(self.network, inputs).sigmoid()[:, 0], labels)


def draw_clicks(
    targets: Sequence[Sequence[Target]], spec: InteractiveNetworkSpec, size: int
) -> Callable[[np.random.Generator], ClickBatch]:
    """Return what draws batches of `size` samples.

    Args:
        targets: sets of targets; each sample first draws a set, so that all count alike.
        spec: of the network.
        size: of a batch.

    Raises:
        ValueError: a set without targets, or no set.
    """
    if not targets or not all(targets):
        raise ValueError("there is a set without targets to learn from")

    def draw(rng: np.random.Generator) -> ClickBatch:
        samples = []
        for own in rng.spawn(size):
            chosen = targets[int(own.integers(len(targets)))]
            samples.append(draw_sample(chosen[int(own.integers(len(chosen)))], spec, own))
        inputs, labels = (np.stack(part) for part in zip(*samples, strict=True))
        return torch.from_numpy(inputs), torch.from_numpy(labels)

    return draw
