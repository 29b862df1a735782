"""Trains interactive networks on phantoms and packs, and keeps them as files that resume."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy import ndimage

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray
from algorithms.interactive_network import (
    Encoding,
    InteractiveNetwork,
    InteractiveNetworkSpec,
    build_interactive_network,
    from_bytes,
    ready,
    to_bytes,
)
from algorithms.interactive_training import (
    PRESETS,
    InteractiveState,
    Target,
    cut_target,
    train_interactive,
)
from evaluation.benchmarks.image_packs import PACK_TARGETS, pack_patients, read_pack
from evaluation.benchmarks.shape_phantoms import shape_phantoms

PHANTOMS = {2: 1200, 3: 600}
SMALLEST_TARGET_PIXELS = 50  # nobody clicks four points into less
Dimensions = Literal[2, 3]
Preset = Literal["cpu", "gpu"]


def held_back_patients(packs: Path, name: str) -> set[str]:
    """Return the patients of a pack that no network may learn from: every third by name."""
    return set(pack_patients(packs, name)[2::3])


def training_targets(
    packs: Path | None, names: Sequence[str], dimensions: Dimensions
) -> list[Target]:
    """Read the targets of the packs' training patients."""
    targets: list[Target] = []
    for name in names:
        if packs is None:
            raise DataError("--sets needs --packs, the folder that holds the packs")
        patients = set(pack_patients(packs, name)) - held_back_patients(packs, name)
        for case in read_pack(packs, name, patients):
            if dimensions == 3 and PACK_TARGETS[name].volumes:
                targets.append(cut_target(case.image, case.mask))
            elif dimensions == 2:
                targets += [
                    cut_target(image, piece)
                    for image, mask in zip(case.image, case.mask, strict=True)
                    if (piece := largest_piece(mask)).sum() >= SMALLEST_TARGET_PIXELS
                ]
    return targets


def largest_piece(mask: MaskArray) -> MaskArray:
    """Keep the largest connected component."""
    pieces, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return np.asarray(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)


def train_network(
    file: Path,
    *,
    dimensions: Dimensions,
    packs: Path | None = None,
    names: Sequence[str] = (),
    encoding: Encoding = "egd",
    preset: Preset = "cpu",
    seed: int = 0,
    iterations: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> InteractiveNetwork:
    """Train a network on phantoms and packs into `file`; run again to go on after a kill.

    A file that is there is read and not trained again.
    """
    spec, schedule = PRESETS[(preset, dimensions)]
    if encoding != spec.encoding:
        spec = spec.model_copy(update={"encoding": encoding, "encoding_length_weight": 0.0})
    if file.exists():
        return _read(file, spec)
    if iterations is not None:
        schedule = schedule.model_copy(update={"iterations": iterations})
    sets = [shape_phantoms(dimensions, PHANTOMS[dimensions], seed=seed)]
    if names:
        sets.append(training_targets(packs, names, dimensions))
        if not sets[-1]:
            raise DataError(
                f"{', '.join(names)}: no target to learn from in {dimensions}-D: take other sets"
            )
    network = build_interactive_network(spec, seed=seed)
    checkpoint = file.with_name(file.name + ".checkpoint")
    recipe = [spec.model_dump(mode="json"), schedule.model_dump(mode="json"), seed, sorted(names)]
    key = sha256_hex(canonical_json(recipe))
    file.parent.mkdir(parents=True, exist_ok=True)
    train_interactive(
        network,
        sets,
        spec,
        schedule,
        seed=seed,
        state=_load(checkpoint, key),
        save=lambda state: _save(checkpoint, state, key),
        progress=progress,
    )
    trained = ready(spec, network)
    part = file.with_name(file.name + ".part")
    part.write_bytes(to_bytes(trained))
    part.replace(file)
    checkpoint.unlink(missing_ok=True)
    return trained


def _read(file: Path, spec: InteractiveNetworkSpec) -> InteractiveNetwork:
    try:
        network = from_bytes(file.read_bytes())
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    if network.spec != spec:
        raise DataError(
            f"{file}: is a network of other settings than today's: remove it, so that it is "
            "trained again, or give another folder"
        )
    return network


def _save(file: Path, state: InteractiveState, key: str) -> None:
    tensors = {f"weights/{k}": v for k, v in state.weights.items()}
    tensors |= {f"moments/{k}": v for k, v in state.moments.items()}
    part = file.with_name(file.name + ".part")
    contiguous = {k: v.contiguous() for k, v in tensors.items()}
    save_file(contiguous, part, metadata={"iteration": str(state.iteration), "recipe": key})
    part.replace(file)


def _load(file: Path, key: str) -> InteractiveState | None:
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            about = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        about, tensors = {}, {}
    if about.get("recipe") != key:
        raise DataError(
            f"{file}: is of a training with other settings, or broken: remove it, or give the "
            "settings it was begun with"
        )
    state = InteractiveState(iteration=int(about["iteration"]))
    for name, tensor in tensors.items():
        kind, parameter = name.split("/", 1)
        getattr(state, kind)[parameter] = tensor
    return state
