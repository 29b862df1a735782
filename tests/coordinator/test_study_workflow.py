from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.messages import RoundState, SiteStatus
from coordinator.study_workflow import (
    TRANSITIONS,
    Goal,
    SiteEvent,
    SiteProgress,
    Step,
    goal_reached,
    next_progress,
    next_step,
    status_event,
)

PACKAGE, OTHER = "a" * 64, "b" * 64


def _status(*held: str, current: str | None = None, report_ready: bool = False) -> SiteStatus:
    return SiteStatus(
        site="hospital-b",
        code_version="0.1.0",
        source_package_ready=False,
        packages_held=held,
        current_package=current,
        round_state=RoundState.NONE,
        open_annotation_tasks=0,
        report_ready=report_ready,
    )


def test_a_status_can_come_at_any_time() -> None:
    for progress, held in product(SiteProgress, (True, False)):
        event = SiteEvent.STATUS_HOLDS if held else SiteEvent.STATUS_LACKS
        assert (progress, event) in TRANSITIONS


@pytest.mark.parametrize("event", [SiteEvent.RECEIPT_ACCEPTED, SiteEvent.RECEIPT_REFUSED])
@pytest.mark.parametrize("before", SiteProgress)
def test_what_another_tick_has_heard_already_changes_nothing(
    before: SiteProgress, event: SiteEvent
) -> None:
    after = next_progress(before, event)
    assert next_progress(after, event) is after
    if before in (SiteProgress.DELIVERED, SiteProgress.REPORTED):
        assert after is before
    assert next_progress(SiteProgress.REPORTED, SiteEvent.REPORT_RECEIVED) is SiteProgress.REPORTED


@given(st.lists(st.sampled_from(SiteEvent), max_size=12))
def test_reported_is_never_left_and_repeating_a_status_changes_nothing(
    events: list[SiteEvent],
) -> None:
    progress, reported = SiteProgress.PENDING, False
    for event in events:
        if (progress, event) not in TRANSITIONS:
            with pytest.raises(ValueError, match="cannot happen"):
                next_progress(progress, event)
            continue
        progress = next_progress(progress, event)
        reported |= progress is SiteProgress.REPORTED
        assert not reported or progress is SiteProgress.REPORTED
        if event in (SiteEvent.STATUS_HOLDS, SiteEvent.STATUS_LACKS):
            assert next_progress(progress, event) is progress


def test_every_state_can_be_reached() -> None:
    reached = {SiteProgress.PENDING}
    for _ in SiteProgress:
        reached |= {TRANSITIONS[key] for key in TRANSITIONS if key[0] in reached}
    assert reached == set(SiteProgress)


def test_a_site_is_sent_what_it_lacks_and_asked_for_what_is_ready() -> None:
    ready = _status(PACKAGE, current=PACKAGE, report_ready=True)
    assert status_event(ready, PACKAGE) is SiteEvent.STATUS_HOLDS
    assert status_event(ready, OTHER) is SiteEvent.STATUS_LACKS
    assert next_step(SiteProgress.PENDING, _status(), PACKAGE) is Step.DELIVER
    assert next_step(SiteProgress.DELIVERED, ready, PACKAGE) is Step.COLLECT
    assert next_step(SiteProgress.DELIVERED, ready, OTHER) is Step.WAIT
    assert next_step(SiteProgress.DELIVERED, _status(PACKAGE), PACKAGE) is Step.WAIT
    assert next_step(SiteProgress.REFUSED, _status(), PACKAGE) is Step.WAIT
    assert next_step(SiteProgress.REPORTED, ready, PACKAGE) is Step.WAIT


@given(st.lists(st.sampled_from(SiteProgress), min_size=1))
def test_goals_are_reached_in_order(progress: list[SiteProgress]) -> None:
    reached = [
        goal_reached(g, True, progress) for g in (Goal.PUBLISHED, Goal.DELIVERED, Goal.REPORTED)
    ]
    assert reached == sorted(reached, reverse=True)
    assert not goal_reached(Goal.PUBLISHED, False, [])
    assert goal_reached(Goal.ONE_TICK, False, [])
    for agreed in (True, False):
        assert goal_reached(Goal.APPROVED, True, progress, agreed=agreed) is agreed
