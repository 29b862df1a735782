"""fedgtv-evaluate: the demo, the benchmarks and the images they run on."""

import json
import platform
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from algorithms.contracts.errors import DataError, expected_errors_are_one_line

if TYPE_CHECKING:
    from evaluation.benchmarks.interactive_networks import Dimensions
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
    "interactive": "a robot user clicks on real images (needs --packs; trains networks first)",
    "interactive-speed": "how long a click takes, beside other engines",
    "acdc-scribble": "learning from scribbles, beside every comparator (needs --packs)",
    "la-dual-task": "learning from 8 contoured volumes and 8 without (needs --packs)",
    "heart-hospitals": "asking about few slices, Dijon to Toronto (needs --packs)",
    "sts-vendors": "asking about few slices, one scanner to others (needs --packs)",
    "phantom-hospitals": "asking about few slices, phantom hospitals",
    "model-averaging": "the average of three phantom hospitals' models, clipped and noised",
    "annotator-styles": "adapting to each of four raters of one phantom hospital",
    "selection-speed": "what choosing among 2,000 slices costs, beside the plain way",
    "metrics-speed": "what all metrics of one pair of masks cost, beside MONAI and others",
    "ingest-speed": "what reading DICOM series costs, beside SimpleITK and pydicom",
    "federation-scale": "one package to 3, 30 and 300 hospitals: time and memory",
    "few-label-speed": "what a training step of either costs, beside the published one",
}


_SUPERVISION = typer.Option(help="What doctors draw: 'dense' contours or a 'scribble'.")
_UNLABELLED = typer.Option(
    help="What other slices are used for: 'pseudo_labels', 'dual_task' or 'none'."
)


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
    supervision: Annotated[str, _SUPERVISION] = "dense",
    unlabelled: Annotated[str, _UNLABELLED] = "pseudo_labels",
) -> None:
    """Run a whole study: hospitals, coordinator, adaptation, review, report. Run again to resume.

    Example: fedgtv-evaluate demo --output demo-output
    """
    from evaluation.benchmarks.study_road import Road, run_study
    from evaluation.benchmarks.study_table import site_rows, study_table

    study = _study("phantom-study" if data is None else "sts-study", data, preset)
    study = _planned(study, supervision, unlabelled)
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
    source: Annotated[str | None, typer.Option(help="Other source hospital, or pack.")] = None,
    target: Annotated[list[str], typer.Option(help="Only these targets.")] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs with seeds 0..n-1.")] = 3,
    preset: Annotated[str, typer.Option(help="'cpu' or 'full'.")] = "cpu",
    supervision: Annotated[str, _SUPERVISION] = "dense",
    unlabelled: Annotated[str, _UNLABELLED] = "pseudo_labels",
    output: Annotated[Path, typer.Option(help="Where the runs go; run again to resume.")] = Path(
        "benchmark-output"
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write rows and more.")] = None,
    sets: Annotated[
        str | None, typer.Option(help="'interactive': only these, such as sts,hippocampus.")
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="'interactive': targets per set.")] = 12,
    clicks: Annotated[
        int, typer.Option(min=0, help="'interactive': most corrections; 0: first contours alone.")
    ] = 20,
    dimensions: Annotated[
        int | None, typer.Option(min=2, max=3, help="'interactive': 2 or 3 alone, not both.")
    ] = None,
    series: Annotated[int, typer.Option(min=1, help="'ingest-speed': series of 60 slices.")] = 200,
    shipped_only: Annotated[
        bool, typer.Option(help="'interactive': train nothing, test the package's networks.")
    ] = False,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Only these methods (few labels) or strategies (hospitals), parted by commas."
        ),
    ] = None,
) -> None:
    """Run a benchmark over seeds and print mean and spread.

    Example: fedgtv-evaluate benchmark sts-study --packs DATA --seeds 3 --json sts.json
    """
    if name in ("acdc-scribble", "la-dual-task"):
        _few_labels(name, packs, output, range(seeds), preset, _names(methods or ""), json_file)
        return
    if name in ("heart-hospitals", "sts-vendors", "phantom-hospitals"):
        hospitals = (source or "", *target)
        _adaptation(name, packs, output, range(seeds), preset, hospitals, methods or "", json_file)
        return
    if name == "model-averaging":
        _averaging(name, output, range(seeds), preset, json_file)
        return
    if name == "annotator-styles":
        from evaluation.benchmarks.annotator_styles import (
            annotator_styles_table,
            run_annotator_styles,
        )

        _check_preset(preset)
        began = time.monotonic()
        rows = run_annotator_styles(
            output / f"{name}-{preset}",
            "full" if preset == "full" else "cpu",
            seeds=range(seeds),
            log=_to_stderr,
        )
        print(annotator_styles_table(rows))
        _write(json_file, name, began, seeds, rows, {})
        return
    if name == "selection-speed":
        from evaluation.benchmarks.selection_speed import run_selection_speed, selection_speed_table

        _speed(name, run_selection_speed, selection_speed_table, json_file)
        return
    if name == "metrics-speed":
        from evaluation.benchmarks.metrics_speed import metrics_speed_table, run_metrics_speed

        _speed(name, run_metrics_speed, metrics_speed_table, json_file)
        return
    if name == "ingest-speed":
        from evaluation.benchmarks.ingest_speed import ingest_speed_table, run_ingest_speed

        _speed(
            name,
            partial(run_ingest_speed, output / name, series=series),
            ingest_speed_table,
            json_file,
        )
        return
    if name == "federation-scale":
        from evaluation.benchmarks.federation_scale import (
            federation_scale_table,
            run_federation_scale,
        )

        run = partial(run_federation_scale, output / name, log=_to_stderr)
        _speed(name, run, federation_scale_table, json_file)
        return
    if name == "few-label-speed":
        from evaluation.benchmarks.few_label_speed import few_label_speed_table, run_few_label_speed

        _speed(name, run_few_label_speed, few_label_speed_table, json_file)
        return
    if name.startswith("interactive"):
        _check_preset(preset)
        seeds = 0 if shipped_only else seeds
        chosen = dimensions or 0
        axes: tuple[Dimensions, ...] = (2,) if chosen == 2 else (3,) if chosen == 3 else (2, 3)
        _interactive(name, packs, output, seeds, preset, sets, cases, clicks, axes, json_file)
        return
    from evaluation.benchmarks.study_benchmark import benchmark_study, summarise_seeds
    from evaluation.benchmarks.study_table import study_table, summary_table

    pack = None if packs is None else packs / "sts"
    study = _choose(_study(name, pack, preset), source, target)
    study = _planned(study, supervision, unlabelled)
    began = time.monotonic()
    folder = output / f"{study.name}-study-{preset}-{study.source.name}"
    rows = benchmark_study(study, folder, seeds=seeds)
    summary = summarise_seeds(rows)
    wide = Console(width=max(console.width, 150))
    wide.print(study_table(rows, f"{name}, {seeds} seeds"))
    wide.print(summary_table(summary))
    split = {
        "by": "patient",
        "source_test_share": study.source_test_share,
        "test_share": study.test_share,
        "validation_share": study.validation_share,
    }
    more = {"split": split, "plan": study.plan.model_dump(mode="json"), "summary": summary}
    _write(json_file, name, began, seeds, rows, more)


@app.command()
def score(
    predicted: Annotated[Path, typer.Argument(help="A mask, or a folder of masks.")],
    reference: Annotated[Path, typer.Argument(help="The reference, or a folder of them.")],
    spacing: Annotated[
        str | None, typer.Option(help="z,y,x in mm, where the files do not say it.")
    ] = None,
    tolerances: Annotated[str, typer.Option(help="Of the surface Dice, in mm.")] = "1,2",
    labels: Annotated[
        str, typer.Option(help="One row per label, such as 1,2; else all above 0 is one region.")
    ] = "",
    roi: Annotated[str | None, typer.Option(help="The region of an RTSTRUCT.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the rows.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows.")] = None,
) -> None:
    """Measure predicted masks against references: NIfTI, NRRD, npz, DICOM SEG and RTSTRUCT.

    Files of two folders are paired by name. One that is missing is an error, not a gap.

    Example: fedgtv-evaluate score predictions/ references/ --csv scores.csv
    """
    from evaluation.scoring import find_pairs, score_files, score_table, write_csv, write_json

    steps = _numbers(spacing, "--spacing") if spacing else None
    rows = [
        row
        for case, files in find_pairs(predicted, reference).items()
        for row in score_files(
            case,
            *files,
            spacing_zyx_mm=steps,
            tolerances_mm=_numbers(tolerances, "--tolerances"),
            labels=_labels(labels),
            roi=roi,
        )
    ]
    print(score_table(rows))
    if csv_file:
        write_csv(rows, csv_file)
    if json_file:
        write_json({"rows": rows}, json_file)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Scores of one method (CSV or JSON of 'score').")],
    second: Annotated[Path, typer.Argument(help="Scores of the other, on the same cases.")],
    groups: Annotated[
        Path | None, typer.Option(help="CSV: case, and columns such as site, t_stage, scanner.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(min=0, help="Dice (0-1) by which the second may be worse.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the tests.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all of it.")] = None,
) -> None:
    """Compare two methods on the same cases: paired tests with Holm, intervals, subgroups, sites.

    Example: fedgtv-evaluate compare direct.csv adapted.csv --groups cases.csv --margin 0.02
    """
    from evaluation.comparison import (
        compare_figures,
        compare_groups,
        comparison_table,
        failures,
        groups_table,
        non_inferiority,
        pair_rows,
        read_groups,
    )
    from evaluation.scoring import read_scores, write_csv, write_json

    if margin == 0:
        raise DataError("--margin must be above 0: the Dice that would not matter, such as 0.02")
    pairs = pair_rows(read_scores(first), read_scores(second))
    known = read_groups(groups) if groups else {}
    rows = compare_figures(pairs, seed=seed)
    print(comparison_table(rows, (first.stem, second.stem)))
    missed = failures(pairs)
    told = "; ".join(f"{side}: {', '.join(cases) or 'none'}" for side, cases in missed.items())
    print(f"\nFailures (Dice 0, counted as 0 there; they have no distance), {told}.")
    found: dict[str, Any] = {"figures": rows, "failures": missed}
    found["groups"] = compare_groups(pairs, known)
    print(f"\n{groups_table(found['groups'])}")
    if margin is not None:
        test = found["non_inferiority"] = non_inferiority(pairs, margin)
        verdict = "not inferior" if test["non_inferior"] else "non-inferiority is not shown"
        print(
            f"\nDice, margin {100 * margin:g} %: {verdict} (p {test['p_not_worse']:.3g}, "
            f"90 % interval {100 * test['difference']['low']:+.2f} to "
            f"{100 * test['difference']['high']:+.2f} %)."
        )
    if csv_file:
        write_csv(rows, csv_file)
    if json_file:
        write_json(found, json_file)


@app.command()
def agreement(
    raters: Annotated[list[Path], typer.Argument(help="One folder of masks per rater.")],
    second: Annotated[
        list[Path], typer.Option(help="Their second sitting, in the same order.")
    ] = [],  # noqa: B006
    spacing: Annotated[
        str | None, typer.Option(help="z,y,x in mm, where the files do not say it.")
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Every pair and case.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all of it.")] = None,
) -> None:
    """Say how far raters agree: Dice, HD95, intraclass correlation of volumes, kappa of voxels.

    Example: fedgtv-evaluate agreement expert-1/ expert-2/ expert-3/ --json raters.json
    """
    from evaluation.rater_files import agreement_of_folders, agreement_report
    from evaluation.scoring import write_csv, write_json

    steps = _numbers(spacing, "--spacing") if spacing else None
    found = agreement_of_folders(raters, second, spacing_zyx_mm=steps)
    print(agreement_report(found))
    if csv_file:
        write_csv(found.rows(), csv_file)
    if json_file:
        write_json({"rows": found.rows(), **found.summary()}, json_file)


def _numbers(text: str, option: str) -> tuple[float, ...]:
    """Read positive numbers parted by commas."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise DataError(f"{option} '{text}': give numbers above 0 parted by commas, such as 3,1,1")
    return numbers


def _labels(text: str) -> tuple[int, ...]:
    try:
        labels = tuple(int(part) for part in _names(text))
    except ValueError:
        labels = (0,)
    if any(label < 1 for label in labels):
        raise DataError(f"--labels '{text}': give whole numbers above 0, such as 1,2")
    return labels


@app.command()
def report(
    summaries: Annotated[
        list[Path], typer.Argument(help="Hospitals' reports (JSON), or folders of them.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the study report.")],
    title: Annotated[str | None, typer.Option(help="Heading; else the study's name.")] = None,
    expect: Annotated[list[str], typer.Option(help="A hospital that should have reported.")] = [],  # noqa: B006
    package: Annotated[
        list[Path], typer.Option(help="Folder of a tested package, for the model lineage.")
    ] = [],  # noqa: B006
    key: Annotated[Path | None, typer.Option(help="Signing key; else it stays unsigned.")] = None,
    pdf: Annotated[bool, typer.Option(help="Print it, too (pip install 'fedgtv[pdf]').")] = False,
) -> None:
    """Make a study's report from its hospitals' reports.

    study.html is to read; study.csv, study-subgroups.csv, study-raters.csv and study.json are to
    compute with.

    Example: fedgtv-evaluate report reports/ --output study-report --expect hospital-b
    """
    from evaluation.report_files import write_study_report

    for file in write_study_report(
        summaries,
        output,
        title=title,
        expected_sites=expect,
        packages=package,
        key=key,
        pdf=pdf,
    ):
        console.print(str(file), soft_wrap=True)


@app.command("verify-report")
def verify_report_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a study report.")],
    key: Annotated[str, typer.Option(help="The study's public key, 64 hexadecimal digits.")],
) -> None:
    """Check that a study's report is as the study lead signed it.

    Example: fedgtv-evaluate verify-report study-report --key PUBLIC_KEY
    """
    from evaluation.report_seal import verify_report

    statement = verify_report(folder, key)
    files = ", ".join(statement.files)
    console.print(f"Study {statement.study}: {files} are as they were signed.", soft_wrap=True)


@app.command()
def reproduce(
    results: Annotated[
        list[Path], typer.Argument(help="JSON files that 'benchmark --json' wrote, or folders.")
    ],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows.")] = None,
) -> None:
    """Put what was measured here beside what the thesis published, and what differs.

    Example: fedgtv-evaluate reproduce benchmark-output/ docs/results/
    """
    from evaluation.reproduction import as_json, published_beside_ours, reproduction_tables
    from evaluation.scoring import write_json

    rows = published_beside_ours(results)
    print(reproduction_tables(rows))
    if json_file:
        write_json({"rows": as_json(rows)}, json_file)


@app.command("train-interactive")
def train_interactive_command(
    output: Annotated[Path, typer.Argument(help="Weights file to write (.safetensors).")],
    dimensions: Annotated[int, typer.Option(min=2, max=3, help="2 or 3.")] = 2,
    packs: Annotated[Path | None, typer.Option(help="Folder that holds the packs.")] = None,
    sets: Annotated[str, typer.Option(help="Packs to learn from, such as sts,la.")] = "",
    encoding: Annotated[
        str, typer.Option(help="Of the clicks: egd, euclidean, gaussian, geodesic or box.")
    ] = "egd",
    preset: Annotated[str, typer.Option(help="'cpu' (minutes) or 'gpu' (hours).")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="For phantoms, weights and samples.")] = 0,
    iterations: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
) -> None:
    """Train the network that turns clicks into a contour. Run again to go on after a kill.

    It learns from invented shapes, and from the packs' training patients where --sets names any.

    Example: fedgtv-evaluate train-interactive click-2d.safetensors --packs DATA --sets sts
    """
    from typing import get_args

    from algorithms.interactive_network import Encoding
    from evaluation.benchmarks.interactive_networks import Preset as Size
    from evaluation.benchmarks.interactive_networks import train_network

    for value, allowed, what in (
        (encoding, get_args(Encoding), "encoding"),
        (preset, get_args(Size), "preset"),
    ):
        if value not in allowed:
            raise DataError(f"{what} '{value}' is unknown: one of {', '.join(allowed)}")
    if output.exists():
        raise DataError(f"{output}: is there already: give another name, or remove it")
    train_network(
        output,
        dimensions=3 if dimensions == 3 else 2,
        packs=packs,
        names=_names(sets),
        encoding=encoding,  # type: ignore[arg-type]  # checked above
        preset="gpu" if preset == "gpu" else "cpu",
        seed=seed,
        iterations=iterations,
        progress=lambda i, n, loss: console.print(f"iteration {i} of {n}: Dice loss {loss:.3f}"),
    )
    console.print(f"Wrote {output}", soft_wrap=True)


def _interactive(
    name: str,
    packs: Path | None,
    output: Path,
    seeds: int,
    preset: str,
    sets: str | None,
    cases: int,
    clicks: int,
    dimensions: "tuple[Dimensions, ...]",
    json_file: Path | None,
) -> None:
    from algorithms.interactive_training import PRESETS
    from evaluation.benchmarks.interactive_networks import Preset
    from evaluation.benchmarks.interactive_speed import run_speed, speed_table
    from evaluation.benchmarks.interactive_study import SEEN, SHIPPED, UNSEEN, StudySize, run_study
    from evaluation.benchmarks.interactive_tables import click_table, encoding_table

    began = time.monotonic()
    if name == "interactive-speed":
        rows = run_speed(packs)
        print(speed_table(rows))
        _write(json_file, name, began, seeds, rows, {"images": "packs" if packs else "phantoms"})
        return
    if name != "interactive":
        raise DataError(f"benchmark '{name}' is unknown: one of {', '.join(BENCHMARKS)}")
    if packs is None:
        raise DataError("interactive needs real images: give --packs, the folder of the packs")
    size = StudySize(cases=cases, clicks=clicks)
    kind: Preset = "gpu" if preset == "full" else "cpu"
    rows = run_study(
        packs,
        output / "interactive-networks",
        sets=_names(sets or "") or (*SEEN, *UNSEEN),
        dimensions=dimensions,
        seeds=seeds,
        preset=kind,
        size=size,
        log=_to_stderr,
    )
    what = "Corrections" if size.clicks else "First contours"
    tables = {
        f"{what}, network that comes with the package": click_table(
            rows, SHIPPED, limit=size.clicks
        )
    }
    if seeds:
        tables |= {
            "Dice of the first contour in %, by encoding of the clicks": encoding_table(rows),
            f"{what}, network of the study": click_table(rows, "egd", limit=size.clicks),
        }
    for title, table in tables.items():
        print(f"\n### {title}\n\n{table}")
    specs = {f"{axes}d": PRESETS[(kind, axes)][0].model_dump(mode="json") for axes in dimensions}
    _write(json_file, name, began, seeds, rows, {"size": vars(size), "networks": specs})


def _few_labels(
    name: str,
    packs: Path | None,
    output: Path,
    seeds: range,
    preset: str,
    only: tuple[str, ...],
    json_file: Path | None,
) -> None:
    from evaluation.benchmarks.dual_task_study import la_dual_task_study
    from evaluation.benchmarks.few_labels import few_label_summary, few_label_table, run_few_labels
    from evaluation.benchmarks.scribble_study import acdc_scribble_study

    _check_preset(preset)
    if packs is None:
        raise DataError(f"{name} needs real images: give --packs, the folder of the packs")
    began = time.monotonic()
    kind: Preset = "full" if preset == "full" else "cpu"
    make = acdc_scribble_study if name == "acdc-scribble" else la_dual_task_study
    study = make(packs, kind)
    for part, patients in study.settings["split"].items():
        print(f"{part}: {', '.join(patients)}")
    rows = run_few_labels(
        study,
        output / f"{name}-{preset}",
        seeds=seeds,
        only=only,
        log=_to_stderr,
    )
    summary = few_label_summary(rows)
    print(f"\n### {name}, preset {preset}, {len(seeds)} seeds\n")
    print(few_label_table(summary, study.upper_bound))
    _write(
        json_file, name, began, len(seeds), rows, {"settings": study.settings, "summary": summary}
    )


def _adaptation(
    name: str,
    packs: Path | None,
    output: Path,
    seeds: range,
    preset: str,
    hospitals: tuple[str, ...],
    strategies: str,
    json_file: Path | None,
) -> None:
    from evaluation.benchmarks.adaptation_benchmarks import (
        CURVE,
        HEART,
        OWN,
        adaptation_study,
        standard_arms,
    )
    from evaluation.benchmarks.adaptation_study import run_adaptation
    from evaluation.benchmarks.adaptation_table import (
        adaptation_summary,
        adaptation_table,
        comparison_table,
    )

    _check_preset(preset)
    if any(hospitals) and name != HEART:
        raise DataError(f"--source and --target choose packs for {HEART} alone")
    if len(hospitals) > 2:
        raise DataError("give one --target: a benchmark adapts to one hospital at a time")
    began = time.monotonic()
    kind: Preset = "full" if preset == "full" else "cpu"
    source, *target = hospitals
    study = adaptation_study(name, kind, packs, source=source, target="".join(target))
    arms = standard_arms(_names(strategies))
    folder = output / f"{name}-{preset}" / study.inputs.replace(":", "-").replace(" ", "-")[:40]
    rows = run_adaptation(study, folder, arms, seeds=seeds)
    for seed, hospital, fold in sorted({(r["seed"], r["hospital"], r["fold"]) for r in rows}):
        unit = (seed, hospital, fold)
        tested = {r["patient"] for r in rows if (r["seed"], r["hospital"], r["fold"]) == unit}
        print(f"tested, {hospital}, seed {seed}, fold {fold}: {', '.join(sorted(tested))}")
    summary = adaptation_summary(rows)
    print(f"\n### {name}, preset {preset}, {len(seeds)} seeds\n")
    print(adaptation_table(summary))
    own = OWN if OWN in {arm.strategy for arm in arms} else arms[0].strategy
    print(f"\n{comparison_table(rows, own, CURVE)}")
    _write(
        json_file, name, began, len(seeds), rows, {"settings": study.settings, "summary": summary}
    )


def _averaging(name: str, output: Path, seeds: range, preset: str, json_file: Path | None) -> None:
    from evaluation.benchmarks.adaptation_benchmarks import PHANTOMS, adaptation_study
    from evaluation.benchmarks.averaging_study import averaging_table, run_averaging

    _check_preset(preset)
    began = time.monotonic()
    study = adaptation_study(PHANTOMS, "full" if preset == "full" else "cpu")
    rows = run_averaging(study, output / f"{name}-{preset}", seeds=seeds)
    print(averaging_table(rows))
    _write(json_file, name, began, len(seeds), rows, {"settings": study.settings})


def _speed(
    name: str,
    run: Callable[..., list[dict[str, Any]]],
    table: Callable[[list[dict[str, Any]]], str],
    json_file: Path | None,
) -> None:
    began = time.monotonic()
    rows = run(log=_to_stderr)
    print(table(rows))
    _write(json_file, name, began, 0, rows, {})


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _names(sets: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in sets.split(",") if part.strip())


def _write(
    json_file: Path | None,
    name: str,
    began: float,
    seeds: int,
    rows: list[dict[str, Any]],
    more: dict[str, Any],
) -> None:
    if json_file is None:
        return
    record = {
        "benchmark": name,
        "command": shlex.join(["fedgtv-evaluate", *sys.argv[1:]]),
        "seconds": round(time.monotonic() - began, 1),
        "seeds": list(range(seeds)),
        "versions": {p: version(p) for p in ("fedgtv", "torch", "numpy", "flwr")}
        | {"python": platform.python_version()},
        "rows": rows,
        **more,
    }
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(record, indent=1), "utf-8")


def _check_preset(preset: str) -> None:
    if preset not in ("cpu", "full"):
        raise DataError(f"preset '{preset}' is unknown: use 'cpu' or 'full'")


def _study(name: str, pack: Path | None, preset: str) -> "Study":
    from evaluation.benchmarks.studies import phantom_study, sts_study

    _check_preset(preset)
    kind: Preset = "full" if preset == "full" else "cpu"
    if name == "phantom-study":
        return phantom_study(kind)
    if name == "sts-study":
        if pack is None:
            raise DataError("sts-study needs real images: give --packs, the folder that holds sts/")
        return sts_study(pack, kind)
    raise DataError(f"benchmark '{name}' is unknown: one of {', '.join(BENCHMARKS)}")


def _planned(study: "Study", supervision: str, unlabelled: str) -> "Study":
    """Ask doctors for something else, or use the other slices otherwise; named so in the study."""
    from dataclasses import replace

    from pydantic import ValidationError

    from algorithms.contracts.model_package import AdaptationPlan, StudyPlan

    default = study.plan.adaptation
    changes = {"supervision": supervision, "unlabelled": unlabelled}
    named = [v for k, v in changes.items() if v != getattr(default, k)]
    if not named:
        return study
    try:
        adaptation = AdaptationPlan.model_validate(default.model_dump() | changes)
    except ValidationError as error:
        said = error.errors()[0]
        option = f"--{said['loc'][0]}: " if said["loc"] else ""
        raise DataError(option + said["msg"].removeprefix("Value error, ")) from None
    plan = StudyPlan.model_validate(study.plan.model_dump() | {"adaptation": adaptation})
    name = "-".join([study.name, *named]).replace("_", "-")
    return replace(study, name=name, plan=plan)


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
    with expected_errors_are_one_line():
        app()
