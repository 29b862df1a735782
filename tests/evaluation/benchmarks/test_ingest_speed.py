"""The benchmark of taking series in: all ways read the same images, and nothing is left behind."""

from pathlib import Path

import pytest

from algorithms.contracts.errors import DataError
from evaluation.benchmarks import ingest_speed
from evaluation.benchmarks.ingest_speed import ingest_speed_table, run_ingest_speed


@pytest.mark.journey
def test_all_ways_read_the_same_series(tmp_path: Path) -> None:
    said: list[str] = []
    rows = run_ingest_speed(tmp_path / "files", series=2, slices=3, side=16, log=said.append)
    assert said == ["  block 1 of 2", "  block 2 of 2"]
    assert [row["files"] for row in rows] == [6, 6, 6]
    assert all(row["seconds"] > 0 and row["peak_mib"] > 20 for row in rows)
    for row in rows[1:]:
        assert row["plain / this"] == pytest.approx(rows[0]["seconds"] / row["seconds"])
    assert rows[0]["SimpleITK"] + rows[0]["pydicom"] == pytest.approx(rows[0]["seconds"])
    table = ingest_speed_table(rows)
    assert all(row["what"] in table for row in rows)
    assert not (tmp_path / "files").exists()


def test_ways_that_read_different_images_are_not_compared() -> None:
    with pytest.raises(DataError, match="different images"):
        ingest_speed._check_same([(0.0, 1.0)], [(0.0, 2.0)])


def test_a_folder_that_is_there_already_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="is there already"):
        run_ingest_speed(tmp_path, series=1, slices=1, side=16)
    assert (tmp_path / "mine.txt").read_text() == "keep"
