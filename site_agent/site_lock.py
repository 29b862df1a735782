"""One process at a time changes what a site holds."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome


@contextmanager
def only_worker(home: SiteHome) -> Iterator[None]:
    """Hold the site's worker lock; the system releases it when a worker is killed.

    Raises:
        DataError: when another worker runs.
    """
    with (home.folder / "worker.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError("another worker of this site is running: wait until it ends") from error
        yield
