"""Is the average of adapted models better than the source's, and what do clipping and noise cost?

Every target hospital of a seed adapts the source model; the updates are clipped, noised and
averaged as a study does it. All models are tested on the same patients of every hospital, whom no
model has seen.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from algorithms.federated_averaging import (
    Tensors,
    add_noise,
    average,
    clip_update,
    gaussian_epsilon,
    l2_norm,
)
from algorithms.networks import UNet2d, build_network
from evaluation.benchmarks.adaptation_study import AdaptationStudy, Arm, Unit

ADAPTATION = Arm("stdr", 0.2, stages=True, per_patient=True)
DIRECT, ADAPTED, AVERAGED = "direct", "adapted", "averaged"
CLIPPED = 0.5  # of the median length of the updates
NOISE_MULTIPLIERS = (0.0, 0.003, 0.01, 0.03, 1.0)
DELTA = 1e-5
Row = dict[str, Any]


def run_averaging(study: AdaptationStudy, folder: Path, *, seeds: Sequence[int]) -> list[Row]:
    """Return mean Dice per seed, hospital and model; source models below `folder` are read."""
    rows: list[Row] = []
    for seed in seeds:
        hospitals = study.hospitals(seed)[1]
        units = [Unit(study, folder, hospital, seed, 0) for hospital in hospitals]
        base = _tensors(units[0].source)
        adapted = []
        for unit in units:
            adapted.append(unit.adapt(ADAPTATION)[1])
            print(f"  seed {seed}: {unit.hospital.name} adapted", file=sys.stderr, flush=True)
        updates = [_update(_tensors(network), base) for network in adapted]
        patients = [len(set(unit.whose)) for unit in units]
        models = {DIRECT: [units[0].source] * len(units), ADAPTED: adapted}
        for name, averaged in _averages(base, updates, patients, seed).items():
            network = build_network(study.preset.network)
            numbers = {key: torch.from_numpy(one) for key, one in averaged.items()}
            network.load_state_dict(units[0].source.state_dict() | numbers)
            models[name] = [network] * len(units)
        for name, networks in models.items():
            for unit, network in zip(units, networks, strict=True):
                dsc = [unit.measure(network, p, dsc_only=True)["dsc"] for p in unit.tested]
                row = {"seed": seed, "hospital": unit.hospital.name, "model": name}
                rows.append(row | {"dsc": float(np.mean(dsc)), "patients": len(dsc)})
        lengths = [round(l2_norm(update), 2) for update in updates]
        print(f"  seed {seed}: updates as long as {lengths}", file=sys.stderr, flush=True)
    return rows


def averaging_table(rows: Sequence[Row]) -> str:
    """Write a line per model: mean Dice per hospital, and mean and spread over seeds of all.

    The spread is the sample standard deviation of the seeds' means.
    """
    hospitals = list(dict.fromkeys(row["hospital"] for row in rows))
    seeds = sorted({row["seed"] for row in rows})
    lines = [f"| model | {' | '.join(hospitals)} | all |", "| --- " * (len(hospitals) + 2) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        each = [
            float(np.mean([row["dsc"] for row in mine if row["hospital"] == name]))
            for name in hospitals
        ]
        means = [np.mean([row["dsc"] for row in mine if row["seed"] == seed]) for seed in seeds]
        spread = f" ± {100 * np.std(means, ddof=1):.1f}" if len(means) > 1 else ""
        figures = [*(f"{100 * one:.1f}" for one in each), f"{100 * np.mean(means):.1f}{spread}"]
        lines.append(f"| {model} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _averages(
    base: Tensors, updates: Sequence[Tensors], patients: Sequence[int], seed: int
) -> dict[str, dict[str, NDArray[np.float32]]]:
    made = {AVERAGED: average(base, updates, patients)}
    clip_norm = CLIPPED * float(np.median([l2_norm(update) for update in updates]))
    for noise in NOISE_MULTIPLIERS:
        rng = np.random.default_rng(seed)
        safe = [
            add_noise(clip_update(update, clip_norm), noise, clip_norm, rng.standard_normal)
            for update in updates
        ]
        promised = f"epsilon {gaussian_epsilon(noise, DELTA):.3g}" if noise else "nothing promised"
        made[f"{AVERAGED}, clipped, noise {noise:g} ({promised})"] = average(base, safe, patients)
    return made


def _tensors(network: UNet2d) -> dict[str, NDArray[np.float32]]:
    state = network.state_dict().items()
    return {k: one.cpu().numpy() for k, one in state if one.dtype == torch.float32}


def _update(adapted: Tensors, base: Tensors) -> dict[str, NDArray[np.float32]]:
    return {name: adapted[name] - one for name, one in base.items()}
