"""The way of the round: every step, who does it, how far it is; and the cases."""

import streamlit as st

from algorithms.contracts.case import Split
from algorithms.contracts.messages import RoundState
from clinical_ui import wording
from site_agent.case_store import CaseStore
from site_agent.database import RoundRow
from site_agent.round_counts import RoundCounts, count_round

SPLITS = {
    Split.TRAINING: "Training: slices are annotated and learnt from",
    Split.VALIDATION: "Validation: slices are annotated to choose the best weights",
    Split.TEST: "Test: segmented, reviewed and measured",
    Split.UNASSIGNED: "Not in the study: came later, or of another kind",
}


def show(store: CaseStore, current: RoundRow | None, state: RoundState) -> None:
    """Show the steps of the round, and how many cases there are."""
    st.header("This round")
    counts = count_round(store, current.round_id) if current is not None else RoundCounts()
    st.table(step_rows(state, counts), hide_index=True)
    if current is not None:
        st.caption(
            f"Round {current.round_id}, started {wording.moment(current.started_at)}, "
            f"last change {wording.moment(current.changed_at)}."
        )
    st.header("Cases")
    numbers = store.counts()
    rows = [
        {"Used for": words, "Cases": numbers[split]}
        for split, words in SPLITS.items()
        if split in numbers
    ]
    if rows:
        st.table(rows, hide_index=True)
    else:
        st.info(wording.NO_CASES)


def step_rows(state: RoundState, counts: RoundCounts) -> list[dict[str, str]]:
    """Return the way of a round: what is done, what is under way, what comes later."""
    order = [step for step, _, _ in wording.ROUND_STEPS]
    reached = order.index(state) if state in order else -1
    if state is RoundState.FAILED:  # only these two can fail
        reached = order.index(RoundState.TRAINING if counts.slices_asked else RoundState.RECEIVED)
    rows = []
    for position, (step, what, who) in enumerate(wording.ROUND_STEPS):
        if position < reached or state is RoundState.REPORTED:
            mark = "✓ done"
        elif position == reached:
            mark = "✕ failed" if state is RoundState.FAILED else "● now"
        else:
            mark = "○ later"
        rows.append({"Step": what, "Who": who, "How far": how_far(step, counts), "State": mark})
    return rows


def how_far(step: RoundState, counts: RoundCounts) -> str:
    """Say how far a step is, in numbers; empty where there are none yet."""
    if not counts.slices_asked:
        return ""
    return {
        RoundState.RECEIVED: f"{wording.counted(counts.slices_asked, 'slice')} of "
        f"{wording.counted(counts.cases_asked, 'case')}",
        RoundState.AWAITING_ANNOTATION: f"{counts.slices_annotated} of {counts.slices_asked} "
        "slices",
        RoundState.TRAINING: f"{counts.test_segmented} of {counts.test_cases} test cases segmented",
        RoundState.AWAITING_REVIEW: f"{counts.test_reviewed} of {counts.test_cases} test cases",
        RoundState.REPORTED: "report is ready" if counts.report_ready else "",
    }[step]
