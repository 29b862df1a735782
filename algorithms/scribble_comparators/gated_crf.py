"""Gated CRF loss (Obukhov et al. 2019), "RLoss": neighbours of one grey value, one class."""

import torch
from torch import Tensor, nn

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.scribble_supervision import ScribbleBatch, partial_cross_entropy
from algorithms.training import Learner, Step, apply


def gated_crf_loss(
    probabilities: Tensor,
    images: Tensor,
    *,
    radius: int = 5,
    sigma_pixels: float = 6.0,
    sigma_grey: float = 0.1,
) -> Tensor:
    """Return the mean over pixels i of sum_j k(i, j) (1 - sum_c p_ic p_jc).

    k(i, j) = exp(-|i - j|^2 / (2 sigma_pixels^2) - (I_i - I_j)^2 / (2 sigma_grey^2)), j within the
    radius of i along both axes and inside the image, i itself left out.

    Args:
        probabilities: `[B, classes, Y, X]`.
        images: `[B, 1, Y, X]`.
        radius: in pixels.
        sigma_pixels: how far neighbours count.
        sigma_grey: how alike they have to be.
    """
    height, width = images.shape[-2:]
    total = probabilities.new_zeros(())
    # Every pair is met once, by half of all shifts, and counts twice.
    for dy in range(radius + 1):
        for dx in range(-radius if dy else 1, radius + 1):
            here = (..., slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0)))
            there = (..., slice(dy, height), slice(max(dx, 0), width - max(-dx, 0)))
            far = (dy * dy + dx * dx) / (2.0 * sigma_pixels**2)
            grey = (images[here] - images[there]).square() / (2.0 * sigma_grey**2)
            agree = (probabilities[here] * probabilities[there]).sum(dim=1, keepdim=True)
            total = total + 2.0 * (torch.exp(-far - grey) * (1.0 - agree)).sum()
    return total / (len(images) * height * width)


class GatedCrf(Learner[ScribbleBatch]):
    """Partial cross-entropy and the gated CRF loss."""

    def __init__(self, network: nn.Module, *, weight: float = 0.1) -> None:
        super().__init__()
        self.network = network
        self._weight = weight

    def loss(self, batch: ScribbleBatch, step: Step) -> Tensor:
        """Return pCE + weight * the CRF's loss."""
        images, scribbles = batch
        logits = apply(self.network, images)
        drawn = partial_cross_entropy(logits, scribbles, ignore_index=NOT_ANNOTATED)
        return drawn + self._weight * gated_crf_loss(logits.softmax(dim=1), images)
