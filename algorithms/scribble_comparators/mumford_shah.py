"""Mumford-Shah loss (Kim and Ye 2019), "MLoss": homogeneous classes with short boundaries."""

from torch import Tensor, nn

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.scribble_supervision import ScribbleBatch, partial_cross_entropy
from algorithms.training import Learner, Step, apply


def mumford_shah_loss(
    probabilities: Tensor, images: Tensor, *, length_weight: float = 1.0
) -> Tensor:
    """Return the mean over pixels of sum_c p_c (I - m_c)^2 + w |grad p|_1.

    m_c = sum(p_c I) / sum(p_c) is the grey value of class c in its image.

    Args:
        probabilities: `[B, classes, Y, X]`.
        images: `[B, 1, Y, X]`.
        length_weight: w.
    """
    weight = probabilities.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)
    mean = (probabilities * images).sum(dim=(2, 3), keepdim=True) / weight
    spread = (probabilities * (images - mean).square()).sum(dim=1).mean()
    steps = [(probabilities.diff(dim=axis)).abs().sum() for axis in (2, 3)]
    pixels = images.numel() / images.shape[1]
    return spread + length_weight * (steps[0] + steps[1]) / pixels


class MumfordShah(Learner[ScribbleBatch]):
    """Partial cross-entropy and the Mumford-Shah loss."""

    def __init__(self, network: nn.Module, *, weight: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self._weight = weight

    def loss(self, batch: ScribbleBatch, step: Step) -> Tensor:
        """Return pCE + weight * the Mumford-Shah loss."""
        images, scribbles = batch
        logits = apply(self.network, images)
        drawn = partial_cross_entropy(logits, scribbles, ignore_index=NOT_ANNOTATED)
        return drawn + self._weight * mumford_shah_loss(logits.softmax(dim=1), images)
