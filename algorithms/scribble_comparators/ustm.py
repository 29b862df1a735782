"""USTM (Liu et al. 2022): a teacher's predictions, where it is sure and the picture may turn."""

import torch
from torch import Tensor, nn

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.dual_task_consistency import consistency_weight
from algorithms.mean_teacher import Teacher, sure
from algorithms.scribble_supervision import ScribbleBatch, partial_cross_entropy
from algorithms.training import Learner, Step, apply


class Ustm(Learner[ScribbleBatch]):
    """Uncertainty-aware self-ensembling and transformation-consistent mean teacher.

    The student sees the picture turned by quarters, the teacher as it is; its prediction turned
    likewise has to be the student's. Pixels count where the teacher, asked several times under
    noise, is sure.

    Args:
        network: the student, which is used afterwards.
        weight: of the consistency at the end of training.
        decay: of the teacher's average of weights.
        samples: of the teacher under noise.
        noise: deviation of the noise, in that of the image.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        weight: float = 1.0,
        decay: float = 0.99,
        samples: int = 4,
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        self.network = network
        self.teacher = Teacher(network, decay=decay)
        self._weight = weight
        self._samples = samples
        self._noise = noise

    def loss(self, batch: ScribbleBatch, step: Step) -> Tensor:
        """Return pCE + the teacher's consistency, under a quarter turn drawn anew."""
        images, scribbles = batch
        turns = int(step.rng.integers(4))
        turned = torch.rot90(images, turns, (2, 3))
        logits = apply(self.network, turned)
        drawn = partial_cross_entropy(
            logits, torch.rot90(scribbles, turns, (1, 2)), ignore_index=NOT_ANNOTATED
        )
        expected, doubt = self.teacher.ask(images, samples=self._samples, noise=self._noise)
        expected, doubt = torch.rot90(expected, turns, (2, 3)), torch.rot90(doubt, turns, (1, 2))
        ramp = consistency_weight(step.number, step.total)
        believed = sure(doubt, ramp)
        apart = (logits.softmax(dim=1) - expected).square().mean(dim=1)
        consistency: Tensor = (apart * believed).sum() / believed.sum().clamp_min(1)
        return drawn + self._weight * ramp * consistency

    def after_step(self, step: Step) -> None:
        """Let the teacher follow."""
        self.teacher.follow(self.network, step)
