"""Tent (Wang et al., ICLR 2021): make predictions surer by the normalisation layers alone."""

from torch import Tensor, nn

from algorithms.training import Learner, Step, apply


class Tent(Learner[Tensor]):
    """Minimises the entropy of predictions; only scale and shift of normalisations are trained.

    Args:
        network: gives logits per class, background included.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        network.requires_grad_(requires_grad=False)
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d | nn.InstanceNorm2d):
                part.requires_grad_(requires_grad=True)

    def loss(self, batch: Tensor, step: Step) -> Tensor:
        """Return the mean entropy over the pixels of images `[B, 1, Y, X]`."""
        return mean_entropy(apply(self.network, batch))


def mean_entropy(logits: Tensor) -> Tensor:
    """Return the mean Shannon entropy of logits `[B, classes, Y, X]`, in nats."""
    log_probability = logits.log_softmax(dim=1)
    return -(log_probability.exp() * log_probability).sum(dim=1).mean()
