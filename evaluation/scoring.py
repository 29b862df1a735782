"""Score contours that lie in files: pairs of files become rows, rows a table, a CSV and a JSON.

A row is flat: case, label, every figure of `CaseMetrics` by its name (`nsd` as `nsd_at_1mm` and so
on), and whether the case is a failure. Undefined figures are NaN in rows, null in JSON and empty in
CSV.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.contracts.errors import DataError
from evaluation.case_metrics import EMPTY_MASK_POLICY, CaseMetrics, measure_case
from evaluation.mask_files import ENDINGS, LabelFile, read_pair

Row = dict[str, Any]
SHOWN = (
    "dsc",
    "jaccard",
    "hd95_mm",
    "assd_mm",
    "asd_predicted_to_reference_mm",
    "nsd",  # at every tolerance that was asked for
    "added_path_length_mm",
)
_FRACTIONS = ("dsc", "jaccard", "nsd")  # shown in percent
_SHOWN_NAMES = 3


def find_pairs(predicted: Path, reference: Path) -> dict[str, tuple[Path, Path]]:
    """Pair files by name, without the ending: NAME.nii.gz with NAME.nii or NAME.npz.

    Args:
        predicted: a file or a folder.
        reference: likewise; two files need no common name.

    Returns:
        case -> (predicted, reference), sorted by case.

    Raises:
        DataError: nothing there, a file beside a folder, or a case that only one side has. A
            missing prediction is not skipped: it may be a failure.
    """
    for path in (predicted, reference):
        if not path.exists():
            raise DataError(f"{path} is not there: give a file or a folder of masks")
    if predicted.is_dir() != reference.is_dir():
        raise DataError(f"{predicted} and {reference}: give two files or two folders")
    if not predicted.is_dir():
        return {case_name(predicted): (predicted, reference)}
    ours, theirs = mask_files(predicted), mask_files(reference)
    for lacking, there, where in ((theirs, ours, predicted), (ours, theirs, reference)):
        if lonely := sorted(lacking.keys() - there.keys()):
            more = f" and {len(lonely) - _SHOWN_NAMES} more" if len(lonely) > _SHOWN_NAMES else ""
            raise DataError(
                f"{where} has no file for {', '.join(lonely[:_SHOWN_NAMES])}{more}: add it (an "
                "empty mask where nothing was found), or take it out of the other folder"
            )
    return {case: (ours[case], theirs[case]) for case in sorted(ours)}


def mask_files(folder: Path) -> dict[str, Path]:
    """List the masks of a folder by case.

    Raises:
        DataError: no folder, no mask in it, or two of one case.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the folder that holds the masks")
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.name.lower().endswith(ENDINGS):
            continue
        case = case_name(file)
        if case in found:
            raise DataError(f"{found[case]} and {file.name} are one case: remove one")
        found[case] = file
    if not found:
        raise DataError(f"{folder} holds no mask: it needs files of {', '.join(ENDINGS)}")
    return found


def find_grids(grid: Path, cases: Sequence[str]) -> dict[str, Path]:
    """Find the image of every case in a folder: a file of its name, or a folder with its series.

    Raises:
        DataError: no such folder, or none for a case.
    """
    if not grid.is_dir():
        raise DataError(f"{grid} is not a folder: give the folder that holds an image per case")
    found = {path.name if path.is_dir() else case_name(path): path for path in grid.iterdir()}
    if lacking := [case for case in cases if case not in found]:
        raise DataError(f"{grid} has no image of {lacking[0]}: name file or folder as the case")
    return {case: found[case] for case in cases}


def case_name(file: Path) -> str:
    """Return the name of a file without its ending.

    >>> case_name(Path("masks/p01.nii.gz"))
    'p01'
    """
    ending = next((one for one in ENDINGS if file.name.lower().endswith(one)), "")
    return file.name[: len(file.name) - len(ending)]


def score_files(
    case: str,
    predicted: Path,
    reference: Path,
    *,
    spacing_zyx_mm: Sequence[float] | None = None,
    tolerances_mm: Sequence[float] = (1.0, 2.0),
    labels: Sequence[int] = (),
    roi: str | None = None,
    grid: Path | None = None,
) -> list[Row]:
    """Score one pair of files.

    Args:
        case: its name in the rows.
        predicted: the file of the prediction.
        reference: the file of the reference.
        spacing_zyx_mm: where the files do not say it.
        tolerances_mm: of the surface Dice.
        labels: one row each; none: everything above 0 is one region, named label 0.
        roi: the region to read from an RTSTRUCT.
        grid: the image on whose grid RTSTRUCTs are filled; else the other file's.

    Raises:
        DataError: files that cannot be read or compared, or whose spacing nobody says.
    """
    rows = []
    for label in labels or (0,):
        ours, theirs = read_pair(predicted, reference, label=label or None, roi=roi, grid=grid)
        spacing = spacing_of([ours, theirs], spacing_zyx_mm, f"{predicted} and {reference}")
        found = measure_case(
            _region(theirs, label),
            _region(ours, label),
            spacing_zyx_mm=spacing,
            tolerances_mm=tolerances_mm,
        )
        rows.append({"case": case, "label": label} | flat(found) | {"failure": found.is_failure})
    return rows


def spacing_of(
    contents: Sequence[LabelFile], given: Sequence[float] | None, names: str
) -> Sequence[float]:
    """Return the spacing that the files say, or else the one given.

    Raises:
        DataError: nobody says it, or it has another number of axes.
    """
    axes = contents[0].labels.ndim
    said = next((one.spacing_mm for one in contents if one.spacing_mm), None)
    spacing = said or given
    if spacing is None:
        raise DataError(f"{names}: no file says the voxel spacing: give --spacing z,y,x in mm")
    if not axes <= len(spacing) <= 3:
        raise DataError(f"{names}: {len(spacing)} spacings for masks of {axes} axes")
    return spacing


def _region(content: LabelFile, label: int) -> Any:
    return content.labels == label if label else content.labels > 0


def flat(metrics: CaseMetrics) -> Row:
    """Write metrics as one flat row."""
    row: Row = {}
    for field in fields(metrics):
        value = getattr(metrics, field.name)
        if isinstance(value, dict):
            row |= {f"{field.name}_at_{t:g}mm": figure for t, figure in value.items()}
        else:
            row[field.name] = value
    return row


def score_table(rows: Sequence[Row]) -> str:
    """Show every case, then mean and spread per label; failures are named, not averaged away."""
    shown = _shown_names(rows[0])
    lines = ["| case | label | " + " | ".join(map(_title, shown)) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(shown))
    for row in rows:
        mark = " (failure)" if row["failure"] else ""
        cells = " | ".join(_shown(name, row[name]) for name in shown)
        lines.append(f"| {row['case']}{mark} | {row['label'] or 'all'} | {cells} |")
    for label in dict.fromkeys(row["label"] for row in rows):
        inside = [row for row in rows if row["label"] == label]
        cells = " | ".join(_spread(name, [row[name] for row in inside]) for name in shown)
        lines.append(f"| mean ± SD | {label or 'all'} | {cells} |")
    failed = [row for row in rows if row["failure"]]
    told = f"Failures (Dice 0): {len(failed)} of {len(rows)}"
    if failed:
        told += ": " + ", ".join(
            str(row["case"]) + (f" (label {row['label']})" if row["label"] else "")
            for row in failed
        )
    return "\n".join([*lines, "", told + ".", EMPTY_MASK_POLICY])


def _shown_names(row: Row) -> list[str]:
    return [name for one in SHOWN for name in row if name == one or name.startswith(f"{one}_at_")]


def _title(name: str) -> str:
    text = name.replace("_mm", ", mm").replace("_", " ")
    return text + ", %" if name.startswith(_FRACTIONS) else text


def _shown(name: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{100 * value:.2f}" if name.startswith(_FRACTIONS) else f"{value:.2f}"


def _spread(name: str, values: Sequence[float]) -> str:
    """Show mean and SD of the defined values, and how many are not."""
    defined = np.array([value for value in values if not math.isnan(value)])
    if not len(defined):
        return "-"
    if name.startswith(_FRACTIONS):
        defined = 100 * defined
    spread = f" ± {defined.std(ddof=1):.2f}" if len(defined) > 1 else ""
    left_out = len(values) - len(defined)
    return f"{defined.mean():.2f}{spread}" + (f" ({left_out} undefined)" if left_out else "")


def write_csv(rows: Sequence[Row], file: Path) -> None:
    """Write rows as CSV; undefined figures are empty."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows([{k: "" if _undefined(v) else v for k, v in row.items()} for row in rows])


def write_json(content: Any, file: Path) -> None:
    """Write as JSON that others can read; undefined figures are null."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_without_nan(content), indent=1, allow_nan=False), "utf-8")


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if _undefined(content) else content


def _undefined(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def read_scores(file: Path) -> list[Row]:
    """Read rows that `score` wrote, as CSV or JSON.

    Raises:
        DataError: a file that is not there, or holds something else.
    """
    try:
        text = file.read_text("utf-8-sig")  # spreadsheets write a mark before the first name
        if file.suffix.lower() == ".json":
            content = json.loads(text)
            rows = content["rows"] if isinstance(content, dict) else content
        else:
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
            if any(None in row.values() for row in rows):
                raise DataError(
                    f"{file}: a line is cut off: write it again by fedgtv-evaluate score"
                )
        found = [_number_row(row) for row in rows]
    except FileNotFoundError:
        raise DataError(f"{file} is not there: write it by fedgtv-evaluate score --csv") from None
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error):
        raise DataError(f"{file} holds no scores: write it by fedgtv-evaluate score") from None
    if not found:
        raise DataError(f"{file} holds no scores: write it by fedgtv-evaluate score")
    if any(not 0 <= row["dsc"] <= 1 for row in found if not math.isnan(row["dsc"])):
        raise DataError(f"{file}: a Dice lies outside 0 to 1: give fractions, not percent")
    return found


def _number_row(row: Row) -> Row:
    found: Row = {"case": str(row["case"]), "label": int(row["label"])}
    for name, value in row.items():
        if name not in ("case", "label", "failure"):
            found[name] = math.nan if value in ("", None) else float(value)
    return found | {"failure": found["dsc"] == 0.0}
