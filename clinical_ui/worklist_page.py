"""The worklist: slices to annotate, and cases to review."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import streamlit as st

from algorithms.contracts.case import Case, Split
from algorithms.contracts.messages import RoundState
from clinical_ui import session, sign_in, wording
from site_agent.case_store import CaseStore
from site_agent.database import AnnotationTaskRow, ReviewRow, RoundRow

Emphasis = Literal["primary", "secondary"]
TASK_STATES = {"open": "○ to annotate", "done": "✓ annotated"}
TABLE_HEIGHT_PX = 260


def show(open_page: Callable[[], None]) -> None:
    """Show the page; `open_page` goes to the case page."""
    sign_in.require("annotator", "reviewer")
    store = session.store()
    st.title("Worklist")
    current = store.latest_round()
    cases = store.cases()
    if not cases:
        st.info(wording.NO_CASES)
        return
    if current is None:
        source = store.home.config.role == "source"
        st.info(wording.NO_ROUND_AT_SOURCE if source else wording.NO_ROUND)
        return
    state = RoundState(current.state)
    st.markdown(f"**{wording.round_state(state, waiting_for=waiting_for(store, current))}**")
    tasks, reviews = store.tasks(current.round_id), store.reviews(current.round_id)
    if any(wording.is_simulated(t.provenance) for t in tasks) or any(r.simulated for r in reviews):
        st.warning(wording.SIMULATED_NOTICE, icon="⚠")
    # What is wanted now comes first.
    sections = [partial(_annotation, cases, tasks), partial(_review, store, current, reviews)]
    if state in (RoundState.AWAITING_REVIEW, RoundState.REPORTED):
        sections.reverse()
    sections[0](open_page, "primary")
    sections[1](open_page, "secondary")


def waiting_for(store: CaseStore, current: RoundRow) -> int:
    """Return how many slices or cases wait for a doctor in the present state of a round."""
    if current.state == RoundState.AWAITING_REVIEW.value:
        reviewed = {review.case_id for review in store.reviews(current.round_id)}
        return sum(case.case_id not in reviewed for case in store.cases(Split.TEST))
    return len(store.tasks(current.round_id, state="open"))


def task_rows(cases: Sequence[Case], tasks: Sequence[AnnotationTaskRow]) -> list[dict[str, Any]]:
    """Return the annotation table: one row per slice, in order of rank."""
    slices = {case.case_id: case.shape_zyx[0] for case in cases}
    return [
        {
            "Rank": task.rank + 1,
            "Case": task.case_id,
            "Slice": wording.slice_number(task.slice_z, slices[task.case_id]),
            "Why this slice": wording.reason(task.role),
            "Distance to source": wording.score(task.score),
            "State": TASK_STATES[task.state],
            "Author": wording.author(task.author, simulated=wording.is_simulated(task.provenance)),
        }
        for task in tasks
    ]


def review_rows(
    cases: Sequence[Case], reviews: Sequence[ReviewRow], state: RoundState
) -> list[dict[str, Any]]:
    """Return the review table: one row per test case."""
    done = {review.case_id: review for review in reviews}
    segmented = state in (RoundState.AWAITING_REVIEW, RoundState.REPORTED)
    rows = []
    for case in cases:
        review = done.get(case.case_id)
        waiting = "○ to review" if segmented else "· waits for the model"
        rows.append(
            {
                "Case": case.case_id,
                "Patient": case.patient_id,
                "State": waiting if review is None else f"✓ {review.verdict}",
                "Revision degree": ""
                if review is None
                else wording.degree(review.revision_degree_percent),
                "Reviewer": ""
                if review is None
                else wording.author(review.author, simulated=review.simulated),
            }
        )
    return rows


def budget_line(cases: Sequence[Case], tasks: Sequence[AnnotationTaskRow]) -> str:
    """Say how far the annotation is, and what share of all slices it asks for."""
    asked = [case for case in cases if case.split in (Split.TRAINING, Split.VALIDATION)]
    slices = sum(case.shape_zyx[0] for case in asked)
    patient = {case.case_id: case.patient_id for case in cases}
    chosen = len({patient[task.case_id] for task in tasks})
    done = sum(task.state == "done" for task in tasks)
    share = f", {len(tasks) / slices:.0%} of the {slices} slices" if slices else ""
    return (
        f"{done} of {len(tasks)} slices annotated. The budget: {len(tasks)} slices{share} of "
        f"{len({case.patient_id for case in asked})} patients; the chosen slices come from "
        f"{chosen} of them."
    )


def _annotation(
    cases: Sequence[Case],
    tasks: Sequence[AnnotationTaskRow],
    open_page: Callable[[], None],
    emphasis: Emphasis,
) -> None:
    st.subheader("Slices to annotate")
    if not tasks:
        st.info("The slices to annotate are being chosen; reload this page in a while.")
        return
    done = sum(task.state == "done" for task in tasks)
    st.progress(done / len(tasks), text=budget_line(cases, tasks))
    button = st.container()
    chosen = _table(task_rows(cases, tasks), key="tasks")
    first_open = next((i for i, task in enumerate(tasks) if task.state == "open"), 0)
    task = tasks[chosen if chosen is not None else first_open]
    slices = {case.case_id: case.shape_zyx[0] for case in cases}
    place = wording.slice_number(task.slice_z, slices[task.case_id])
    label = f"Open rank {task.rank + 1}: {task.case_id}, slice {place}"
    if button.button(label, key="open_task", type=emphasis):
        session.open_case(task.case_id, task.slice_z)
        open_page()


def _review(
    store: CaseStore,
    current: RoundRow,
    reviews: Sequence[ReviewRow],
    open_page: Callable[[], None],
    emphasis: Emphasis,
) -> None:
    st.subheader("Cases to review")
    cases = store.cases(Split.TEST)
    if not cases:
        st.info("No patient is set aside for testing the model.")
        return
    st.caption(f"{len(reviews)} of {len(cases)} test cases reviewed.")
    button = st.container()
    chosen = _table(review_rows(cases, reviews, RoundState(current.state)), key="reviews")
    reviewed = {review.case_id for review in reviews}
    first_open = next((i for i, case in enumerate(cases) if case.case_id not in reviewed), 0)
    case = cases[chosen if chosen is not None else first_open]
    if button.button(f"Open {case.case_id}", key="open_review", type=emphasis):
        session.open_case(case.case_id)
        open_page()


def _table(rows: list[dict[str, Any]], *, key: str) -> int | None:
    """Show a table in which one row can be selected; return its index, or None."""
    event = st.dataframe(
        rows,
        key=key,
        hide_index=True,
        height=min(TABLE_HEIGHT_PX, 38 + 35 * len(rows)),
        on_select="rerun",
        selection_mode="single-row",
    )
    selected = event["selection"]["rows"]
    return int(selected[0]) if selected else None
