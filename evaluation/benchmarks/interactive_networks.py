"""Trains interactive networks on phantoms and packs, and keeps them as files that resume."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

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
    ClickLearner,
    Target,
    click_schedule,
    cut_target,
    draw_clicks,
)
from evaluation.benchmarks.image_packs import pack_patients, pack_target, read_pack
from evaluation.benchmarks.shape_phantoms import shape_phantoms
from evaluation.benchmarks.training_files import train_resumably

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
            if dimensions == 3 and pack_target(name).volumes:
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
        schedule = click_schedule(
            iterations,
            batch_size=schedule.batch_size,
            learning_rate=schedule.learning_rate,
            save_every=schedule.validate_every,
        )
    sets = [shape_phantoms(dimensions, PHANTOMS[dimensions], seed=seed)]
    if names:
        sets.append(training_targets(packs, names, dimensions))
        if not sets[-1]:
            raise DataError(
                f"{', '.join(names)}: no target to learn from in {dimensions}-D: take other sets"
            )
    network = build_interactive_network(spec, seed=seed)
    checkpoint = file.with_name(file.name + ".checkpoint")
    train_resumably(
        ClickLearner(network),
        draw_clicks(sets, spec, schedule.batch_size),
        schedule,
        seed=seed,
        checkpoint=checkpoint,
        settings=[spec.model_dump(mode="json"), sorted(names)],
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
