"""Drift: are new patients like those the model was made for, and do reviewers change more?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st
from sqlalchemy.orm import Session

from clinical_ui import study_wording, wording
from clinical_ui.control_chart_picture import MARKS, Point, as_image, draw, figure
from evaluation.control_chart import ControlChart, individuals_chart
from site_agent import accounts
from site_agent.blinding import blinded_cases
from site_agent.case_store import CaseStore
from site_agent.drift import DistanceDrift, ReviewedCase, reviews_in_order

TABLE_HEIGHT_PX = 230
DISTANCE_METHOD = (
    "Squared distance to the nearest reference point of the package, as in the choice of slices: "
    "median over the slices on which the package's model sees the target. Limits: the median, and "
    "three robust standard deviations of the logarithms. By chance some usual cases lie beyond: 5 "
    "in 100 with 8 cases of the study, 2 with 20, 1 with 50."
)
REVISION_METHOD = "Individuals chart: mean, and 2.66 mean moving ranges to either side."


def show(store: CaseStore, drift: DistanceDrift | None, *, looks: str) -> None:
    """Show both control charts, each with its words and its table, to the user who `looks`."""
    left, right = st.columns(2, gap="medium")
    with left:
        st.header("Distance of the cases to the source")
        if drift is None or not drift.cases:
            st.info(
                "No case was measured yet. The computer does it when it works on the round: "
                f"`{study_wording.CONTINUE_COMMAND}`."
            )
        else:
            _distances(drift)
    with right:
        st.header("What reviewers changed")
        reviews = reviews_in_order(store)
        if reviews:
            with Session(store.engine) as session:
                blinded = blinded_cases(session, looks)
            _revisions(reviews, blinded, accounts.display_names(store.engine))
        else:
            st.info("No case was reviewed yet.")


def alarm(drift: DistanceDrift | None) -> str | None:
    """Say that patients who came later are unlike the study's; None when none is."""
    if drift is None or not drift.alarms:
        return None
    number = len(drift.alarms)
    cases = "1 new case is" if number == 1 else f"{number} new cases are"
    return f"{cases} unlike the cases of the study, see Drift: look closely at the contours."


def distance_sentence(drift: DistanceDrift) -> str:
    """Say what the chart of distances shows."""
    later = [case for case in drift.cases if case.later]
    if not drift.chart.judges:
        return study_wording.too_few(drift.chart, "measured case")
    if not later:
        return "No patient came after the study's: there is nothing to compare yet."
    unlike = len(drift.alarms)
    said = f"{unlike or 'None'} of {wording.counted(len(later), 'new case')}"
    own = [case for case in drift.cases if not case.later]
    beyond = sum(drift.chart.place(case.distance) != "inside" for case in own)
    return (
        f"{said} beyond the limits that the cases of the study set; of the study's own {len(own)}, "
        f"{beyond or 'none'}."
    )


def revision_sentence(chart: ControlChart, reviews: Sequence[ReviewedCase]) -> str:
    """Say what the chart of revision degrees shows."""
    if not chart.judges:
        return study_wording.too_few(chart, "review")
    beyond = [
        number
        for number, review in enumerate(reviews, start=1)
        if chart.place(review.degree_percent) in ("above", "below")
    ]
    named = ", ".join(map(str, beyond))
    limits = (
        f"The first {chart.baseline} reviews set the limits: mean {chart.centre:.1f} %, "
        f"{chart.lower:.1f} to {chart.upper:.1f} %."
    )
    return limits + (f" Beyond them: no. {named}." if beyond else " No review is beyond them.")


def distance_rows(drift: DistanceDrift) -> list[dict[str, Any]]:
    """Return the table of distances, in order of intake."""
    return [
        {
            "No.": number,
            "Case": case.case_id,
            "Came": wording.moment(case.ingested_at),
            "Group": "new" if case.later else "study",
            "Distance": "no target seen" if math.isnan(case.distance) else figure(case.distance),
            "Slices with target": f"{case.slices_with_target} of {case.slices}",
            "Verdict": study_wording.place(drift.chart.place(case.distance)),
        }
        for number, case in enumerate(drift.cases, start=1)
    ]


def revision_rows(
    chart: ControlChart,
    reviews: Sequence[ReviewedCase],
    blinded: frozenset[str],
    names: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return the table of reviews, in order of time; it does not say which are of blinded cases."""
    hidden = dict.fromkeys(("Case", "Reviewed", "Reviewer", "Said"), "blinded")
    return [
        {
            "No.": number,
            **(
                hidden
                if review.case_id in blinded
                else {
                    "Case": review.case_id,
                    "Reviewed": wording.moment(review.reviewed_at),
                    "Reviewer": wording.author(review.author, names, simulated=review.simulated),
                    "Said": review.verdict,
                }
            ),
            "Revision degree": f"{review.degree_percent:.1f} %",
            "Verdict": study_wording.place(chart.place(review.degree_percent)),
        }
        for number, review in enumerate(reviews, start=1)
    ]


def _distances(drift: DistanceDrift) -> None:
    sentence = distance_sentence(drift)
    st.markdown(sentence)
    points = [Point(case.distance, baseline=not case.later) for case in drift.cases]
    picture = draw(drift.chart, points, unit="squared distance", logarithmic=True)
    st.html(
        as_image(picture, f"Control chart of {wording.counted(len(points), 'case')}. {sentence}")
    )
    st.caption(
        legend("case of the study", "new case")
        + (f" Not measured yet: {wording.counted(drift.waiting, 'case')}." if drift.waiting else "")
    )
    _table(distance_rows(drift), DISTANCE_METHOD, key="distances")


def _revisions(
    reviews: Sequence[ReviewedCase], blinded: frozenset[str], names: Mapping[str, str]
) -> None:
    chart = individuals_chart([review.degree_percent for review in reviews])
    sentence = revision_sentence(chart, reviews)
    st.markdown(sentence)
    points = [
        Point(review.degree_percent, baseline=number < chart.baseline)
        for number, review in enumerate(reviews)
    ]
    picture = draw(chart, points, unit="revision degree in %")
    st.html(
        as_image(picture, f"Control chart of {wording.counted(len(points), 'review')}. {sentence}")
    )
    st.caption(legend("review that sets the limits", "later review"))
    _table(revision_rows(chart, reviews, blinded, names), REVISION_METHOD, key="revisions")


def legend(baseline: str, later: str) -> str:
    """Say what the marks of a chart mean."""
    words = {"baseline": baseline, "inside": later}
    return " · ".join(f"{mark} {words.get(k, said)}" for k, (mark, _, said) in MARKS.items()) + "."


def _table(rows: list[dict[str, Any]], method: str, *, key: str) -> None:
    with st.expander("The figures as a table, and how the limits are set"):
        st.caption(method)
        height = min(TABLE_HEIGHT_PX, 38 + 35 * len(rows))
        st.dataframe(rows, hide_index=True, height=height, key=key)
