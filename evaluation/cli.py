"""fedgtv-evaluate: the demo, the benchmarks and the images they run on."""

import json
import platform
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from algorithms.contracts.errors import DataError, failure_line

if TYPE_CHECKING:
    from evaluation.benchmarks.studies import Preset, Study

app = typer.Typer(
    help="Where every figure comes from: the demo and the benchmarks. Research use only, not a "
    "medical device.\n\nExample: fedgtv-evaluate benchmark phantom-study --seeds 3",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console(markup=False, emoji=False)  # a path may hold brackets

BENCHMARKS = {
    "phantom-study": "the whole road on phantom hospitals",
    "sts-study": "the whole road on real soft-tissue sarcomas (needs --packs)",
}


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the hospitals and the report go.")] = Path(
        "demo-output"
    ),
    data: Annotated[
        Path | None, typer.Option(help="Folder of the sts pack; phantoms when left out.")
    ] = None,
    transport: Annotated[str, typer.Option(help="'embedded' or 'flower'.")] = "embedded",
    seed: Annotated[int, typer.Option(min=0, help="For phantoms, splits and training.")] = 0,
    preset: Annotated[str, typer.Option(help="'cpu' (minutes) or 'full' (GPU, hours).")] = "cpu",
) -> None:
    """Run a whole study: hospitals, coordinator, adaptation, review, report. Run again to resume.

    Example: fedgtv-evaluate demo --output demo-output
    """
    from evaluation.benchmarks.study_road import Road, run_study
    from evaluation.benchmarks.study_table import site_rows, study_table

    study = _study("phantom-study" if data is None else "sts-study", data, preset)
    if transport not in ("embedded", "flower"):
        raise DataError(f"transport '{transport}' is unknown: use 'embedded' or 'flower'")
    folder = output / f"{study.name}-{preset}-seed{seed}-{transport}"
    report = run_study(Road(study, folder, seed, "flower" if transport == "flower" else "embedded"))
    rows = site_rows(report)
    wide = Console(width=max(console.width, 150))
    wide.print(study_table(rows, f"Study '{study.name}', seed {seed}"))
    at_home = report["source"]["test_dsc"]
    if at_home is not None:
        console.print(
            f"Source model on its own hospital's test patients: Dice {100 * at_home:.1f} %"
        )
    console.print("Doctors were an explicit simulated annotator.")
    console.print(f"Report: {folder / 'report' / 'study.html'}", soft_wrap=True)
    site = folder / "sites" / study.targets[0].name
    console.print(f"Clinical UI: make ui SITE={site}", soft_wrap=True)
    console.print("Research use only, not a medical device.")


@app.command()
def benchmark(
    name: Annotated[
        str, typer.Argument(help="; ".join(f"{k}: {v}" for k, v in BENCHMARKS.items()))
    ],
    packs: Annotated[
        Path | None, typer.Option(help="Folder that holds the packs acdc/ scd/ sts/ ...")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Other source hospital.")] = None,
    target: Annotated[list[str], typer.Option(help="Only these targets.")] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs with seeds 0..n-1.")] = 3,
    preset: Annotated[str, typer.Option(help="'cpu' or 'full'.")] = "cpu",
    output: Annotated[Path, typer.Option(help="Where the runs go; run again to resume.")] = Path(
        "benchmark-output"
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write rows and more.")] = None,
) -> None:
    """Run a benchmark over seeds and print mean and spread.

    Example: fedgtv-evaluate benchmark sts-study --packs DATA --seeds 3 --json sts.json
    """
    from evaluation.benchmarks.study_benchmark import benchmark_study, summarise_seeds
    from evaluation.benchmarks.study_table import study_table, summary_table

    pack = None if packs is None else packs / "sts"
    study = _choose(_study(name, pack, preset), source, target)
    began = time.monotonic()
    rows = benchmark_study(study, output / f"{name}-{preset}-{study.source.name}", seeds=seeds)
    summary = summarise_seeds(rows)
    wide = Console(width=max(console.width, 150))
    wide.print(study_table(rows, f"{name}, {seeds} seeds"))
    wide.print(summary_table(summary))
    if json_file is not None:
        record = {
            "benchmark": name,
            "command": shlex.join(["fedgtv-evaluate", *sys.argv[1:]]),
            "seconds": round(time.monotonic() - began, 1),
            "seeds": list(range(seeds)),
            "split": {
                "by": "patient",
                "source_test_share": study.source_test_share,
                "test_share": study.test_share,
                "validation_share": study.validation_share,
            },
            "plan": study.plan.model_dump(mode="json"),
            "versions": {p: version(p) for p in ("fedgtv", "torch", "numpy", "flwr")}
            | {"python": platform.python_version()},
            "rows": rows,
            "summary": summary,
        }
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(record, indent=1), "utf-8")


def _study(name: str, pack: Path | None, preset: str) -> "Study":
    from evaluation.benchmarks.studies import phantom_study, sts_study

    if preset not in ("cpu", "full"):
        raise DataError(f"preset '{preset}' is unknown: use 'cpu' or 'full'")
    kind: Preset = "full" if preset == "full" else "cpu"
    if name == "phantom-study":
        return phantom_study(kind)
    if name == "sts-study":
        if pack is None:
            raise DataError("sts-study needs real images: give --packs, the folder that holds sts/")
        return sts_study(pack, kind)
    raise DataError(f"benchmark '{name}' is unknown: one of {', '.join(BENCHMARKS)}")


def _choose(study: "Study", source: str | None, targets: list[str]) -> "Study":
    """Take another source hospital or fewer targets."""
    from dataclasses import replace

    hospitals = {hospital.name: hospital for hospital in study.hospitals}
    for name in [*targets, *([source] if source else [])]:
        if name not in hospitals:
            raise DataError(f"hospital '{name}' is unknown: one of {', '.join(hospitals)}")
    first = hospitals[source] if source else study.source
    others = [hospitals[name] for name in targets] or [
        hospital for hospital in study.hospitals if hospital != first
    ]
    return replace(study, source=first, targets=tuple(others))


def main() -> None:
    """Run the command; an expected error is one line and exit code 2."""
    try:
        app()
    except Exception as error:  # the edge of the process
        line = failure_line(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
