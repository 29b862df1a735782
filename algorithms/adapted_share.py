"""How far fine-tuned weights are to go from the source model."""

from collections.abc import Sequence

import numpy as np
import torch

from algorithms.finetuning import ValidationCase, mean_dice
from algorithms.networks import UNet2d
from algorithms.training import Weights


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
