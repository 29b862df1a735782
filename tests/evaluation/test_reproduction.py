import json

import pytest

from algorithms.contracts.errors import DataError
from evaluation.benchmarks.adaptation_study import ALL_LABELS, DIRECT, Arm
from evaluation.benchmarks.adaptation_table import adaptation_summary
from evaluation.benchmarks.few_labels import few_label_summary
from evaluation.reproduction import DIFFERS, PUBLISHED, published_beside_ours, reproduction_tables


def adaptation_rows(**dice):
    """Rows as the benchmark writes them, two seeds that differ by 0.02."""
    arms = {
        "direct": (Arm("", 0.0), dice["direct"]),
        "all": (Arm("", 1.0), dice["all_labels"]),
        "stages": (Arm("stdr", 0.2, stages=True), dice["stages"]),
    }
    return [
        {
            "arm": arm.name, "strategy": arm.strategy, "budget": arm.budget, "stages": arm.stages,
            "seed": seed, "hospital": "x", "patient": "p", "dsc": value + 0.02 * seed - 0.01,
            "hd95_mm": 5.0, "home_dsc": None, "annotated": 10, "annotated_with_target": 5,
        }
        for arm, value in arms.values()
        for seed in (0, 1)
    ]  # fmt: skip


def record(folder, name, rows, **more):
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"benchmark": name, "seeds": [0, 1], "rows": rows, **more}))
    return file


def by_what(rows):
    return {row.what: row for row in rows}


def test_our_summary_stands_beside_the_published_figures(tmp_path):
    rows = adaptation_rows(direct=0.6, all_labels=0.8, stages=0.77)
    assert {r["arm"] for r in rows} >= {DIRECT, ALL_LABELS}
    file = record(tmp_path, "heart-hospitals", rows, summary=adaptation_summary(rows))
    found = by_what(published_beside_ours([file]))
    assert found["gap closed by STDR and stages"].ours == pytest.approx(85.0)
    assert found["gap closed by STDR and stages"].outside == 0  # published: 79 to 91
    direct = found["direct use, Dice"]
    assert (direct.ours, direct.outside, direct.seeds) == (pytest.approx(60.0), 0, 2)
    assert direct.ours_sd == pytest.approx(100 * 0.02 / 2**0.5)
    assert found["MHPL 20 %, Dice"].ours is None
    text = reproduction_tables(list(found.values()))
    assert "60.0 ± 1.4" in text
    assert "not run" in text
    assert DIFFERS["heart-hospitals"] in text
    assert "Not a replication" in text


def test_how_far_beyond_what_was_published_is_signed(tmp_path):
    for value, expected in ((0.5, 50 - 59.11), (0.9, 90 - 78.25)):
        rows = adaptation_rows(direct=value, all_labels=0.95, stages=0.93)
        file = record(tmp_path, "sts-vendors", rows, summary=adaptation_summary(rows))
        direct = by_what(published_beside_ours([file]))["direct use, Dice"]
        assert direct.outside == pytest.approx(expected)


def test_gains_over_a_lower_bound_are_differences_of_means(tmp_path):
    rows = [
        {
            "method": method, "seed": seed, "class": "left ventricle", "dsc": dsc,
            "hd95_mm": None, "assd_mm": None, "training_seconds": 1.0,
        }
        for seed in (0, 1)
        for method, dsc in (("DMPLS", 0.78), ("partial cross-entropy", 0.6))
    ]  # fmt: skip
    file = record(tmp_path, "acdc-scribble", rows, summary=few_label_summary(rows))
    found = by_what(published_beside_ours([file]))
    assert found["DMPLS over partial cross-entropy, points"].ours == pytest.approx(18.0)
    assert found["DMPLS over partial cross-entropy, points"].published == (19.54,)


def test_clicks_are_read_of_unseen_targets_of_the_shipped_network(tmp_path):
    rows = [
        {
            "dimensions": 2, "set": name, "seen": seen, "network": network, "method": "if-gc",
            "dice": dice,
        }
        for name, seen, network, dice in (
            ("hippocampus", False, "shipped", [0.9, 0.92, 0.93, 0.94]),
            ("acdc", False, "shipped", [0.8, 0.96]),  # the robot was content after one
            ("sts", True, "shipped", [0.1, 0.1, 0.1, 0.1]),
            ("hippocampus", False, "egd", [0.1, 0.1, 0.1, 0.1]),
        )
    ]  # fmt: skip
    found = by_what(published_beside_ours([record(tmp_path, "interactive", rows)]))
    assert found["2-D first contour, Dice"].ours == pytest.approx(85.0)
    assert found["2-D IF-GC, Dice"].ours == pytest.approx(95.0)
    assert found["3-D IF-GC, Dice"].ours is None


def test_every_benchmark_says_what_differs():
    assert set(DIFFERS) == set(PUBLISHED)
    assert all(one.values for figures in PUBLISHED.values() for one in figures)


def test_other_files_of_a_folder_are_passed_over_but_none_at_all_is_said(tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    record(tmp_path, "ingest-speed", [])
    with pytest.raises(DataError, match="can be put beside the thesis"):
        published_beside_ours([tmp_path])
    with pytest.raises(DataError, match=r"other\.json: not what"):
        published_beside_ours([tmp_path / "other.json"])


def test_a_record_of_another_shape_is_named(tmp_path):
    for name, more in (
        ("sts-vendors", {"summary": None}),
        ("sts-vendors", {"summary": [{"arm": "stdr + stages, 20 %", "dsc": 0.5}]}),
        ("acdc-scribble", {"summary": [{"method": "DMPLS", "dsc": "high"}]}),
        ("acdc-scribble", {"summary": [], "seeds": 3}),
        ("annotator-styles", {"rows": ["text"]}),
    ):
        file = record(tmp_path, name, **{"rows": [], **more})
        with pytest.raises(DataError, match=rf"{name}\.json: not as .* run that again") as error:
            published_beside_ours([file])
        assert "\n" not in str(error.value)


def test_two_files_of_one_name_are_two_tables(tmp_path):
    for folder, seeds in (("a", [0]), ("b", [0, 1, 2])):
        (tmp_path / folder).mkdir()
        record(tmp_path / folder, "acdc-scribble", [], summary=[], seeds=seeds)
    text = reproduction_tables(published_beside_ours([tmp_path]))
    assert text.count("### acdc-scribble") == 2
    assert "1 seed)" in text
    assert "3 seeds)" in text
