"""All contours: what scribbles are measured against."""

from torch import Tensor, nn
from torch.nn import functional

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.losses import multiclass_dice_loss
from algorithms.scribble_supervision import ScribbleBatch
from algorithms.training import Learner, Step, apply


class FullSupervision(Learner[ScribbleBatch]):
    """Dice and cross-entropy on dense labels (6-1); the few pixels without one are background."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, batch: ScribbleBatch, step: Step) -> Tensor:
        """Return the mean of cross-entropy and Dice loss."""
        images, labels = batch
        dense = labels.masked_fill(labels == NOT_ANNOTATED, 0)
        logits = apply(self.network, images)
        dice = multiclass_dice_loss(logits.softmax(dim=1), dense)
        return 0.5 * (functional.cross_entropy(logits, dense) + dice)
