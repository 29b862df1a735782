"""A coordinator's door as a site sees it: TLS, `/healthz`, and the time of day in its answer."""

import http.server
import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import TracebackType
from typing import Self


class SimulatedDoor:
    """Answers on a free port of 127.0.0.1 while it is entered.

    Args:
        certificate, key: what it shows.
        clock_off: how much later it is there.
        status: what it answers.
    """

    def __init__(
        self, certificate: Path, key: Path, *, clock_off: timedelta = timedelta(), status: int = 200
    ) -> None:
        self.clock_off = clock_off
        door = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response_only(status)
                now = datetime.now(UTC) + door.clock_off
                self.send_header("Date", format_datetime(now, usegmt=True))
                self.send_header("Content-Length", "3")
                self.end_headers()
                self.wfile.write(b"ok\n")

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who left
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
