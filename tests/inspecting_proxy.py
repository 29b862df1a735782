"""A hospital's web proxy that reads what passes: it ends TLS on both sides, as a firewall may.

A real one has an authority of its own that the hospital's machines trust. This one has what a test
has: the keys of both parties. So what is read here is what crossed, byte for byte, and not a byte
of it is hidden.
"""

import contextlib
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from io import BufferedReader
from types import TracebackType
from typing import Self

from flwr.app import Message
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from coordinator.config import CoordinatorHome
from site_agent.config import SiteHome
from site_agent.site_keys import tls_context

_PIECE_BYTES = 16 * 1024
_MESSAGES, _OBJECTS = "/v1/fleet/push-messages", "/v1/fleet/push-object"
_CARRYING = (_MESSAGES, _OBJECTS)


@dataclass
class Exchange:
    """A request of the hospital and the answer to it, as they passed; no answer came when empty."""

    path: str
    request_head: bytes
    request_body: bytes
    response: bytes = b""


@dataclass(frozen=True)
class Reply:
    """What a message of the hospital held beside Flower's own: released bytes, or an error."""

    body: bytes
    files: dict[str, bytes]
    error: str

    @property
    def released_bytes(self) -> int:
        return len(self.body) + sum(map(len, self.files.values()))


@dataclass(frozen=True)
class BytesLeft:
    """What a hospital sent, inside TLS.

    Attributes:
        released: bodies and files of its messages, each message once.
        envelopes: the rest of the requests that carry messages: Flower's own.
        polls: bodies of all other requests, which ask for messages or say that it lives.
        heads: of all requests.
    """

    released: int
    envelopes: int
    polls: int
    heads: int


class InspectingProxy:
    """Opens tunnels (HTTP CONNECT) on 127.0.0.1, reads what passes, and may be slow or away.

    Args:
        coordinator: whose certificate a hospital is shown.
        bytes_per_s: towards the hospital, all connections together; None is as fast as it goes.
    """

    def __init__(self, coordinator: CoordinatorHome, *, bytes_per_s: float | None = None) -> None:
        tls = coordinator.tls
        self._near_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._near_tls.load_cert_chain(tls / "server.crt", tls / "server.key")
        self._near_tls.load_verify_locations(tls / "ca.crt")
        self._near_tls.verify_mode = ssl.CERT_REQUIRED
        self._far_tls: ssl.SSLContext | None = None
        self._bytes_per_s, self._free_at = bytes_per_s, time.monotonic()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._away = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.exchanges: list[Exchange] = []
        self.bytes_up = self.bytes_down = 0  # inside TLS, counted as they are handed on

    def read_for(self, site: SiteHome) -> None:
        """Show the coordinator this hospital's certificate; it is enrolled by now."""
        self._far_tls = tls_context(site)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        self._cut()

    def go_away(self) -> None:
        """Cut every connection, in the middle of whatever it carries, and let none in."""
        self._away = True
        self._cut()

    def come_back(self) -> None:
        self._away = False

    def replies(self) -> list[Reply]:
        """Return what the hospital's messages held, put together again from what passed.

        One that was cut and sent again counts once; one that never became whole does not count.
        """
        objects: dict[str, bytes] = {}
        trees: dict[str, ObjectTree] = {}
        for exchange in self.exchanges:
            if exchange.path == _MESSAGES:
                pushed = PushMessagesRequest.FromString(exchange.request_body)
                trees |= {tree.object_id: tree for tree in pushed.message_object_trees}
            if exchange.path == _OBJECTS:
                part = PushObjectRequest.FromString(exchange.request_body)
                objects[part.object_id] = part.object_content
        return [_read(tree, objects) for tree in trees.values() if _ids(tree) <= objects.keys()]

    def bytes_left(self) -> BytesLeft:
        """Sort what was sent by what it is."""
        released = sum(reply.released_bytes for reply in self.replies())
        carrying = [len(one.request_body) for one in self.exchanges if one.path in _CARRYING]
        polls = [len(one.request_body) for one in self.exchanges if one.path not in _CARRYING]
        heads = sum(len(one.request_head) for one in self.exchanges)
        return BytesLeft(released, sum(carrying) - released, sum(polls), heads)

    def all_that_passed(self) -> bytes:
        """Return every byte of both directions."""
        return b"".join(
            one.request_head + one.request_body + one.response for one in self.exchanges
        )

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), contextlib.ExitStack() as stack:
            self._keep(near, stack)
            address = _address_asked_for(near)
            far = socket.create_connection(address)
            self._keep(far, stack)
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            assert self._far_tls is not None
            inner = self._near_tls.wrap_socket(near, server_side=True)
            self._keep(inner, stack)
            outer = self._far_tls.wrap_socket(far, server_hostname=address[0])
            self._keep(outer, stack)
            with inner.makefile("rb") as hospital, outer.makefile("rb") as coordinator:
                while request := _read_http(hospital):
                    path = request[0].split(b" ", 2)[1].decode("ascii")
                    exchange = Exchange(path, *request)
                    self._hand_on(b"".join(request), outer, up=True)
                    self.exchanges.append(exchange)
                    exchange.response = b"".join(_read_http(coordinator))
                    if not exchange.response:
                        return
                    self._hand_on(exchange.response, inner, up=False)

    def _keep(self, end: socket.socket, stack: contextlib.ExitStack) -> None:
        with self._lock:
            if self._away:
                end.close()
                raise OSError("away")
            self._open.add(end)
        stack.callback(self._close, end)

    def _close(self, end: socket.socket) -> None:
        with self._lock:
            self._open.discard(end)
        end.close()

    def _cut(self) -> None:
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _hand_on(self, data: bytes, sink: socket.socket, *, up: bool) -> None:
        for begin in range(0, len(data), _PIECE_BYTES):
            piece = data[begin : begin + _PIECE_BYTES]
            if not up and self._bytes_per_s is not None:
                self._wait_for_turn(len(piece), self._bytes_per_s)
            sink.sendall(piece)
            with self._lock:
                self.bytes_up += len(piece) if up else 0
                self.bytes_down += 0 if up else len(piece)

    def _wait_for_turn(self, size_bytes: int, bytes_per_s: float) -> None:
        with self._lock:
            self._free_at = max(time.monotonic(), self._free_at) + size_bytes / bytes_per_s
            pause_s = self._free_at - time.monotonic()
        time.sleep(max(0.0, pause_s))


def _address_asked_for(near: socket.socket) -> tuple[str, int]:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = near.recv(1)
        if not byte:
            raise EOFError
        head += byte
    method, target, _ = head.split(b"\r\n")[0].decode("ascii").split(" ")
    assert method == "CONNECT"
    host, _, port = target.rpartition(":")
    return host, int(port)


def _read_http(stream: BufferedReader) -> tuple[bytes, bytes] | tuple[()]:
    """Read the head and the body of a message of HTTP/1.1; nothing at the end of the stream."""
    lines = [stream.readline()]
    if not lines[0]:
        return ()
    while lines[-1] not in (b"\r\n", b""):
        lines.append(stream.readline())
    fields = {
        name.strip().lower(): value.strip()
        for name, colon, value in (line.partition(b":") for line in lines[1:])
        if colon
    }
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        body, size = b"", b"1"
        while int(size, 16):
            size = stream.readline()
            body += size + stream.read(int(size, 16) + 2)
        return b"".join(lines), body
    return b"".join(lines), stream.read(int(fields.get(b"content-length", b"0")))


def _ids(tree: ObjectTree) -> set[str]:
    return {part.object_id for part in iterate_object_tree(tree)}


def _read(tree: ObjectTree, objects: dict[str, bytes]) -> Reply:
    parts = {part: objects[part] for part in _ids(tree)}
    message = inflate_object_from_contents(tree.object_id, parts)
    assert isinstance(message, Message)
    if message.has_error():
        return Reply(b"", {}, message.error.reason or "")
    body = message.content.config_records["message"]["json"]
    files = message.content.array_records.get("files", {})
    assert isinstance(body, bytes)
    return Reply(body, {name: bytes(array.data) for name, array in files.items()}, "")
