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


SHARES = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0)


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


def mean_dice(
    cases: Sequence[ValidationCase], *, patch_yx: tuple[int, int] = (1, 1)
) -> Validate | None:
    """Return the score that `training.train` maximises: mean Dice over patients, or None."""
    if not cases:
        return None

    def score(model: nn.Module) -> float:
        if not isinstance(model, UNet2d):
            raise TypeError(f"a 2-D U-Net is scored here, not {type(model).__name__}")
        predictor = torch_predictor(model, patch_yx=patch_yx)
        dice = []
        for case in cases:
            predicted = predictor(case.slices[case.known]) > 0.5
            reference = case.label[case.known] > 0
            size = int(predicted.sum() + reference.sum())
            dice.append(2.0 * float((predicted & reference).sum()) / size if size else 1.0)
        return float(np.mean(dice))

    return score


def choose_share(
    network: UNet2d,
    source: Weights,
    folds: Sequence[tuple[Weights, Sequence[ValidationCase]]],
    *,
    patch_yx: tuple[int, int] = (1, 1),
) -> float:
    """Choose how far to go from the source model, by patients the fine-tuning has not seen.

    With few patients fine-tuning can learn what is true of them alone. Each fold holds weights
    fine-tuned without some annotated patients, and these patients. The share whose interpolated
    weights find them best, in mean Dice over all of them, is taken; of equals the smallest.

    Args:
        network: of the right kind; its weights are overwritten.
        source: weights before fine-tuning.
        folds: (weights after fine-tuning on the other patients, the held-out patients).
        patch_yx: size of the training patches.

    Returns:
        One of `SHARES`; 1 when there is nobody to measure it on.
    """
    measurable = [(weights, cases) for weights, cases in folds if cases]
    if not measurable:
        return 1.0
    scores = []
    for share in SHARES:
        total, patients = 0.0, 0
        for weights, cases in measurable:
            network.load_state_dict(interpolate_weights(source, weights, share))
            validate = mean_dice(cases, patch_yx=patch_yx)
            total += validate(network) * len(cases) if validate is not None else 0.0
            patients += len(cases)
        scores.append(total / patients)
    return SHARES[int(np.argmax(scores))]
