"""Tiny packs and presets, so that a whole few-label study takes seconds."""

from pathlib import Path

import numpy as np
import pytest

from algorithms.contracts.model_package import TrainingSchedule
from evaluation.benchmarks import dual_task_study, scribble_study
from tests.phantoms import ball

NOT_DRAWN = 4  # the pack's own code


def write_scribbled(packs: Path, patients: int = 4) -> None:
    """Write hearts in small: three nested targets, scribbles on a tenth of the pixels."""
    (packs / "acdc").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(1, patients + 1):
        centre = (1, *rng.uniform(14, 18, 2))
        label = np.zeros((3, 32, 30), dtype=np.uint8)
        for code, radius in ((1, 10), (2, 7), (3, 4)):
            label[ball(label.shape, centre, radius)] = code
        image = np.clip(60 * label + rng.normal(20, 8, label.shape), 0, 255).astype(np.uint8)
        drawn = rng.random(label.shape) < 0.1
        scribble = np.where(drawn, label, NOT_DRAWN).astype(np.uint8)
        file = packs / "acdc" / f"patient{number:03d}_frame01.npz"
        np.savez_compressed(file, image=image, label=label, scribble=scribble)


def write_atria(packs: Path, volumes: int = 18) -> None:
    """Write bright balls, stored (x, y, z) as the pack is."""
    (packs / "la").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(volumes):
        label = ball((20, 22, 25), (10, *rng.uniform(9, 13, 2)), rng.uniform(5, 8))
        image = np.clip(120 * label + rng.normal(60, 10, label.shape), 0, 255).astype(np.uint8)
        np.savez_compressed(
            packs / "la" / f"V{number:02d}.npz",
            image=image.transpose(2, 1, 0),
            label=label.astype(np.uint8).transpose(2, 1, 0),
        )


def make_few_labels_tiny(monkeypatch: pytest.MonkeyPatch, iterations: int = 4) -> None:
    """Shrink the CPU presets."""
    schedule = TrainingSchedule(
        iterations=iterations, batch_size=4, learning_rate=0.05, validate_every=2
    )
    monkeypatch.setitem(
        scribble_study.SCRIBBLE_PRESETS,
        "cpu",
        scribble_study.ScribblePreset(
            side=16, base_channels=4, levels=2, asked=2, schedule=schedule
        ),
    )
    monkeypatch.setitem(
        dual_task_study.ATRIUM_PRESETS,
        "cpu",
        dual_task_study.AtriumPreset(
            coarser=2,
            crop_zyx=(8, 8, 8),
            stride_zyx=(4, 4, 4),
            base_channels=2,
            convolutions=(1, 1),
            normalisation="batch",
            dropout=0.0,
            asked=2,
            schedule=schedule,
        ),
    )
