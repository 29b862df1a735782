"""How far each site is with the study's package, as a table `(state, event) -> state`, without I/O.

What the coordinator wants is that every target site reports; what it knows is what sites said last.
Nothing here waits: a tick looks at the table, does what it can, and the next tick goes on.
"""

from collections.abc import Collection
from enum import StrEnum

from algorithms.contracts.messages import SiteStatus


class SiteProgress(StrEnum):
    """How far one target site is with one package, as the coordinator knows it."""

    PENDING = "pending"  # to be delivered
    DELIVERED = "delivered"  # the site holds it, verified
    REFUSED = "refused"  # the site named a rule; a person has to look
    REPORTED = "reported"  # the site's report is here


class SiteEvent(StrEnum):
    """What a site told the coordinator, or a person did."""

    STATUS_HOLDS = "status_holds"
    STATUS_LACKS = "status_lacks"
    RECEIPT_ACCEPTED = "receipt_accepted"
    RECEIPT_REFUSED = "receipt_refused"
    REPORT_RECEIVED = "report_received"
    RESEND_REQUESTED = "resend_requested"


class Step(StrEnum):
    """What the coordinator does about a site in this tick."""

    DELIVER = "deliver"
    COLLECT = "collect"
    WAIT = "wait"


class Goal(StrEnum):
    """How far a run goes on asking before it ends."""

    ONE_TICK = "one-tick"
    PUBLISHED = "published"
    DELIVERED = "delivered"
    APPROVED = "approved"  # every site has signed the plan, or refused it
    REPORTED = "reported"


# Two ticks may run at once: what the later of them hears again changes nothing.
TRANSITIONS: dict[tuple[SiteProgress, SiteEvent], SiteProgress] = {
    (SiteProgress.PENDING, SiteEvent.STATUS_HOLDS): SiteProgress.DELIVERED,
    (SiteProgress.PENDING, SiteEvent.STATUS_LACKS): SiteProgress.PENDING,
    (SiteProgress.PENDING, SiteEvent.RECEIPT_ACCEPTED): SiteProgress.DELIVERED,
    (SiteProgress.PENDING, SiteEvent.RECEIPT_REFUSED): SiteProgress.REFUSED,
    (SiteProgress.PENDING, SiteEvent.RESEND_REQUESTED): SiteProgress.PENDING,
    (SiteProgress.DELIVERED, SiteEvent.STATUS_HOLDS): SiteProgress.DELIVERED,
    (SiteProgress.DELIVERED, SiteEvent.STATUS_LACKS): SiteProgress.PENDING,  # restored from backup
    (SiteProgress.DELIVERED, SiteEvent.RECEIPT_ACCEPTED): SiteProgress.DELIVERED,
    (SiteProgress.DELIVERED, SiteEvent.RECEIPT_REFUSED): SiteProgress.DELIVERED,  # status decides
    (SiteProgress.DELIVERED, SiteEvent.REPORT_RECEIVED): SiteProgress.REPORTED,
    (SiteProgress.DELIVERED, SiteEvent.RESEND_REQUESTED): SiteProgress.PENDING,
    (SiteProgress.REFUSED, SiteEvent.STATUS_HOLDS): SiteProgress.DELIVERED,  # imported by hand
    (SiteProgress.REFUSED, SiteEvent.STATUS_LACKS): SiteProgress.REFUSED,
    (SiteProgress.REFUSED, SiteEvent.RECEIPT_ACCEPTED): SiteProgress.DELIVERED,
    (SiteProgress.REFUSED, SiteEvent.RECEIPT_REFUSED): SiteProgress.REFUSED,
    (SiteProgress.REFUSED, SiteEvent.RESEND_REQUESTED): SiteProgress.PENDING,
    (SiteProgress.REPORTED, SiteEvent.STATUS_HOLDS): SiteProgress.REPORTED,
    (SiteProgress.REPORTED, SiteEvent.STATUS_LACKS): SiteProgress.REPORTED,
    (SiteProgress.REPORTED, SiteEvent.RECEIPT_ACCEPTED): SiteProgress.REPORTED,
    (SiteProgress.REPORTED, SiteEvent.RECEIPT_REFUSED): SiteProgress.REPORTED,
    (SiteProgress.REPORTED, SiteEvent.REPORT_RECEIVED): SiteProgress.REPORTED,
}


def next_progress(progress: SiteProgress, event: SiteEvent) -> SiteProgress:
    """Return the progress after `event`.

    >>> next_progress(SiteProgress.PENDING, SiteEvent.RECEIPT_ACCEPTED).value
    'delivered'

    Raises:
        ValueError: when `event` cannot happen there.
    """
    try:
        return TRANSITIONS[progress, event]
    except KeyError:
        raise ValueError(
            f"{event.value} cannot happen to a site that is {progress.value}"
        ) from None


def status_event(status: SiteStatus, package_id: str) -> SiteEvent:
    """Say what a status means for the delivery of a package."""
    held = package_id in status.packages_held
    return SiteEvent.STATUS_HOLDS if held else SiteEvent.STATUS_LACKS


def next_step(progress: SiteProgress, status: SiteStatus, package_id: str) -> Step:
    """Say what to do about a site that has just sent `status`."""
    if progress is SiteProgress.PENDING:
        return Step.DELIVER
    ready = status.report_ready and status.current_package == package_id
    if progress is SiteProgress.DELIVERED and ready:
        return Step.COLLECT
    return Step.WAIT


def goal_reached(
    goal: Goal, published: bool, progress: Collection[SiteProgress], *, agreed: bool = False
) -> bool:
    """Say whether a run may end: the goal is reached, or only a person can bring it nearer.

    `agreed` says that every site has answered the current plan.
    """
    if goal is Goal.ONE_TICK:
        return True
    if goal is Goal.PUBLISHED or not published:
        return published
    if goal is Goal.APPROVED:
        return agreed
    done = {SiteProgress.REPORTED, SiteProgress.REFUSED}
    if goal is Goal.DELIVERED:
        done.add(SiteProgress.DELIVERED)
    return all(site in done for site in progress)
