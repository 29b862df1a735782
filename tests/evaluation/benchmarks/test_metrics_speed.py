import json

import numpy as np
import pytest

from evaluation.benchmarks.metrics_speed import (
    SPACING_ZYX_MM,
    draw_pair,
    largest_difference,
    metrics_speed_table,
    run_metrics_speed,
)
from evaluation.overlap import dice, volume_ml


def test_the_pair_is_two_contours_of_one_tumour_of_the_size_asked_for():
    reference, predicted = draw_pair((24, 80, 80), 20.0, np.random.default_rng(1))
    assert volume_ml(reference, SPACING_ZYX_MM) == pytest.approx(20.0, rel=0.3)
    assert 0.7 < dice(reference, predicted) < 0.98


def test_every_way_gives_the_same_figures_and_is_timed():
    pytest.importorskip("monai")
    pytest.importorskip("surface_distance")
    said: list[str] = []
    rows = run_metrics_speed(repeats=2, shape=(16, 56, 56), volumes_ml=(4.0, 9.0), log=said.append)
    assert len(said) == 2
    assert len(rows) == 2 * 2 * 3
    assert all(row["seconds"] > 0 for row in rows)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    worst = largest_difference(rows)
    assert worst["surface-distance"] < 1e-9
    assert worst["MONAI"] < 1e-5  # it answers in single precision
    names = {name for row in rows if row["way"] != "this" for name in row["figures"]}
    assert names == {"HD95, voxels", "HD95, areas", "ASD, voxels", "ASD, areas", "NSD, areas"}
    table = metrics_speed_table(rows).splitlines()
    assert len(table) == 2 + 2 * 3
    assert table[2].startswith("| 4 | this | ")
    assert "| 1.0 |" in table[2]


def test_a_different_figure_would_be_seen():
    rows = [
        {"volume_ml": 1.0, "way": "this", "seconds": 1.0, "figures": {"a": 1.0, "b": 2.0}},
        {"volume_ml": 1.0, "way": "other", "seconds": 6.0, "figures": {"b": 2.5}},
    ]
    assert largest_difference(rows) == {"this": 0.0, "other": 0.5}
    assert "| 6000.0 | 6.0 | 5.0e-01 |" in metrics_speed_table(rows)
