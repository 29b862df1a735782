"""Blinded reading: a contour without a word about what made it, and two questions about it.

Nothing here depends on the arm but the mask: one colour and line for all, no case name, the order
fixed before, and nothing in the address.
"""

from datetime import datetime

import streamlit as st

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray
from clinical_ui import launch, session, sign_in, wording
from clinical_ui.case_layers import largest_slice
from clinical_ui.desk import NO_EPOCH
from clinical_ui.session import LoadedVolume
from clinical_ui.viewer import ViewerData, ViewerLayer, mount_viewer, mount_volume
from site_agent import run_lengths
from site_agent.blinded_reading import (
    LIKERT,
    VERDICTS,
    ReadingStatus,
    contour_to_show,
    next_to_read,
    open_place,
    readings,
    record,
)
from site_agent.case_store import CaseStore
from site_agent.database import BlindedReadingRow, utc_now

COLOUR = (190, 120, 255)  # of no layer of the other pages, and of no tissue
SCORES = {
    1: "1: unusable",
    2: "2: mostly wrong",
    3: "3: wrong in several places",
    4: "4: wrong in details",
    5: "5: as I would draw it",
}
EXPLANATION = (
    "You are not told whether this contour was drawn by hand, by the AI, or by the AI and then "
    "revised. Judge it as you see it; an answer cannot be changed."
)
NOTHING_TO_READ = (
    "There is no blinded reading for you. The study lead starts one with "
    "`fedgtv-site blinded start`."
)
ALL_READ = (
    "Nothing is left to judge. The study lead opens the seals with `fedgtv-site blinded unseal`."
)

TOO_LATE = (
    "The contour before was judged in another window, or its reading was stopped: your answer here "
    "was not stored."
)


def show() -> None:
    """Show the reviewer who is signed in the next contour of the first reading that is not over."""
    reader = sign_in.require("reviewer").username
    st.title("Blinded reading")
    with st.container():  # always there, or the viewer would be mounted anew
        if (notice := session.said()) is not None:
            st.warning(notice, icon="⚠")
    store = session.store()
    mine = [one for one in readings(store) if one.reader == reader]
    under_way = [one for one in mine if not one.done]
    if not under_way:
        st.info(ALL_READ if mine else NOTHING_TO_READ)
        return
    progress = under_way[0]
    try:
        row = next_to_read(store, progress.reading, reader=reader)
        mask = None if row is None else contour_to_show(store, row)
    except DataError as error:
        st.error(wording.sentence(str(error)))
        return
    if row is None or mask is None:  # judged in another window just now
        st.info(ALL_READ)
        return
    loaded = session.load_volume(row.case_id)
    if loaded is None:
        st.warning(wording.NO_IMAGE, icon="⚠")
        return
    mount_volume(loaded.packed, key="blinded-image")
    opened_at = open_place(store, row, now=utc_now())
    _judge(store, progress, row, opened_at, loaded, mask)


@st.fragment
def _judge(
    store: CaseStore,
    progress: ReadingStatus,
    row: BlindedReadingRow,
    opened_at: datetime,
    loaded: LoadedVolume,
    mask: MaskArray,
) -> None:
    """Show the contour and the questions; an answer goes on to the next one."""
    sign_in.require("reviewer")  # somebody may have signed out in another tab
    picture, side = st.columns([5, 2], gap="medium")
    with side:
        st.progress(progress.judged / progress.places, _where(progress))
        st.caption(EXPLANATION)
        _questions(store, row, opened_at)
    with picture:
        draw_case(loaded, mask, _where(progress))


def draw_case(loaded: LoadedVolume, mask: MaskArray, title: str) -> None:
    """Show a contour that nothing can be told from but its shape, read-only."""
    largest = largest_slice(mask)
    data = ViewerData(
        volume=loaded.token,
        epoch=NO_EPOCH,
        revision=0,
        mode="view",
        title=title,
        target=None,
        slice=len(mask) // 2 if largest is None else largest,
        window=loaded.window,
        layers=[ViewerLayer("contour", "Contour", COLOUR, (), True, run_lengths.encode(mask))],
        volumes_shown=False,  # it is listed by name elsewhere
        testing=launch.is_tested(),
    )
    mount_viewer(data, "blinded", on_draft=_nothing, on_prompt=_nothing, on_save=_nothing)


def _nothing(_message: object) -> None:
    """Take nothing: here is nothing to draw."""


def _questions(store: CaseStore, row: BlindedReadingRow, opened_at: datetime) -> None:
    place = f"{row.reading}-{row.place}"
    left, right = st.columns([5, 4], gap="small")
    likert = left.radio(
        "How good is this contour?",
        LIKERT,
        index=None,
        format_func=SCORES.__getitem__,
        key=f"likert-{place}",
    )
    verdict = right.radio(
        "Could you use it?",
        VERDICTS,
        index=None,
        format_func=str.capitalize,
        key=f"verdict-{place}",
    )
    if st.button(
        "Save and go on",
        type="primary",
        key=f"save-{place}",
        disabled=likert is None or verdict is None,
        on_click=_save,
        args=(store, row, opened_at, likert, verdict),
    ):
        st.rerun()  # the whole page, with the next contour


def _save(
    store: CaseStore,
    row: BlindedReadingRow,
    opened_at: datetime,
    likert: int | None,
    verdict: str | None,
) -> None:
    """Store an answer; what cannot be stored is said on the page."""
    account, now = sign_in.signed_in(), utc_now()
    if account is None or "reviewer" not in account.roles or likert is None or verdict is None:
        return  # the page itself says who may read
    try:
        record(
            store,
            row,
            reader=account.username,
            likert=likert,
            verdict=verdict,
            active_s=None,
            wall_s=round(max(0.0, (now - opened_at).total_seconds()), 1),
            now=now,
        )
    except DataError:  # it is not this reader's next one any more
        session.say(TOO_LATE)


def _where(progress: ReadingStatus) -> str:
    return f"Contour {progress.judged + 1} of {progress.places}"
