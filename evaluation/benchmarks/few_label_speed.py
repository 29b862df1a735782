"""What a training step of DMPLS and DTC costs, beside the published step and the single network.

The published steps are restated here in plain PyTorch: float32, the memory layout that images
come in, for DMPLS a Dice loss whose mask of `[B, 1, Y, X]` spreads every sum over B x B images (its
value is the same), for DTC level sets computed anew in every step. Both kinds of step take the same
network, batch and optimiser, in turn, so that a busy machine slows both alike.
"""

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.model_package import TrainingSchedule
from algorithms.dual_task_consistency import DualTaskConsistency, PartlyLabelledBatch
from algorithms.networks import DualBranch, DualTask, EncoderDecoder, UNet, VNet
from algorithms.scribble_comparators.entropy_minimisation import EntropyMinimisation
from algorithms.scribble_supervision import MixedPseudoLabels, ScribbleBatch
from algorithms.semi_supervised_comparators.supervised_only import SupervisedOnly
from algorithms.signed_distance import level_sets
from algorithms.training import Learner, Step, apply, memory_layout, take_step

Row = dict[str, Any]
_CLASSES = 4
_RATE, _MOMENTUM, _DECAY = 0.01, 0.9, 1e-4


def run_few_label_speed(
    *, repeats: int = 3, small: bool = False, log: Callable[[str], None] = print
) -> list[Row]:
    """Time every step `repeats` times, after one that is not counted.

    Args:
        repeats: how often.
        small: tiny batches, to try the benchmark out.
        log: told what is going on.

    Returns:
        One row per step and repeat, and one per network in use.
    """
    flat = (2, 32, 32) if small else (24, 256, 256)
    solid = (2, 16, 16, 16) if small else (4, 80, 112, 112)
    unet = UNet(out_channels=_CLASSES, base_channels=4 if small else 16, levels=3 if small else 5)
    vnet = VNet(base_channels=2 if small else 16, convolutions=(1, 2) if small else (1, 2, 3, 3, 3))
    scribbles, partly = _scribbles(flat), _partly_labelled(solid)
    rows = _compare(
        "DMPLS",
        {
            "published": _PublishedMixedLabels(DualBranch(copy.deepcopy(unet))),
            "ours": MixedPseudoLabels(DualBranch(copy.deepcopy(unet))),
            "single network": EntropyMinimisation(copy.deepcopy(unet), weight=0.0),
        },
        scribbles,
        repeats,
        log,
    )
    rows += _compare(
        "DTC",
        {
            "published": _PublishedDualTask(DualTask(copy.deepcopy(vnet))),
            "ours": DualTaskConsistency(DualTask(copy.deepcopy(vnet))),
            "single network": SupervisedOnly(copy.deepcopy(vnet)),
        },
        partly,
        repeats,
        log,
    )
    for what, network, images in (
        ("DMPLS in use", unet, scribbles[0][:1]),
        ("DTC in use", vnet, partly[0][:1]),
    ):
        rows += _in_use(what, network, images, repeats * 3)
    return rows


def _compare(
    what: str,
    learners: dict[str, Learner[Any]],
    batch: Any,
    repeats: int,
    log: Callable[[str], None],
) -> list[Row]:
    schedule = TrainingSchedule(
        iterations=100, learning_rate=_RATE, momentum=_MOMENTUM, weight_decay=_DECAY
    )
    steps: dict[str, Callable[[], None]] = {}
    for name, learner in learners.items():
        parameters = list(learner.parameters())
        optimiser = torch.optim.SGD(parameters, lr=_RATE, momentum=_MOMENTUM, weight_decay=_DECAY)
        if name == "published":
            steps[name] = lambda learner=learner, optimiser=optimiser: _plain_step(  # type: ignore[misc]
                learner, optimiser, batch
            )
            continue
        learner.to(memory_format=memory_layout(learner))  # type: ignore[call-overload]
        steps[name] = lambda learner=learner, optimiser=optimiser: _step(  # type: ignore[misc]
            learner, optimiser, batch, schedule
        )
    rows = []
    for repeat in range(-1, repeats):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            seconds = time.perf_counter() - began
            log(f"{what}, {name}: {seconds:.2f} s")
            if repeat >= 0:
                rows.append({"what": what, "step": name, "repeat": repeat, "seconds": seconds})
    for name, step in steps.items():
        kept = _kept_for_backward(step)
        weights = sum(p.numel() for p in learners[name].parameters())
        for row in rows:
            if row["step"] == name:
                row |= {"kept_mb": kept / 1e6, "parameters": weights}
    return rows


def _step(
    learner: Learner[Any],
    optimiser: torch.optim.Optimizer,
    batch: Any,
    schedule: TrainingSchedule,
) -> None:
    take_step(learner, optimiser, batch, schedule, seed=0, iteration=50)


def _plain_step(learner: Learner[Any], optimiser: torch.optim.Optimizer, batch: Any) -> None:
    loss = learner.loss(batch, Step(50, 100, np.random.default_rng(0)))
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _kept_for_backward(step: Callable[[], None]) -> int:
    """Return the bytes that one step keeps for its backward pass, each storage once."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(sizes.values())


@torch.inference_mode()
def _in_use(what: str, single: EncoderDecoder, images: Tensor, repeats: int) -> list[Row]:
    """Time what predicts: the network alone, and the dual one around it."""
    dual = DualBranch(single) if what.startswith("DMPLS") else DualTask(single)
    for module in (single, dual):
        module.to(memory_format=memory_layout(module)).eval()  # type: ignore[call-overload]
    rows = []
    for repeat in range(-1, repeats):
        for name, module in (("single network", single), ("ours", dual)):
            began = time.perf_counter()
            apply(module, images)
            seconds = time.perf_counter() - began
            if repeat >= 0:
                rows.append({"what": what, "step": name, "repeat": repeat, "seconds": seconds})
    return rows


class _PublishedMixedLabels(Learner[ScribbleBatch]):
    """(4-4) as it was run."""

    def __init__(self, network: DualBranch) -> None:
        super().__init__()
        self.network = network
        self._both = network.both

    def loss(self, batch: ScribbleBatch, step: Step) -> Tensor:
        images, scribbles = batch
        main, auxiliary = self._both(images)
        one, two = main.softmax(dim=1), auxiliary.softmax(dim=1)
        drawn = functional.cross_entropy(main, scribbles, ignore_index=NOT_ANNOTATED)
        drawn = drawn + functional.cross_entropy(auxiliary, scribbles, ignore_index=NOT_ANNOTATED)
        mixing = step.rng.random()
        labels = (mixing * one.detach() + (1.0 - mixing) * two.detach()).argmax(dim=1)
        pseudo = self._dice(one, labels) + self._dice(two, labels)
        return 0.5 * drawn + 0.5 * 0.5 * pseudo

    @staticmethod
    def _dice(probabilities: Tensor, labels: Tensor) -> Tensor:
        loss = probabilities.new_zeros(())
        mask = torch.ones_like(labels[:, None], dtype=probabilities.dtype)
        for code in range(_CLASSES):
            p, y = probabilities[:, code], (labels == code).float()
            overlap = (p * y * mask).sum()  # [B, Y, X] times [B, 1, Y, X]
            size = (p * p * mask).sum() + (y * y * mask).sum()
            loss = loss + 1.0 - (2.0 * overlap + 1e-5) / (size + 1e-5)
        return loss / _CLASSES


class _PublishedDualTask(Learner[PartlyLabelledBatch]):
    """(5-7) as it was run."""

    def __init__(self, network: DualTask) -> None:
        super().__init__()
        self.network = network
        self._both = network.both

    def loss(self, batch: PartlyLabelledBatch, step: Step) -> Tensor:
        images, labels, _ = batch
        count = len(labels)
        logits, distance = self._both(images)
        probability = logits.sigmoid()
        truth = np.stack([self._level_set(label.numpy() > 0.5) for label in labels[:, 0]])
        far = functional.mse_loss(distance[:count, 0], torch.from_numpy(truth))
        p, y = probability[:count], labels
        dice = 1.0 - (2.0 * (p * y).sum() + 1e-5) / ((p * p).sum() + (y * y).sum() + 1e-5)
        apart: Tensor = (torch.sigmoid(-1500.0 * distance) - probability).square().mean()
        return dice + 0.3 * far + float(np.exp(-5.0 * 0.25)) * apart

    @staticmethod
    def _level_set(mask: Any) -> Any:
        inside = ndimage.distance_transform_edt(mask)
        outside = ndimage.distance_transform_edt(~mask)
        return (outside / outside.max() - inside / inside.max()).astype(np.float32)


def _scribbles(shape: tuple[int, int, int]) -> ScribbleBatch:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.random(shape, dtype=np.float32))[:, None]
    scribbles = np.where(rng.random(shape) < 0.012, rng.integers(0, _CLASSES, shape), NOT_ANNOTATED)
    return images, torch.from_numpy(scribbles)


def _partly_labelled(shape: tuple[int, ...]) -> PartlyLabelledBatch:
    """Make volumes of which the first half is labelled."""
    count, *sides = shape
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(count // 2):
        grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in sides], indexing="ij")
        masks.append(sum(g**2 for g in grids) < rng.uniform(0.2, 0.6))
    labels = np.stack(masks)
    distances = np.stack([level_sets(mask.astype(np.uint8), 2) for mask in labels])
    images = torch.from_numpy(rng.random((count, *sides), dtype=np.float32))[:, None]
    return images, torch.from_numpy(labels.astype(np.float32))[:, None], torch.from_numpy(distances)


def few_label_speed_table(rows: list[Row]) -> str:
    """Show medians; a ratio above 1 says how much faster ours is than the published step."""
    head = ["", "step", "seconds", "published / this", "kept for the backward pass, MB", "weights"]
    lines = [head, ["---"] * len(head)]
    for what in dict.fromkeys(r["what"] for r in rows):
        inside = [r for r in rows if r["what"] == what]
        medians = {
            step: float(np.median([r["seconds"] for r in inside if r["step"] == step]))
            for step in dict.fromkeys(r["step"] for r in inside)
        }
        for step, seconds in medians.items():
            one = next(r for r in inside if r["step"] == step)
            ratio = f"{medians['published'] / seconds:.1f}" if "published" in medians else "-"
            kept = f"{one['kept_mb']:.0f}" if "kept_mb" in one else "-"
            weights = f"{one['parameters']:,}" if "parameters" in one else "-"
            lines.append([what, step, f"{seconds:.3f}", ratio, kept, weights])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
