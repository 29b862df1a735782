"""What the monitoring of a coordinator reads: is it up, can it work, where every site stands."""

import argparse
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from wsgiref.simple_server import WSGIServer

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from algorithms.contracts.errors import DataError, expected_errors_are_one_line
from algorithms.contracts.health import Check, run_check
from algorithms.contracts.structured_log import log_as_json
from coordinator.config import CoordinatorHome, open_home
from coordinator.doctor import examine_readiness
from coordinator.study_store import SiteRecord, StudyStore
from supervision.monitoring import monitoring_server

LATE_TICKS = 5  # as long as so many may take, one is late

FIGURES = {
    "last_seen_seconds": "Seconds since the site last said where it stands.",
    "failing": "1 while the site's last answer was none, or not usable.",
    "no_progress_seconds": "Seconds since the package on its way to the site came further.",
    "stalled": "1 while that is longer ago than delivery_stalled_after_s.",
    "bytes_to_site": "Bytes that were sent to the site.",
    "bytes_from_site": "Bytes that the site sent.",
}


_AGES = {"last_seen_seconds": "last_seen_at", "no_progress_seconds": "no_progress_since"}


class StudyCollector(Collector):
    """Tells where every site stands, anew at each request."""

    def __init__(self, home: CoordinatorHome) -> None:
        self._home = home

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every gauge, as `prometheus_client` asks for them."""
        with StudyStore(self._home.database_url, self._home.config) as store:
            sites = store.sites()
        now = datetime.now(UTC).replace(tzinfo=None)
        for name, meaning in FIGURES.items():
            gauge = GaugeMetricFamily(f"fedgtv_coordinator_{name}", meaning, labels=["site"])
            for site in sites:
                value = _figure(name, site, now)
                if value is not None:
                    gauge.add_metric([site.site], value)
            yield gauge
        progress = GaugeMetricFamily(
            "fedgtv_coordinator_sites", "Sites by their progress.", labels=["progress"]
        )
        names = [site.progress.value for site in sites if site.progress is not None]
        for one in sorted(set(names)):
            progress.add_metric([one], names.count(one))
        yield progress
        free_bytes = shutil.disk_usage(self._home.folder).free
        yield GaugeMetricFamily(
            "fedgtv_coordinator_free_bytes", "Space left on the disk of the home.", value=free_bytes
        )


def _figure(name: str, site: SiteRecord, now: datetime) -> float | None:
    if name in _AGES:
        since: datetime | None = getattr(site, _AGES[name])
        return None if since is None else (now - since).total_seconds()
    if name == "failing":
        return float(site.last_failure is not None)
    return float(getattr(site, name))


def operations_server(home: CoordinatorHome, *, host: str = "127.0.0.1", port: int) -> WSGIServer:
    """Open the port of ``/healthz``, ``/readyz`` and ``/metrics``; the caller serves and closes it.

    Raises:
        OSError: the port cannot be opened.
    """
    return monitoring_server(StudyCollector(home), lambda: _readiness(home), host=host, port=port)


def _readiness(home: CoordinatorHome) -> Iterator[Check]:
    yield from examine_readiness(home)
    yield run_check("ticks", partial(_ticks, home))


def _ticks(home: CoordinatorHome) -> str:
    """See that ticks go on: without them no site is asked, whatever else answers."""
    with StudyStore(home.database_url, home.config) as store:
        last = store.last_run_at()
    limit_s = LATE_TICKS * max(home.config.tick_every_s, home.config.message_ttl_s)
    if last is None:
        raise DataError("none ended yet: see logs/ticker.log, unless 'serve' has just begun")
    age_s = (datetime.now(UTC).replace(tzinfo=None) - last).total_seconds()
    if age_s > limit_s:
        raise DataError(f"the last ended {age_s:.0f} s ago: see logs/ticker.log and superlink.log")
    return f"the last ended {age_s:.0f} s ago"


def main() -> None:
    """Serve the pages of one coordinator; an expected error is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m coordinator.operations")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    given = parser.parse_args()
    with expected_errors_are_one_line():
        home = open_home(given.home)
        log_as_json(f"coordinator of {home.config.study}")
        with operations_server(home, port=given.port) as server:
            server.serve_forever()


if __name__ == "__main__":
    main()
