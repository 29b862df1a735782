"""Networks: U-Net and V-Net, 2-D and 3-D, and the dual versions of any of them.

Each is an encoder, which gives features at every resolution, a decoder, which makes one map of
them, and a head, a convolution of width 1. `DualBranch` adds a second decoder and head, `DualTask`
a second head. In use, where only the first counts, both cost what the single network costs.
"""

import copy
import itertools
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from algorithms.contracts.model_package import NetworkSpec

Normalisation = Literal["batch", "instance"]


class _Conv3d(nn.Conv3d):
    """A 3-D convolution that keeps out of bfloat16 where that is wrong.

    On a CPU, torch 2.13 computes garbage for the weights' gradient of a bfloat16 convolution of
    exactly two slices, silently.
    """

    def forward(self, features: Tensor) -> Tensor:
        if features.shape[2] != 2 or features.device.type != "cpu":
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.float())


_CONVOLUTION: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: _Conv3d}
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


class EncoderDecoder(nn.Module):
    """What all networks here have in common.

    Attributes:
        dimensions: 2 or 3.
        stride: sides of an image must be divisible by it.
        head: reads the decoded map; its output channels are the classes.
    """

    dimensions: int
    stride: int
    head: nn.Conv2d | nn.Conv3d

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of every resolution, the finest first."""
        raise NotImplementedError

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Make the map that the head reads of what `encode` gives."""
        raise NotImplementedError

    def penultimate(self, images: Tensor) -> Tensor:
        """Return the features that the head reads: `[B, base_channels, (Z,) Y, X]`."""
        return self.decode(self.encode(images))

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[B, C, (Z,) Y, X]` to logits `[B, classes, (Z,) Y, X]`."""
        return cast(Tensor, self.head(self.penultimate(images)))


class UNet(EncoderDecoder):
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

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of every resolution, the finest first."""
        features: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            below = _POOLING[self.dimensions](features[-1], 2) if level else images
            features.append(block(below))
        return features

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Make the map that the head reads of what `encode` gives."""
        *skips, decoded = features
        for level in reversed(range(len(self.decoder))):
            upsampled = self.upsampling[level](decoded)
            decoded = self.decoder[level](torch.cat([skips[level], upsampled], dim=1))
        return decoded


class VNet(EncoderDecoder):
    """V-Net (Milletari et al. 2016) as used for semi-supervision: strided steps, added skips.

    Args:
        in_channels: grey-value channels.
        out_channels: classes, or 1 for a foreground logit.
        base_channels: channels at full resolution; they double at each level.
        convolutions: per level, in the encoder; the decoder has as many.
        dimensions: 2 or 3.
        normalisation: "batch" or "instance".
        dropout: share of the coarsest channels, and of those that the head reads, that training
            drops; 0.5 in the experiments of chapter 5.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        base_channels: int = 16,
        convolutions: Sequence[int] = (1, 2, 3, 3, 3),
        *,
        dimensions: int = 3,
        normalisation: Normalisation = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [base_channels * 2**level for level in range(len(convolutions))]
        self.dimensions = dimensions
        self.stride = 2 ** (len(convolutions) - 1)

        def block(before: int, after: int, count: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in [before, *[after] * (count - 1)]:
                layers += [
                    _CONVOLUTION[dimensions](channels, after, 3, padding=1, bias=False),
                    *_activated(after, dimensions, normalisation),
                ]
            return nn.Sequential(*layers)

        self.encoder = nn.ModuleList(
            block(width if level else in_channels, width, convolutions[level])
            for level, width in enumerate(widths)
        )
        self.downsampling = nn.ModuleList(
            nn.Sequential(
                _CONVOLUTION[dimensions](above, below, kernel_size=2, stride=2, bias=False),
                *_activated(below, dimensions, normalisation),
            )
            for above, below in itertools.pairwise(widths)
        )
        self.upsampling = nn.ModuleList(
            nn.Sequential(
                _UPSAMPLING[dimensions](below, above, kernel_size=2, stride=2, bias=False),
                *_activated(above, dimensions, normalisation),
            )
            for above, below in itertools.pairwise(widths)
        )
        self.decoder = nn.ModuleList(
            block(width, width, count)
            for width, count in zip(widths[:-1], convolutions[:-1], strict=True)
        )
        self.dropout = (nn.Dropout2d if dimensions == 2 else nn.Dropout3d)(dropout)
        self.head = _CONVOLUTION[dimensions](widths[0], out_channels, kernel_size=1)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of every resolution, the finest first."""
        features: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            below = self.downsampling[level - 1](features[-1]) if level else images
            features.append(block(below))
        features[-1] = self.dropout(features[-1])
        return features

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Make the map that the head reads of what `encode` gives."""
        *skips, decoded = features
        for level in reversed(range(len(self.decoder))):
            decoded = self.decoder[level](skips[level] + self.upsampling[level](decoded))
        return cast(Tensor, self.dropout(decoded))


class DualBranch(nn.Module):
    """A second decoder and head for any network, which learns from perturbed features (4.2).

    Args:
        network: its encoder and decoder become the shared encoder and the main branch.
        dropout: share of the feature channels that the auxiliary branch does not see.
        everywhere: at every resolution, as the method was run; False drops at the coarsest alone,
            as the text has it.
        seed: weights of the auxiliary branch are drawn from it; None copies those of the main one,
            for a network that knows something already and should not learn from noise.
    """

    def __init__(
        self,
        network: EncoderDecoder,
        *,
        dropout: float = 0.5,
        everywhere: bool = True,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        self.main = network
        self.auxiliary = _new_decoder(network, seed)
        self.dropout = dropout
        self.everywhere = everywhere

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the main branch, which is the one that is used."""
        return cast(Tensor, self.main(images))

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of both branches, which training needs.

        Features are dropped in evaluation mode too: the branches differ by it.
        """
        features = self.main.encode(images)
        kept = 0 if self.everywhere else len(features) - 1
        drop = nn.functional.dropout3d if self.main.dimensions == 3 else nn.functional.dropout2d
        seen = [*features[:kept], *(drop(f, self.dropout, training=True) for f in features[kept:])]
        main = self.main.head(self.main.decode(features))
        return main, self.auxiliary.head(self.auxiliary.decode(seen))


class DualTask(nn.Module):
    """A second head for any network, which predicts the level set of the mask (5.2).

    Args:
        network: its head gives one logit per class but the background, or one per class.
        seed: weights of the second head are drawn from it.
    """

    def __init__(self, network: EncoderDecoder, *, seed: int = 0) -> None:
        super().__init__()
        self.main = network
        channels, classes = network.head.in_channels, network.head.out_channels
        convolution = _CONVOLUTION[network.dimensions]
        self.level_set_head = convolution(channels, max(classes - 1, 1), kernel_size=1)
        _draw_again(self.level_set_head, seed)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the mask, which are the ones that are used."""
        return cast(Tensor, self.main(images))

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return, per class but the background, the logits of its mask and its level set.

        The level set lies in [-1, 1]. Where the head gives a logit per class, that of a mask is
        the class's against all others, so that its sigmoid is the softmax.
        """
        decoded = self.main.penultimate(images)
        # At a steepness of 1500 the mask of a level set hangs on less than bfloat16 can tell.
        with torch.autocast(decoded.device.type, enabled=False):
            decoded = decoded.float()
            return _foreground(self.main.head(decoded)), self.level_set_head(decoded).tanh()


def _foreground(logits: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of every class but the first: `[B, classes - 1, (Z,) Y, X]`."""
    classes = logits.shape[1]
    if classes == 1:
        return logits
    against = []
    for c in range(1, classes):
        others = [i for i in range(classes) if i != c]
        against.append(logits[:, c] - logits[:, others].logsumexp(dim=1))
    return torch.stack(against, dim=1)


def _activated(channels: int, dimensions: int, normalisation: Normalisation) -> list[nn.Module]:
    return [_normalisation(normalisation, dimensions, channels), nn.ReLU(inplace=True)]


def _new_decoder(network: EncoderDecoder, seed: int | None) -> EncoderDecoder:
    """Return a network of the same kind without an encoder, its weights drawn anew or the same."""
    twin = copy.deepcopy(network)
    for name in ("encoder", "downsampling"):
        if hasattr(twin, name):
            delattr(twin, name)
    if seed is not None:
        _draw_again(twin, seed)
    return twin


def _draw_again(module: nn.Module, seed: int) -> None:
    """Draw all weights from `seed` (global state is kept)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if reset is not None:
                reset()


class UNet2d(UNet):
    """The 2-D U-Net with batch normalisation that adaptation uses."""


def build_network(spec: NetworkSpec, *, seed: int = 0) -> UNet2d:
    """Build the network a package names, with weights drawn from `seed` (global state is kept)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2d(spec.in_channels, spec.out_channels, spec.base_channels, spec.levels)
