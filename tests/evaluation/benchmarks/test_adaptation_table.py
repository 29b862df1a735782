import numpy as np
import pytest
from scipy.stats import wilcoxon

from evaluation.benchmarks.adaptation_study import Arm
from evaluation.benchmarks.adaptation_table import (
    adaptation_summary,
    adaptation_table,
    area_under_budget_curve,
    comparison_table,
    paired_test,
    scores_of,
)


def row(arm: str, dsc: float, **more) -> dict:
    return {
        "arm": arm,
        "strategy": "",
        "budget": 0.0,
        "stages": False,
        "seed": 0,
        "hospital": "h",
        "patient": "p",
        "dsc": dsc,
        "hd95_mm": 3.0,
        "home_dsc": None,
        "annotated": 4,
        "annotated_with_target": 1,
    } | more


ENDS = [row("direct", 0.5, home_dsc=0.9), row("all labels", 0.9, budget=1.0)]


def curve(strategy: str, budgets_dsc: dict[float, float], *, stages=False, **more) -> list[dict]:
    return [
        row(
            Arm(strategy, b, stages=stages).name,
            dsc,
            **{"strategy": strategy, "budget": b, "stages": stages} | more,
        )
        for b, dsc in budgets_dsc.items()
    ]


def test_the_gap_closed_is_the_share_of_the_way_from_direct_use_to_all_labels() -> None:
    rows = [*ENDS, row("half", 0.7), row("worse", 0.4), row("better", 1.0)]
    closed = {r["arm"]: r["gap_closed"] for r in adaptation_summary(rows)}
    assert closed == pytest.approx(
        {"direct": 0.0, "all labels": 1.0, "half": 0.5, "worse": -0.25, "better": 1.25}
    )


def test_without_a_gap_there_is_no_share_of_it() -> None:
    summary = adaptation_summary([row("direct", 0.9), row("all labels", 0.8), row("half", 0.85)])
    assert [r["gap_closed"] for r in summary] == [None] * 3
    assert adaptation_table(summary).count("| - |") >= 3


def test_the_spread_is_that_of_the_seeds_means() -> None:
    rows = ENDS + [
        row("a", dsc, seed=seed, patient=patient)
        for seed, dsc in ((0, 0.6), (1, 0.8))
        for patient in "pq"
    ]
    (found,) = [r for r in adaptation_summary(rows) if r["arm"] == "a"]
    assert (found["seeds"], found["patients"]) == (2, 2)
    assert found["dsc"] == pytest.approx(0.7)
    assert found["dsc_sd"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert found["with_target"] == 0.25


def test_the_area_is_the_mean_of_a_constant_curve_and_doublings_weigh_alike() -> None:
    budgets = (0.05, 0.1, 0.2)
    flat = area_under_budget_curve(curve("s", dict.fromkeys(budgets, 0.7)), "s", budgets)
    assert flat == {("h", "p"): pytest.approx(0.7)}
    rising = area_under_budget_curve(
        curve("s", dict(zip(budgets, (0, 1, 0), strict=True))), "s", budgets
    )
    assert rising["h", "p"] == pytest.approx(0.5)


def test_the_area_leaves_stages_and_other_budgets_out_and_averages_seeds() -> None:
    budgets = (0.1, 0.2)
    rows = [
        *curve("s", {0.1: 0.4, 0.2: 0.4, 0.8: 1.0}),
        *curve("s", {0.1: 0.6, 0.2: 0.6}, seed=1),
        *curve("s", {0.1: 1.0, 0.2: 1.0}, stages=True),
        *curve("t", {0.1: 1.0, 0.2: 1.0}),
        row("s per patient, 20 %", 1.0, strategy="s", budget=0.2),
        row("s, share 1, 20 %", 1.0, strategy="s", budget=0.2),
    ]
    assert area_under_budget_curve(rows, "s", budgets) == {("h", "p"): pytest.approx(0.5)}
    with pytest.raises(ValueError, match="not every budget"):
        area_under_budget_curve(rows, "s", (0.1, 0.4))


def test_the_paired_test_is_wilcoxons_on_the_patients_of_both() -> None:
    rng = np.random.default_rng(0)
    one = {("h", str(i)): float(v) for i, v in enumerate(rng.uniform(0.6, 0.9, 12))}
    other = {key: value - 0.05 + float(rng.normal(0, 0.02)) for key, value in one.items()}
    other["h", "only here"] = 0.1
    found = paired_test(one, other)
    keys = sorted(one)
    expected = wilcoxon([one[k] - other[k] for k in keys])
    assert (found["patients"], found["p"]) == (12, pytest.approx(expected.pvalue))
    assert found["difference"] == pytest.approx(0.05, abs=0.03)
    assert paired_test(one, one)["p"] is None
    assert paired_test({}, {})["difference"] is None


def test_tables_show_every_arm_and_every_whole_curve() -> None:
    budgets = (0.1, 0.2)
    rows = [*ENDS, *curve("own", {0.1: 0.8, 0.2: 0.9}), *curve("stdr", {0.1: 0.7, 0.2: 0.8})]
    rows += curve("random", {0.1: 0.7})
    lines = adaptation_table(adaptation_summary(rows)).splitlines()
    assert len(lines) == 2 + len(ENDS) + 5
    assert "| direct | 50.0 | 0 % | 3.0 | 0 | - | 90.0 |" in lines
    table = comparison_table(rows, "own", budgets).splitlines()
    assert table[2].startswith("| own | 85.0 | - |")
    assert table[3].startswith("| stdr | 75.0 | +10.0 |")
    assert len(table) == 4  # of "random" one budget is missing


def test_a_mean_distance_says_of_how_many_it_is() -> None:
    rows = [*ENDS, row("a", 0.5), row("a", 0.0, patient="q", hd95_mm=None)]
    table = adaptation_table(adaptation_summary(rows))
    assert "| 3.0 (of 50 %) | 1 |" in table
    assert "| 3.0 | 0 |" in table


def test_a_patient_of_two_seeds_has_one_score() -> None:
    rows = [row("a", 0.4), row("a", 0.6, seed=1), row("b", 1.0)]
    assert scores_of(rows, "a") == {("h", "p"): pytest.approx(0.5)}
