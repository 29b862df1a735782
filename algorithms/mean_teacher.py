"""A teacher: its weights are the running average of a student's (Tarvainen and Valpola 2017)."""

import copy
import math

import torch
from torch import Tensor, nn

from algorithms.training import Step, apply

_TWO_CLASSES = math.log(2)  # the entropy of a coin


def sure(doubt: Tensor, ramp: float) -> Tensor:
    """Say where a teacher is believed: where its entropy is below (3/4 + ramp/4) log 2 (Yu 2019).

    As published, log 2 is taken for several classes too.

    Args:
        doubt: entropy, any shape.
        ramp: of the consistency, 0 to 1.
    """
    return doubt < (0.75 + 0.25 * ramp) * _TWO_CLASSES


class Teacher(nn.Module):
    """Predicts with averaged weights; it has no gradient.

    Args:
        student: its weights are where the teacher begins.
        decay: share of the old weights that stays with each step, less in the first steps.
    """

    def __init__(self, student: nn.Module, *, decay: float = 0.99) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(requires_grad=False)
        self._decay = decay

    @torch.no_grad()
    def follow(self, student: nn.Module, step: Step) -> None:
        """Move towards the student after a step of its training."""
        kept = min(1.0 - 1.0 / (step.number + 1), self._decay)
        ours, theirs = self.network.state_dict(), student.state_dict()
        for name, tensor in ours.items():
            if tensor.is_floating_point():
                tensor.lerp_(theirs[name], 1.0 - kept)
            else:
                tensor.copy_(theirs[name])

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return class probabilities `[B, classes, (Z,) Y, X]`, or those of one foreground."""
        logits = apply(self.network, images)
        probabilities: Tensor = logits.softmax(dim=1) if logits.shape[1] > 1 else logits.sigmoid()
        return probabilities

    @torch.no_grad()
    def ask(self, images: Tensor, *, samples: int, noise: float) -> tuple[Tensor, Tensor]:
        """Return the mean of several predictions under noise, and its entropy `[B, (Z,) Y, X]`."""
        mean = torch.stack(
            [self.predict(images + noise * torch.randn_like(images)) for _ in range(samples)]
        ).mean(dim=0)
        return mean, _entropy(mean)


def _entropy(probabilities: Tensor) -> Tensor:
    p = probabilities
    if p.shape[1] == 1:
        p = torch.cat([p, 1.0 - p], dim=1)
    return -(p * p.clamp_min(1e-6).log()).sum(dim=1)
