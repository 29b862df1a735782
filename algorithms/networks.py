"""Networks. So far the 2-D U-Net that adaptation uses; every network also gives its features."""

import itertools
from typing import cast

import torch
from torch import Tensor, nn

from algorithms.contracts.model_package import NetworkSpec


class _ConvolutionBlock(nn.Sequential):
    """Two 3x3 convolutions, each followed by batch normalisation and a leaky rectifier."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.LeakyReLU(inplace=True),
            ]
        super().__init__(*layers)


class UNet2d(nn.Module):
    """2-D U-Net (Ronneberger et al. 2015) with channel counts that double at each level.

    Args:
        in_channels: grey-value channels.
        out_channels: classes, background included.
        base_channels: channels at full resolution.
        levels: resolutions; sides must be divisible by `stride`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        base_channels: int = 16,
        levels: int = 5,
    ) -> None:
        super().__init__()
        widths = [base_channels * 2**level for level in range(levels)]
        self.stride = 2 ** (levels - 1)
        self.encoder = nn.ModuleList(
            _ConvolutionBlock(before, after)
            for before, after in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.upsampling = nn.ModuleList(
            nn.ConvTranspose2d(below, above, kernel_size=2, stride=2)
            for above, below in itertools.pairwise(widths)
        )
        self.decoder = nn.ModuleList(_ConvolutionBlock(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(widths[0], out_channels, kernel_size=1)

    def penultimate(self, images: Tensor) -> Tensor:
        """Return the features that the head reads: `[B, base_channels, Y, X]`."""
        features = images
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            if level:
                features = nn.functional.max_pool2d(features, 2)
            features = block(features)
            skips.append(features)
        for level in reversed(range(len(self.decoder))):
            upsampled = self.upsampling[level](features)
            features = self.decoder[level](torch.cat([skips[level], upsampled], dim=1))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[B, C, Y, X]` to logits `[B, classes, Y, X]`."""
        return cast(Tensor, self.head(self.penultimate(images)))


def build_network(spec: NetworkSpec, *, seed: int = 0) -> UNet2d:
    """Build the network a package names, with weights drawn from `seed` (global state is kept)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2d(spec.in_channels, spec.out_channels, spec.base_channels, spec.levels)
