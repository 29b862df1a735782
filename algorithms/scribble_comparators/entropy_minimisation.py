"""Partial cross-entropy and entropy minimisation (Grandvalet and Bengio 2004)."""

from torch import Tensor, nn

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.scribble_supervision import ScribbleBatch, partial_cross_entropy
from algorithms.training import Learner, Step, apply


def entropy(logits: Tensor) -> Tensor:
    """Return the mean over pixels of -sum over classes of p log p; logits `[B, classes, ...]`."""
    return -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1).mean()


class EntropyMinimisation(Learner[ScribbleBatch]):
    """Is told to be sure where nobody drew, whatever of.

    Args:
        network: gives logits.
        weight: of the entropy; 0 leaves partial cross-entropy alone.
    """

    def __init__(self, network: nn.Module, *, weight: float = 0.1) -> None:
        super().__init__()
        self.network = network
        self._weight = weight

    def loss(self, batch: ScribbleBatch, step: Step) -> Tensor:
        """Return pCE + weight * entropy."""
        images, scribbles = batch
        logits = apply(self.network, images)
        drawn = partial_cross_entropy(logits, scribbles, ignore_index=NOT_ANNOTATED)
        return drawn + self._weight * entropy(logits) if self._weight else drawn
