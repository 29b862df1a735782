"""What reviewers changed and how long it took: by reviewer and in all, inside the hospital."""

import math
from collections.abc import Mapping
from typing import Any

import streamlit as st
from sqlalchemy.orm import Session

from clinical_ui import study_wording, wording
from evaluation.revision import REVISION_BIN_LABELS, ActiveTimeSummary
from site_agent import accounts
from site_agent.blinding import blinded_cases
from site_agent.case_store import CaseStore
from site_agent.database import RoundRow
from site_agent.review_summary import ReviewerSummary, summarise_reviews

THIS_ROUND, ALL_ROUNDS = "This round", "All rounds"
BINS = tuple(wording.verbatim(label) for label in REVISION_BIN_LABELS)
ALL_REVIEWERS = "All reviewers"


def show(store: CaseStore, current: RoundRow | None, *, looks: str) -> None:
    """Show the summaries of a round, or of all, to the user who `looks`."""
    st.header("Reviews")
    chosen = st.radio(
        "Which reviews",
        [THIS_ROUND, ALL_ROUNDS],
        horizontal=True,
        key="which_reviews",
        label_visibility="collapsed",
    )
    if current is None:
        st.info("No case was reviewed yet.")
        return
    with Session(store.engine) as reading:
        blinded = blinded_cases(reading, looks)
    if blinded:
        st.info(wording.BLINDED_LEFT_OUT)
    round_id = None if chosen == ALL_ROUNDS else current.round_id
    summaries = summarise_reviews(store, round_id, without=blinded)
    names = accounts.display_names(store.engine)
    if not summaries:
        st.info("No other case was reviewed yet." if blinded else "No case was reviewed yet.")
        return
    if any(summary.simulated for summary in summaries[1:]):
        st.warning(wording.SIMULATED_NOTICE, icon="⚠")
    st.markdown("**Revision degree, per patient**")
    st.table([degree_row(summary, names) for summary in summaries], hide_index=True)
    st.markdown("**Time, per patient: median (quartiles)**")
    st.table([time_row(summary, names) for summary in summaries], hide_index=True)
    if summaries[0].overview.slices:
        st.markdown("**Revision degree, per slice**")
        st.table([slice_row(summary, names) for summary in summaries], hide_index=True)
    st.caption(
        "Revision degree: 100 % × (1 − Dice of the model's contour and the reviewed one), computed "
        "from the stored contours; a rejected contour counts 100 %. Mean ± standard deviation. "
        "A patient with several cases counts once. These figures stay in the hospital."
    )


def degree_row(summary: ReviewerSummary, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the line of a reviewer: degree, bins and verdicts."""
    overview = summary.overview
    return {
        "Reviewer": name(summary, names),
        "Patients": overview.patients,
        "Mean ± SD": spread(overview.mean_percent, overview.sd_percent),
        **dict(zip(BINS, overview.bins, strict=True)),
        "Accepted": summary.accepted,
        "Revised": summary.revised,
        "Rejected": summary.rejected,
    }


def time_row(summary: ReviewerSummary, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the line of a reviewer: active and wall time."""
    return {
        "Reviewer": name(summary, names),
        "Active time": time(summary.overview.active),
        "Time from opening to saving": time(summary.overview.wall),
        "Patients with a time": summary.overview.active.patients,
    }


def slice_row(summary: ReviewerSummary, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the line of a reviewer: slices by bin."""
    overview = summary.overview
    bins = dict(zip(BINS, overview.slice_bins, strict=True))
    return {"Reviewer": name(summary, names), "Slices": overview.slices, **bins}


def name(summary: ReviewerSummary, names: Mapping[str, str]) -> str:
    """Name the reviewer of a line."""
    if summary.author is None:
        return ALL_REVIEWERS
    who = wording.author(summary.author, names, simulated=summary.simulated)
    return wording.verbatim(who)


def spread(mean: float, sd: float) -> str:
    """Write mean and standard deviation; of one patient there is none.

    >>> spread(7.25, 3.0), spread(7.25, math.nan)
    ('7.2 ± 3.0 %', '7.2 %')
    """
    return f"{mean:.1f} %" if math.isnan(sd) else f"{mean:.1f} ± {sd:.1f} %"


def time(summary: ActiveTimeSummary) -> str:
    """Write median and quartiles.

    >>> time(ActiveTimeSummary(3, 90.0, 75.0, 125.0))
    '1 min 30 s (1 min 15 s to 2 min 5 s)'
    """
    if not summary.patients:
        return "not taken"
    median, q1, q3 = map(study_wording.clock, (summary.median_s, summary.q1_s, summary.q3_s))
    return f"{median} ({q1} to {q3})"
