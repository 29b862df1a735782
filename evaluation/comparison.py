"""Two methods on the same cases, from the rows that `score` wrote."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.contracts.errors import DataError
from algorithms.contracts.subgroups import t_stage_group
from evaluation.cohort_statistics import (
    compare_paired,
    compare_subgroups,
    equivalence,
    halves,
    holm,
)
from evaluation.mixed_model import fit_site_model
from evaluation.scoring import Row

FIGURES = ("dsc", "hd95_mm", "assd_mm", "nsd_at_1mm")
_FRACTIONS = ("dsc", "nsd", "jaccard")


def pair_rows(first: Sequence[Row], second: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pair the rows of two methods by case and label.

    Raises:
        DataError: a case that only one of them has, or that comes twice.
    """
    tables = []
    for rows in (first, second):
        table = {(row["case"], row["label"]): row for row in rows}
        if len(table) != len(rows):
            raise DataError("a case comes twice in one of the two files: score it once")
        tables.append(table)
    if lonely := sorted({str(case) for case, _ in tables[0].keys() ^ tables[1].keys()}):
        raise DataError(
            f"only one method has case {lonely[0]} ({len(lonely)} in all): score both on the same "
            "cases, a failure as an empty mask"
        )
    if not tables[0]:
        raise DataError("the two files hold no case: score some first")
    return [(tables[0][key], tables[1][key]) for key in sorted(tables[0])]


def compare_figures(
    pairs: Sequence[tuple[Row, Row]], figures: Sequence[str] = FIGURES, *, seed: int = 0
) -> list[Row]:
    """Test every figure, paired; the p values of all figures are adjusted together by Holm.

    Args:
        pairs: (first, second) per case.
        figures: names of figures; one that no row of either method has is left out.
        seed: of the bootstrap.
    """
    found: list[Row] = []
    for name in figures:
        if not all(any(name in pair[side] for pair in pairs) for side in (0, 1)):
            continue
        one, other = (
            np.array([pair[side].get(name, math.nan) for pair in pairs]) for side in (0, 1)
        )
        result = compare_paired(one, other, seed=seed)
        both = ~np.isnan(one + other)
        found.append(
            {
                "figure": name,
                "pairs": result.pairs,
                "left_out": result.left_out,
                "first_mean": float(one[both].mean()) if both.any() else math.nan,
                "second_mean": float(other[both].mean()) if both.any() else math.nan,
                "difference": result.difference.value,
                "low": result.difference.low,
                "high": result.difference.high,
                "t_p": result.t_p,
                "wilcoxon_p": result.wilcoxon_p,
            }
        )
    for name in ("t_p", "wilcoxon_p"):
        for row, adjusted in zip(found, holm([row[name] for row in found]), strict=True):
            row[f"{name}_holm"] = adjusted
    return found


def failures(pairs: Sequence[tuple[Row, Row]]) -> dict[str, list[str]]:
    """Name the cases in which the first, the second or both methods missed altogether."""
    told: dict[str, list[str]] = {"first": [], "second": [], "both": []}
    for one, other in pairs:
        if one["failure"] or other["failure"]:
            side = (
                "both"
                if one["failure"] and other["failure"]
                else ("first" if one["failure"] else "second")
            )
            told[side].append(one["case"])
    return told


def read_groups(file: Path) -> dict[str, dict[str, str]]:
    """Read what is known of the cases: a CSV with the column `case` and others, such as `t_stage`.

    Returns:
        column -> case -> group. T stages are joined to T1+2 and T3+4.

    Raises:
        DataError: no such file, one without the column, or a case that comes twice.
    """
    try:
        text = file.read_text("utf-8-sig")  # spreadsheets write a mark before the first name
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except FileNotFoundError:
        raise DataError(f"{file} is not there: give a CSV with a column 'case'") from None
    if not rows or "case" not in rows[0]:
        raise DataError(f"{file} has no column 'case': name one so, and others as you like")
    cases = [row["case"] for row in rows]
    if twice := [case for case in cases if cases.count(case) > 1]:
        raise DataError(f"{file}: case {twice[0]} comes twice: keep one line of it")
    columns = [name for name in rows[0] if name and name != "case"]
    groups = {name: {row["case"]: (row[name] or "").strip() for row in rows} for name in columns}
    if "t_stage" in groups:
        groups["t_stage"] = {case: t_stage_group(s) for case, s in groups["t_stage"].items()}
    return groups


def compare_groups(
    pairs: Sequence[tuple[Row, Row]], groups: Mapping[str, Mapping[str, str]], figure: str = "dsc"
) -> dict[str, Any]:
    """Ask whether the difference between the methods depends on subgroup or site.

    Halves by reference volume are always among the subgroups. With a column `site` of two sites at
    least, a mixed model says what the difference is across sites; where it cannot be fitted, why.
    """
    differences = np.array([other[figure] - one[figure] for one, other in pairs])
    cases = [one["case"] for one, _ in pairs]
    volumes: list[float] = [one.get("volume_reference_ml", math.nan) for one, _ in pairs]
    attributes = {"volume": halves(volumes, "ml")} | {
        name: [members.get(str(case), "") for case in cases] for name, members in groups.items()
    }
    tests = [asdict(test) for test in compare_subgroups(differences, attributes)]
    sites = attributes.get("site", [])
    known = [i for i, site in enumerate(sites) if site]
    model, said = None, ""
    if len({sites[i] for i in known}) > 1:
        try:
            model = asdict(fit_site_model(differences[known], [sites[i] for i in known]))
        except ValueError as error:
            said = str(error)
    return {
        "figure": figure,
        "subgroups": tests,
        "mixed_model": model,
        "without_mixed_model": said,
    }


def choose_label(rows: Sequence[Row], label: int | None, file: Path) -> list[Row]:
    """Return the rows of one label: several of one patient are not several patients.

    Raises:
        DataError: several labels and none chosen, or none of that label.
    """
    labels = sorted({row["label"] for row in rows})
    if label is None and len(labels) == 1:
        return list(rows)
    if label not in labels:
        told = ", ".join(map(str, labels))
        raise DataError(
            f"{file} holds label {told}: choose one by --label, so that a case counts once"
        )
    return [row for row in rows if row["label"] == label]


def without_group(
    pairs: Sequence[tuple[Row, Row]], groups: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Return the cases of which no group is known: no line of the file has their name."""
    known = {case for members in groups.values() for case in members}
    return [one["case"] for one, _ in pairs if one["case"] not in known]


def non_inferiority(pairs: Sequence[tuple[Row, Row]], margin: float) -> dict[str, Any]:
    """Test whether the second method is not worse in Dice by `margin` or more (TOST)."""
    differences = [other["dsc"] - one["dsc"] for one, other in pairs]
    return asdict(equivalence(differences, margin=margin))


def comparison_table(rows: Sequence[Row], names: tuple[str, str]) -> str:
    """Show the tests of every figure."""
    lines = [
        f"| | {names[0]} | {names[1]} | second - first (95 % interval) | t, Holm | Wilcoxon, Holm |"
        " cases | left out |",
        "| --- |" + " --- |" * 7,
    ]
    for row in rows:
        percent = row["figure"].startswith(_FRACTIONS)
        one, other, apart, low, high = (
            (100 if percent else 1) * row[key]
            for key in ("first_mean", "second_mean", "difference", "low", "high")
        )
        title = row["figure"].replace("_mm", ", mm").replace("_", " ") + (", %" if percent else "")
        lines.append(
            f"| {title} | {one:.2f} | {other:.2f} | {apart:+.2f} ({low:+.2f} to {high:+.2f}) |"
            f" {_p(row['t_p_holm'])} | {_p(row['wilcoxon_p_holm'])} | {row['pairs']} |"
            f" {row['left_out']} |"
        )
    return "\n".join(lines)


def groups_table(found: Mapping[str, Any]) -> str:
    """Show the difference in each subgroup, and across sites."""
    scale, unit = (100, "%") if found["figure"].startswith(_FRACTIONS) else (1, "mm")
    lines = [
        f"| | group | difference in {found['figure']}, {unit}: median (IQR) | cases | test | p |"
        " p, Holm |",
        "| --- |" + " --- |" * 6,
    ]
    for test in found["subgroups"]:
        for name, group in test["groups"].items():
            q1, median, q3 = (scale * group[key] for key in ("q1", "median", "q3"))
            lines.append(
                f"| {test['attribute']} | {name} | {median:+.2f} ({q1:+.2f} to {q3:+.2f}) |"
                f" {group['count']} | {test['test'] or '-'} | {_p(test['p'])} |"
                f" {_p(test['p_holm'])} |"
            )
    if said := found["without_mixed_model"]:
        lines += ["", f"No mixed model across sites: {said}."]
    if model := found["mixed_model"]:
        mean = model["effects"]["mean"]
        value, low, high = (scale * mean[key] for key in ("value", "low", "high"))
        lines += [
            "",
            f"Across {model['sites']} sites (mixed model, {model['patients']} cases): "
            f"{value:+.2f} {unit} (95 % interval {low:+.2f} to {high:+.2f}), p {_p(mean['p'])}.",
        ]
    return "\n".join(lines)


def _p(value: float) -> str:
    return "-" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
