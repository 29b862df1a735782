"""Flower's processes on the loopback interface: a SuperLink, SuperNodes and what belongs to them.

TLS certificates and node keys are made here, nothing calls out, and all processes end with the
deployment. The SuperLink's database starts empty every time.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from algorithms.contracts.errors import ProtocolError
from coordinator.config import LARGEST_REPLY_BYTES
from coordinator.loopback_keys import write_server_certificate
from coordinator.superlink_client import CONNECTION, SuperLinkClient

TAG = "FEDGTV_TRANSPORT_ID"
STOP_S = 10.0


class LoopbackDeployment:
    """A SuperLink on a free port of 127.0.0.1 while it is entered, and what was started with it.

    Args:
        folder: where the SuperLink's files and logs lie.
        start_limit_s: how long anything may take to come up.
        largest_reply_bytes: as in `coordinator.toml`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start_limit_s: float = 60.0,
        largest_reply_bytes: int = LARGEST_REPLY_BYTES,
    ) -> None:
        self.folder = folder
        self._largest_reply_bytes = largest_reply_bytes
        self.port = free_port()
        self.client = SuperLinkClient(folder, self.port, self.ca_certificate)
        self._start_limit_s = start_limit_s
        self._tag = uuid.uuid4().hex
        self._children: list[tuple[subprocess.Popen[bytes], Path]] = []

    @property
    def ca_certificate(self) -> Path:
        """What the SuperLink's certificate is checked with."""
        return self.folder / "ca.crt"

    @property
    def log(self) -> Path:
        """What the SuperLink said."""
        return self.folder / "superlink.log"

    def __enter__(self) -> Self:
        """Start the SuperLink."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for old in self.folder.glob("state.db*"):
                old.unlink()
            write_server_certificate(self.folder)
            self.client.write_connection()
            self.start_superlink()
        except BaseException:  # Ctrl-C included: no child may outlive a failed start
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every process that was started."""
        self._stop()

    def start_superlink(self) -> None:
        """Start the SuperLink on what its database holds; also again, after its end.

        Raises:
            ProtocolError: when it does not open its port.
        """
        self._children = [entry for entry in self._children if entry[0].poll() is None]
        self.superlink = self.spawn(
            self.folder,
            "superlink",
            f"{Path(sys.executable).name} -P -m coordinator.superlink "
            f"--largest-reply-bytes {self._largest_reply_bytes} "
            "--ssl-certfile server.pem --ssl-keyfile server.key --ssl-ca-certfile ca.crt "
            f"--host 127.0.0.1 --port {self.port} --enable-supernode-auth "
            "--database state.db --disable-runtime-dependency-installation",
        )
        self.wait_for("the SuperLink did not open its port", lambda: _port_is_open(self.port))

    def register(self, site: str, public_key: Path) -> int:
        """Make a node known by its public key; return its id.

        Raises:
            ProtocolError: when the SuperLink refuses it.
        """
        command = ("supernode", "register", str(public_key), CONNECTION, "--name", site)
        return int(_printed_json(self.client.flwr(*command, "--format", "json"))["node-id"])

    def start_supernode(self, folder: Path, *arguments: str, port: int) -> subprocess.Popen[bytes]:
        """Start a SuperNode with the key in `folder` and its Runtime API on a port."""
        return self.spawn(
            folder,
            "supernode",
            f"flower-supernode --superlink 127.0.0.1:{self.port} --host 127.0.0.1 --port {port} "
            "--auth-supernode-private-key node.key --root-certificates",
            str(self.ca_certificate),
            *arguments,
        )

    def online(self) -> set[int]:
        """Return the ids of the nodes that are connected."""
        listing = _printed_json(
            self.client.flwr("supernode", "list", CONNECTION, "--format", "json")
        )
        return {int(n["node-id"]) for n in listing["nodes"] if n["status"] == "online"}

    def run(self, app: Path, settings: str, *, limit_s: float) -> str:
        """Start a run of the app in a folder, wait for its end and return its log.

        Raises:
            ProtocolError: when it could not start or takes longer than `limit_s`.
        """
        return self.client.run(app, settings, limit_s=limit_s)

    def spawn(
        self, folder: Path, name: str, command: str, *arguments: str
    ) -> subprocess.Popen[bytes]:
        """Start a command of this environment in `folder`, with its log there as `name`.log.

        `command` is split at spaces, `arguments` are not. The process gets a session of its own, so
        that Ctrl-C reaches only this one.
        """
        program, *words = command.split()
        log = folder / f"{name}.log"
        with log.open("ab") as stream:
            child = subprocess.Popen(
                [str(Path(sys.executable).parent / program), *words, *arguments],
                cwd=folder,
                env=self._environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append((child, log))
        return child

    def wait_for(self, failure: str, ready: Callable[[], bool]) -> None:
        """Wait until `ready`.

        Raises:
            ProtocolError: it takes too long, or a process ended; with the end of its log.
        """
        end = time.monotonic() + self._start_limit_s
        while not ready():
            dead = [log for child, log in self._children if child.poll() is not None]
            if dead or time.monotonic() > end:
                log = dead[0] if dead else self._children[-1][1]
                raise ProtocolError(f"{failure}: read {log}; its end is:\n{tail(log)}")
            time.sleep(0.3)

    def _environment(self, folder: Path) -> dict[str, str]:
        return os.environ | {
            **self.client.environment,
            "FLWR_HOME": str(folder / "flwr-home"),
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            TAG: self._tag,
        }

    def _stop(self) -> None:
        """End the children in reverse order, then whatever they left behind."""
        for child, _ in reversed(self._children):
            child.terminate()
        for child, _ in self._children:
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()
        end = time.monotonic() + STOP_S
        while left := _tagged_processes(self._tag):
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM if time.monotonic() < end else signal.SIGKILL)
            time.sleep(0.2)


def tail(log: Path) -> str:
    """Return the end of a log, nothing when there is none."""
    return log.read_text("utf-8", errors="replace")[-1500:] if log.is_file() else ""


def _tagged_processes(tag: str) -> list[int]:
    """Return the processes that inherited `tag`: Flower detaches some of its children."""
    found = []
    needle = f"{TAG}={tag}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if needle in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it ended, or belongs to somebody else
    return found


def _printed_json(output: str) -> dict[str, Any]:
    """Return the JSON object in what a command printed, past any line of its log before it."""
    parsed: dict[str, Any] = json.loads(output[output.index("{") :])
    return parsed


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _port_is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
