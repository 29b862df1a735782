"""Weights and training states on disk: safetensors, replaced whole, never a pickle."""

import hashlib
import json
import logging
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from algorithms.contracts.errors import DataError
from algorithms.training import TrainingState

_log = logging.getLogger(__name__)
_PARTS = ("weights", "moments", "best_weights")


def save_weights(weights: dict[str, Tensor], file: Path) -> None:
    """Write weights; the file is either the old one or the new one, whatever happens."""
    _save({name: tensor.contiguous() for name, tensor in weights.items()}, file, {})


def load_weights(file: Path) -> dict[str, Tensor]:
    """Read weights.

    Raises:
        DataError: when the file is not a safetensors file.
    """
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{file}: not readable as safetensors: delete it and run the command again"
        ) from error


def save_state(state: TrainingState, file: Path) -> None:
    """Write a checkpoint of a training run."""
    tensors = {
        f"{part}/{name}": tensor.contiguous()
        for part in _PARTS
        for name, tensor in getattr(state, part).items()
    }
    progress = {"iteration": state.iteration, "best_score": state.best_score}
    _save(tensors, file, {"progress": json.dumps(progress)})


def load_state(file: Path) -> TrainingState | None:
    """Read a checkpoint, or None when there is none or it cannot be read: training starts anew."""
    if not file.is_file():
        return None
    try:
        return _read_state(file)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError):
        _log.warning("%s: a damaged checkpoint: this training starts anew", file.name)
        return None


def _read_state(file: Path) -> TrainingState:
    with safe_open(file, framework="pt") as opened:
        progress = json.loads(opened.metadata()["progress"])
        state = TrainingState(iteration=progress["iteration"], best_score=progress["best_score"])
        for key in opened.keys():  # noqa: SIM118 - not a dict
            part, _, name = key.partition("/")
            getattr(state, part)[name] = opened.get_tensor(key)
    return state


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _save(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".part")
    save_file(tensors, temporary, metadata=metadata)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())  # or a power cut leaves the new name with no content
    temporary.replace(file)
