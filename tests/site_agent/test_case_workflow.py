import itertools

import pytest

from algorithms.contracts.messages import RoundState
from site_agent.case_workflow import TRANSITIONS, RoundEvent, next_state

ROAD = [
    (RoundState.RECEIVED, RoundEvent.SLICES_SELECTED),
    (RoundState.AWAITING_ANNOTATION, RoundEvent.ANNOTATION_COMPLETE),
    (RoundState.TRAINING, RoundEvent.PREDICTIONS_READY),
    (RoundState.AWAITING_REVIEW, RoundEvent.REVIEW_COMPLETE),
]
NOT_IN_THE_TABLE = set(itertools.product(RoundState, RoundEvent)) - set(TRANSITIONS)


def test_the_road_leads_from_the_package_to_the_report() -> None:
    state = RoundState.RECEIVED
    for expected, event in ROAD:
        assert state is expected
        state = next_state(state, event)
    assert state is RoundState.REPORTED


@pytest.mark.parametrize(("state", "event"), sorted(NOT_IN_THE_TABLE))
def test_nothing_else_can_happen(state: RoundState, event: RoundEvent) -> None:
    with pytest.raises(ValueError, match=f"{event.value} cannot happen.*{state.value}"):
        next_state(state, event)


def test_a_report_is_the_end_and_a_failure_is_not() -> None:
    starts = {state for state, _ in TRANSITIONS}
    assert RoundState.REPORTED not in starts
    assert next_state(RoundState.FAILED, RoundEvent.TRAINING_RESUMED) is RoundState.TRAINING


def test_every_event_and_every_state_of_a_round_is_used() -> None:
    assert {event for _, event in TRANSITIONS} == set(RoundEvent)
    reached = set(TRANSITIONS.values()) | {RoundState.RECEIVED}
    assert reached == set(RoundState) - {RoundState.NONE}  # NONE: there is no round
