"""The study: where the round is, which model is used, and everything that left the hospital."""

from typing import Any

import streamlit as st

from algorithms.contracts.case import Split
from algorithms.contracts.messages import RoundState
from clinical_ui import session, sign_in, wording
from clinical_ui.worklist_page import waiting_for
from site_agent.case_store import CaseStore
from site_agent.database import LedgerRow, PackageRow, RoundRow
from site_agent.egress import list_entries
from site_agent.package_store import packages_held

SPLITS = {
    Split.TRAINING: "Training: slices are annotated and learnt from",
    Split.VALIDATION: "Validation: slices are annotated to choose the best weights",
    Split.TEST: "Test: segmented, reviewed and measured",
    Split.UNASSIGNED: "Not in the study yet",
}


def show() -> None:
    """Show the page."""
    sign_in.require()
    store = session.store()
    st.title("Study")
    current = store.latest_round()
    state = RoundState(current.state) if current is not None else RoundState.NONE
    waiting = waiting_for(store, current) if current is not None else 0
    st.markdown(f"**{wording.round_state(state, waiting_for=waiting)}**")
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("This round")
        st.table(step_rows(state))
        _round_facts(current)
    with right:
        st.subheader("Model package")
        _packages(packages_held(store.engine), current)
        st.subheader("Cases")
        _counts(store)
    if sign_in.may("it") or sign_in.may("lead"):
        _ledger(store)


def _ledger(store: CaseStore) -> None:
    st.subheader("What left this hospital")
    entries = list_entries(store.engine)
    if entries:
        st.caption(
            f"Entries in the ledger: {len(entries)}, newest first. Images, contours and pseudonyms "
            "never leave; hospital IT can list and verify the entries, and reads what waits with "
            "`fedgtv-site ledger show` before approving it."
        )
        st.dataframe(ledger_rows(entries), hide_index=True, key="ledger")
    else:
        st.info("Nothing has left this hospital.")


def step_rows(state: RoundState) -> list[dict[str, str]]:
    """Return the way of a round: what is done, what is under way, what comes later."""
    order = [step for step, _, _ in wording.ROUND_STEPS]
    reached = order.index(state) if state in order else -1
    finished = state is RoundState.REPORTED
    rows = []
    for position, (_, what, who) in enumerate(wording.ROUND_STEPS):
        if position < reached or finished:
            mark = "✓ done"
        else:
            mark = "● now" if position == reached else "○ later"
        rows.append({"Step": what, "Who": who, "State": mark})
    return rows


def ledger_rows(entries: list[LedgerRow]) -> list[dict[str, Any]]:
    """Return the ledger as a table, newest first."""
    return [
        {
            "No.": entry.sequence,
            "Time": wording.moment(entry.at),
            "What": wording.ledger_kind(entry.kind),
            "Size": wording.size(entry.size_bytes),
            "State": wording.ledger_state(entry.state),
        }
        for entry in reversed(entries)
    ]


def _round_facts(current: RoundRow | None) -> None:
    if current is not None:
        st.caption(
            f"Round {current.round_id}, started {wording.moment(current.started_at)}, "
            f"last change {wording.moment(current.changed_at)}."
        )


def _packages(held: list[PackageRow], current: RoundRow | None) -> None:
    if not held:
        st.info("No model package has arrived.")
        return
    used = current.package_id if current is not None else held[-1].package_id
    package = next((one for one in held if one.package_id == used), held[-1])
    st.markdown(f"Model version **{package.model_version}**, {package.state}")
    st.code(package.package_id, language=None, wrap_lines=True)
    st.caption(
        f"Signed with key {package.signed_by}, received {wording.moment(package.received_at)}."
    )


def _counts(store: CaseStore) -> None:
    counts = store.counts()
    rows = [
        {"Used for": words, "Cases": counts[split]}
        for split, words in SPLITS.items()
        if split in counts
    ]
    if rows:
        st.table(rows)
    else:
        st.info(wording.NO_CASES)
