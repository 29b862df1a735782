"""The ablations of mixed pseudo labels: two branches that supervise each other in other ways."""

from torch import Tensor

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.losses import multiclass_dice_loss
from algorithms.networks import DualBranch
from algorithms.scribble_supervision import ScribbleBatch, partial_cross_entropy
from algorithms.training import Learner, Step, apply


class ConsistencyRegularisation(Learner[ScribbleBatch]):
    """CR: the predictions of both branches have to be alike, in mean square."""

    def __init__(self, network: DualBranch, *, weight: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self._both = network.both
        self._weight = weight

    def loss(self, batch: ScribbleBatch, step: Step) -> Tensor:
        """Return the pCE of both + weight * |y1 - y2|^2."""
        images, scribbles = batch
        one, two = apply(self._both, images)
        apart: Tensor = (one.softmax(dim=1) - two.softmax(dim=1)).square().mean()
        return _drawn(one, two, scribbles) + self._weight * apart


class CrossPseudoSupervision(Learner[ScribbleBatch]):
    """CPS (Chen et al. 2021): what one branch finds is what the other should."""

    def __init__(self, network: DualBranch, *, weight: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self._both = network.both
        self._weight = weight

    def loss(self, batch: ScribbleBatch, step: Step) -> Tensor:
        """Return the pCE of both + weight * the mean Dice loss against the other's labels."""
        images, scribbles = batch
        one, two = apply(self._both, images)
        crossed = multiclass_dice_loss(one.softmax(dim=1), two.detach().argmax(dim=1))
        crossed = crossed + multiclass_dice_loss(two.softmax(dim=1), one.detach().argmax(dim=1))
        return _drawn(one, two, scribbles) + self._weight * 0.5 * crossed


def _drawn(one: Tensor, two: Tensor, scribbles: Tensor) -> Tensor:
    losses = [partial_cross_entropy(y, scribbles, ignore_index=NOT_ANNOTATED) for y in (one, two)]
    return 0.5 * (losses[0] + losses[1])
