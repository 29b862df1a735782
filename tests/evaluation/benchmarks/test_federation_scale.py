"""The benchmark of many hospitals: what is delivered is counted, and nothing is left behind."""

from pathlib import Path

import pytest

from algorithms.contracts.errors import DataError
from evaluation.benchmarks.federation_scale import federation_scale_table, run_federation_scale


@pytest.mark.journey
@pytest.mark.parametrize("transport", ["embedded", "flower"])
def test_a_package_reaches_every_copy_of_a_hospital(tmp_path: Path, transport: str) -> None:
    said: list[str] = []
    (row,) = run_federation_scale(
        tmp_path / "scale", numbers_of_sites={transport: (2,)}, base_channels=2, log=said.append
    )
    assert len(said) == 1
    assert row["sites"] == 2
    assert row["package_bytes"] > 1e5
    assert row["seconds"] > 0
    assert row["peak_mib"] > 50
    assert f"| {transport} | 2 | " in federation_scale_table([row])
    assert not (tmp_path / "scale").exists()


def test_a_folder_that_is_there_already_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="is there already"):
        run_federation_scale(tmp_path, numbers_of_sites={"embedded": (1,)})
    assert (tmp_path / "mine.txt").read_text() == "keep"
