"""Networks. One U-Net for 2-D and 3-D; every network also gives its features."""

import itertools
from typing import Literal, cast

import torch
from torch import Tensor, nn

from algorithms.contracts.model_package import NetworkSpec

Normalisation = Literal["batch", "instance"]

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_UPSAMPLING = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOLING = {2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}


def _normalisation(kind: Normalisation, dimensions: int, channels: int) -> nn.Module:
    if kind == "batch":
        return {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions](channels)
    return {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions](channels, affine=True)


class _ConvolutionBlock(nn.Sequential):
    """Two convolutions of width 3, each followed by a normalisation and a leaky rectifier."""

    def __init__(
        self, in_channels: int, out_channels: int, dimensions: int, normalisation: Normalisation
    ) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                _CONVOLUTION[dimensions](
                    channels, out_channels, kernel_size=3, padding=1, bias=False
                ),
                _normalisation(normalisation, dimensions, out_channels),
                nn.LeakyReLU(inplace=True),
            ]
        super().__init__(*layers)


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) with channel counts that double at each level.

    Args:
        in_channels: grey-value and click channels.
        out_channels: classes, background included; or 1 for a foreground logit.
        base_channels: channels at full resolution.
        levels: resolutions; sides must be divisible by `stride`.
        dimensions: 2 or 3.
        normalisation: "batch", or "instance" where images of many kinds pass (3.2.2).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        base_channels: int = 16,
        levels: int = 5,
        *,
        dimensions: int = 2,
        normalisation: Normalisation = "batch",
    ) -> None:
        super().__init__()
        widths = [base_channels * 2**level for level in range(levels)]
        self.dimensions = dimensions
        self.stride = 2 ** (levels - 1)
        self.encoder = nn.ModuleList(
            _ConvolutionBlock(before, after, dimensions, normalisation)
            for before, after in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.upsampling = nn.ModuleList(
            _UPSAMPLING[dimensions](below, above, kernel_size=2, stride=2)
            for above, below in itertools.pairwise(widths)
        )
        self.decoder = nn.ModuleList(
            _ConvolutionBlock(2 * w, w, dimensions, normalisation) for w in widths[:-1]
        )
        self.head = _CONVOLUTION[dimensions](widths[0], out_channels, kernel_size=1)

    def penultimate(self, images: Tensor) -> Tensor:
        """Return the features that the head reads: `[B, base_channels, (Z,) Y, X]`."""
        features = images
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            if level:
                features = _POOLING[self.dimensions](features, 2)
            features = block(features)
            skips.append(features)
        for level in reversed(range(len(self.decoder))):
            upsampled = self.upsampling[level](features)
            features = self.decoder[level](torch.cat([skips[level], upsampled], dim=1))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[B, C, (Z,) Y, X]` to logits `[B, classes, (Z,) Y, X]`."""
        return cast(Tensor, self.head(self.penultimate(images)))


class UNet2d(UNet):
    """The 2-D U-Net with batch normalisation that adaptation uses."""


def build_network(spec: NetworkSpec, *, seed: int = 0) -> UNet2d:
    """Build the network a package names, with weights drawn from `seed` (global state is kept)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2d(spec.in_channels, spec.out_channels, spec.base_channels, spec.levels)
