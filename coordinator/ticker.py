"""Ticks for as long as the coordinator serves, and keeps SuperLink and reverse proxy up to date.

    python -m coordinator.ticker --home HOME

A tick is a Flower run of its own. One that fails is logged by its rule, and the next one tries
again.
"""

import argparse
import contextlib
import logging
import os
import signal
import time
from pathlib import Path

from algorithms.contracts.errors import ProtocolError, expected_errors_are_one_line, failure_line
from algorithms.contracts.structured_log import log_as_json
from coordinator.config import CoordinatorHome, open_home
from coordinator.reverse_proxy import access_log, process_id
from coordinator.study_store import DELIVERY_STALLED, StudyStore
from coordinator.study_workflow import Goal
from coordinator.superlink_client import SuperLinkClient
from coordinator.superlink_nodes import register_sites

MOST_LOG_BYTES = 10 << 20
AGAIN_S, AGAIN = 10.0, 3  # so soon and so often after a failure: a SuperLink may just be starting

_log = logging.getLogger("coordinator.ticker")


class Ticker:
    """Does what the coordinator does again and again.

    Args:
        home: of the coordinator, whose SuperLink and reverse proxy run.
    """

    def __init__(self, home: CoordinatorHome) -> None:
        self._home = home
        self._link = superlink_client(home)
        self._read_by_proxy = ""  # it is told once in any case: this process may be new
        self._certificate = _state(home.tls / "server.crt")

    def tick(self) -> None:
        """Do everything once.

        Raises:
            ProtocolError: naming the rule by which the SuperLink or the run failed.
        """
        self.update_proxy()
        self.update_supervisor()
        with StudyStore(self._home.database_url, self._home.config) as store:
            for site, what in register_sites(self._link, store, self._home.config.connected_sites):
                _log.info("site %s: %s", site, what)
        self._link.run_study(self._home, Goal.ONE_TICK, patience_s=0)
        self.watch_deliveries()

    def watch_deliveries(self) -> None:
        """Log each delivery that has come to a stop, once; after a tick, which may bring it on."""
        with StudyStore(self._home.database_url, self._home.config) as store:
            for site in store.note_stalled():
                _log.warning(
                    "site %s: %s: no progress since %s UTC; %d bytes there; last failure: %s",
                    *(site.site, DELIVERY_STALLED, site.no_progress_since),
                    *(site.bytes_held, site.last_failure or "none"),
                )

    def update_proxy(self) -> None:
        """Have nginx read certificates and revocation list again after a change; rotate its log."""
        process = process_id(self._home)
        if process is None:
            return
        tls = self._home.tls
        read = "".join(_state(tls / name) for name in ("server.crt", "ca.crt", "revoked.pem"))
        with contextlib.suppress(ProcessLookupError):
            if read != self._read_by_proxy:
                os.kill(process, signal.SIGHUP)
                self._read_by_proxy = read
                _log.info("the reverse proxy reads its certificates again")
            log = access_log(self._home)
            if log.is_file() and log.stat().st_size > MOST_LOG_BYTES:
                log.replace(log.with_name(f"{log.name}.1"))
                os.kill(process, signal.SIGUSR1)

    def update_supervisor(self) -> None:
        """Have everything start again with a new server certificate: the SuperLink has it too."""
        now = _state(self._home.tls / "server.crt")
        if now == self._certificate:
            return
        self._certificate = now
        with contextlib.suppress(OSError, ValueError):  # not served, or just ending
            process = int((self._home.folder / "run" / "supervisord.pid").read_text("ascii"))
            _log.info("a new certificate: everything starts again")
            os.kill(process, signal.SIGHUP)


def superlink_client(home: CoordinatorHome) -> SuperLinkClient:
    """Return what speaks to the SuperLink that is served."""
    return SuperLinkClient(home.flower, home.config.superlink_port, home.tls / "ca.crt")


def tick_for_ever(home: CoordinatorHome) -> None:
    """Tick until the process ends; a failed tick is logged, and tried again soon a few times."""
    ticker, failures = Ticker(home), 0
    while True:
        began = time.monotonic()
        try:
            ticker.tick()
            if failures:
                _log.info("ticks again")
            failures = 0
        except ProtocolError as error:
            # The rest of its text is the end of Flower's log, which is beside this one.
            _log.warning("tick failed: %s", str(error).partition("\n")[0])
            failures += 1
        except Exception as error:  # a full disk, a database that is away: it may come back
            _log.exception("tick failed: %s", failure_line(error) or type(error).__name__)
            failures += 1
        every_s = home.config.tick_every_s
        if 0 < failures <= AGAIN:
            every_s = min(every_s, AGAIN_S)
        time.sleep(max(0.0, every_s - (time.monotonic() - began)))


def _state(file: Path) -> str:
    """Return what changes with the file: it is always replaced, never written into."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return "absent"
    return f"{found.st_mtime_ns}-{found.st_ino}"


def main() -> None:
    """Run the ticker; an expected error is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m coordinator.ticker")
    parser.add_argument("--home", type=Path, required=True)
    with expected_errors_are_one_line():
        home = open_home(parser.parse_args().home)
        log_as_json(f"coordinator of {home.config.study}")
        tick_for_ever(home)


if __name__ == "__main__":
    main()
