"""What the network makes of every slice: one latent vector (6-2), and how sure it is."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from algorithms.contracts.volume import ImageArray
from algorithms.networks import UNet2d
from algorithms.preprocessing import mirror_outwards
from algorithms.slice_description import SliceDescription
from algorithms.training import half_precision

GRID_YX = (16, 16)
Weighting = Literal["foreground_mask", "foreground_probability", "background_probability"]


def pooled_feature(
    features: Tensor,
    logits: Tensor,
    *,
    grid_yx: tuple[int, int] = GRID_YX,
    weighting: Weighting = "foreground_mask",
) -> Tensor:
    """Weight features by the prediction, average channels, max-pool patches, divide by size.

    F = MaxPool(AvgPool_channels(P * f_E)) / ||N||, flattened (6-2), with f_E the penultimate
    features, P the predicted foreground and N its size in pixels (at least 1).

    Args:
        features: `[B, C, Y, X]`.
        logits: `[B, 2, Y, X]`.
        grid_yx: patches along each side; 16 x 16 gives the thesis's 256 numbers for any image size.
        weighting: "foreground_mask" is the thesis's text. The two variants weigh by softmax
            probability and divide by its mean; "background_probability" is what the released
            code computes.

    Returns:
        `[B, rows * columns]`. A slice without predicted foreground gives exactly zeros under
        "foreground_mask": it has no place among the reference points (see `sample_selection`).
    """
    probabilities = logits.softmax(dim=1)
    if weighting == "foreground_mask":
        weight = (probabilities[:, 1] > 0.5).to(features.dtype)
        size = weight.sum(dim=(1, 2)).clamp_min(1.0)
    else:
        weight = probabilities[:, 1 if weighting == "foreground_probability" else 0]
        size = weight.mean(dim=(1, 2))
    weighted = (weight[:, None] * features).mean(dim=1, keepdim=True)
    pooled = functional.adaptive_max_pool2d(weighted, grid_yx).flatten(start_dim=1)
    return pooled / size[:, None]


@torch.inference_mode()
def describe_slices(
    model: UNet2d,
    images: Sequence[ImageArray] | ImageArray,
    *,
    patch_yx: tuple[int, int] = (1, 1),
    batch_size: int = 16,
    weighting: Weighting = "foreground_mask",
) -> SliceDescription:
    """Describe every slice in one pass, without augmentation.

    Args:
        model: the network, left in evaluation mode.
        images: preprocessed slices, float32 `[h, w]` each; sizes may differ.
        patch_yx: size of the training patches; smaller slices are mirrored outwards to it.
        batch_size: slices of one size computed together.
        weighting: see `pooled_feature`.
    """
    model.eval()
    place = next(model.parameters()).device
    order: list[int] = []
    parts: list[list[NDArray[np.float32]]] = [[] for _ in fields(SliceDescription)]
    for indices in _batches_of_one_size(images, batch_size):
        batch = np.stack([images[i] for i in indices])
        padded, (rows_y, columns_x) = mirror_outwards(batch, stride=model.stride, patch_yx=patch_yx)
        # Half precision moves a vector by about a hundredth of its length, in half the time; the
        # head, whose sign decides what is foreground, computes in full.
        with torch.autocast(place.type, torch.bfloat16, enabled=half_precision(place)):
            encoded = model.encode(
                torch.from_numpy(padded)[:, None].to(place, memory_format=torch.channels_last)
            )
            decoded = model.decode(encoded)
        features = decoded.float()[:, :, rows_y, columns_x]
        logits = model.head(features)
        found = (
            pooled_feature(features, logits, weighting=weighting),
            encoded[-1].float().mean(dim=(2, 3)),
            *_pixel_means(logits),
        )
        order += indices
        for part, rows in zip(parts, found, strict=True):
            part.append(rows.float().cpu().numpy())
    if not order:
        none = np.zeros(0, dtype=np.float32)
        table = np.zeros((0, GRID_YX[0] * GRID_YX[1]), dtype=np.float32)
        return SliceDescription(table, table[:, :0], none, none, none, none)
    back = np.argsort(order)
    return SliceDescription(*(np.concatenate(part)[back] for part in parts))


def _pixel_means(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return foreground share, least confidence, margin and entropy of `[B, classes, Y, X]`."""
    probability = logits.softmax(dim=1)
    best = probability.topk(2, dim=1).values
    entropy = -torch.xlogy(probability, probability).sum(dim=1)
    figures = (
        (probability.argmax(dim=1) > 0).float(),
        probability.amin(dim=1),
        best[:, 0] - best[:, 1],
        entropy,
    )
    foreground, lowest, margin, entropies = (figure.mean(dim=(1, 2)) for figure in figures)
    return foreground, lowest, margin, entropies


def latent_features(
    model: UNet2d,
    images: Sequence[ImageArray] | ImageArray,
    *,
    patch_yx: tuple[int, int] = (1, 1),
    batch_size: int = 16,
    weighting: Weighting = "foreground_mask",
) -> NDArray[np.float32]:
    """Compute the latent vector of every slice (6-2): float32 `[n, 256]`; see `describe_slices`."""
    return describe_slices(
        model, images, patch_yx=patch_yx, batch_size=batch_size, weighting=weighting
    ).features


def _batches_of_one_size(images: Sequence[ImageArray] | ImageArray, size: int) -> list[list[int]]:
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index in range(len(images)):
        by_shape.setdefault(images[index].shape, []).append(index)
    return [
        indices[start : start + size]
        for indices in by_shape.values()
        for start in range(0, len(indices), size)
    ]
