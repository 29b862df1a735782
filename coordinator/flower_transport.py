"""A real Flower deployment on the loopback interface: SuperLink and one SuperNode per site.

TLS certificates and node keys are made here, everything lies in the homes, nothing calls out, and
all processes end with the transport. No state that matters lives in Flower: its database starts
empty every time, the study database and the site databases remember.

For production each hospital starts its own SuperNode; this transport is the same deployment on one
machine.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from algorithms.contracts.errors import DataError, ProtocolError
from coordinator.config import CoordinatorHome
from coordinator.loopback_keys import write_node_key, write_server_certificate
from coordinator.package_delivery import TURN_S
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal
from coordinator.transport import TickSummary, summarise

CONNECTION = "study"
TAG = "FEDGTV_TRANSPORT_ID"
RUN_OVERHEAD_S = 90.0
STOP_S = 10.0
APP_PYPROJECT = """\
# Generated. The bundle carries no code: each party answers with its own installed app.
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedgtv-study"
version = "1.0.0"
description = "fedgtv study run. Research use only, not a medical device."
license = {{ file = "LICENSE" }}
dependencies = ["flwr==1.41.0"]

[tool.flwr.app]
publisher = "fedgtv"
fab-include = ["README.md", "LICENSE"]

[tool.flwr.app.components]
serverapp = "coordinator.server_app:app"
clientapp = "{site_app}"

[tool.flwr.app.config]
coordinator-home = ""
until = "one-tick"
patience-s = 60.0
tick-id = ""
"""


class FlowerTransport:
    """Ticks as Flower runs.

    Args:
        home: the coordinator's home.
        sites: home directory of each site by name; all on this machine.
        site_app: the sites' ClientApp as "module:object", as installed where the SuperNodes run.
        start_limit_s: how long SuperLink and SuperNodes may take to come up.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        sites: Mapping[str, Path],
        *,
        site_app: str,
        start_limit_s: float = 60.0,
    ) -> None:
        self._home = home
        self._sites = {name: folder.resolve() for name, folder in sites.items()}
        self._site_app = site_app
        self._start_limit_s = start_limit_s
        self._tag = uuid.uuid4().hex
        self._node_ids: set[int] = set()
        self._children: list[tuple[subprocess.Popen[bytes], Path]] = []

    def __enter__(self) -> Self:
        """Start the SuperLink and the SuperNodes, and wait until every site is connected."""
        try:
            self._start()
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

    def tick(self, goal: Goal = Goal.ONE_TICK, *, patience_s: float = 60.0) -> TickSummary:
        """Start one Flower run and wait for its end.

        Raises:
            ProtocolError: when the run failed; with the end of its log.
        """
        tick_id = uuid.uuid4().hex
        values = {
            "coordinator-home": str(self._home.folder),
            "until": goal.value,
            "tick-id": tick_id,
        }
        settings = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
        settings += f" patience-s={float(patience_s)}"
        output = self._flwr(
            "run",
            str(self._home.flower / "app"),
            CONNECTION,
            "--stream",
            "--run-config",
            settings,
            # The last tick may begin when patience ends, and wait for four messages and a turn.
            limit_s=patience_s + RUN_OVERHEAD_S + TURN_S + 4 * self._home.config.message_ttl_s,
        )
        with StudyStore(self._home.database_url, self._home.config) as store:
            if not store.run_finished(tick_id):
                log = self._home.flower / "superlink.log"
                raise ProtocolError(
                    f"the Flower run failed: read {log}; its end is:\n{output[-1500:]}{_tail(log)}"
                )
        return summarise(self._home)

    def _start(self) -> None:
        folder = self._home.flower
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in folder.glob("state.db*"):
            old.unlink()
        write_server_certificate(folder)
        port = _free_port()
        self._write_app()
        self._write_connection(port)
        self._spawn(
            folder,
            "superlink",
            f"flower-superlink --ssl-certfile server.pem --ssl-keyfile server.key "
            f"--ssl-ca-certfile ca.crt --host 127.0.0.1 --port {port} --enable-supernode-auth "
            "--database state.db --disable-runtime-dependency-installation",
        )
        self._wait_for("the SuperLink did not open its port", lambda: _port_is_open(port))
        for site, site_home in self._sites.items():
            self._start_supernode(site, site_home, port)
        self._wait_for("not every SuperNode connected", self._all_online)

    def _start_supernode(self, site: str, site_home: Path, port: int) -> None:
        if '"' in str(site_home):
            raise DataError(f"{site_home}: a site's home may not have a quotation mark in its name")
        folder = site_home / "flower"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(self._home.flower / "ca.crt", folder / "ca.crt")
        write_node_key(folder)
        public = str(folder / "node.pub")
        register = ("supernode", "register", public, CONNECTION, "--name", site)
        registered = _printed_json(self._flwr(*register, "--format", "json"))
        self._node_ids.add(int(registered["node-id"]))
        self._spawn(
            folder,
            "supernode",
            f"flower-supernode --superlink 127.0.0.1:{port} --root-certificates ca.crt "
            f"--auth-supernode-private-key node.key --host 127.0.0.1 --port {_free_port()}",
            "--node-config",
            f'home="{site_home}"',
        )

    def _write_app(self) -> None:
        app = self._home.flower / "app"
        app.mkdir(exist_ok=True)
        text = APP_PYPROJECT.format(site_app=self._site_app)
        (app / "pyproject.toml").write_text(text, encoding="utf-8")
        (app / "README.md").write_text("# fedgtv study run\n", encoding="utf-8")
        (app / "LICENSE").write_text("Apache License, Version 2.0\n", encoding="utf-8")

    def _write_connection(self, port: int) -> None:
        folder = self._home.flower / "flwr-home"
        folder.mkdir(exist_ok=True)
        certificate = json.dumps(str(self._home.flower / "ca.crt"))
        (folder / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n'
            f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\n'
            f"root-certificates = {certificate}\n",
            encoding="utf-8",
        )

    def _environment(self, folder: Path) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(folder / "flwr-home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            "NO_COLOR": "1",
            TAG: self._tag,
        }

    def _spawn(self, folder: Path, name: str, command: str, *arguments: str) -> None:
        """Start a child in a session of its own, so that Ctrl-C reaches only this process."""
        program, *words = command.split()
        log = folder / f"{name}.log"
        with log.open("wb") as stream:
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

    def _flwr(self, *arguments: str, limit_s: float = 60.0) -> str:
        """Run a `flwr` command and return what it printed.

        Raises:
            ProtocolError: when it fails or takes longer than `limit_s`.
        """
        try:
            done = subprocess.run(
                [str(Path(sys.executable).parent / "flwr"), *arguments],
                cwd=self._home.flower,
                env=self._environment(self._home.flower),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ProtocolError(
                f"'flwr {arguments[0]}' took longer than {limit_s:.0f} s: look into "
                f"{self._home.flower / 'superlink.log'}"
            ) from None
        if done.returncode != 0:
            raise ProtocolError(f"'flwr {arguments[0]}' failed:\n{done.stdout[-1500:]}")
        return done.stdout

    def _all_online(self) -> bool:
        listing = _printed_json(self._flwr("supernode", "list", CONNECTION, "--format", "json"))
        online = {int(n["node-id"]) for n in listing["nodes"] if n["status"] == "online"}
        return self._node_ids <= online

    def _wait_for(self, failure: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + self._start_limit_s
        while not ready():
            dead = [log for child, log in self._children if child.poll() is not None]
            if dead or time.monotonic() > end:
                log = dead[0] if dead else self._children[-1][1]
                raise ProtocolError(f"{failure}: read {log}; its end is:\n{_tail(log)}")
            time.sleep(0.3)

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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _port_is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tail(log: Path) -> str:
    return log.read_text("utf-8", errors="replace")[-1500:] if log.is_file() else ""
