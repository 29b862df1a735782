"""What it costs to choose slices: features of 2,000 slices of 256 x 256, and each strategy.

Beside ours, the plain way: eager PyTorch in float32, one slice at a time. Both take turns on blocks
of the same slices, so that a busy machine slows both alike.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from algorithms.contracts.model_package import NetworkSpec
from algorithms.features import describe_slices, pooled_feature
from algorithms.networks import UNet2d, build_network
from algorithms.reference_points import fit_reference_points
from algorithms.sample_selection import STRATEGIES, select
from algorithms.slice_description import SliceDescription
from algorithms.training import device

Row = dict[str, Any]
_BLOCKS = 8
_BUDGET = 0.2


def run_selection_speed(
    *, slices: int = 2000, side: int = 256, log: Callable[[str], None] = print
) -> list[Row]:
    """Time the features of `slices` invented slices, and every strategy on them."""
    network, plainly = (build_network(NetworkSpec()).to(device()) for _ in range(2))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rng = np.random.default_rng(0)
    seconds = {"plain": 0.0, "ours": 0.0}
    parts: list[SliceDescription] = []
    worst = 0.0
    for number, size in enumerate(np.diff(np.linspace(0, slices, _BLOCKS + 1).astype(int))):
        images = rng.normal(size=(size, side, side)).astype(np.float32)
        order = ("plain", "ours") if number % 2 else ("ours", "plain")
        plain = images[:0]
        for name in order:
            began = time.perf_counter()
            if name == "ours":
                parts.append(describe_slices(network, images))
            else:
                plain = _plain(plainly, images)
            seconds[name] += time.perf_counter() - began
        length = np.linalg.norm(plain, axis=1).clip(1e-30)
        difference = np.linalg.norm(parts[-1].features - plain, axis=1) / length
        worst = max(worst, float(difference.max()))
        log(f"  features: block {number + 1} of {_BLOCKS}")
    described = SliceDescription(
        *(np.concatenate([getattr(p, field) for p in parts]) for field in vars(parts[0]))
    )
    rows = [
        {"what": f"features, {name}", "slices": slices, "seconds": seconds[name]}
        for name in ("plain", "ours")
    ]
    rows[1] |= {"plain / this": seconds["plain"] / seconds["ours"], "largest difference": worst}
    points = fit_reference_points(described.features, 10)
    for strategy in STRATEGIES:
        began = time.perf_counter()
        select(
            described.features,
            points,
            round(_BUDGET * slices),
            strategy=strategy,
            described=described,
        )
        taken = time.perf_counter() - began
        rows.append({"what": f"selection, {strategy}", "slices": slices, "seconds": taken})
    return rows


@torch.inference_mode()
def _plain(network: UNet2d, images: NDArray[np.float32]) -> NDArray[np.float32]:
    network.eval()
    rows = []
    for image in images:
        features = network.penultimate(torch.from_numpy(image)[None, None].to(device()))
        rows.append(pooled_feature(features, network.head(features)).cpu().numpy())
    vectors: NDArray[np.float32] = np.concatenate(rows)
    return vectors


def selection_speed_table(rows: list[Row]) -> str:
    """Show the rows as Markdown."""
    lines = ["| | slices | seconds | plain / this |", "| --- | --- | --- | --- |"]
    for row in rows:
        ratio = f"{row['plain / this']:.1f}" if "plain / this" in row else ""
        lines.append(f"| {row['what']} | {row['slices']} | {row['seconds']:.2f} | {ratio} |")
    return "\n".join(lines)
