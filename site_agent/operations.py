"""What a hospital's monitoring reads of a site: is it up, can it work, and how much of what."""

import argparse
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from wsgiref.simple_server import WSGIServer

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from algorithms.contracts.errors import expected_errors_are_one_line
from algorithms.contracts.health import Check, run_check
from algorithms.contracts.structured_log import log_as_json
from site_agent.config import SiteHome, open_home
from site_agent.coordinator_contact import examine_contact, last_asked_at
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
from supervision.monitoring import monitoring_server

COUNTED: dict[str, tuple[InstrumentedAttribute[str], str]] = {
    "cases": (CaseRow.split, "Cases by part of the study."),
    "packages": (PackageRow.state, "Model packages by state."),
    "rounds": (RoundRow.state, "Adaptation rounds by state."),
    "annotation_tasks": (AnnotationTaskRow.state, "Slices for doctors by state."),
    "ledger_entries": (LedgerRow.state, "Messages that left, wait or were refused."),
}


class SiteCollector(Collector):
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
        if (asked := last_asked_at(home)) is not None:
            yield GaugeMetricFamily(
                "fedgtv_site_last_asked_seconds",
                "Seconds since a message of the coordinator's was answered.",
                value=(datetime.now(UTC) - asked).total_seconds(),
            )


def operations_server(home: SiteHome, *, host: str = "127.0.0.1", port: int) -> WSGIServer:
    """Open the port of ``/healthz``, ``/readyz`` and ``/metrics``; the caller serves and closes it.

    Raises:
        OSError: the port cannot be opened.
    """
    return monitoring_server(SiteCollector(home), lambda: _readiness(home), host=host, port=port)


def _readiness(home: SiteHome) -> Iterator[Check]:
    yield from examine_readiness(home)
    yield run_check("contact", partial(examine_contact, home))


def main() -> None:
    """Serve the pages of one site; an expected error is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m site_agent.operations")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    given = parser.parse_args()
    with expected_errors_are_one_line():
        home = open_home(given.home)
        log_as_json(f"site {home.config.name}")
        with operations_server(home, port=given.port) as server:
            server.serve_forever()


if __name__ == "__main__":
    main()
