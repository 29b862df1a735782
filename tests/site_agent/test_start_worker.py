import fcntl
import threading
import time

import pytest

from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState
from site_agent import start_worker
from site_agent.case_store import CaseStore
from site_agent.config import open_home
from site_agent.site_lock import SiteBusyError, is_working, only_worker
from tests.phantoms import make_home, tiny_plan
from tests.site_agent.tiny_road import make_package, make_target


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "site")


def wait_for_end(home) -> None:
    deadline = time.monotonic() + 120
    while start_worker.is_starting(home):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- who works ----------------------------------------------------------------------------------


def test_the_lock_says_who_works_and_looking_makes_no_file(home) -> None:
    before = sorted(home.folder.iterdir())
    assert not is_working(home)
    assert sorted(home.folder.iterdir()) == before
    with only_worker(home):
        assert is_working(home)
        assert is_working(home)  # looking does not let go of it
    assert not is_working(home)


def test_a_worker_does_not_mind_being_looked_at(home) -> None:
    """Somebody who looks holds the lock for an instant: a worker that starts then waits for it."""
    with only_worker(home):
        pass
    with (home.folder / "worker.lock").open() as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        threading.Timer(0.03, lambda: fcntl.flock(looked_at, fcntl.LOCK_UN)).start()
        with only_worker(home):
            assert is_working(home)


# -- started from the page ------------------------------------------------------------------------


def test_no_second_one_is_started(home) -> None:
    with only_worker(home), pytest.raises(SiteBusyError, match="another worker"):
        start_worker.start_worker(home)
    assert not start_worker.log_file(home).exists()


def test_a_program_without_the_command_says_so(home, monkeypatch) -> None:
    monkeypatch.setattr("sys.executable", str(home.folder / "python"))
    with pytest.raises(DataError, match="not installed here"):
        start_worker.start_worker(home)


@pytest.mark.journey
def test_why_it_failed_is_the_line_that_the_command_printed(home) -> None:
    with (home.folder / "site.toml").open("a") as file:
        file.write("treads = 1\n")
    start_worker.start_worker(home)
    with pytest.raises(SiteBusyError):
        start_worker.start_worker(home)  # before it has the lock
    wait_for_end(home)
    said = start_worker.failure(home)
    assert said is not None
    assert "treads" in said
    assert not said.startswith("error")
    assert start_worker.log_file(home).parent.stat().st_mode & 0o077 == 0


@pytest.mark.journey
def test_it_takes_the_round_on_and_the_log_names_nobody(tmp_path) -> None:
    package = make_package(tmp_path, tiny_plan(target_trained=False))
    home, store = make_target(tmp_path / "home", package)
    start_worker.start_worker(home)
    wait_for_end(home)
    latest = CaseStore(open_home(home.folder)).latest_round()
    assert latest is not None
    assert latest.state == RoundState.AWAITING_ANNOTATION.value
    assert start_worker.failure(home) is None
    log = start_worker.log_file(home).read_text()
    assert "awaiting annotation" in log
    named = [c for case in store.cases() for c in (case.case_id, case.patient_id)]
    assert named
    assert not any(name in log for name in named)
