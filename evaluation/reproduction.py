"""Our measured figures beside the thesis's published ones, and what differs in the protocol.

Nothing is a replication: the thesis's nasopharynx images are not public, and our presets for two
cores are far smaller. What can be compared is how methods lie to one another, above all the share
of the gap between direct use and training on the target that is closed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from algorithms.contracts.errors import DataError

Record = Mapping[str, Any]
Value = tuple[float, float | None]
"""A figure, and its SD over seeds where it is known."""


@dataclass(frozen=True)
class Published:
    """A figure of the thesis, and how to find ours.

    Attributes:
        table: number in the thesis.
        what: the figure, with its unit.
        settings: which of the thesis's settings the values are of, in their order.
        values: as published, in percent unless `what` says otherwise.
        ours: reads a benchmark's record; None where it does not hold the figure.
    """

    table: str
    what: str
    settings: str
    values: tuple[float, ...]
    ours: Callable[[Record], Value | None]


@dataclass(frozen=True)
class ComparedRow:
    """A published figure beside ours.

    Attributes:
        ours: None where the record does not hold it.
        outside: how far ours lies above the most or below the least that was published; 0 between
            them.
        differs: what is different in the protocol.
    """

    benchmark: str
    file: str
    table: str
    what: str
    settings: str
    published: tuple[float, ...]
    ours: float | None
    ours_sd: float | None
    seeds: int
    outside: float | None
    differs: str


# --- reading our records -------------------------------------------------------------------------


def _row_of(record: Record, **wanted: Any) -> Record | None:
    rows = record.get("summary", ())
    return next((r for r in rows if all(r.get(k) == v for k, v in wanted.items())), None)


def _percent(row: Record | None, key: str, spread: str | None = None) -> Value | None:
    if row is None or row.get(key) is None:
        return None
    sd = row.get(spread) if spread else None
    return 100 * float(row[key]), None if sd is None else 100 * float(sd)


def _arm(arm: str, key: str = "dsc") -> Callable[[Record], Value | None]:
    spread = "dsc_sd" if key == "dsc" else None
    return lambda record: _percent(_row_of(record, arm=arm), key, spread)


def _arm_mm(arm: str) -> Callable[[Record], Value | None]:
    def read(record: Record) -> Value | None:
        row = _row_of(record, arm=arm)
        return None if row is None or row["hd95_mm"] is None else (float(row["hd95_mm"]), None)

    return read


def _method(name: str) -> Callable[[Record], Value | None]:
    return lambda record: _percent(_row_of(record, method=name), "dsc", "dsc_sd")


def _gain(better: str, than: str) -> Callable[[Record], Value | None]:
    """Read by how many points one method lies above another."""

    def read(record: Record) -> Value | None:
        one, other = _method(better)(record), _method(than)(record)
        return None if one is None or other is None else (one[0] - other[0], None)

    return read


def _all_sites(arm: str) -> Callable[[Record], Value | None]:
    return lambda record: _percent(
        _row_of(record, site="all sites"), f"{arm}_dsc_mean", f"{arm}_dsc_sd"
    )


def _study_gap(record: Record) -> Value | None:
    figures = [_all_sites(arm)(record) for arm in ("direct", "adapted", "target_trained")]
    if None in figures:
        return None
    direct, adapted, target = (figure[0] for figure in figures if figure is not None)
    return (100 * (adapted - direct) / (target - direct), None) if target > direct else None


def _mean_of(key: str) -> Callable[[Record], Value | None]:
    def read(record: Record) -> Value | None:
        values = [100 * float(row[key]) for row in record["rows"] if row.get(key) is not None]
        return (sum(values) / len(values), None) if values else None

    return read


def _clicks(dimensions: int, method: str, after: int) -> Callable[[Record], Value | None]:
    """Read the mean Dice over unseen targets after so many corrections."""

    def read(record: Record) -> Value | None:
        dice = [
            100 * float(row["dice"][min(after, len(row["dice"]) - 1)])
            for row in record["rows"]
            if row.get("dimensions") == dimensions
            and row.get("method") == method
            and row.get("network") == "shipped"
            and not row.get("seen", True)
        ]
        return (sum(dice) / len(dice), None) if dice else None

    return read


# --- what was published --------------------------------------------------------------------------

_TARGETS = "SPH to SCH, APH, WCH, SMU"
_GAPS = (91.0, 87.0, 79.0, 90.0)
_ADAPTATION = (
    Published("6-2", "direct use, Dice", _TARGETS, (59.11, 78.25, 74.76, 73.71), _arm("direct")),
    Published(
        "6-1",
        "trained on the target, Dice",
        _TARGETS,
        (72.19, 86.79, 85.87, 85.31),
        _arm("all labels"),
    ),
    Published(
        "6-5", "random 20 %, Dice", _TARGETS, (62.28, 81.19, 78.05, 78.75), _arm("random, 20 %")
    ),
    Published("6-5", "STDR 20 %, Dice", _TARGETS, (69.55, 85.05, 82.81, 83.51), _arm("stdr, 20 %")),
    Published("6-5", "MHPL 20 %, Dice", _TARGETS, (67.35, 84.04, 80.4, 81.61), _arm("mhpl, 20 %")),
    Published(
        "6-3",
        "STDR and stages 20 %, Dice",
        _TARGETS,
        (70.99, 85.69, 83.59, 84.13),
        _arm("stdr + stages, 20 %"),
    ),
    Published(
        "6-3",
        "STDR and stages 20 %, HD95 in mm",
        _TARGETS,
        (8.57, 4.58, 4.85, 6.17),
        _arm_mm("stdr + stages, 20 %"),
    ),
    Published(
        "6-1 to 6-3",
        "gap closed by STDR and stages",
        _TARGETS,
        _GAPS,
        _arm("stdr + stages, 20 %", "gap_closed"),
    ),
    Published("6-9", "STDR 10 %, Dice", "SPH to SCH, APH", (64.61, 84.05), _arm("stdr, 10 %")),
    Published("6-9", "STDR 40 %, Dice", "SPH to SCH, APH", (70.88, 85.62), _arm("stdr, 40 %")),
    Published("6-9", "STDR 80 %, Dice", "SPH to SCH, APH", (73.57, 86.81), _arm("stdr, 80 %")),
    Published(
        "6-3",
        "Tent (no labels), Dice",
        "SPH to SCH, WCH, SMU",
        (62.37, 75.81, 75.88),
        _arm("without labels: Tent"),
    ),
    Published(
        "6-3",
        "DPL (no labels), Dice",
        _TARGETS,
        (62.88, 80.96, 77.26, 77.24),
        _arm("without labels: DPL"),
    ),
)
_STUDY = (
    Published(
        "6-2", "direct use, Dice", _TARGETS, (59.11, 78.25, 74.76, 73.71), _all_sites("direct")
    ),
    Published(
        "6-3", "adapted, Dice", _TARGETS, (70.99, 85.69, 83.59, 84.13), _all_sites("adapted")
    ),
    Published(
        "6-1",
        "trained on the target, Dice",
        _TARGETS,
        (72.19, 86.79, 85.87, 85.31),
        _all_sites("target_trained"),
    ),
    Published("6-1 to 6-3", "gap closed", _TARGETS, _GAPS, _study_gap),
)
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "heart-hospitals": _ADAPTATION,
    "sts-vendors": _ADAPTATION,
    "phantom-hospitals": _ADAPTATION,
    "phantom-study": _STUDY,
    "sts-study": _STUDY,
    "annotator-styles": (
        Published(
            "2-4",
            "Dice between raters",
            "six pairs",
            (72.79, 74.08, 70.38, 72.26, 72.72, 69.8),
            _mean_of("between_raters"),
        ),
    ),
    "acdc-scribble": (
        Published("4-1", "DMPLS, Dice", "ACDC", (87.2,), _method("DMPLS")),
        Published(
            "4-1", "partial cross-entropy, Dice", "ACDC", (67.66,), _method("partial cross-entropy")
        ),
        Published(
            "4-1",
            "DMPLS over partial cross-entropy, points",
            "ACDC",
            (19.54,),
            _gain("DMPLS", "partial cross-entropy"),
        ),
    ),
    "la-dual-task": (
        Published(
            "5-2", "8 labelled alone, Dice", "left atrium", (79.99,), _method("labelled alone")
        ),
        Published("5-2", "8 labelled, DTC, Dice", "left atrium", (87.51,), _method("DTC")),
        Published(
            "5-2", "gain of DTC, points", "left atrium", (7.52,), _gain("DTC", "labelled alone")
        ),
    ),
    "interactive": (
        Published(
            "3-6",
            "2-D first contour, Dice",
            "placenta, spleen",
            (88.10, 95.08),
            _clicks(2, "if-gc", 0),
        ),
        Published(
            "3-6",
            "2-D IF-GC, Dice",
            "placenta, spleen; ours after 3 clicks",
            (89.21, 95.79),
            _clicks(2, "if-gc", 3),
        ),
        Published(
            "3-6",
            "2-D graph cut, Dice",
            "placenta, spleen; ours after 3 clicks",
            (88.41, 95.46),
            _clicks(2, "graph-cut", 3),
        ),
        Published(
            "3-10", "3-D first contour, Dice", "tumour core", (87.0,), _clicks(3, "if-gc", 0)
        ),
        Published(
            "3-10",
            "3-D IF-GC, Dice",
            "tumour core; ours after 3 clicks",
            (88.21,),
            _clicks(3, "if-gc", 3),
        ),
    ),
}

_SMALL = (
    "200 iterations of 8 slices of 64 x 64 after the preset for two cores (thesis: 20,000 of 32 of "
    "256 x 256)"
)
DIFFERS: dict[str, str] = {
    "heart-hospitals": f"left ventricle in cine MR, Dijon to Toronto, not nasopharynx; {_SMALL}; "
    "folds of the target instead of a 7:1:2 split",
    "sts-vendors": f"sarcomas of other scanners in one archive, 13 and 13 patients; {_SMALL}",
    "phantom-hospitals": f"invented images; {_SMALL}",
    "phantom-study": "invented images and simulated doctors; each site finds its own share of "
    "the way by cross-validation; preset for two cores",
    "sts-study": "sarcomas, simulated doctors; each site finds its own share of the way; preset "
    "for two cores",
    "annotator-styles": "four invented styles on phantoms, a tenth of the labels by `coverage` "
    "(thesis: four oncologists, STDR)",
    "acdc-scribble": "60 of the patients, every fourth tested once (thesis: five-fold); 64 x 64 "
    "and 1,200 iterations (256 x 256, 30,000); last weights instead of the best on the test fold",
    "la-dual-task": "8 unlabelled volumes (thesis: 72), 8 tested; a quarter of the resolution, "
    "half the iterations; nothing done afterwards (thesis: largest component)",
    "interactive": "hippocampus and heart, which the networks never saw, not placenta, spleen or "
    "tumour core; a robot clicks, no person",
}


def published_beside_ours(paths: Sequence[Path]) -> list[ComparedRow]:
    """Read benchmark records and put every figure that they hold beside the published one.

    Args:
        paths: files of `fedgtv-evaluate benchmark --json`, or folders of them. Other JSON files of
            a folder, and benchmarks of which the thesis publishes nothing, are passed over.

    Raises:
        DataError: for a file that is none or damaged, or when nothing could be compared.
    """
    rows = []
    for path in paths:
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        for file in files:
            record = _read(file, strict=not path.is_dir())
            if record is not None:
                rows += _compare(record, str(file))
    if not rows:
        raise DataError(
            f"nothing in {', '.join(map(str, paths)) or 'nowhere'} can be put beside the thesis: "
            "give what 'fedgtv-evaluate benchmark NAME --json FILE' wrote"
        )
    return rows


def reproduction_tables(rows: Sequence[ComparedRow]) -> str:
    """Show the rows as Markdown, a table per benchmark with what differs under it."""
    parts = []
    for benchmark, file in dict.fromkeys((row.benchmark, row.file) for row in rows):
        own = [row for row in rows if (row.benchmark, row.file) == (benchmark, file)]
        lines = [
            ["thesis", "figure, %", "published", "ours", "beyond what was published"],
            ["---"] * 5,
        ]
        for row in own:
            published = " / ".join(f"{value:.1f}" for value in row.published)
            lines.append(
                [
                    row.table,
                    row.what,
                    published + (f" ({row.settings})" if row.settings else ""),
                    _ours(row),
                    "-" if row.outside is None else f"{row.outside:+.1f}" if row.outside else "no",
                ]
            )
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        seeds = own[0].seeds
        told = f"{seeds} seed{'' if seeds == 1 else 's'}" if seeds else "no seeds"
        parts.append(
            f"### {benchmark} ({file}, {told})\n\n{table}\n\nDiffers: {own[0].differs}. Not a "
            "replication."
        )
    return "\n\n".join(parts)


def _ours(row: ComparedRow) -> str:
    if row.ours is None:
        return "not run"
    return f"{row.ours:.1f}" + ("" if row.ours_sd is None else f" ± {row.ours_sd:.1f}")


def _compare(record: Record, file: str) -> list[ComparedRow]:
    name = str(record["benchmark"])
    rows = []
    for one in PUBLISHED.get(name, ()):
        try:
            found = one.ours(record)
            seeds = len(record.get("seeds", ()))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise DataError(
                f"{file}: not as 'fedgtv-evaluate benchmark {name} --json' writes it now: run that "
                "again"
            ) from None
        ours, sd = found if found is not None else (None, None)
        outside = None
        if ours is not None:
            outside = max(ours - max(one.values), 0.0) + min(ours - min(one.values), 0.0)
        rows.append(
            ComparedRow(
                benchmark=name,
                file=file,
                table=one.table,
                what=one.what,
                settings=one.settings,
                published=one.values,
                ours=ours,
                ours_sd=sd,
                seeds=seeds,
                outside=outside,
                differs=DIFFERS[name],
            )
        )
    return rows


def as_json(rows: Sequence[ComparedRow]) -> list[dict[str, Any]]:
    """Return the rows as plain values."""
    return [asdict(row) for row in rows]


def _read(file: Path, *, strict: bool) -> Record | None:
    """Read a benchmark's record; another JSON file is an error only where it was named."""
    try:
        record = json.loads(file.read_bytes())
    except OSError:
        raise DataError(f"{file}: cannot be read: give a benchmark's JSON file") from None
    except ValueError:
        record = None
    if isinstance(record, dict) and "benchmark" in record and isinstance(record.get("rows"), list):
        return record
    if strict:
        raise DataError(f"{file}: not what 'fedgtv-evaluate benchmark --json' writes")
    return None
