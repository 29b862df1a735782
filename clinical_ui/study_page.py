"""The study: where the round is, the models, drift, the reviews, and what left the hospital."""

import streamlit as st

from algorithms.contracts.messages import RoundState
from clinical_ui import (
    session,
    sign_in,
    study_drift,
    study_job,
    study_ledger,
    study_models,
    study_packages,
    study_reviews,
    study_round,
    study_wording,
)
from clinical_ui.worklist_page import waiting_for
from site_agent.drift import distance_drift
from site_agent.package_store import active_package, packages_held

TABS = ("Round", "Models", "Drift", "Reviews", "What left")
SEE_THE_LEDGER = frozenset({"it", "lead"})
STYLE = """
<style>
  .fedgtv-chart { width: 100%; height: auto; display: block; }
  .fedgtv-message { max-height: calc(100vh - 34rem); min-height: 8rem; overflow: auto;
    white-space: pre-wrap; margin: 0;
    overflow-wrap: anywhere; background: #f1f5f7; border-radius: 4px; padding: .6rem .8rem;
    font-size: .82rem; }
  .stTabs [role=tab] p { font-size: 1rem; }
  .stTabs [role=tabpanel] { padding-top: .4rem; }
  .stTabs [data-testid=stVerticalBlock] { gap: .35rem; }
  [data-testid=stMain] .stTabs h2 { padding: .15rem 0 .1rem !important; }
  .stTabs [data-testid=stTable] :is(th, td) { padding: .2rem .5rem !important; font-size: .85rem; }
  [data-testid=stCaptionContainer], [data-testid=stCaptionContainer] * {
    color: #51636e !important; opacity: 1 !important; }
</style>
"""


def show() -> None:
    """Show the page."""
    account = sign_in.require()
    store = session.store()
    st.html(STYLE)
    head, said = st.columns([1, 12], vertical_alignment="center")
    head.title("Study")
    current = store.latest_round()
    state = RoundState(current.state) if current is not None else RoundState.NONE
    waiting = waiting_for(store, current) if current is not None else 0
    held = packages_held(store.engine)
    approved = active_package(store.engine)
    package_of_round = current.package_id if current is not None else None
    package = package_of_round or (approved.package_id if approved is not None else None)
    drift = distance_drift(store, package) if package is not None else None
    next_step = study_job.what_next(
        state,
        waiting=waiting,
        other_package=approved is not None and approved.package_id != package_of_round,
        new_cases=drift.waiting if drift is not None else 0,
    )
    said.markdown(f"**{study_wording.round_state(state, waiting_for=waiting)}**")
    study_job.show(store, next_step)
    alarms = (study_packages.alarm(held), study_ledger.alarm(store), study_drift.alarm(drift))
    if any(alarms):
        st.warning(" ".join(alarm for alarm in alarms if alarm is not None), icon="⚠")
    sees_ledger = bool(account.roles & SEE_THE_LEDGER)
    round_tab, models_tab, drift_tab, reviews_tab, *rest = st.tabs(
        TABS if sees_ledger else TABS[:-1]
    )
    with round_tab:
        left, right = st.columns([3, 2], gap="large")
    with left:
        study_round.show(store, current, state)
    with models_tab:
        study_models.show(store)
    with drift_tab:
        study_drift.show(store, drift, looks=account.username)
    with reviews_tab:
        study_reviews.show(store, current, looks=account.username)
    for ledger_tab in rest:
        with ledger_tab:
            study_ledger.show(store)
    with right:  # last: verifying what waits takes a moment
        study_packages.show(store, held, package)
