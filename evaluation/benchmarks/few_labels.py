"""Methods that learn from few labels, side by side: trained alike, measured alike, over seeds.

A study brings its methods and its test patients; here each is trained, tested with its last weights
(nothing is chosen on the test patients), and put into a table.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import TrainingSchedule
from algorithms.training import Draw, Learner
from evaluation.benchmarks.image_packs import Spacing
from evaluation.benchmarks.training_files import read_rows, train_resumably, write_rows
from evaluation.case_metrics import measure_case

Preset = Literal["cpu", "full"]
Row = dict[str, Any]
Log = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class TestCase:
    """A volume with its reference: what `predict` of the study takes.

    Attributes:
        image: float32 `[z, y, x]`.
        label: class per voxel, same shape.
        spacing_zyx_mm: of both.
    """

    __test__ = False  # pytest: not a test

    name: str
    patient: str
    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    spacing_zyx_mm: Spacing


@dataclass(frozen=True, eq=False)
class FewLabelStudy:
    """What is compared, and on whom.

    Attributes:
        name: of the benchmark.
        settings: all that the results depend on, as JSON holds it; `revision` stands for the code.
        schedule: of every training.
        methods: name -> what makes, for a seed, the learner and what draws its batches.
        classes: name -> code of each class that is measured.
        test_cases: whom the networks are tested on.
        predict: network, image -> class per voxel, on the image's own grid.
        upper_bound: name of the method that sees all labels.
    """

    name: str
    settings: Mapping[str, Any]
    schedule: TrainingSchedule
    methods: Mapping[str, Callable[[int], tuple[Learner[Any], Draw]]]
    classes: Mapping[str, int]
    test_cases: Sequence[TestCase]
    predict: Callable[[nn.Module, NDArray[np.float32]], NDArray[np.uint8]]
    upper_bound: str


def run_few_labels(
    study: FewLabelStudy,
    folder: Path,
    *,
    seeds: Sequence[int],
    only: Sequence[str] = (),
    log: Log = print,
) -> list[Row]:
    """Train and test every method with every seed; what is done below `folder` is read.

    Returns:
        One row per method, seed, test case and class.

    Raises:
        DataError: an unknown method, or results of other settings in `folder`.
    """
    for name in only:
        if name not in study.methods:
            raise DataError(f"method '{name}' is unknown: one of {', '.join(study.methods)}")
    rows: list[Row] = []
    for seed in seeds:  # so that a run that is stopped has compared all methods with some seeds
        for method in dict.fromkeys(only) or study.methods:
            file = folder / f"{method.replace(' ', '-')}-seed{seed}.json"
            found = read_rows(file, study.settings)
            if found is None:
                found = _train_and_test(study, method, seed, file.with_suffix(".checkpoint"), log)
                write_rows(file, study.settings, found)
                file.with_suffix(".checkpoint").unlink(missing_ok=True)
            rows += found
            log(f"{method}, seed {seed}: Dice {_cell(_mean(found, 'dsc'), None, 100)} %")
    return rows


def _train_and_test(
    study: FewLabelStudy, method: str, seed: int, checkpoint: Path, log: Log
) -> list[Row]:
    learner, draw = study.methods[method](seed)
    began, resumed = time.perf_counter(), checkpoint.exists()
    train_resumably(
        learner,
        draw,
        study.schedule,
        seed=seed,
        checkpoint=checkpoint,
        settings=[study.settings, method],
        progress=lambda i, n, loss: log(f"  {method}, seed {seed}: {i} of {n}, loss {loss:.3f}"),
    )
    seconds = None if resumed else round(time.perf_counter() - began, 1)
    rows = []
    for case in study.test_cases:
        found = study.predict(learner.network, case.image)
        for name, code in study.classes.items():
            figures = measure_case(
                case.label == code, found == code, spacing_zyx_mm=case.spacing_zyx_mm
            )
            rows.append(
                {
                    "method": method,
                    "seed": seed,
                    "case": case.name,
                    "patient": case.patient,
                    "class": name,
                    "training_seconds": seconds,
                    **{
                        key: None if np.isnan(value) else value
                        for key in ("dsc", "hd95_mm", "assd_mm")
                        for value in [getattr(figures, key)]
                    },
                }
            )
    return rows


def few_label_summary(rows: Sequence[Row]) -> list[Row]:
    """Return a row per method: mean and spread over seeds of the mean over cases and classes.

    `missed` counts Dice 0. Where nothing was predicted there is no distance, and the mean distance
    is that of the others.
    """
    return [
        {"method": method, **_over_seeds([r for r in rows if r["method"] == method])}
        for method in dict.fromkeys(r["method"] for r in rows)
    ]


def _over_seeds(rows: Sequence[Row]) -> Row:
    seeds = list(dict.fromkeys(r["seed"] for r in rows))

    def spread(key: str, chosen: Sequence[Row]) -> tuple[float | None, float | None]:
        each = [_mean([r for r in chosen if r["seed"] == seed], key) for seed in seeds]
        means = [mean for mean in each if mean is not None]
        if not means:
            return None, None
        return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else None

    found: Row = {"seeds": len(seeds), "missed": sum(r["dsc"] == 0 for r in rows)}
    for key in ("dsc", "hd95_mm", "assd_mm", "training_seconds"):
        found[key], found[f"{key}_sd"] = spread(key, rows)
    for name in dict.fromkeys(r["class"] for r in rows):
        found[f"dsc of {name}"], _ = spread("dsc", [r for r in rows if r["class"] == name])
    return found


def _mean(rows: Sequence[Row], key: str) -> float | None:
    values = [r[key] for r in rows if r[key] is not None]
    return float(np.mean(values)) if values else None


def few_label_table(summary: Sequence[Row], upper_bound: str) -> str:
    """Show the summary as Markdown, Dice in %, the best first and the upper bound last."""
    classes = [key for key in summary[0] if key.startswith("dsc of ")] if summary else []
    shown = classes if len(classes) > 1 else []
    whole = next((r["dsc"] for r in summary if r["method"] == upper_bound), None)
    head = ["method", "Dice %", *(name.removeprefix("dsc of ") for name in shown)]
    head += ["of all labels", "HD95 mm", "Dice 0", "training s"]
    lines = [head, ["---"] * len(head)]
    for r in sorted(summary, key=lambda r: (r["method"] == upper_bound, -(r["dsc"] or 0.0))):
        lines.append(
            [
                r["method"],
                _cell(r["dsc"], r["dsc_sd"], 100),
                *(_cell(r[name], None, 100) for name in shown),
                _cell(r["dsc"] / whole, None, 100) + " %"
                if whole and r["dsc"] is not None
                else "-",
                _cell(r["hd95_mm"], r["hd95_mm_sd"]),
                str(r["missed"]),
                _cell(r["training_seconds"], None),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(mean: float | None, deviation: float | None, factor: float = 1.0) -> str:
    if mean is None:
        return "-"
    spread = "" if deviation is None else f" ± {factor * deviation:.1f}"
    return f"{factor * mean:.1f}{spread}"
