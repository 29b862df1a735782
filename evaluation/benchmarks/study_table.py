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
                "adapted_share": site["adapted_share"],
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
    for heading in (
        "gap\nclosed",
        "share of the\nway adapted",
        "selected\nslices",
        "revision\ndegree",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["site"],
            str(row["seed"]),
            *(_arm(row, arm) for arm in ARMS),
            _percent(row["gap_closed"], 100.0),
            _percent(row["adapted_share"], 100.0),
            f"{row['selected_slices']} of {row['training_slices']}",
            _percent(row["revision_degree_percent"], 1.0),
        )
    return table


def summary_table(summary: list[dict[str, Any]]) -> Table:
    """Show what `summarise_seeds` returned; what was suppressed is a dash."""
    table = Table(title="Dice %, mean ± SD over seeds (patients; failures)")
    table.add_column("site")
    for heading in ("direct", "adapted", "all target labels", "lost from home"):
        table.add_column(heading, justify="right")
    for row in summary:
        cells = []
        for arm in ARMS:
            spread = row[f"{arm}_dsc_sd"]
            text = _text(row[f"{arm}_dsc_mean"], ".1f", 100)
            text += "" if spread is None else f" ± {100 * spread:.1f}"
            failures = _text(row[f"{arm}_failures"], "")
            cells.append(f"{text} ({row[f'{arm}_patients']}; {failures})")
        table.add_row(row["site"], *cells, _text(row["lost_from_home_dsc_mean"], ".1f", 100))
    return table


def _arm(row: dict[str, Any], arm: str) -> str:
    if f"{arm}_patients" not in row:
        return "-"
    dsc, hd95 = row[f"{arm}_dsc"], row[f"{arm}_hd95_mm"]
    dice = "suppressed" if dsc is None else f"{100 * dsc:.1f}"
    distance = _text(hd95, ".1f")
    failures = row[f"{arm}_failures"]
    return f"{dice} / {distance} / {_text(failures, '')} of {row[f'{arm}_patients']}"


def _percent(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{factor * value:.0f} %"


def _text(value: float | None, format_spec: str, factor: float = 1) -> str:
    return "-" if value is None else format(factor * value, format_spec)
