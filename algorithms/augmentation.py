"""Rotation, flips, scaling, grey-value changes and noise for training patches (6.2.3)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def augment(
    images: Tensor,
    labels: Tensor,
    weights: Tensor,
    rng: np.random.Generator,
    *maps: Tensor,
    strength: float = 1.0,
) -> tuple[Tensor, ...]:
    """Turn, scale and flip a batch and change its grey values, drawn from `rng`.

    Args:
        images: float32 `[B, 1, Y, X]`, about zero mean and unit variance.
        labels: uint8 `[B, Y, X]`.
        weights: float32 `[B, Y, X]`.
        rng: where the changes are drawn from.
        maps: others like the weights, to be turned, scaled and flipped with them.
        strength: all ranges shrink with it, which a training too short for such variety needs: a
            network that has not learnt it marks whatever is doubtful. At 0 only flips are left.

    Returns:
        Images, labels (int64), weights and maps of the same shapes.
    """
    count = images.shape[0]
    angle = strength * rng.uniform(-0.5, 0.5, count)  # up to about 30 degrees
    scale = np.exp(strength * rng.uniform(-0.5, 0.5, count))  # 0.6 to 1.65: tumours differ much
    flip = rng.choice([-1.0, 1.0], count)
    affine = np.zeros((count, 2, 3), dtype=np.float32)
    affine[:, 0, 0] = flip * np.cos(angle) / scale
    affine[:, 0, 1] = -np.sin(angle) / scale
    affine[:, 1, 0] = flip * np.sin(angle) / scale
    affine[:, 1, 1] = np.cos(angle) / scale
    grid = functional.affine_grid(torch.from_numpy(affine), list(images.shape), align_corners=False)
    turned = functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    all_maps = torch.stack([labels.float(), weights, *maps], dim=1)
    nearest = functional.grid_sample(all_maps, grid, mode="nearest", align_corners=False)
    low, high = turned.amin((1, 2, 3), keepdim=True), turned.amax((1, 2, 3), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    bend = strength * rng.uniform(-0.5, 0.5, (count, 1, 1, 1))
    gamma = torch.from_numpy(np.exp(bend).astype(np.float32))
    curved = ((turned - low) / span) ** gamma * span + low
    stretch = rng.uniform(0.8, 1.25, (count, 1, 1, 1)) ** strength
    gain = torch.from_numpy(stretch.astype(np.float32))
    shift = strength * rng.uniform(-0.2, 0.2, (count, 1, 1, 1))
    offset = torch.from_numpy(shift.astype(np.float32))
    noise_level = strength * rng.uniform(0.0, 0.1, (count, 1, 1, 1)).astype(np.float32)
    noise = rng.standard_normal(tuple(images.shape), dtype=np.float32) * noise_level
    changed = curved * gain + offset + torch.from_numpy(noise)
    label, *others = nearest.unbind(1)
    return changed, label.long(), *others
