"""What an operator is told about a running party: named checks, each with what helps."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from algorithms.contracts.errors import failure_line


class CheckState(StrEnum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"  # works today
    FAILED = "failed"


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
