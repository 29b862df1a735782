"""A benchmark of adaptation in several processes, as the command runs it."""

import pytest

from evaluation.benchmarks.adaptation_study import Arm, run_adaptation
from tests.evaluation.benchmarks.test_adaptation_study import study


def test_two_processes_find_what_one_finds(tmp_path) -> None:
    """Up to rounding: the number of threads may change the order of sums."""
    arms = [Arm("random", 0.25)]
    one, two = (
        run_adaptation(study(), tmp_path / str(jobs), arms, seeds=[0, 1], jobs=jobs)
        for jobs in (1, 2)
    )
    assert len(one) == len(two) == 3 * 2 * 4
    for single, parallel in zip(one, two, strict=True):
        key = ("arm", "seed", "fold", "patient")
        assert [single[k] for k in key] == [parallel[k] for k in key]
        assert parallel["dsc"] == pytest.approx(single["dsc"], abs=0.05)
