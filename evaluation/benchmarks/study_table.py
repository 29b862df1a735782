"""The table that a study ends with, from the coordinator's report alone."""

from typing import Any

from rich.table import Table

ARMS = ("direct", "adapted", "target_trained")


def site_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Flatten a study report: one row per target site."""
    rows = []
    for package in report["packages"]:
        for result in package["sites"]:
            site = result["report"]
            annotation, revision = site["annotation"], site["revision"]
            row = {
                "site": site["site"],
                "seed": site["seed"],
                "selected_slices": annotation["selected_slices"],
                "training_slices": annotation["training_slices"],
                "annotators_simulated": annotation["simulated"],
                "gap_closed": result["gap_closed"]["fraction"],
                "revision_degree_percent": revision and revision["degree_percent"]["mean"],
                "source_dsc_at_home": report["source"]["test_dsc"],
            }
            for arm in site["arms"]:
                name = arm["arm"]
                row[f"{name}_patients"] = arm["patients"]
                row[f"{name}_failures"] = arm["failures"]
                row[f"{name}_dsc"] = arm["dsc"]["mean"]
                row[f"{name}_hd95_mm"] = arm["hd95_mm"]["mean"]
            rows.append(row)
    return rows


def study_table(rows: list[dict[str, Any]], title: str) -> Table:
    """Show the rows: Dice %, HD95 mm and failures per arm, and what the adaptation cost."""
    table = Table(title=title)
    for heading in ("site", "seed"):
        table.add_column(heading)
    for heading in ("direct", "adapted", "all target labels"):
        table.add_column(f"{heading}\nDice % / HD95 mm / failures", justify="right")
    for heading in ("gap\nclosed", "selected\nslices", "revision\ndegree"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["site"],
            str(row["seed"]),
            *(_arm(row, arm) for arm in ARMS),
            _percent(row["gap_closed"], 100.0),
            f"{row['selected_slices']} of {row['training_slices']}",
            _percent(row["revision_degree_percent"], 1.0),
        )
    return table


def _arm(row: dict[str, Any], arm: str) -> str:
    if f"{arm}_patients" not in row:
        return "-"
    dsc, hd95 = row[f"{arm}_dsc"], row[f"{arm}_hd95_mm"]
    dice = "suppressed" if dsc is None else f"{100 * dsc:.1f}"
    distance = "-" if hd95 is None else f"{hd95:.1f}"
    return f"{dice} / {distance} / {row[f'{arm}_failures']} of {row[f'{arm}_patients']}"


def _percent(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{factor * value:.0f} %"
