"""AdaMI (Bateson et al., Medical Image Analysis 2022): sure, and as much foreground as expected."""

import copy

import torch
from torch import Tensor, nn

from algorithms.label_free_comparators.tent import mean_entropy
from algorithms.training import Learner, Step, apply


class AdaMi(Learner[Tensor]):
    """Minimises entropy plus KL(expected class shares || predicted ones), per image.

    The paper expects the shares that an auxiliary network predicts. Here they are what the source
    model finds in the same image, or in the batch where it finds nothing: an anatomical prior is
    not at hand.

    Args:
        network: gives logits per class, background included.
        weight: of the shares.
    """

    def __init__(self, network: nn.Module, *, weight: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.source = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self._weight = weight

    def loss(self, batch: Tensor, step: Step) -> Tensor:
        """Return the loss of images `[B, 1, Y, X]`."""
        logits = apply(self.network, batch)
        with torch.no_grad():
            self.source.eval()
            expected = apply(self.source, batch).softmax(dim=1).mean(dim=(2, 3))
            found = (expected[:, 1:].sum(dim=1, keepdim=True) > 1e-3).float()
            expected = found * expected + (1.0 - found) * expected.mean(dim=0, keepdim=True)
        predicted = logits.softmax(dim=1).mean(dim=(2, 3)).clamp_min(1e-6)
        shares = (expected * (expected.clamp_min(1e-6).log() - predicted.log())).sum(dim=1).mean()
        loss: Tensor = mean_entropy(logits) + self._weight * shares
        return loss
