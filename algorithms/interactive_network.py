"""Stage 1 of MIDeepSeg: a small U-Net that reads a crop of the image and the encoded clicks (3.2).

The interior margin points give the crop (their box, grown a little) and, encoded, the second input
channel. The crop is resized to one shape, so that small and large targets look alike to it.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, Self

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.nn import functional

from algorithms.click_simulation import Points
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import ImageArray, MaskArray
from algorithms.geodesic import ENCODINGS, exponential_geodesic_map
from algorithms.networks import UNet
from algorithms.training import device, half_precision

Box = tuple[slice, ...]
Encoding = Literal["egd", "euclidean", "gaussian", "geodesic", "box"]

_SPEC = "fedgtv-interactive-network"  # key of the description in the weights file


class InteractiveNetworkSpec(BaseModel):
    """What a network expects; stored with its weights.

    Attributes:
        dimensions: 2 or 3.
        input_shape: crops are resized to it: (y, x) or (z, y, x).
        encoding: how clicks become an input channel, see `geodesic.ENCODINGS`.
        encoding_length_weight: of "egd": what a step by one pixel of the crop's grid costs beside
            its grey values. The pure map, 0, is flat inside a homogeneous target, so that nothing
            there tells how far the clicks are.
        growth: the box of the points grows on each side by this share of its extent.
        least_growth_voxels: and by so many voxels at least.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dimensions: Literal[2, 3]
    input_shape: tuple[int, ...]
    base_channels: int = Field(ge=1, le=256)
    levels: int = Field(default=4, ge=2, le=8)
    encoding: Encoding = "egd"
    # Weights that lack it had none.
    encoding_length_weight: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    growth: float = Field(default=0.25, ge=0.0, allow_inf_nan=False)
    least_growth_voxels: int = Field(default=3, ge=0)

    @model_validator(mode="after")
    def _shape_fits(self) -> Self:
        stride = 2 ** (self.levels - 1)
        sides = self.input_shape
        if len(sides) != self.dimensions or any(n < stride or n % stride for n in sides):
            raise ValueError(f"input_shape {sides}: {self.dimensions} multiples of {stride}")
        return self

    def encode(self, grey: ImageArray, seeds: MaskArray) -> ImageArray:
        """Return the clicks as an input channel: float32 of the shape of both, the crop's grid."""
        if self.encoding == "egd":
            weight = self.encoding_length_weight
            return exponential_geodesic_map(grey, seeds, length_weight_per_mm=weight)
        return ENCODINGS[self.encoding](grey, seeds)


@dataclass(frozen=True, eq=False)
class InteractiveNetwork:
    """A trained network with its description."""

    spec: InteractiveNetworkSpec
    module: nn.Module

    @torch.inference_mode()
    def probability(self, image: ImageArray, points: Points) -> tuple[ImageArray, Box]:
        """Return the foreground probability inside the crop, and where the crop lies.

        Args:
            image: float32 `[y, x]` or `[z, y, x]`.
            points: interior margin points, voxel indices.
        """
        box = crop_box(points, image.shape, self.spec)
        inputs = torch.from_numpy(network_input(image, points, box, self.spec))[None]
        place = next(self.module.parameters()).device
        layout = torch.channels_last_3d if self.spec.dimensions == 3 else torch.channels_last
        with torch.autocast(place.type, torch.bfloat16, enabled=half_precision(place)):
            logits = self.module(inputs.to(place).contiguous(memory_format=layout))
        probability = logits.float().sigmoid()[0, 0].cpu().numpy()
        return resize(probability, tuple(side.stop - side.start for side in box)), box


def build_interactive_network(spec: InteractiveNetworkSpec, *, seed: int = 0) -> UNet:
    """Build the network, with weights drawn from `seed` (global state is kept)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(
            in_channels=2,
            out_channels=1,
            base_channels=spec.base_channels,
            levels=spec.levels,
            dimensions=spec.dimensions,
            normalisation="instance",
        )


def crop_box(points: Points, shape: tuple[int, ...], spec: InteractiveNetworkSpec) -> Box:
    """Return the box of the points, grown on every side and cut at the image's edge."""
    low, high = points.min(axis=0), points.max(axis=0)
    grow = np.maximum(np.ceil(spec.growth * (high - low + 1)), spec.least_growth_voxels)
    start = np.maximum(low - grow, 0).astype(int)
    stop = np.minimum(high + grow + 1, shape).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))


def network_input(
    image: ImageArray, points: Points, box: Box, spec: InteractiveNetworkSpec
) -> ImageArray:
    """Return the resized, normalised crop and the encoded points: float32 `[2, *input_shape]`."""
    grey = normalise(resize(image[box], spec.input_shape))
    return np.stack([grey, spec.encode(grey, seeds_in(points, box, spec.input_shape))])


def seeds_in(points: Points, box: Box, shape: tuple[int, ...]) -> MaskArray:
    """Mark points of the image on the grid that its crop was resized to."""
    start = np.array([side.start for side in box])
    size = np.array([side.stop - side.start for side in box])
    places = np.floor((points - start + 0.5) * np.array(shape) / size).astype(int)
    inside = ((places >= 0) & (places < shape)).all(axis=1)
    seeds = np.zeros(shape, dtype=bool)
    seeds[tuple(places[inside].T)] = True
    return seeds


def normalise(image: ImageArray) -> ImageArray:
    """Shift and scale to zero mean and unit variance; a constant image becomes zero."""
    mean, deviation = image.mean(dtype=np.float64), image.std(dtype=np.float64)
    # What rounding leaves of a constant image is no contrast.
    constant = deviation <= 1e-6 * max(abs(mean), 1e-30)
    return np.asarray((image - mean) / (np.inf if constant else deviation), dtype=np.float32)


def resize(image: NDArray[np.floating], shape: tuple[int, ...]) -> ImageArray:
    """Resize `[y, x]` or `[z, y, x]` linearly, so that the outer edges coincide."""
    if image.shape == shape:
        return np.asarray(image, dtype=np.float32)
    # A copy: torch takes no negative strides, and a flipped image of one row still has them.
    tensor = torch.from_numpy(np.array(image, dtype=np.float32, order="C"))[None, None]
    mode = "trilinear" if image.ndim == 3 else "bilinear"
    resized = functional.interpolate(tensor, size=shape, mode=mode, align_corners=False)
    return np.asarray(resized[0, 0].numpy(), dtype=np.float32)


def to_bytes(network: InteractiveNetwork) -> bytes:
    """Return weights and description as one safetensors file."""
    weights = {k: v.detach().cpu().contiguous() for k, v in network.module.state_dict().items()}
    return safetensors.torch.save(weights, metadata={_SPEC: network.spec.model_dump_json()})


def from_bytes(data: bytes) -> InteractiveNetwork:
    """Read what `to_bytes` wrote.

    Raises:
        DataError: not the weights of an interactive network.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        spec = InteractiveNetworkSpec.model_validate_json(header["__metadata__"][_SPEC])
        module = build_interactive_network(spec)
        module.load_state_dict(safetensors.torch.load(data))
    except (
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        safetensors.SafetensorError,
    ) as error:
        raise DataError(
            "not the weights of an interactive network: use a file of 'train-interactive'"
        ) from error
    return ready(spec, module)


def ready(spec: InteractiveNetworkSpec, module: nn.Module) -> InteractiveNetwork:
    """Put a network onto the accelerator where there is one, for use and not for training."""
    layout = torch.channels_last_3d if spec.dimensions == 3 else torch.channels_last
    module.to(device(), memory_format=layout)  # type: ignore[call-overload]
    return InteractiveNetwork(spec, module.eval())


@cache
def default_network(dimensions: Literal[2, 3]) -> InteractiveNetwork:
    """Return the network that comes with the package (see `weights/MODEL_CARD.md`)."""
    return from_bytes(default_weights(dimensions))


def default_weights(dimensions: Literal[2, 3]) -> bytes:
    """Return the file of the network that comes with the package."""
    file = resources.files("algorithms") / "weights" / f"interactive-{dimensions}d.safetensors"
    return file.read_bytes()
