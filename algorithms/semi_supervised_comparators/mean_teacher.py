"""Mean teacher (Tarvainen and Valpola 2017); UA-MT (Yu et al. 2019) asks where it is sure."""

import torch
from torch import Tensor, nn

from algorithms.dual_task_consistency import PartlyLabelledBatch, consistency_weight
from algorithms.mean_teacher import Teacher, sure
from algorithms.semi_supervised_comparators.supervised_only import labelled_loss
from algorithms.training import Learner, Step, apply


class MeanTeacher(Learner[PartlyLabelledBatch]):
    """The student's prediction has to be that of the teacher, who sees other noise.

    Args:
        network: the student, which is used afterwards.
        weight: of the consistency at the end of training.
        decay: of the teacher's average of weights.
        noise: deviation of the noise, in that of the image.
        samples: 0 believes the teacher everywhere; else it is asked so often, and believed where
            the entropy of its mean is low (UA-MT; 8 as published).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        weight: float = 0.1,
        decay: float = 0.99,
        noise: float = 0.1,
        samples: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.teacher = Teacher(network, decay=decay)
        self._weight = weight
        self._noise = noise
        self._samples = samples

    def loss(self, batch: PartlyLabelledBatch, step: Step) -> Tensor:
        """Return LDice + weight * ramp * consistency."""
        images, labels, _ = batch
        logits = apply(self.network, images)
        ramp = consistency_weight(step.number, step.total)
        consistency: Tensor
        noisy = images + self._noise * torch.randn_like(images)
        apart = (logits.sigmoid() - self.teacher.predict(noisy)).square()
        if self._samples:
            _, doubt = self.teacher.ask(images, samples=self._samples, noise=self._noise)
            believed = sure(doubt, ramp)[:, None]
            consistency = (apart * believed).sum() / believed.sum().clamp_min(1)
        else:
            consistency = apart.mean()
        return labelled_loss(logits, labels) + self._weight * ramp * consistency

    def after_step(self, step: Step) -> None:
        """Let the teacher follow."""
        self.teacher.follow(self.network, step)
