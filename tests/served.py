"""A coordinator and hospitals that serve, as real processes on loopback with ports of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.config import CoordinatorHome
from coordinator.config import open_home as open_coordinator
from coordinator.study_keys import write_server_certificate
from coordinator.study_store import StudyStore
from site_agent.config import SiteHome, open_home
from site_agent.database import CaseRow, open_database, transaction
from site_agent.site_setup import initialise
from tests.empty_database import lay_database
from tests.enrolled import NOW, enrol_site
from tests.ports import free_ports
from tests.simulated_site import (
    AT,
    PLANTED_CASE,
    PLANTED_PATIENT,
    PLANTED_UID,
    STUDY,
    make_coordinator,
)

BIN = Path(sys.executable).parent
LIMIT_S = 240  # generous: a busy machine is not a fault
_SPAWNED = re.compile(r"spawned: '([a-z]+)' with pid (\d+)")
_SETTINGS = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}


@dataclass
class Served:
    """A party that serves until it is ended; started again where its service manager would."""

    command: str
    home: Path
    runs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Serve."""
        with (self.home.parent / f"{self.home.name}.out").open("ab") as printed:
            self.runs.append(
                subprocess.Popen(
                    [BIN / self.command, "serve", "--home", self.home],
                    env={**_without_proxies(), **_SETTINGS},
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                )
            )

    def printed(self) -> str:
        """Return what it said on its own output."""
        return (self.home.parent / f"{self.home.name}.out").read_text("utf-8", "replace")

    def end(self) -> int:
        """Ask it to end; return its exit code."""
        self.runs[-1].terminate()
        return self.runs[-1].wait(LIMIT_S)

    def supervisor(self) -> int:
        """Return the process of its supervisord."""
        return int((self.home / "run" / "supervisord.pid").read_text())

    def process(self, name: str) -> int | None:
        """Return the process of a program as it was started last, None while it does not live."""
        log = self.home / "logs" / "supervisord.log"
        spawned = _SPAWNED.findall(log.read_text()) if log.is_file() else []
        (last,) = [int(process) for program, process in spawned if program == name][-1:] or [0]
        return last if last and lives(last) else None

    def kill(self, name: str) -> None:
        """Kill a program with -9, and wait until another one was started in its place."""
        wait(lambda: self.process(name) is not None, f"{name} does not run")
        before = self.process(name)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        wait(lambda: self.process(name) not in (None, before), f"{name} did not come back")

    def logs(self) -> bytes:
        """Return all its logs."""
        return b"".join(file.read_bytes() for file in (self.home / "logs").iterdir())


def make_served_study(
    folder: Path, *targets: str, pages_at: Sequence[str] = ()
) -> tuple[CoordinatorHome, dict[str, SiteHome]]:
    """Make a coordinator, "hospital-a" and target sites, all enrolled and ready to serve."""
    coordinator = make_served_coordinator(folder / "coordinator", *targets)
    sites = {}
    for name in ("hospital-a", *targets):
        sites[name] = make_served_site(folder / name, name, pages=name in pages_at)
        _plant_case(sites[name])
        enrol_site(coordinator, sites[name])
    return coordinator, sites


def make_served_coordinator(
    folder: Path, *targets: str, tick_every_s: float = 1
) -> CoordinatorHome:
    """Make a coordinator on ports of its own, with a server certificate."""
    door, superlink, operations = free_ports(3)
    coordinator = make_coordinator(folder, targets=targets)
    file = coordinator.folder / "coordinator.toml"
    settings = file.read_text().replace("localhost:8443", f"127.0.0.1:{door}")
    file.write_text(
        f'{settings}listen = "127.0.0.1:{door}"\nsuperlink_port = {superlink}\n'
        f"operations_port = {operations}\ntick_every_s = {tick_every_s}\nmessage_ttl_s = 20\n"
    )
    coordinator = open_coordinator(coordinator.folder)
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        write_server_certificate(coordinator, store, [], NOW)
    return coordinator


def make_served_site(
    folder: Path, name: str, *, role: str = "target", pages: bool = False, **settings: object
) -> SiteHome:
    """Make a site as hospital IT does, on ports of its own; it releases without a person."""
    lay_database(folder)
    initialise(folder, name=name, study=STUDY, role=role, trusted_keys=())
    supernode, ui, operations = free_ports(3)
    settings = {
        "auto_approve": True,
        "supernode_port": supernode,
        "ui_port": ui if pages else 0,
        "operations_port": operations,
        **settings,
    }
    with (folder / "site.toml").open("a") as config:
        config.writelines(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    return open_home(folder)


def _plant_case(home: SiteHome) -> None:
    """Add a case whose identifiers may never leave; there is no image behind it."""
    engine = open_database(home.database_url)
    with transaction(engine) as session:
        session.add(
            CaseRow(
                case_id=PLANTED_CASE,
                patient_id=PLANTED_PATIENT,
                modality="MR",
                manufacturer="PHANTOM",
                scanner_model="P1",
                split="test",
                has_reference=True,
                series={"series_instance_uid": PLANTED_UID, "study_instance_uid": ""},
                identity_sealed=None,
                ingested_at=AT,
            )
        )
    engine.dispose()


def lives(process: int) -> bool:
    """Say whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text("ascii", "replace").rpartition(")")[2]
    except OSError:
        return False
    return state.split()[0] not in "ZX"


def processes_in(folder: Path) -> list[int]:
    """Return the processes that work in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve().is_relative_to(folder):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait(ready: Callable[[], bool], failure: str) -> None:
    """Wait until `ready`."""
    end = time.monotonic() + LIMIT_S
    while not ready():
        assert time.monotonic() < end, failure
        time.sleep(0.2)


def _without_proxies() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
