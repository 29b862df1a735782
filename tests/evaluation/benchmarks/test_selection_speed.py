import json

from algorithms.sample_selection import STRATEGIES
from evaluation.benchmarks.selection_speed import run_selection_speed, selection_speed_table


def test_both_ways_find_the_same_and_every_strategy_is_timed() -> None:
    said: list[str] = []
    rows = run_selection_speed(slices=40, side=32, log=said.append)
    assert [row["what"] for row in rows[:2]] == ["features, plain", "features, ours"]
    assert {row["what"].removeprefix("selection, ") for row in rows[2:]} == set(STRATEGIES)
    assert rows[1]["largest difference"] < 0.05  # half precision
    assert all(row["seconds"] > 0 for row in rows)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert len(said) == 8
    assert selection_speed_table(rows).count("\n") == 1 + len(rows)
