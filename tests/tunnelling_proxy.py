"""A hospital's web proxy: it opens tunnels (HTTP CONNECT) and sees nothing of what passes."""

import socket
import threading
from types import TracebackType
from typing import Self


class TunnellingProxy:
    """A proxy on 127.0.0.1; `asked_for` holds where tunnels went, `passed` the bytes of all."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.asked_for: list[str] = []
        self.passed = bytearray()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += caller.recv(4096)
        method, target, _ = head.split(b"\r\n")[0].decode("ascii").split(" ")
        assert method == "CONNECT"
        self.asked_for.append(target)
        host, _, port = target.rpartition(":")
        called = socket.create_connection((host, int(port)))
        caller.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for source, sink in ((caller, called), (called, caller)):
            threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.passed += data
                sink.sendall(data)
        except OSError:
            pass
        finally:
            sink.close()
