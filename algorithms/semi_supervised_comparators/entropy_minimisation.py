"""Entropy minimisation (Grandvalet and Bengio 2004): be sure on every image."""

from torch import Tensor, nn
from torch.nn import functional

from algorithms.dual_task_consistency import PartlyLabelledBatch, consistency_weight
from algorithms.semi_supervised_comparators.supervised_only import labelled_loss
from algorithms.training import Learner, Step, apply


class EntropyMinimisation(Learner[PartlyLabelledBatch]):
    """Adds the entropy of all predictions to the Dice loss of the labelled ones."""

    def __init__(self, network: nn.Module, *, weight: float = 0.1) -> None:
        super().__init__()
        self.network = network
        self._weight = weight

    def loss(self, batch: PartlyLabelledBatch, step: Step) -> Tensor:
        """Return LDice + weight * ramp * entropy."""
        images, labels, _ = batch
        logits = apply(self.network, images)
        # The cross-entropy of a probability with itself is its entropy.
        entropy = functional.binary_cross_entropy_with_logits(logits, logits.sigmoid())
        ramp = consistency_weight(step.number, step.total)
        return labelled_loss(logits, labels) + self._weight * ramp * entropy
