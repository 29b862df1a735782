"""Dice and cross-entropy: what every supervised stage learns by."""

import torch
from torch import Tensor, nn


def soft_dice_loss(probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return 1 - 2 sum(p y) / (sum(p^2) + sum(y^2)), pooled over the batch.

    Args:
        probabilities: foreground probability `[B, Y, X]`.
        target: 0 or 1, same shape.
        weight: optional weight per pixel, same shape; 0 leaves a pixel out.
    """
    w = torch.ones_like(probabilities) if weight is None else weight
    overlap = (w * probabilities * target).sum()
    size = (w * probabilities.square()).sum() + (w * target.square()).sum()
    smooth = 1e-5
    return 1.0 - (2.0 * overlap + smooth) / (size + smooth)


def dice_cross_entropy_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean of the soft Dice loss and cross-entropy: (6-1).

    Args:
        logits: `[B, 2, Y, X]`.
        target: class index 0 or 1, `[B, Y, X]`, int64.
        weight: optional weight per pixel, `[B, Y, X]`.
    """
    cross_entropy = nn.functional.cross_entropy(logits, target, reduction="none")
    if weight is None:
        mean_cross_entropy = cross_entropy.mean()
    else:
        mean_cross_entropy = (cross_entropy * weight).sum() / weight.sum().clamp_min(1e-6)
    foreground = logits.softmax(dim=1)[:, 1]
    dice = soft_dice_loss(foreground, target.to(foreground.dtype), weight)
    return 0.5 * (mean_cross_entropy + dice)


def multiclass_dice_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - the mean over classes of 2 sum(p y) / (sum(p^2) + sum(y)): LDice of (4-3).

    Sums run over the whole batch, and the background is a class.

    Args:
        probabilities: `[B, classes, (Z,) Y, X]`, the softmax of the logits.
        labels: class per pixel, int64 `[B, (Z,) Y, X]`.
    """
    smooth = 1e-5
    overlaps = []
    for code in range(probabilities.shape[1]):
        p, y = probabilities[:, code], (labels == code).to(probabilities.dtype)
        size = p.square().sum() + y.sum()
        overlaps.append((2.0 * (p * y).sum() + smooth) / (size + smooth))
    return 1.0 - torch.stack(overlaps).mean()
