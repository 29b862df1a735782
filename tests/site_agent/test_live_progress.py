import json
import math
from dataclasses import asdict
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from site_agent.live_progress import LiveProgress, ProgressWriter, clear_progress, read_progress
from site_agent.progress import progress_bar

BEGAN = datetime(2026, 3, 2, 9, 0)


class Clock:
    """A clock that stands still until it is told to go."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def now(self) -> datetime:
        return BEGAN + timedelta(seconds=self.passed_s)

    def seconds(self) -> float:
        return self.passed_s


@pytest.fixture
def home(tmp_path):
    """A home is a folder and a name here: nothing else of it is looked at."""
    return SimpleNamespace(folder=tmp_path, config=SimpleNamespace(name="hospital-b"))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def writer(home, clock):
    return ProgressWriter(home, "stage1", now=clock.now, seconds=clock.seconds)


def test_what_was_told_is_read(home, clock, writer) -> None:
    told = read_progress(home)
    assert told == LiveProgress("stage1", 0, 0, -1.0, 0, None, BEGAN, BEGAN)
    assert told.share == 0.0
    assert math.isnan(told.remaining_s(BEGAN))
    clock.passed_s = 10.0
    writer.update(100, 400, 0.25)
    told = read_progress(home)
    assert asdict(told) == {
        "what": "stage1",
        "done": 100,
        "total": 400,
        "loss": 0.25,
        "counted_from": 100,
        "counted_at": clock.now(),
        "started_at": BEGAN,
        "updated_at": clock.now(),
    }
    assert told.share == 0.25


def test_a_resumed_step_counts_the_speed_from_where_it_began(home, clock, writer) -> None:
    writer.update(300, 400, 0.5)  # from a checkpoint: nothing is known of the speed
    assert math.isnan(read_progress(home).remaining_s(clock.now()))
    clock.passed_s = 20.0
    writer.update(320, 400, 0.5)  # one a second
    assert read_progress(home).remaining_s(clock.now()) == 80.0
    assert read_progress(home).remaining_s(clock.now() + timedelta(seconds=30)) == 50.0
    assert read_progress(home).remaining_s(clock.now() + timedelta(seconds=300)) == 0.0


@given(
    first=st.integers(0, 100),
    steps=st.integers(1, 100),
    left=st.integers(0, 100),
    speed_s=st.floats(0.01, 100.0),
)
def test_at_a_steady_speed_the_rest_takes_as_long_as_it_takes(first, steps, left, speed_s) -> None:
    began, now = BEGAN, BEGAN + timedelta(seconds=steps * speed_s)
    total = first + steps + left
    told = LiveProgress("s", first + steps, total, -1.0, first, began, began, now)
    assert told.remaining_s(now) == pytest.approx(left * speed_s, rel=1e-3, abs=1e-5)
    assert 0.0 <= told.share <= 1.0


def test_it_is_written_once_a_second_and_at_the_end(home, clock, writer) -> None:
    seen = []
    for step in range(1, 101):
        clock.passed_s = 0.1 * step
        writer.update(step, 100, -1.0)
        done = read_progress(home).done
        if not seen or seen[-1] != done:
            seen.append(done)
    assert len(seen) == 11  # the first one, then about every tenth
    assert seen[-1] == 100


def test_a_full_disk_stops_nothing(home, clock, writer) -> None:
    (home.folder / "progress.json").unlink()
    (home.folder / "progress.json").mkdir()  # nothing can take its place
    clock.passed_s = 5.0
    writer.update(1, 2, 0.5)
    assert read_progress(home) is None
    home.folder.joinpath("progress.json").rmdir()
    home.folder.rename(home.folder.with_name("elsewhere"))
    clock.passed_s = 10.0
    writer.update(2, 2, 0.5)
    clear_progress(home)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"what": "x"}', '{"done": null}'])
def test_what_is_not_readable_is_nothing(home, content) -> None:
    (home.folder / "progress.json").write_text(content)
    assert read_progress(home) is None


def test_a_loss_that_is_no_number_is_none(home, writer) -> None:
    writer.update(1, 2, math.nan)
    assert read_progress(home).loss == -1.0
    json.loads((home.folder / "progress.json").read_text(), parse_constant=pytest.fail)


def test_a_bar_that_ended_leaves_nothing_and_one_that_failed_tells_where(home) -> None:
    with progress_bar("stage1", home) as progress:
        progress(1, 2, -1.0)
        assert read_progress(home).what == "stage1"
    assert read_progress(home) is None
    with pytest.raises(OSError, match="full"), progress_bar("stage3", home) as progress:
        progress(1, 2, -1.0)
        raise OSError("the disk is full")
    assert read_progress(home).what == "stage3"
    clear_progress(home)
    assert read_progress(home) is None


def test_nobodys_bar_writes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with progress_bar("reading series") as progress:
        progress(1, 1, -1.0)
    assert list(tmp_path.iterdir()) == []
