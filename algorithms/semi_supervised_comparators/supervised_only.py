"""The labelled images alone: what every other method has to beat."""

from torch import Tensor, nn

from algorithms.dual_task_consistency import PartlyLabelledBatch
from algorithms.losses import soft_dice_loss
from algorithms.training import Learner, Step, apply


def labelled_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the Dice loss (5-5) of the first images of a batch, those that are labelled."""
    return soft_dice_loss(logits[: len(labels)].sigmoid(), labels.to(logits.dtype))


class SupervisedOnly(Learner[PartlyLabelledBatch]):
    """Learns from the labelled images of each batch and does not look at the others."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, batch: PartlyLabelledBatch, step: Step) -> Tensor:
        """Return the Dice loss of the labelled images."""
        images, labels, _ = batch
        return labelled_loss(apply(self.network, images[: len(labels)]), labels)
