"""How a tick reaches the sites: one protocol, several carriers.

`EmbeddedTransport` runs both parties in one process, `FlowerTransport` runs a real SuperLink and
SuperNodes. Both execute the same `coordinator.server_app`, and both leave what they learned in the
study database, so that a summary looks the same whatever carried the messages.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from coordinator.config import CoordinatorHome
from coordinator.plan_records import PlanRecords
from coordinator.study_store import SiteRecord, StudyStore
from coordinator.study_workflow import Goal


@dataclass(frozen=True)
class TickSummary:
    """Where the study stands after a tick.

    Attributes:
        package_id: the current package; None while none is published.
        sites: what is known about every site, the source first.
        agreed: every target site has signed the current federation plan, or refused it.
    """

    package_id: str | None
    sites: tuple[SiteRecord, ...]
    agreed: bool


class Transport(Protocol):
    """Carries ticks between `__enter__` and `__exit__`."""

    def __enter__(self) -> Self:
        """Connect to the sites."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect; whatever was started is stopped."""

    def tick(self, goal: Goal = Goal.ONE_TICK, *, patience_s: float = 60.0) -> TickSummary:
        """Do what can be done now, and repeat it up to `goal` for at most about `patience_s`."""


def summarise(home: CoordinatorHome) -> TickSummary:
    """Read from the study database where the study stands."""
    with StudyStore(home.database_url, home.config) as store:
        package_id = store.current_package()
        return TickSummary(
            package_id=package_id,
            sites=tuple(store.sites()),
            agreed=PlanRecords(store).is_agreed(package_id),
        )
