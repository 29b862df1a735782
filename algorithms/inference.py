"""Slice-wise prediction of a whole volume behind one callable."""

from collections.abc import Callable

import numpy as np
import torch

from algorithms.contracts.model_package import PreprocessingRecipe
from algorithms.contracts.volume import ImageArray, Mask, Volume
from algorithms.networks import UNet2d
from algorithms.preprocessing import mirror_outwards, preprocess, restore

# float32 [n, h, w] preprocessed slices -> float32 [n, h, w] foreground probability
SlicePredictor = Callable[[ImageArray], ImageArray]


def torch_predictor(
    model: UNet2d, *, patch_yx: tuple[int, int] = (1, 1), batch_size: int = 8
) -> SlicePredictor:
    """Return a predictor that runs `model` in evaluation mode where its weights are.

    Args:
        model: the network.
        patch_yx: size of the training patches; smaller slices are mirrored outwards to it.
        batch_size: slices computed together.
    """

    @torch.inference_mode()
    def predict_slices(slices: ImageArray) -> ImageArray:
        model.eval()
        place = next(model.parameters()).device
        parts = []
        for start in range(0, len(slices), batch_size):
            batch = slices[start : start + batch_size]
            padded, (rows, columns) = mirror_outwards(batch, stride=model.stride, patch_yx=patch_yx)
            logits = model(torch.from_numpy(padded)[:, None].to(place))
            foreground = logits.softmax(dim=1)[:, 1, rows, columns]
            parts.append(foreground.float().cpu().numpy())
        return np.concatenate(parts)

    return predict_slices


def predict_probability(
    volume: Volume, recipe: PreprocessingRecipe, predictor: SlicePredictor
) -> ImageArray:
    """Return the foreground probability on the image's own grid: float32 `[z, y, x]`."""
    prepared = preprocess(volume, recipe)
    return restore(predictor(prepared.slices), prepared.geometry)


def predict(volume: Volume, recipe: PreprocessingRecipe, predictor: SlicePredictor) -> Mask:
    """Segment an image on its original grid (step 10 of the way of a case)."""
    return Mask(predict_probability(volume, recipe, predictor) > 0.5, volume.geometry)
