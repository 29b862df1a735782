"""The port that a hospital's or a coordinator's monitoring asks: the same for both parties."""

from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from algorithms.contracts.health import Check, operations_app


def monitoring_server(
    collector: Collector, ready: Callable[[], Iterable[Check]], *, host: str, port: int
) -> WSGIServer:
    """Open the port of ``/healthz``, ``/readyz`` and ``/metrics``; the caller serves and closes it.

    Raises:
        OSError: the port cannot be opened.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    app = operations_app(ready, lambda: generate_latest(registry))
    return make_server(host, port, app, ThreadingWSGIServer, _QuietHandler)


class _QuietHandler(WSGIRequestHandler):
    """Says nothing of requests: a monitoring asks every few seconds."""

    timeout = 10  # for who connects and says nothing

    def log_message(self, format: str, *args: object) -> None:
        """Keep no line."""
