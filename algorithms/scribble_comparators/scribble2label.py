"""Scribble2Label (Lee and Jeong 2020): labels from an average of predictions, where it is sure.

As published, predictions of every image are averaged over epochs. Here a teacher, whose weights are
averaged, predicts: the same filter in the space of weights, which needs no memory of every image
and works under augmentation.
"""

from torch import Tensor, nn
from torch.nn import functional

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.mean_teacher import Teacher
from algorithms.scribble_supervision import ScribbleBatch, partial_cross_entropy
from algorithms.training import Learner, Step, apply


class Scribble2Label(Learner[ScribbleBatch]):
    """Partial cross-entropy, and cross-entropy with the teacher's labels where it is sure.

    Args:
        network: the student, which is used afterwards.
        weight: of the pseudo labels.
        sure: their probability is above.
        warm_up: share of the training before they are used.
        decay: of the teacher's average of weights.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        weight: float = 0.5,
        sure: float = 0.8,
        warm_up: float = 0.2,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        self.network = network
        self.teacher = Teacher(network, decay=decay)
        self._weight = weight
        self._sure = sure
        self._warm_up = warm_up

    def loss(self, batch: ScribbleBatch, step: Step) -> Tensor:
        """Return pCE + weight * the cross-entropy with pseudo labels."""
        images, scribbles = batch
        logits = apply(self.network, images)
        drawn = partial_cross_entropy(logits, scribbles, ignore_index=NOT_ANNOTATED)
        if step.number < self._warm_up * step.total:
            return drawn
        probability, labels = self.teacher.predict(images).max(dim=1)
        used = (probability > self._sure) & (scribbles == NOT_ANNOTATED)
        each = functional.cross_entropy(logits, labels, reduction="none")
        return drawn + self._weight * (each * used).sum() / used.sum().clamp_min(1)

    def after_step(self, step: Step) -> None:
        """Let the teacher follow."""
        self.teacher.follow(self.network, step)
