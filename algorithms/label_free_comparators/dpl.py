"""DPL (Chen et al., MICCAI 2021): pseudo labels, believed where they are sure and typical."""

import copy

import torch
from torch import Tensor
from torch.nn import functional

from algorithms.networks import EncoderDecoder
from algorithms.training import Learner, Step, apply


class DenoisedPseudoLabels(Learner[Tensor]):
    """Learns from the source model's labels, less those that vary or look like the other class.

    A pixel is believed where the deviation of several predictions is small, and where its features
    lie nearer to the mean of its own class (of the batch) than to that of the other. The paper
    varies by dropout; networks here may have none, so the images are varied by noise.

    Args:
        network: logits of two classes.
        samples: predictions that are compared.
        noise: deviation by which images vary, in that of the image.
        most: deviation of the foreground probability up to which a pixel is believed.
        threshold: foreground probability from which a pixel is labelled foreground.
    """

    def __init__(
        self,
        network: EncoderDecoder,
        *,
        samples: int = 4,
        noise: float = 0.1,
        most: float = 0.05,
        threshold: float = 0.75,
    ) -> None:
        super().__init__()
        self.network = network
        self.source = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self._samples, self._noise = samples, noise
        self._most, self._threshold = most, threshold

    def loss(self, batch: Tensor, step: Step) -> Tensor:
        """Return the cross-entropy of images `[B, 1, Y, X]` over the pixels that are believed."""
        label, believed = self.labels(batch)
        each = functional.cross_entropy(apply(self.network, batch), label, reduction="none")
        return (each * believed).sum() / believed.sum().clamp_min(1.0)

    @torch.no_grad()
    def labels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the source model's labels, int64 `[B, Y, X]`, and which are believed (0 or 1)."""
        self.source.eval()
        asked = [
            apply(self.source, images + self._noise * torch.randn_like(images)).softmax(dim=1)[:, 1]
            for _ in range(self._samples)
        ]
        probabilities = torch.stack(asked)
        label = (probabilities.mean(dim=0) > self._threshold).long()
        believed = (probabilities.std(dim=0) < self._most).float()
        features = apply(self.source.penultimate, images)
        apart = [
            (features - _centre(features, believed * (label == c))).square().sum(dim=1)
            for c in (0, 1)
        ]
        typical = torch.where(label == 1, apart[1] < apart[0], apart[0] < apart[1])
        return label, believed * typical.float()


def _centre(features: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of features `[B, C, Y, X]` where `weight` `[B, Y, X]` is: `[1, C, 1, 1]`."""
    total = (features * weight[:, None]).sum(dim=(0, 2, 3), keepdim=True)
    return total / weight.sum().clamp_min(1.0)
