"""Stages 1 and 3: fine-tuning on annotated slices, alone and together with pseudo labels (6-7)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from algorithms.contracts.volume import ImageArray
from algorithms.inference import torch_predictor
from algorithms.networks import UNet2d
from algorithms.training import Validate, Weights


def interpolate_weights(source: Weights, adapted: Weights, share: float) -> Weights:
    """Return (1 - share) * source + share * adapted, tensor by tensor.

    Fine-tuning on a handful of patients forgets what other patients look like. Weights between
    those before and after keep most of both (Wortsman et al., Robust fine-tuning of zero-shot
    models, CVPR 2022). Counters, which are whole numbers, are those of `adapted`.

    Args:
        source: weights before fine-tuning.
        adapted: weights after it, of the same network.
        share: 0 is the source model, 1 the adapted one.

    Raises:
        ValueError: when the two are not of one network.
    """
    if source.keys() != adapted.keys():
        raise ValueError("weights of two different networks cannot be interpolated")
    return {
        name: torch.lerp(source[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in adapted.items()
    }


@dataclass(frozen=True, eq=False)
class ValidationCase:
    """A patient held out to choose the best weights.

    Attributes:
        slices: preprocessed, float32 `[z, h, w]`.
        label: uint8 `[z, h, w]`.
        known: bool `[z]`: slices whose label a doctor has given; only these are scored.
    """

    slices: ImageArray
    label: NDArray[np.uint8]
    known: NDArray[np.bool_]


def mean_dice(cases: Sequence[ValidationCase]) -> Validate | None:
    """Return the score that `training.train` maximises: mean Dice over patients, or None."""
    if not cases:
        return None

    def score(model: nn.Module) -> float:
        if not isinstance(model, UNet2d):
            raise TypeError(f"a 2-D U-Net is scored here, not {type(model).__name__}")
        predictor = torch_predictor(model)
        dice = []
        for case in cases:
            predicted = predictor(case.slices[case.known]) > 0.5
            reference = case.label[case.known] > 0
            size = int(predicted.sum() + reference.sum())
            dice.append(2.0 * float((predicted & reference).sum()) / size if size else 1.0)
        return float(np.mean(dice))

    return score
