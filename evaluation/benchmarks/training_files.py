"""Trainings of benchmarks as files: run again to go on after a kill, and to read what is done."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import TrainingSchedule
from algorithms.training import Batch, Learner, Progress, TrainingState, train

_PARTS = ("weights", "moments")


def train_resumably(
    learner: Learner[Batch],
    draw: Callable[[np.random.Generator], Batch],
    schedule: TrainingSchedule,
    *,
    seed: int,
    checkpoint: Path,
    settings: Any,
    progress: Progress | None = None,
) -> None:
    """Train `learner` in place, from the checkpoint where there is one.

    Args:
        learner: see `algorithms.training.train`.
        draw: likewise.
        schedule: likewise.
        seed: likewise.
        checkpoint: written while it trains. Whoever has stored the result removes it.
        settings: all that the training depends on, as JSON holds it.
        progress: see `algorithms.training.train`.

    Raises:
        DataError: the checkpoint is of other settings, or broken.
    """
    recipe = sha256_hex(canonical_json([settings, schedule.model_dump(mode="json"), seed]))
    checkpoint.parent.mkdir(parents=True, exist_ok=True)

    def save(state: TrainingState) -> None:
        tensors = {
            f"{part}/{name}": tensor.contiguous()
            for part in _PARTS
            for name, tensor in getattr(state, part).items()
        }
        about = {"iteration": str(state.iteration), "recipe": recipe}
        part = checkpoint.with_name(checkpoint.name + ".part")
        save_file(tensors, part, metadata=about)
        part.replace(checkpoint)

    state = _load(checkpoint, recipe)
    train(learner, draw, schedule, seed=seed, state=state, save=save, progress=progress)


def _load(file: Path, recipe: str) -> TrainingState | None:
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            about = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        about, tensors = {}, {}
    if about.get("recipe") != recipe:
        raise DataError(
            f"{file}: is of a training with other settings, or broken: remove it, or give the "
            "settings it was begun with"
        )
    state = TrainingState(iteration=int(about["iteration"]))
    for name, tensor in tensors.items():
        kind, parameter = name.split("/", 1)
        getattr(state, kind)[parameter] = tensor
    return state


def read_rows(file: Path, settings: Any) -> list[dict[str, Any]] | None:
    """Return the rows a finished run left, or None where it has to run.

    Raises:
        DataError: they are of other settings, or the file is broken.
    """
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
        stored, rows = found["settings"], found["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        stored, rows = None, []
    if stored != json.loads(json.dumps(settings)):
        raise DataError(
            f"{file}: holds results of other settings, or is broken: remove it, or give --output "
            "another folder"
        )
    return list(rows)


def write_rows(file: Path, settings: Any, rows: list[dict[str, Any]]) -> None:
    """Write what `read_rows` reads; the file is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1), "utf-8")
    part.replace(file)
