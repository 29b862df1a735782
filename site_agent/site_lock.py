"""One process at a time changes what a site holds."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome

# A page that looks whether a worker runs holds the lock for an instant.
_ATTEMPTS, _PAUSE_S = 5, 0.02


class SiteBusyError(DataError):
    """Another process does what excludes this one: it will succeed later."""


@contextmanager
def only_worker(home: SiteHome) -> Iterator[None]:
    """Hold the site's worker lock; the system releases it when a worker is killed.

    Raises:
        SiteBusyError: when another worker runs.
    """
    busy = "another worker of this site is running: wait until it ends"
    with _hold(home, "worker.lock", fcntl.LOCK_EX, busy):
        yield


def is_working(home: SiteHome) -> bool:
    """Say whether a worker runs, or somebody else who keeps workers out."""
    return _is_held(home, "worker.lock")


@contextmanager
def only_listener(home: SiteHome) -> Iterator[None]:
    """Hold the lock of what others send images to.

    Raises:
        SiteBusyError: when another listener runs.
    """
    busy = "another listener of this site is running: end it first"
    with _hold(home, "listener.lock", fcntl.LOCK_EX, busy):
        yield


def is_listening(home: SiteHome) -> bool:
    """Say whether a listener of this site runs."""
    return _is_held(home, "listener.lock")


@contextmanager
def only_fetch(home: SiteHome) -> Iterator[None]:
    """Hold the lock of what fetches from the PACS.

    Raises:
        SiteBusyError: when another fetch runs.
    """
    busy = "another fetch of this site is running: wait until it ends"
    with _hold(home, "fetch.lock", fcntl.LOCK_EX, busy):
        yield


@contextmanager
def nothing_erased(home: SiteHome) -> Iterator[None]:
    """Keep files that rows name from being erased, as long as a backup reads them.

    Raises:
        SiteBusyError: when an erasure is under way.
    """
    busy = "a patient is being erased: wait until it ends"
    with (
        _hold(home, "erasure.lock", fcntl.LOCK_SH, busy),
        (home.folder / "masks.lock").open("w") as file,
    ):
        fcntl.flock(file, fcntl.LOCK_SH)  # waits for a removal of superseded masks: milliseconds
        yield


@contextmanager
def superseded_masks_may_go(home: SiteHome) -> Iterator[None]:
    """Keep backups from beginning while masks are removed that no row names any more.

    Raises:
        SiteBusyError: a backup is being made.
    """
    with _hold(home, "masks.lock", fcntl.LOCK_EX, "a backup of this site is being made"):
        yield


@contextmanager
def only_eraser(home: SiteHome) -> Iterator[None]:
    """Keep workers, fetches and backups out while patients are erased.

    Raises:
        SiteBusyError: when a worker or a fetch runs, or a backup is being made.
    """
    busy = "a backup of this site is being made: wait until it ends"
    with only_worker(home), only_fetch(home), _hold(home, "erasure.lock", fcntl.LOCK_EX, busy):
        yield


@contextmanager
def spool_alone(home: SiteHome) -> Iterator[None]:
    """Hold the spool: nobody else moves or removes files in it; waits for whoever does.

    Whoever holds it must not wait for another lock of the site, or two would wait for each other.
    What arrives is written without it.
    """
    with (home.folder / "spool.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_held(home: SiteHome, name: str) -> bool:
    try:
        with (home.folder / name).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody ever held it
        return False
    return False


@contextmanager
def _hold(home: SiteHome, name: str, kind: int, busy: str) -> Iterator[None]:
    with (home.folder / name).open("w") as file:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if attempt == _ATTEMPTS:
                    raise SiteBusyError(busy) from error
                time.sleep(_PAUSE_S)
        yield
