"""Blinded reading: a contour without a word about what made it, and two questions about it.

Nothing here depends on the arm but the mask: one colour and line for all, no case name, the order
fixed before, and nothing in the address.
"""

import streamlit as st

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray
from clinical_ui import session, sign_in, wording
from clinical_ui.case_layers import largest_slice
from clinical_ui.review_page import picture_html
from clinical_ui.session import LoadedVolume, ReadingPlace
from clinical_ui.slice_picture import Outline, radiological_view, render_slice
from site_agent.blinded_reading import (
    LIKERT,
    VERDICTS,
    ReadingStatus,
    contour_to_show,
    next_to_read,
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


def show() -> None:
    """Show the page to the reviewer who is signed in."""
    show_to(sign_in.require("reviewer").username)


def show_to(reader: str) -> None:
    """Show a reader the next contour of the first reading that is not over."""
    st.title("Blinded reading")
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
        st.error(str(error))
        return
    if row is None or mask is None:  # judged in another window just now
        st.info(ALL_READ)
        return
    try:
        loaded = session.load_volume(row.case_id)
    except (OSError, ValueError):
        st.warning(wording.NO_IMAGE, icon="⚠")
        return
    _judge(store, progress, row, loaded, mask)


def draw_case(volume: LoadedVolume, mask: MaskArray, slice_z: int) -> None:
    """Draw a slice with the contour; all that is seen of a case is drawn here."""
    view = radiological_view(volume.volume.geometry)
    outlines = [Outline(mask[slice_z], COLOUR)]
    pixels = render_slice(volume.volume, slice_z, outlines, window=volume.window)
    number = wording.slice_number(slice_z, len(mask))
    here = "with the contour" if mask[slice_z].any() else "no contour on this slice"
    st.html(picture_html(pixels, view, f"{view.plane} slice {number}, {here}"))
    low, high = volume.window
    st.caption(
        f"Slice {number}, {view.plane}, "
        f"{wording.spacing(volume.volume.geometry.spacing_zyx_mm)}. Grey values {low:.0f} to "
        f"{high:.0f} (1st to 99th percentile)."
    )


@st.fragment
def _judge(
    store: CaseStore,
    progress: ReadingStatus,
    row: BlindedReadingRow,
    loaded: LoadedVolume,
    mask: MaskArray,
) -> None:
    """Show picture and questions; moving through slices redraws only this part."""
    largest = largest_slice(mask)
    middle = len(mask) // 2
    place = session.reading_place(
        f"{row.reading}-{row.place}", middle if largest is None else largest
    )
    picture, side = st.columns([3, 2], gap="medium")
    with side:
        _slice_controls(len(mask), place, largest)
        st.progress(progress.judged / progress.places, _where(progress))
        st.caption(EXPLANATION)
        _questions(store, row, place)
    with picture:
        draw_case(loaded, mask, place.slice_z)


def _slice_controls(slices: int, place: ReadingPlace, largest: int | None) -> None:
    shown = place.slice_z
    if slices > 1:
        st.slider(
            f"Slice {wording.slice_number(shown, slices)}",
            1,
            slices,
            key=session.READING_SLIDER,
            on_change=session.reading_slider_moved,
        )
    jumps = (
        ("◀ Prev", shown - 1 if shown > 0 else None, "Previous slice"),
        ("Next ▶", shown + 1 if shown + 1 < slices else None, "Next slice"),
        ("Largest contour", largest, "The slice on which the contour is largest"),
    )
    for column, (label, target, hint) in zip(
        st.columns([4, 4, 7], gap="xsmall"), jumps, strict=True
    ):
        column.button(
            label,
            help=hint,
            disabled=target is None,
            on_click=session.show_reading_slice,
            args=(target,),
            width="stretch",
        )


def _questions(store: CaseStore, row: BlindedReadingRow, place: ReadingPlace) -> None:
    left, right = st.columns([5, 4], gap="small")
    likert = left.radio(
        "How good is this contour?",
        LIKERT,
        index=None,
        format_func=SCORES.__getitem__,
        key=f"likert-{place.key}",
    )
    verdict = right.radio(
        "Could you use it?",
        VERDICTS,
        index=None,
        format_func=str.capitalize,
        key=f"verdict-{place.key}",
    )
    pressed = st.button(
        "Save and go on",
        type="primary",
        key=f"save-{place.key}",
        disabled=likert is None or verdict is None,
    )
    if not pressed or likert is None or verdict is None:
        return
    try:
        record(
            store,
            row,
            reader=row.reader,
            likert=likert,
            verdict=verdict,
            active_s=None,
            wall_s=round(place.seconds(), 1),
            now=utc_now(),
        )
    except DataError as error:
        st.error(str(error))
        return
    st.rerun()


def _where(progress: ReadingStatus) -> str:
    return f"Contour {progress.judged + 1} of {progress.places}"
