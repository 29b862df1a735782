"""What the monitoring of a coordinator reads: is it up, can it work, where every site stands."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer

from algorithms.contracts.health import operations_app
from coordinator.config import CoordinatorHome
from coordinator.doctor import examine_readiness
from coordinator.study_store import SiteRecord, StudyStore

FIGURES = {
    "last_seen_seconds": "Seconds since the site last said where it stands.",
    "failing": "1 while the site's last answer was none, or not usable.",
    "bytes_to_site": "Bytes that were sent to the site.",
    "bytes_from_site": "Bytes that the site sent.",
}


class StudyCollector:
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
    if name == "last_seen_seconds":
        return None if site.last_seen_at is None else (now - site.last_seen_at).total_seconds()
    if name == "failing":
        return float(site.last_failure is not None)
    return float(getattr(site, name))


def operations_server(home: CoordinatorHome, *, host: str = "127.0.0.1", port: int) -> WSGIServer:
    """Open the port of ``/healthz``, ``/readyz`` and ``/metrics``; the caller serves and closes it.

    Raises:
        OSError: the port cannot be opened.
    """
    registry = CollectorRegistry()
    registry.register(StudyCollector(home))
    app = operations_app(lambda: examine_readiness(home), lambda: generate_latest(registry))
    return make_server(host, port, app, ThreadingWSGIServer, QuietHandler)


class QuietHandler(WSGIRequestHandler):
    """Says nothing of requests: a monitoring asks every few seconds."""

    timeout = 10  # for who connects and says nothing

    def log_message(self, format: str, *args: object) -> None:
        """Keep no line."""
