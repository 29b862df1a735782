"""Kills each step of a round by disk at every moment at which something becomes lasting.

Run as `python -m tests.journeys.bundle_kills FOLDER`, where FOLDER/study is a study before the
round. Moments are the commits of either database and the files that get their names; the process
dies just before each in turn. The same command is given again, the round is brought to its end,
and the study stays in FOLDER for whoever compares. A child is a fork of this process, which has
everything imported: it is at work at once.
"""

import importlib
import os
import shutil
import signal
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, event

from coordinator.bundles import read_bundle, write_bundle
from coordinator.config import open_home as open_coordinator
from coordinator.study_store import StudyStore
from site_agent.bundle_answer import answer_bundle
from site_agent.config import open_home
from site_agent.database import open_database

FAR = "hospital-c"
STEPS = ("write", "answer", "read")
NAMING = {"os.rename", "os.link"}  # the audit event of a rename is the one of a replace, too
NEEDED = ("algorithms.features", "algorithms.networks")


def do(folder: Path, step: str) -> None:
    """Do one step as its command does."""
    now, asked, answered = datetime.now(UTC), folder / "1.bundle", folder / "1.answer"
    if step == "answer":
        home = open_home(folder / FAR)
        engine = open_database(home.database_url)
        answer_bundle(home, engine, asked, answered, actor="test", now=now)
        engine.dispose()
        return
    coordinator = open_coordinator(folder / "coordinator")
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        if step == "read":
            read_bundle(coordinator, store, answered, now=now)
        elif not asked.exists():  # who sees that it is there does not write it again
            write_bundle(coordinator, store, FAR, asked, now=now)


def _die_before(moment: int) -> None:
    left = moment

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "commit", count)
    sys.addaudithook(lambda name, _: count() if name in NAMING else None)


def _child(folder: Path, step: str, moment: int = 0) -> bool:
    """Do a step in a process of its own; False when it was killed.

    Raises:
        SystemExit: when it failed by itself: a kill must not lead to that.
    """
    process = os.fork()
    if process == 0:
        try:
            _die_before(moment)
            do(folder, step)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        sys.exit(f"{folder.name}: {step} failed")
    return os.WIFEXITED(status)


def main() -> None:
    """Kill each step at each moment, go on, and print how often each was killed."""
    for name in NEEDED:
        importlib.import_module(name)
    folder = Path(sys.argv[1])
    kills = dict.fromkeys(STEPS, 0)
    for number, step in enumerate(STEPS):
        before = folder / "study"
        for earlier in STEPS[:number]:
            shutil.copytree(before, folder / f".before-{step}-{earlier}")
            before = folder / f".before-{step}-{earlier}"
            _child(before, earlier)
        whole = False
        while not whole:
            killed = folder / f"{step}-{kills[step] + 1:02d}"
            shutil.copytree(before, killed)
            whole = _child(killed, step, kills[step] + 1)
            if not whole:
                kills[step] += 1
                _child(killed, step)
            for later in STEPS[number + 1 :]:
                _child(killed, later)
    sys.stdout.write(" ".join(str(kills[step]) for step in STEPS) + "\n")


if __name__ == "__main__":
    main()
