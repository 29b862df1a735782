"""What a hospital's monitoring reads of a site: is it up, can it work, and how much of what."""

import shutil
from collections.abc import Iterator
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer
from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from algorithms.contracts.health import operations_app
from site_agent.config import SiteHome
from site_agent.database import (
    AnnotationTaskRow,
    CaseRow,
    LedgerRow,
    PackageRow,
    RoundRow,
    open_database,
)
from site_agent.doctor import examine_readiness
from site_agent.site_lock import is_listening, is_working

COUNTED: dict[str, tuple[InstrumentedAttribute[str], str]] = {
    "cases": (CaseRow.split, "Cases by part of the study."),
    "packages": (PackageRow.state, "Model packages by state."),
    "rounds": (RoundRow.state, "Adaptation rounds by state."),
    "annotation_tasks": (AnnotationTaskRow.state, "Slices for doctors by state."),
    "ledger_entries": (LedgerRow.state, "Messages that left, wait or were refused."),
}


class SiteCollector:
    """Counts what a site holds, anew at each request; no figure is about a patient."""

    def __init__(self, home: SiteHome) -> None:
        self._home = home

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every gauge, as `prometheus_client` asks for them."""
        home = self._home
        engine = open_database(home.database_url)
        try:
            with Session(engine) as session:
                for name, (column, meaning) in COUNTED.items():
                    gauge = GaugeMetricFamily(f"fedgtv_site_{name}", meaning, labels=["state"])
                    counts = select(column, func.count()).group_by(column).order_by(column)
                    for state, count in session.execute(counts):
                        gauge.add_metric([state], count)
                    yield gauge
        finally:
            engine.dispose()
        free_bytes = shutil.disk_usage(home.folder).free
        for name, meaning, value in (
            ("free_bytes", "Space left on the disk of the home.", free_bytes),
            ("worker_running", "1 while a worker trains or segments.", is_working(home)),
            ("listener_running", "1 while images can be sent here.", is_listening(home)),
        ):
            yield GaugeMetricFamily(f"fedgtv_site_{name}", meaning, value=float(value))


def operations_server(home: SiteHome, *, host: str = "127.0.0.1", port: int) -> WSGIServer:
    """Open the port of ``/healthz``, ``/readyz`` and ``/metrics``; the caller serves and closes it.

    Raises:
        OSError: the port cannot be opened.
    """
    registry = CollectorRegistry()
    registry.register(SiteCollector(home))
    app = operations_app(lambda: examine_readiness(home), lambda: generate_latest(registry))
    return make_server(host, port, app, ThreadingWSGIServer, QuietHandler)


class QuietHandler(WSGIRequestHandler):
    """Says nothing of requests: a monitoring asks every few seconds."""

    timeout = 10  # for who connects and says nothing

    def log_message(self, format: str, *args: object) -> None:
        """Keep no line."""
