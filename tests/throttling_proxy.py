"""A TCP proxy on the loopback interface that is as slow as told, cuts, and counts what passes."""

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

_PIECE_BYTES = 16 * 1024


class ThrottlingProxy:
    """Forwards connections to a port; all of them together pass `bytes_per_s` downwards.

    Args:
        target_port: where connections are forwarded to.
        bytes_per_s: towards the one who connects; the other way is free.
        cut_at_bytes: after so many bytes downwards every open connection is cut, once each.
    """

    def __init__(
        self, target_port: int, *, bytes_per_s: float, cut_at_bytes: tuple[int, ...] = ()
    ) -> None:
        self._target_port, self._bytes_per_s = target_port, bytes_per_s
        self._cuts = sorted(cut_at_bytes)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._free_at = time.monotonic()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.bytes_down = self.bytes_up = self.cuts_made = 0

    def __enter__(self) -> Self:
        """Begin to accept connections."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        self._server.close()
        self._cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target_port))
                except OSError:
                    near.close()
                    continue
                with self._lock:
                    self._open |= {near, far}
                for pair, down in (((far, near), True), ((near, far), False)):
                    threading.Thread(target=self._pass_on, args=(*pair, down), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, down: bool) -> None:
        with contextlib.suppress(OSError):  # cut, or one end went away
            while piece := source.recv(_PIECE_BYTES):
                if down:
                    self._wait_for_turn(len(piece))
                sink.sendall(piece)
                self._count(len(piece), down)
        with self._lock:
            self._open -= {source, sink}
        for end in (source, sink):
            _close(end)

    def _wait_for_turn(self, size_bytes: int) -> None:
        with self._lock:
            begin = max(time.monotonic(), self._free_at)
            self._free_at = begin + size_bytes / self._bytes_per_s
        time.sleep(max(0.0, self._free_at - time.monotonic()))

    def _count(self, size_bytes: int, down: bool) -> None:
        with self._lock:
            if not down:
                self.bytes_up += size_bytes
                return
            self.bytes_down += size_bytes
            due = bool(self._cuts) and self.bytes_down >= self._cuts[0]
            if due:
                self._cuts.pop(0)
                self.cuts_made += 1
        if due:
            self._cut()

    def _cut(self) -> None:
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            _close(end)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
