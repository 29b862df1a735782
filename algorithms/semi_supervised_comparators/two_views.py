"""Two predictions of one image that have to agree: CCT and CPS."""

from torch import Tensor, nn

from algorithms.dual_task_consistency import PartlyLabelledBatch, consistency_weight
from algorithms.losses import soft_dice_loss
from algorithms.networks import DualBranch
from algorithms.semi_supervised_comparators.supervised_only import labelled_loss
from algorithms.training import Learner, Step, apply


class CrossConsistency(Learner[PartlyLabelledBatch]):
    """CCT (Ouali et al. 2020): a decoder that sees perturbed features has to find the same.

    One auxiliary decoder, perturbed by dropping features; the published one has several, each with
    another perturbation.
    """

    def __init__(self, network: DualBranch, *, weight: float = 0.1) -> None:
        super().__init__()
        self.network = network
        self._both = network.both
        self._weight = weight

    def loss(self, batch: PartlyLabelledBatch, step: Step) -> Tensor:
        """Return LDice of the main branch + weight * ramp * |main - auxiliary|^2."""
        images, labels, _ = batch
        main, auxiliary = apply(self._both, images)
        apart: Tensor = (auxiliary.sigmoid() - main.detach().sigmoid()).square().mean()
        ramp = consistency_weight(step.number, step.total)
        return labelled_loss(main, labels) + self._weight * ramp * apart


class CrossPseudoSupervision(Learner[PartlyLabelledBatch]):
    """CPS (Chen et al. 2021): two networks learn each from what the other finds.

    Args:
        network: is used afterwards.
        other: of the same kind, from other weights.
        weight: of the crossed losses at the end of training.
    """

    def __init__(self, network: nn.Module, other: nn.Module, *, weight: float = 0.1) -> None:
        super().__init__()
        self.network = network
        self.other = other
        self._weight = weight

    def loss(self, batch: PartlyLabelledBatch, step: Step) -> Tensor:
        """Return both LDice + weight * ramp * both Dice losses against the other's labels."""
        images, labels, _ = batch
        one, two = apply(self.network, images), apply(self.other, images)
        crossed = _against(one, two) + _against(two, one)
        ramp = consistency_weight(step.number, step.total)
        return (
            labelled_loss(one, labels) + labelled_loss(two, labels) + self._weight * ramp * crossed
        )


def _against(learning: Tensor, teaching: Tensor) -> Tensor:
    return soft_dice_loss(learning.sigmoid(), (teaching.detach() > 0).to(learning.dtype))
