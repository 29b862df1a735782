"""Predictions of images without labels have to look like those with: DAN, and SASSNet's shapes.

Both networks learn in one step: a layer between them turns the gradient round, so that the
discriminator gets better at telling and the other at not being told.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from algorithms.dual_task_consistency import PartlyLabelledBatch, consistency_weight
from algorithms.networks import DualTask
from algorithms.semi_supervised_comparators.supervised_only import labelled_loss
from algorithms.training import Learner, Step, apply


class _TurnedRound(torch.autograd.Function):
    """The identity, whose gradient is -1 times that of what follows (Ganin et al. 2016)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class Discriminator(nn.Module):
    """Tells from an image and a map of it whether a label came with the image.

    Args:
        dimensions: 2 or 3.
        maps: channels of the map.
        channels: of the first layer.
    """

    def __init__(self, dimensions: int, maps: int = 1, channels: int = 16) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        layers: list[nn.Module] = []
        before = 1 + maps
        for level in range(3):
            after = channels * 2**level
            layers += [convolution(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            before = after
        self.layers = nn.Sequential(*layers)
        self.answer = nn.Linear(before, 1)

    def forward(self, images: Tensor, maps: Tensor) -> Tensor:
        """Return logits `[B]` of "there was a label"."""
        features: Tensor = self.layers(torch.cat([images, maps], dim=1))
        logits: Tensor = self.answer(features.flatten(2).mean(dim=2))
        return logits[:, 0]


class Dan(Learner[PartlyLabelledBatch]):
    """DAN (Zhang et al. 2017): the discriminator sees the probability."""

    def __init__(
        self, network: nn.Module, discriminator: Discriminator, *, weight: float = 0.1
    ) -> None:
        super().__init__()
        self.network = network
        self.discriminator = discriminator
        self._weight = weight

    def loss(self, batch: PartlyLabelledBatch, step: Step) -> Tensor:
        """Return LDice + the discriminator's loss, turned round for the network."""
        images, labels, _ = batch
        logits = apply(self.network, images)
        ramp = self._weight * consistency_weight(step.number, step.total)
        told = _told(self.discriminator, images, logits.sigmoid(), len(labels), ramp)
        return labelled_loss(logits, labels) + told


class Sassnet(Learner[PartlyLabelledBatch]):
    """SASSNet (Li et al. 2020): the discriminator sees the level set, and so the shape."""

    def __init__(
        self,
        network: DualTask,
        discriminator: Discriminator,
        *,
        weight: float = 0.1,
        level_set_weight: float = 0.3,
    ) -> None:
        super().__init__()
        self.network = network
        self._both = network.both
        self.discriminator = discriminator
        self._weight = weight
        self._level_set_weight = level_set_weight

    def loss(self, batch: PartlyLabelledBatch, step: Step) -> Tensor:
        """Return LDice + w LLSF + the discriminator's loss, turned round for the network."""
        images, labels, level_sets = batch
        logits, level_set = apply(self._both, images)
        ramp = self._weight * consistency_weight(step.number, step.total)
        told = _told(self.discriminator, images, level_set, len(labels), ramp)
        distance: Tensor = (level_set[: len(labels)] - level_sets).square().mean()
        return labelled_loss(logits, labels) + self._level_set_weight * distance + told


def _told(
    discriminator: Discriminator, images: Tensor, maps: Tensor, labelled: int, weight: float
) -> Tensor:
    """Return the discriminator's loss; the maps' gradient is turned round and weighed."""
    seen = maps.detach() + weight * (_TurnedRound.apply(maps) - maps.detach())  # type: ignore[no-untyped-call]
    answers = discriminator(images, seen)
    truth = (torch.arange(len(images), device=images.device) < labelled).to(answers.dtype)
    return functional.binary_cross_entropy_with_logits(answers, truth)
