"""Learning from scribbles: a dual-branch network and dynamically mixed pseudo labels (chapter 4).

Two decoders see the same scribbles. In every step the mean of their predictions, weighted by a
number drawn anew, says what they both should have said; so they supervise each other where nobody
drew anything.
"""

import torch
from torch import Tensor
from torch.nn import functional

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.losses import multiclass_dice_loss
from algorithms.networks import DualBranch
from algorithms.training import Learner, Step, apply

ScribbleBatch = tuple[Tensor, Tensor]  # images [B, 1, (Z,) Y, X], scribbles int64 [B, (Z,) Y, X]


def partial_cross_entropy(logits: Tensor, scribble: Tensor, *, ignore_index: int) -> Tensor:
    """Return the mean over the drawn pixels of -log y: (4-1).

    (4-1) prints the sum; the mean does not depend on how much was drawn.

    Args:
        logits: `[B, classes, (Z,) Y, X]`.
        scribble: class per pixel, or `ignore_index` where nobody drew; int64 `[B, (Z,) Y, X]`.
        ignore_index: marks pixels that nobody drew on.

    Returns:
        A scalar; 0 where nobody drew anything.
    """
    drawn = (scribble != ignore_index).sum().clamp_min(1)
    total = functional.cross_entropy(logits, scribble, ignore_index=ignore_index, reduction="sum")
    return total / drawn


@torch.no_grad()
def mixed_pseudo_labels(logits_main: Tensor, logits_auxiliary: Tensor, mixing: float) -> Tensor:
    """Return PL = argmax(a y1 + (1 - a) y2), without gradient: (4-2).

    Args:
        logits_main: of the main decoder, `[B, classes, (Z,) Y, X]`; y1 is its softmax.
        logits_auxiliary: of the auxiliary decoder, same shape; y2.
        mixing: a in [0, 1], drawn anew in each step.

    Returns:
        int64 `[B, (Z,) Y, X]`.
    """
    mixed = torch.lerp(logits_auxiliary.softmax(dim=1), logits_main.softmax(dim=1), mixing)
    return mixed.argmax(dim=1)


def dmpls_loss(
    logits_main: Tensor,
    logits_auxiliary: Tensor,
    scribble: Tensor,
    *,
    mixing: float,
    pseudo_label_weight: float = 0.5,
    ignore_index: int,
) -> Tensor:
    """Return the loss of dynamically mixed pseudo-label supervision: (4-4).

    L = 0.5 (LpCE(y1, s) + LpCE(y2, s)) + lambda 0.5 (LDice(PL, y1) + LDice(PL, y2))

    Args:
        logits_main: y1 before the softmax, `[B, classes, (Z,) Y, X]`.
        logits_auxiliary: y2 likewise.
        scribble: s, int64 `[B, (Z,) Y, X]`.
        mixing: a of (4-2).
        pseudo_label_weight: lambda.
        ignore_index: marks pixels that nobody drew on.
    """
    both = (logits_main, logits_auxiliary)
    drawn = sum(partial_cross_entropy(y, scribble, ignore_index=ignore_index) for y in both)
    labels = mixed_pseudo_labels(*both, mixing)
    pseudo = sum(multiclass_dice_loss(y.softmax(dim=1), labels) for y in both)
    return 0.5 * (torch.as_tensor(drawn) + pseudo_label_weight * torch.as_tensor(pseudo))


class MixedPseudoLabels(Learner[ScribbleBatch]):
    """Trains a dual-branch network by (4-4).

    Args:
        network: the network and its second branch.
        pseudo_label_weight: lambda.
        mixing: a of (4-2); None draws it anew in every step.
    """

    def __init__(
        self,
        network: DualBranch,
        *,
        pseudo_label_weight: float = 0.5,
        mixing: float | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self._both = network.both
        self._weight = pseudo_label_weight
        self._mixing = mixing

    def loss(self, batch: ScribbleBatch, step: Step) -> Tensor:
        """Return (4-4) of a batch."""
        images, scribbles = batch
        main, auxiliary = apply(self._both, images)
        return dmpls_loss(
            main,
            auxiliary,
            scribbles,
            mixing=step.rng.random() if self._mixing is None else self._mixing,
            pseudo_label_weight=self._weight,
            ignore_index=NOT_ANNOTATED,
        )
