"""Begins to serve: looks first, writes what supervisord reads, and becomes its guard."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from algorithms.contracts.errors import DataError
from algorithms.contracts.health import CHECK_MARKS, Check, CheckState
from supervision.guard import CONFIGURATION, LOCK, alone
from supervision.programs import Program, supervisor_configuration


def check_first(doctor: Sequence[str], *, later: Collection[str]) -> list[Check]:
    """Run a party's doctor, and return what a person should know of.

    It runs as a process of its own: what it loads would stay in memory as long as the party serves.

    Args:
        doctor: the command, which prints its checks as JSON.
        later: names of checks of what may come later, while the party serves already.

    Returns:
        Warnings, and failed checks of what may come later.

    Raises:
        DataError: another check failed, or the doctor itself.
    """
    done = subprocess.run(
        doctor, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False
    )
    try:
        told = json.loads(done.stdout)
    except ValueError:
        raise DataError("the doctor gave no answer: run it by hand") from None
    checks = [Check(one["name"], CheckState(one["state"]), one["line"]) for one in told]
    for check in checks:
        if check.state is CheckState.FAILED and check.name not in later:
            raise DataError(f"{check.name}: {check.line}")
    return [check for check in checks if check.state is not CheckState.OK]


def lines(checks: Iterable[Check]) -> list[str]:
    """Return checks as a person reads them."""
    return [f"{CHECK_MARKS[check.state]} {check.name}: {check.line}" for check in checks]


def check_ports(file: str, ports: Mapping[str, tuple[str, int]]) -> None:
    """See that what will be opened can be.

    Args:
        file: the configuration that a person corrects.
        ports: address and port by the key of the configuration that names them.

    Raises:
        DataError: naming the key of a port that cannot be opened.
    """
    for key, (host, port) in ports.items():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError as error:
                reason = error.strerror
                if error.errno == errno.EADDRINUSE:
                    reason = "another program uses it, or this home is served already"
                raise DataError(
                    f"{file}: key '{key}': port {port} of {host} cannot be opened ({reason}): end "
                    "what uses it, or choose another"
                ) from None


@contextmanager
def not_served(home: Path) -> Iterator[None]:
    """Keep a home from being served while something needs it at rest.

    Raises:
        DataError: it is served.
    """
    (home / LOCK).parent.mkdir(mode=0o700, exist_ok=True)
    try:
        with alone(home):
            yield
    except BlockingIOError:
        raise DataError(f"{home}: is served: stop the service first") from None


def serve(home: Path, programs: Sequence[Program], environment: Mapping[str, str]) -> NoReturn:
    """Become the guard of a supervisor that keeps `programs` running.

    Raises:
        DataError: supervisord could not read a path.
    """
    text = supervisor_configuration(home, programs, environment)
    for folder in ("run", "logs"):
        (home / folder).mkdir(mode=0o700, exist_ok=True)
    (home / CONFIGURATION).write_text(text, encoding="utf-8")
    # Never from the working directory: a folder there could be named like a package of ours.
    guard = [sys.executable, "-P", "-m", "supervision.guard", str(home)]
    # Flower looks for its own programs there, and a service has no activated environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.execve(sys.executable, guard, os.environ | {"PATH": path})  # noqa: S606 - ourselves
