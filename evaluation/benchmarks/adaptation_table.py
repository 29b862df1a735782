"""What an adaptation benchmark says: gap closed, area under the budget curve, paired tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from evaluation.benchmarks.adaptation_study import ALL_LABELS, DIRECT, Arm, Row

Summary = list[dict[str, Any]]


def adaptation_summary(rows: Sequence[Row]) -> Summary:
    """Return a row per arm: mean and spread over seeds of the mean over patients.

    `gap_closed` = (arm - direct) / (all labels - direct), of the means over seeds. Where nothing
    was found there is no distance; `hd95_of` is the share of patients that its mean is of.
    """
    low, high = (float(np.mean(_per_seed(rows, arm, "dsc"))) for arm in (DIRECT, ALL_LABELS))
    summary = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        dsc, hd95 = _per_seed(rows, arm, "dsc"), _per_seed(rows, arm, "hd95_mm")
        summary.append(
            {
                "arm": arm,
                "strategy": own[0]["strategy"],
                "budget": own[0]["budget"],
                "stages": own[0]["stages"],
                "seeds": len({row["seed"] for row in own}),
                "patients": len({(row["hospital"], row["patient"]) for row in own}),
                "dsc": float(np.mean(dsc)),
                "dsc_sd": float(np.std(dsc, ddof=1)) if len(dsc) > 1 else None,
                "hd95_mm": _mean(hd95),
                "hd95_of": sum(row["hd95_mm"] is not None for row in own) / len(own),
                "home_dsc": _mean([r["home_dsc"] for r in own if r["home_dsc"] is not None]),
                "missed": sum(row["dsc"] == 0 for row in own),
                "with_target": sum(row["annotated_with_target"] for row in own)
                / max(sum(row["annotated"] for row in own), 1),
                "gap_closed": (float(np.mean(dsc)) - low) / (high - low) if high > low else None,
            }
        )
    return summary


def area_under_budget_curve(
    rows: Sequence[Row], strategy: str, budgets: Sequence[float]
) -> dict[tuple[str, str], float]:
    """Return every patient's Dice, averaged over a curve of budgets that double.

    Budgets count by their logarithm, so each doubling weighs alike (trapezoids); a patient who is
    tested with several seeds has the mean of those.

    Raises:
        ValueError: a budget was not run.
    """
    found: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    names = {Arm(strategy, budget).name for budget in budgets}
    for row in rows:
        if row["arm"] in names:
            place = [float(b == row["budget"]) for b in budgets]
            found.setdefault((row["hospital"], row["patient"]), []).append(
                np.array([*place, row["dsc"]])
            )
    areas = {}
    for patient, entries in found.items():
        table = np.array(entries)
        counts = table[:, :-1].sum(axis=0)
        if not counts.all():
            raise ValueError(f"{strategy}: not every budget was run")
        curve = (table[:, :-1] * table[:, -1:]).sum(axis=0) / counts
        steps = np.log(np.asarray(budgets))
        areas[patient] = float(np.trapezoid(curve, steps) / (steps[-1] - steps[0]))
    return areas


def paired_test(one: dict[tuple[str, str], float], other: dict[tuple[str, str], float]) -> Row:
    """Compare two arms on the same patients: mean difference and Wilcoxon's signed-rank p.

    The p is that of one comparison; whoever makes several has to correct for it.
    """
    patients = sorted(one.keys() & other.keys())
    difference = np.array([one[p] - other[p] for p in patients])
    tested = len(difference) > 0 and bool(np.any(difference))
    return {
        "patients": len(patients),
        "difference": float(difference.mean()) if len(difference) else None,
        "p": float(wilcoxon(difference).pvalue) if tested else None,
    }


def scores_of(rows: Sequence[Row], arm: str) -> dict[tuple[str, str], float]:
    """Return every patient's Dice under an arm, averaged over seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["arm"] == arm:
            found.setdefault((row["hospital"], row["patient"]), []).append(row["dsc"])
    return {patient: float(np.mean(values)) for patient, values in found.items()}


def adaptation_table(summary: Summary) -> str:
    """Show the summary as Markdown, Dice in %, in the order of the arms."""
    head = ["arm", "Dice %", "gap closed", "HD95 mm", "Dice 0", "with target", "at home"]
    lines = [head, ["---"] * len(head)]
    for row in summary:
        spread = "" if row["dsc_sd"] is None else f" ± {100 * row['dsc_sd']:.1f}"
        closed = row["gap_closed"]
        lines.append(
            [
                row["arm"],
                f"{100 * row['dsc']:.1f}{spread}",
                "-" if closed is None else f"{100 * closed:.0f} %",
                "-" if row["hd95_mm"] is None else _of(row["hd95_mm"], row["hd95_of"]),
                str(row["missed"]),
                f"{100 * row['with_target']:.0f} %" if row["budget"] else "-",
                "-" if row["home_dsc"] is None else f"{100 * row['home_dsc']:.1f}",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def comparison_table(rows: Sequence[Row], strategy: str, budgets: Sequence[float]) -> str:
    """Show a strategy's area under the budget curve beside every other's that was run."""
    own = area_under_budget_curve(rows, strategy, budgets)
    lines = [["area under the curve of", "Dice %", f"{strategy} is ahead by", "p"], ["---"] * 4]
    for other in dict.fromkeys(row["strategy"] for row in rows if row["strategy"]):
        if not {Arm(other, budget).name for budget in budgets} <= {row["arm"] for row in rows}:
            continue
        areas = area_under_budget_curve(rows, other, budgets)
        test = paired_test(own, areas)
        ahead = "-" if other == strategy else f"{100 * test['difference']:+.1f}"
        p = "-" if test["p"] is None else f"{test['p']:.2g}"
        lines.append([other, f"{100 * np.mean(list(areas.values())):.1f}", ahead, p])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _of(distance_mm: float, share: float) -> str:
    """Show a mean distance, and of how many it is where some patients have none."""
    return f"{distance_mm:.1f}" + ("" if share == 1 else f" (of {100 * share:.0f} %)")


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _per_seed(rows: Sequence[Row], arm: str, key: str) -> list[float]:
    seeds = dict.fromkeys(row["seed"] for row in rows)
    found = []
    for seed in seeds:
        values = [
            row[key]
            for row in rows
            if row["arm"] == arm and row["seed"] == seed and row[key] is not None
        ]
        if values:
            found.append(float(np.mean(values)))
    return found
