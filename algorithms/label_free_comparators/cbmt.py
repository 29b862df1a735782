"""CBMT (Tang et al., MICCAI 2023): a mean teacher whose two classes weigh alike."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from algorithms.mean_teacher import Teacher
from algorithms.training import Learner, Step, apply


class ClassBalancedMeanTeacher(Learner[Tensor]):
    """The student sees changed grey values and has to say what the teacher says of the images.

    Args:
        network: the student, which is used afterwards; logits per class, background included.
        decay: of the teacher's average of weights.
        noise: deviation of what the student's images are changed by, in that of the image.
    """

    def __init__(self, network: nn.Module, *, decay: float = 0.98, noise: float = 0.2) -> None:
        super().__init__()
        self.network = network
        self.teacher = Teacher(network, decay=decay)
        self._noise = noise

    def loss(self, batch: Tensor, step: Step) -> Tensor:
        """Return the balanced cross-entropy of images `[B, 1, Y, X]` against the teacher's labels.

        Every class weighs by the inverse of its share of the batch.
        """
        with torch.no_grad():
            self.teacher.eval()
            label = self.teacher.predict(batch).argmax(dim=1)
        gain = 1.0 + self._noise * torch.randn(len(batch), 1, 1, 1, device=batch.device)
        changed = batch * gain + self._noise * torch.randn_like(batch)
        logits = apply(self.network, changed)
        counts = torch.bincount(label.flatten(), minlength=logits.shape[1]).float()
        weight = torch.where(counts > 0, counts.sum() / counts.clamp_min(1.0), 0.0)
        return functional.cross_entropy(logits, label, weight=weight)

    def after_step(self, step: Step) -> None:
        """Let the teacher follow."""
        self.teacher.follow(self.network, step)
