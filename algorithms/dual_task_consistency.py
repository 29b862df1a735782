"""Semi-supervision by dual-task consistency: a mask and its level set have to agree (chapter 5).

One head predicts the mask (f1), another the level set (f2). Where a doctor contoured, each is told;
everywhere, the mask that f2 stands for has to be the mask of f1.
"""

import math

from torch import Tensor

from algorithms.losses import soft_dice_loss
from algorithms.networks import DualTask
from algorithms.signed_distance import inverse_level_set
from algorithms.training import Learner, Step, apply

# Images [B, 1, (Z,) Y, X], and labels and level sets [L, C, (Z,) Y, X] of the first L <= B of them.
PartlyLabelledBatch = tuple[Tensor, Tensor, Tensor]


def consistency_weight(step: int, total_steps: int) -> float:
    """Return lambda_d = exp(-5 (1 - t / tmax)^2), which rises to 1 over the training: (5-7).

    >>> [round(consistency_weight(step, 6000), 4) for step in (0, 3000, 6000, 9000)]
    [0.0067, 0.2865, 1.0, 1.0]
    """
    share = min(max(step / total_steps, 0.0), 1.0)
    return math.exp(-5.0 * (1.0 - share) ** 2)


def consistency_loss(
    mask_probability: Tensor, level_set: Tensor, *, steepness: float = 1500.0
) -> Tensor:
    """Return the mean over all pixels of (f1 - T^-1(f2))^2: (5-4).

    Args:
        mask_probability: f1 in [0, 1], any shape.
        level_set: f2 in [-1, 1], same shape.
        steepness: k of (5-2).
    """
    return (mask_probability - inverse_level_set(level_set, steepness=steepness)).square().mean()


def dual_task_loss(
    mask_logits: Tensor,
    level_set: Tensor,
    label: Tensor,
    label_level_set: Tensor,
    *,
    weight: float,
    level_set_weight: float = 0.3,
    steepness: float = 1500.0,
    label_weight: Tensor | None = None,
) -> Tensor:
    """Return L = LDice + w LLSF + lambda_d LDTC: (5-4)..(5-7).

    The first volumes of a batch are labelled, as many as there are labels; the rest is not.

    Args:
        mask_logits: of the mask head, `[B, C, (Z,) Y, X]`, one channel per class but the
            background; f1 is its sigmoid.
        level_set: f2, what the level-set head's tanh gives, same shape.
        label: 0 or 1, `[L, C, (Z,) Y, X]` with L <= B.
        label_level_set: T of the labels (`signed_distance.level_set`), same shape.
        weight: lambda_d.
        level_set_weight: w; the thesis prints 1, its experiments ran with 0.3.
        steepness: k of (5-2).
        label_weight: per pixel, the shape of `label`; 0 where a label says nothing. None means 1.
    """
    labelled = len(label)
    probability = mask_logits.sigmoid()
    consistency = consistency_loss(probability, level_set, steepness=steepness)
    if not labelled:
        return weight * consistency
    dice = soft_dice_loss(probability[:labelled], label.to(probability.dtype), label_weight)
    distance = (level_set[:labelled] - label_level_set).square()
    if label_weight is not None:
        distance = distance * (label_weight / label_weight.mean().clamp_min(1e-6))
    return dice + level_set_weight * distance.mean() + weight * consistency


class DualTaskConsistency(Learner[PartlyLabelledBatch]):
    """Trains a dual-task network by (5-7).

    Args:
        network: the network and its level-set head.
        weight: of the consistency at the end of the training.
        level_set_weight: see `dual_task_loss`.
        steepness: k of (5-2).
    """

    def __init__(
        self,
        network: DualTask,
        *,
        weight: float = 1.0,
        level_set_weight: float = 0.3,
        steepness: float = 1500.0,
    ) -> None:
        super().__init__()
        self.network = network
        self._both = network.both
        self._weight = weight
        self._level_set_weight = level_set_weight
        self._steepness = steepness

    def loss(self, batch: PartlyLabelledBatch, step: Step) -> Tensor:
        """Return (5-7) of a batch."""
        images, labels, level_sets = batch
        mask_logits, level_set = apply(self._both, images)
        return dual_task_loss(
            mask_logits,
            level_set,
            labels,
            level_sets,
            weight=self._weight * consistency_weight(step.number, step.total),
            level_set_weight=self._level_set_weight,
            steepness=self._steepness,
        )
