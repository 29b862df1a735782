"""A benchmark of adaptation in several processes, as the command runs it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.benchmarks.adaptation_study import Arm, run_adaptation
from tests.evaluation.benchmarks.test_adaptation_study import study

pytestmark = pytest.mark.journey


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


def test_whoever_kills_the_command_kills_its_workers(tmp_path) -> None:
    code = (
        "from pathlib import Path\n"
        "from evaluation.benchmarks.adaptation_study import run_adaptation\n"
        "from tests.evaluation.benchmarks.test_adaptation_study import ARMS, study\n"
        "if __name__ == '__main__':\n"
        f"    run_adaptation(study(), Path({str(tmp_path)!r}), ARMS, seeds=range(50), jobs=2)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = subprocess.Popen([sys.executable, str(script)], env=environment)
    try:
        wait_until(lambda: any(tmp_path.glob("source-seed*")), 120)
        workers = children(command.pid)
        assert len(workers) >= 2
    finally:
        command.kill()
        command.wait()
    wait_until(lambda: not any(is_running(pid) for pid in workers), 30)


def wait_until(happened: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def children(parent: int) -> list[int]:
    """Return the processes that `parent` started, by /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended just now
        if int(fields[1]) == parent:
            found.append(int(folder.name))
    return found


def is_running(pid: int) -> bool:
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
