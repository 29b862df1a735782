"""Speaks to a SuperLink on this machine with Flower's own commands: starts runs and waits for them.

A run is one tick, or ticks up to a goal. Its bundle is the study's and carries no code.
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.study_bundle import STUDY_BUNDLE
from coordinator.config import CoordinatorHome
from coordinator.package_delivery import TURN_S
from coordinator.sites import LONGEST_ARRIVAL_S
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal

CONNECTION = "study"
RUN_OVERHEAD_S = 90.0


class SuperLinkClient:
    """Knows where a SuperLink listens on 127.0.0.1, and how its certificate is checked.

    Args:
        folder: where Flower keeps what it writes of this client.
        port: of the SuperLink.
        ca_certificate: what its certificate is checked with.
    """

    def __init__(self, folder: Path, port: int, ca_certificate: Path) -> None:
        self.folder, self.port, self.ca_certificate = folder, port, ca_certificate

    @property
    def environment(self) -> Mapping[str, str]:
        """What Flower's programs find beside this process's own environment; nothing calls out."""
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(self.folder / "flwr-home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "NO_COLOR": "1",
        }

    def write_connection(self) -> None:
        """Write by which name Flower's commands know the SuperLink."""
        folder = self.folder / "flwr-home"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        certificate = json.dumps(str(self.ca_certificate))
        (folder / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n'
            f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{self.port}"\n'
            f"root-certificates = {certificate}\n",
            encoding="utf-8",
        )

    def write_app(self) -> None:
        """Write the study's app, as `run_study` starts it."""
        app = self.folder / "app"
        app.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in STUDY_BUNDLE.items():
            (app / name).write_bytes(content)

    def run_study(self, home: CoordinatorHome, goal: Goal, *, patience_s: float) -> None:
        """Run ticks up to `goal`, and wait for the end.

        Raises:
            ProtocolError: the run could not start, failed, or took too long.
        """
        tick_id = uuid.uuid4().hex
        values = {
            "coordinator-home": str(home.folder),
            "until": goal.value,
            "tick-id": tick_id,
        }
        settings = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
        settings += f" patience-s={float(patience_s)}"
        # The last tick may begin when patience ends, and wait for four messages, a turn and files.
        waiting_s = TURN_S + 4 * home.config.message_ttl_s + LONGEST_ARRIVAL_S
        limit_s = patience_s + RUN_OVERHEAD_S + waiting_s
        output = self.run(self.folder / "app", settings, limit_s=limit_s)
        with StudyStore(home.database_url, home.config) as store:
            if not store.run_finished(tick_id):
                raise ProtocolError(f"the Flower run failed; its end is:\n{output[-1500:]}")

    def run(self, app: Path, settings: str, *, limit_s: float) -> str:
        """Start a run of the app in a folder, wait for its end and return its log.

        Raises:
            ProtocolError: when it could not start or takes longer than `limit_s`.
        """
        command = ("run", str(app), CONNECTION, "--stream", "--run-config", settings)
        return self.flwr(*command, limit_s=limit_s)

    def flwr(self, *arguments: str, limit_s: float = 60.0) -> str:
        """Run a `flwr` command and return what it printed.

        Raises:
            ProtocolError: when it fails or takes longer than `limit_s`.
        """
        try:
            done = subprocess.run(
                [str(Path(sys.executable).parent / "flwr"), *arguments],
                cwd=self.folder,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ProtocolError(f"'flwr {arguments[0]}' took longer than {limit_s:.0f} s") from None
        if done.returncode != 0:
            raise ProtocolError(f"'flwr {arguments[0]}' failed:\n{done.stdout[-1500:]}")
        return done.stdout
