"""Start the worker from a page: the same command that hospital IT runs, in a process of its own.

It goes on when the page, or the server of the pages, ends. The worker's lock keeps it the only one.
What it prints is under the site's home, in `logs`: step names and numbers, and errors as the
command prints them.
"""

import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome
from site_agent.site_lock import SiteBusyError, is_working

LOG_LIMIT_BYTES = 1_000_000
_started: dict[Path, subprocess.Popen[bytes]] = {}
_one_start = threading.Lock()


def command(home: SiteHome) -> list[str]:
    """Return the command that continues the round."""
    return [str(Path(sys.executable).with_name("fedgtv-site")), "work", "--home", str(home.folder)]


def log_file(home: SiteHome) -> Path:
    """Return the file that holds what started workers printed."""
    return home.folder / "logs" / "work.log"


def open_log(home: SiteHome) -> IO[bytes]:
    """Open that file to append to it; a long one begins anew."""
    log = log_file(home)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    long = log.is_file() and log.stat().st_size > LOG_LIMIT_BYTES
    return log.open("wb" if long else "ab")


def start_worker(home: SiteHome) -> None:
    """Start it in the background.

    Raises:
        SiteBusyError: a worker runs already.
        DataError: the command is not installed beside this program.
    """
    with _one_start:
        if is_working(home) or is_starting(home):
            raise SiteBusyError("another worker of this site is running: wait until it ends")
        if not Path(command(home)[0]).is_file():
            raise DataError("the command is not installed here: run 'fedgtv-site work' elsewhere")
        with open_log(home) as printed:
            process = subprocess.Popen(
                command(home),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        threading.Thread(target=process.wait, daemon=True).start()  # or it stays as a zombie
        _started[home.folder] = process


def is_starting(home: SiteHome) -> bool:
    """Say whether a worker that was started here runs; it holds its lock a few seconds later."""
    process = _started.get(home.folder)
    return process is not None and process.poll() is None


def failure(home: SiteHome) -> str | None:
    """Return why the worker that was started here last failed; None if it did not.

    One that was killed says nothing: `live_progress` tells where it was.
    """
    process = _started.get(home.folder)
    if process is None or (process.poll() or 0) <= 0:
        return None
    lines = log_file(home).read_text("utf-8", "replace").splitlines()
    said = lines[-1] if lines else ""
    unexpected = f"it ended unexpectedly: see logs/{log_file(home).name} in the site's home"
    return said.removeprefix("error: ") if said.startswith("error: ") else unexpected
