"""When the worker is started. In place of it stand commands that end in one way or the other."""

import itertools
import sys
from pathlib import Path

import pytest

from algorithms.contracts.messages import RoundState
from site_agent import start_worker
from site_agent.database import utc_now
from site_agent.plan_store import plans_held, reject_plan
from site_agent.simulated_annotator import annotate_open_tasks
from site_agent.site_lock import only_worker
from site_agent.worker_loop import LONGEST_PAUSE_S, LOOK_S, WorkerLoop, read_standing
from tests.phantoms import filled_store, make_home, tiny_plan
from tests.site_agent.tiny_road import SHARES, make_package, make_target


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_package(tmp_path_factory.mktemp("package"), tiny_plan(target_trained=False))


def counting(folder: Path, code: int) -> list[str]:
    """Return a command that writes a line and ends with `code`."""
    text = f"open({str(folder / 'ran')!r}, 'a').write('x'); raise SystemExit({code})"
    return [sys.executable, "-c", text]


def test_without_an_approved_package_nothing_is_started(tmp_path) -> None:
    home = make_home(tmp_path, **SHARES)
    loop = WorkerLoop(home, filled_store(home), counting(tmp_path, 0))
    assert not loop.look(0.0)
    assert not (tmp_path / "ran").exists()


def test_without_a_plan_in_force_nothing_is_started(tmp_path, package) -> None:
    home, store = make_target(tmp_path / "home", package)
    assert read_standing(store) is not None
    (plan,) = plans_held(store.engine)
    reject_plan(store.engine, plan.plan_number, actor="test", now=utc_now())
    assert read_standing(store) is None
    assert not WorkerLoop(home, store, counting(tmp_path, 0)).look(0.0)


def test_one_that_fails_is_tried_again_after_longer_and_longer_pauses(tmp_path, package) -> None:
    home, store = make_target(tmp_path / "home", package)
    loop = WorkerLoop(home, store, counting(tmp_path, 2))
    runs = [second for second in range(0, 200) if loop.look(float(second))]
    pauses = [later - earlier for earlier, later in itertools.pairwise(runs)]
    assert pauses[0] == LOOK_S
    assert all(later == 2 * earlier for earlier, later in itertools.pairwise(pauses))
    assert len(runs) == 6
    for _ in range(9):
        now_s = runs[-1] + 1e6 * len(runs)
        assert loop.look(now_s)
        runs.append(int(now_s))
    assert not loop.look(now_s + LONGEST_PAUSE_S - 1)
    assert loop.look(now_s + LONGEST_PAUSE_S)


def test_while_somebody_else_works_it_waits(tmp_path, package) -> None:
    home, store = make_target(tmp_path / "home", package)
    loop = WorkerLoop(home, store, counting(tmp_path, 0))
    with only_worker(home):
        assert not loop.look(0.0)
    assert loop.look(1.0)


def test_the_real_worker_runs_until_people_are_asked_and_again_when_they_are_done(
    tmp_path, package
) -> None:
    home, store = make_target(tmp_path / "home", package)
    loop = WorkerLoop(home, store, start_worker.command(home))
    assert loop.look(0.0)
    standing = read_standing(store)
    assert standing is not None
    assert standing.state is RoundState.AWAITING_ANNOTATION
    assert standing.waits_for_people
    assert not any(loop.look(second) for second in (1e3, 1e4, 1e5))
    task = store.tasks(standing.round_id, state="open")[0]
    assert not loop.look(1e6), task.case_id
    annotate_open_tasks(store)
    assert loop.look(2e6)
    after = read_standing(store)
    assert after is not None
    assert after.state is RoundState.AWAITING_REVIEW
    assert after.waits_for_people
    assert not loop.look(3e6)
