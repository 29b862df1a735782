"""One latent vector per slice: what the network sees where it finds the target, (6-2)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from algorithms.contracts.volume import ImageArray
from algorithms.networks import UNet2d
from algorithms.preprocessing import mirror_outwards

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
def latent_features(
    model: UNet2d,
    images: Sequence[ImageArray] | ImageArray,
    *,
    patch_yx: tuple[int, int] = (1, 1),
    batch_size: int = 16,
    weighting: Weighting = "foreground_mask",
) -> NDArray[np.float32]:
    """Compute the latent vector of every slice (6-2), without augmentation.

    Args:
        model: the network, left in evaluation mode.
        images: preprocessed slices, float32 `[h, w]` each; sizes may differ.
        patch_yx: size of the training patches; smaller slices are mirrored outwards to it.
        batch_size: slices of one size computed together.
        weighting: see `pooled_feature`.

    Returns:
        float32 `[n, 256]`, in the order of `images`.
    """
    model.eval()
    place = next(model.parameters()).device
    rows = np.zeros((len(images), GRID_YX[0] * GRID_YX[1]), dtype=np.float32)
    for indices in _batches_of_one_size(images, batch_size):
        batch = np.stack([images[i] for i in indices])
        padded, (rows_y, columns_x) = mirror_outwards(batch, stride=model.stride, patch_yx=patch_yx)
        everywhere = model.penultimate(torch.from_numpy(padded)[:, None].to(place))
        features = everywhere[:, :, rows_y, columns_x]
        pooled = pooled_feature(features, model.head(features), weighting=weighting)
        rows[indices] = pooled.cpu().numpy()
    return rows


def _batches_of_one_size(images: Sequence[ImageArray] | ImageArray, size: int) -> list[list[int]]:
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index in range(len(images)):
        by_shape.setdefault(images[index].shape, []).append(index)
    return [
        indices[start : start + size]
        for indices in by_shape.values()
        for start in range(0, len(indices), size)
    ]
