"""A real Flower deployment on the loopback interface: SuperLink and one SuperNode per site.

Each SuperNode runs nothing of what it is sent: the site's own executor answers. No state that
matters lives in Flower: the study database and the site databases remember.

For production each hospital starts its own SuperNode; this transport is the same deployment on one
machine.
"""

import contextlib
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from algorithms.contracts.errors import ProtocolError
from coordinator.config import CoordinatorHome
from coordinator.loopback_deployment import LoopbackDeployment, free_port, tail
from coordinator.loopback_keys import write_node_key
from coordinator.study_workflow import Goal
from coordinator.transport import TickSummary, summarise


class FlowerTransport:
    """Ticks as Flower runs.

    Args:
        home: the coordinator's home.
        sites: home directory of each site by name; all on this machine.
        site_executor: module that answers for a site, as installed where the SuperNodes run.
        start_limit_s: how long SuperLink and SuperNodes may take to come up; None allows for how
            many there are.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        sites: Mapping[str, Path],
        *,
        site_executor: str,
        start_limit_s: float | None = None,
    ) -> None:
        self._home = home
        self._sites = {name: folder.resolve() for name, folder in sites.items()}
        self._site_executor = site_executor
        limit_s = 60.0 + 10.0 * len(sites) if start_limit_s is None else start_limit_s
        self._deployment = LoopbackDeployment(
            home.flower / "loopback",
            start_limit_s=limit_s,
            largest_reply_bytes=home.config.largest_reply_bytes,
        )

    def __enter__(self) -> Self:
        """Start the SuperLink and the SuperNodes, and wait until every site is connected."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._deployment)
            self._deployment.client.write_app()
            nodes = {self._start_site(name, home) for name, home in self._sites.items()}
            self._deployment.wait_for(
                "not every SuperNode connected", lambda: nodes <= self._deployment.online()
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every process that was started."""
        self._stack.close()

    def tick(self, goal: Goal = Goal.ONE_TICK, *, patience_s: float = 60.0) -> TickSummary:
        """Start one Flower run and wait for its end.

        Raises:
            ProtocolError: when the run failed; with the end of its log.
        """
        try:
            self._deployment.client.run_study(self._home, goal, patience_s=patience_s)
        except ProtocolError as error:
            log = self._deployment.log
            raise ProtocolError(f"{error}\nread {log}; its end is:\n{tail(log)}") from None
        return summarise(self._home)

    def _start_site(self, name: str, home: Path) -> int:
        return start_site(self._deployment, name, home, site_executor=self._site_executor)


def start_site(deployment: LoopbackDeployment, name: str, home: Path, *, site_executor: str) -> int:
    """Start a site's SuperNode, which runs no code, and its executor; return the node's id.

    Raises:
        ProtocolError: when the SuperLink refuses it.
    """
    folder = home / "flower"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_node_key(folder)
    node_id = deployment.register(name, folder / "node.pub")
    # So that no other process of this machine takes the SuperNode's tasks.
    secret = folder / "executor.secret"
    secret.touch(mode=0o600)
    secret.write_bytes(secrets.token_bytes(32))
    isolation = ("--isolation", "process", "--superexec-auth-secret-file", secret.name)
    port = free_port()
    deployment.start_supernode(folder, *isolation, port=port)
    deployment.spawn(
        folder,
        "executor",
        f"{Path(sys.executable).name} -P -m {site_executor} --supernode 127.0.0.1:{port}",
        *("--home", str(home), "--secret-file", secret.name),
    )
    return node_id
