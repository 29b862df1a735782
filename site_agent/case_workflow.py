"""The states of an adaptation round as a table `(state, event) -> state`, without I/O."""

from enum import StrEnum

from algorithms.contracts.messages import RoundState


class RoundEvent(StrEnum):
    """What can happen to a round."""

    SLICES_SELECTED = "slices_selected"
    ANNOTATION_COMPLETE = "annotation_complete"
    PREDICTIONS_READY = "predictions_ready"
    REVIEW_COMPLETE = "review_complete"
    FAILED = "failed"
    SELECTION_RETRIED = "selection_retried"
    TRAINING_RESUMED = "training_resumed"


TRANSITIONS: dict[tuple[RoundState, RoundEvent], RoundState] = {
    (RoundState.RECEIVED, RoundEvent.SLICES_SELECTED): RoundState.AWAITING_ANNOTATION,
    (RoundState.AWAITING_ANNOTATION, RoundEvent.ANNOTATION_COMPLETE): RoundState.TRAINING,
    (RoundState.TRAINING, RoundEvent.PREDICTIONS_READY): RoundState.AWAITING_REVIEW,
    (RoundState.AWAITING_REVIEW, RoundEvent.REVIEW_COMPLETE): RoundState.REPORTED,
    (RoundState.RECEIVED, RoundEvent.FAILED): RoundState.FAILED,
    (RoundState.TRAINING, RoundEvent.FAILED): RoundState.FAILED,
    (RoundState.FAILED, RoundEvent.SELECTION_RETRIED): RoundState.RECEIVED,
    (RoundState.FAILED, RoundEvent.TRAINING_RESUMED): RoundState.TRAINING,
}


def next_state(state: RoundState, event: RoundEvent) -> RoundState:
    """Return the state after `event`.

    >>> next_state(RoundState.TRAINING, RoundEvent.PREDICTIONS_READY).value
    'awaiting_review'

    Raises:
        ValueError: when `event` cannot happen in `state`.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"{event.value} cannot happen to a round in state {state.value}") from None
