"""Stays above supervisord and sees to it that nothing outlives it.

    python -m supervision.guard HOME

A program that is killed leaves its children behind, and so does a supervisord that is killed: nginx
without its master goes on holding its port. Linux gives orphans to the nearest ancestor that asks
for them. The guard does, and ends them. Supervisord in turn gets SIGTERM when the guard is killed.

It holds a lock in the home, so that two never serve the same. It needs the standard library alone,
and stays small.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

CONFIGURATION, LOCK = "run/supervisord.conf", "run/serve.lock"
LOOK_S = 0.5
PATIENCE_S = 10.0  # before an orphan that does not end is killed
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold the lock of who serves a home; the system releases it when we are killed.

    Raises:
        BlockingIOError: somebody else has it.
    """
    with (home / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def guard(command: Sequence[str]) -> int:
    """Run supervisord until it ends and nothing of it is left; return an exit code.

    SIGTERM and SIGINT end it in good order, with 0; SIGHUP is passed on. Any other end gives 1.
    """
    _process_control(_PR_SET_CHILD_SUBREAPER, 1)
    supervisor = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches us alone, who then end it
        preexec_fn=partial(_process_control, _PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    asked_to_end = False

    def end(*_: object) -> None:
        nonlocal asked_to_end
        asked_to_end = True
        supervisor.terminate()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGHUP, lambda *_: supervisor.send_signal(signal.SIGHUP))
    since: dict[int, float] = {}
    while supervisor.poll() is None:
        _end_orphans(supervisor.pid, since)
        time.sleep(LOOK_S)
    while _end_orphans(supervisor.pid, since):
        time.sleep(LOOK_S / 5)
    return 0 if asked_to_end and supervisor.returncode == 0 else 1


def _end_orphans(supervisor: int, since: dict[int, float]) -> bool:
    """End every child of ours but supervisord; say whether there was one."""
    now, orphans = time.monotonic(), _children() - {supervisor}
    for orphan in orphans:
        late = now - since.setdefault(orphan, now) > PATIENCE_S
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(orphan, signal.SIGKILL if late else signal.SIGTERM)
            os.waitpid(orphan, os.WNOHANG)
    for gone in since.keys() - orphans:
        del since[gone]
    return bool(orphans)


def _children() -> set[int]:
    """Return our children, zombies too: not every kernel lists them by parent."""
    us, found = os.getpid(), set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            after_name = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2]
            if int(after_name.split()[1]) == us:
                found.add(int(folder.name))
    return found


def _process_control(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def main() -> None:
    """Guard the supervisor of one home."""
    parser = argparse.ArgumentParser(prog="python -m supervision.guard")
    parser.add_argument("home", type=Path)
    home = parser.parse_args().home
    supervisor = (sys.executable, "-P", "-m", "supervision.supervisor", "-n", "-c")
    try:
        with alone(home):
            code = guard([*supervisor, str(home / CONFIGURATION)])
    except BlockingIOError:
        sys.exit(f"error: {home}: is served already: end that first")
    if code:
        sys.stderr.write("error: the supervisor ended: see logs/supervisord.log in the home\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
