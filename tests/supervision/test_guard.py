"""What becomes of processes when those above them are killed: real processes, real signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LIMIT_S = 60
# In place of supervisord: it starts what has a child of its own, and ends with it when told to.
SUPERVISOR = """
import signal, subprocess, sys
program = subprocess.Popen([sys.executable, sys.argv[1]])
def end(*_):
    program.terminate()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open("supervisor.started", "w").close()
while True:
    signal.pause()
"""
# Like nginx: a master and its worker, which goes on without the master, but not when it is told.
PROGRAM = """
import signal, subprocess, sys
worker = subprocess.Popen(["sleep", "600"])
def end(*_):
    worker.terminate()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open("program.started", "w").close()
while True:
    signal.pause()
"""
GUARD = "import sys; from supervision.guard import guard; sys.exit(guard(sys.argv[1:]))"


class Family:
    """The processes of one test: guard, supervisor, program and worker."""

    def __init__(self, folder: Path, *, guarded: bool) -> None:
        (folder / "supervisor.py").write_text(SUPERVISOR)
        (folder / "program.py").write_text(PROGRAM)
        self.folder = folder
        command = [sys.executable, "supervisor.py", "program.py"]
        if guarded:
            command = [sys.executable, "-c", GUARD, *command]
        self.top = subprocess.Popen(command, cwd=folder)
        wait(lambda: (folder / "supervisor.started").exists())
        wait(lambda: (folder / "program.started").exists())

    def find(self, word: str) -> list[int]:
        """Return the processes here that were started with an argument, zombies left out."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "cwd").readlink() != self.folder:
                    continue
                if word.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def one(self, word: str) -> int:
        """Return the one process of these that is not the guard."""
        (process,) = (process for process in self.find(word) if process != self.top.pid)
        return process


def wait(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not ready():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def family(tmp_path) -> Iterator[Family]:
    made = Family(tmp_path, guarded=True)
    yield made
    _end(made)


def _end(family: Family) -> None:
    family.top.kill()
    family.top.wait()
    for word in ("supervisor.py", "program.py", "600"):
        for process in family.find(word):
            os.kill(process, signal.SIGKILL)


def test_without_a_guard_a_killed_supervisor_leaves_everything_behind(tmp_path) -> None:
    family = Family(tmp_path, guarded=False)
    family.top.kill()
    family.top.wait()
    assert family.find("program.py")
    assert family.find("600")
    _end(family)


def test_what_a_killed_supervisor_leaves_is_ended_and_the_guard_says_so(family) -> None:
    os.kill(family.one("supervisor.py"), signal.SIGKILL)
    assert family.top.wait(LIMIT_S) == 1
    assert not family.find("program.py")
    assert not family.find("600")


def test_a_killed_guard_takes_everything_with_it(family) -> None:
    family.top.kill()
    family.top.wait()
    wait(lambda: not family.find("supervisor.py"))
    wait(lambda: not family.find("600"))


def test_what_a_killed_program_leaves_is_ended_and_the_supervisor_goes_on(family) -> None:
    supervisor = family.one("supervisor.py")
    (program,) = (p for p in family.find("program.py") if p not in (supervisor, family.top.pid))
    os.kill(program, signal.SIGKILL)
    wait(lambda: not family.find("600"))
    assert family.one("supervisor.py") == supervisor
    assert family.top.poll() is None


def test_a_polite_end_is_a_good_one(family) -> None:
    family.top.terminate()
    assert family.top.wait(LIMIT_S) == 0
    assert not family.find("600")


def test_one_home_has_one_guard(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "run" / "supervisord.conf").write_text(
        f"[supervisord]\npidfile={tmp_path}/run/supervisord.pid\nlogfile={tmp_path}/logs/s.log\n"
    )
    command = [sys.executable, "-m", "supervision.guard", str(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(lambda: (tmp_path / "run" / "supervisord.pid").exists())
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert "is served already" in second.stderr
    finally:
        first.terminate()
        assert first.wait(LIMIT_S) == 0
