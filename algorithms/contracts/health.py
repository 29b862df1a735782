"""What an operator is told about a running party: named checks, each with what helps."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING

from algorithms.contracts.errors import failure_line

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

METRICS_TYPE = "text/plain; version=0.0.4"


class CheckState(StrEnum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"  # works today
    FAILED = "failed"


CHECK_MARKS = {CheckState.OK: "✓", CheckState.WARNING: "!", CheckState.FAILED: "✕"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: such as "database"; stays the same over versions, for alarms.
        state: what came of it.
        line: what was found, and unless all is well what to do; never a patient's data.
    """

    name: str
    state: CheckState
    line: str


class Concern(str):
    """What an examination returns where something works today and needs a person soon."""

    __slots__ = ()


def tell(checks: Iterable[Check], say: Callable[[str], object], *, as_json: bool) -> bool:
    """Say every check as soon as it is known, or all in one JSON; return whether none failed."""
    told = []
    for check in checks:
        told.append(check)
        if not as_json:
            say(f"{CHECK_MARKS[check.state]} {check.name}: {check.line}")
    if as_json:
        say(checks_json(told).decode())
    return all(check.state is not CheckState.FAILED for check in told)


def run_check(name: str, examine: Callable[[], str]) -> Check:
    """Run one examination; whatever it raises is its finding, and the next one still runs.

    Args:
        name: of the check.
        examine: returns what it found, as a `Concern` where that needs a person.
    """
    try:
        line = examine()
    except Exception as error:  # the edge of the process: a doctor that dies helps nobody
        told = failure_line(error)
        kind = type(error).__name__
        return Check(name, CheckState.FAILED, told or f"{kind}: a fault of fedgtv: report it")
    return Check(name, CheckState.WARNING if isinstance(line, Concern) else CheckState.OK, line)


def operations_app(
    ready: Callable[[], Iterable[Check]], metrics: Callable[[], bytes]
) -> "WSGIApplication":
    """Return the three pages that a hospital's monitoring asks for.

    ``/healthz`` says that the process answers, ``/readyz`` whether it can do its work (503 where a
    check failed), ``/metrics`` what Prometheus reads.

    Args:
        ready: makes the checks of ``/readyz``.
        metrics: Prometheus's text format.
    """

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path, is_read = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"] in ("GET", "HEAD")
        status, kind, body = HTTPStatus.NOT_FOUND, "text/plain", b"not found\n"
        if not is_read:
            status, body = HTTPStatus.METHOD_NOT_ALLOWED, b"only GET\n"
        elif path == "/healthz":
            status, body = HTTPStatus.OK, b"ok\n"
        elif path == "/readyz":
            checks = list(ready())
            failed = any(check.state is CheckState.FAILED for check in checks)
            status = HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK
            kind, body = "application/json", checks_json(checks)
        elif path == "/metrics":
            status, kind, body = HTTPStatus.OK, METRICS_TYPE, metrics()
        headers = [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    return app


def checks_json(checks: Iterable[Check]) -> bytes:
    """Return checks for programs: a JSON list of name, state and line."""
    told = [{"name": one.name, "state": one.state.value, "line": one.line} for one in checks]
    return json.dumps(told, indent=2, ensure_ascii=False).encode()
