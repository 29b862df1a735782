"""One process at a time changes what a site holds."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome


class SiteBusyError(DataError):
    """Another process does the same for this site: it will succeed later."""


@contextmanager
def only_worker(home: SiteHome) -> Iterator[None]:
    """Hold the site's worker lock; the system releases it when a worker is killed.

    Raises:
        SiteBusyError: when another worker runs.
    """
    with _only(home, "worker"):
        yield


@contextmanager
def only_fetch(home: SiteHome) -> Iterator[None]:
    """Hold the lock of what fetches from the PACS, as `only_worker` does."""
    with _only(home, "fetch"):
        yield


@contextmanager
def _only(home: SiteHome, what: str) -> Iterator[None]:
    with (home.folder / f"{what}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SiteBusyError(
                f"another {what} of this site is running: wait until it ends"
            ) from error
        yield
