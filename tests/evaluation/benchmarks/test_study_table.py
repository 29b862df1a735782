import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from evaluation.benchmarks.study_benchmark import summarise_seeds
from evaluation.benchmarks.study_table import ARMS, study_table, summary_table


def row(seed: int, site: str = "hospital-b", **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"site": site, "seed": seed, "gap_closed": 0.5}
    values |= {"selected_slices": 10, "training_slices": 50, "revision_degree_percent": 12.0}
    values |= {"source_dsc_at_home": 0.9, "adapted_share": 1.0}
    for arm, dsc in zip(ARMS, (0.5, 0.6, 0.7), strict=True):
        values |= {f"{arm}_patients": 4, f"{arm}_failures": 1, f"{arm}_dsc": dsc}
        values[f"{arm}_hd95_mm"] = 3.0
    return values | changes


def shown(table: Table) -> str:
    stream = io.StringIO()
    Console(width=200, file=stream).print(table)
    return stream.getvalue()


SUPPRESSED = {f"{arm}_{what}": None for arm in ARMS for what in ("dsc", "hd95_mm", "failures")}


def test_seeds_are_summed_up_by_mean_and_sample_deviation() -> None:
    site, whole = summarise_seeds([row(0), row(1, adapted_dsc=0.8)])
    assert (site["site"], whole["site"]) == ("hospital-b", "all sites")
    assert site["adapted_dsc_mean"] == pytest.approx(0.7)
    assert site["adapted_dsc_sd"] == pytest.approx(0.02**0.5, abs=1e-4)
    assert site["adapted_minus_direct_per_run"] == [0.1, 0.3]
    assert site["lost_from_home_dsc_mean"] == pytest.approx(0.4)
    assert (site["adapted_failures"], site["adapted_patients"]) == (2, 8)


def test_patients_weigh_alike_within_a_seed() -> None:
    rows = [row(0, direct_dsc=0.2, direct_patients=1), row(0, "hospital-c", direct_dsc=0.8)]
    assert summarise_seeds(rows)[-1]["direct_dsc_mean"] == pytest.approx((0.2 + 4 * 0.8) / 5)


def test_a_suppressed_seed_takes_no_part() -> None:
    site, _ = summarise_seeds([row(0), row(1, **SUPPRESSED)])
    assert site["direct_dsc_mean"] == 0.5
    assert site["direct_dsc_sd"] is None
    assert site["adapted_minus_direct_per_run"] == [0.1, None]
    assert site["lost_from_home_dsc_mean"] == pytest.approx(0.4)
    assert site["direct_failures"] is None


def test_what_is_suppressed_everywhere_is_a_dash() -> None:
    rows = [row(0, **SUPPRESSED), row(1, **SUPPRESSED)]
    summary = summarise_seeds(rows)
    assert summary[0]["adapted_dsc_mean"] is None
    assert summary[0]["lost_from_home_dsc_mean"] is None
    assert "- (8; -)" in shown(summary_table(summary))
    assert "suppressed / - / - of 4" in shown(study_table(rows, "suppressed"))


def test_a_table_says_how_far_the_adapted_model_went() -> None:
    assert "share of the" in shown(study_table([row(0)], "whole"))
    assert " 30 % " in shown(study_table([row(0, adapted_share=0.3)], "part"))
    assert "50.0 ± 0.0 (8; 2)" in shown(summary_table(summarise_seeds([row(0), row(1)])))
