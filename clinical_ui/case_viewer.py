"""A case in the viewer: what the pages that look, annotate and review have in common."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import streamlit as st

from algorithms.contracts.errors import DataError, failure_line
from algorithms.contracts.volume import MaskArray
from clinical_ui import session, sign_in, wording
from clinical_ui.case_layers import Layer
from clinical_ui.desk import Desk
from clinical_ui.session import LoadedVolume
from clinical_ui.viewer import ViewerData, ViewerLayer, mount_viewer, mount_volume
from site_agent import run_lengths

NOTICE_S = 30  # or until it is closed
log = logging.getLogger(__name__)
Take = Callable[[object], None]


def show_case(loaded: LoadedVolume, desk: Desk, data: ViewerData, *, role: str, key: str) -> None:
    """Show a case in the viewer and let the desk take what comes back.

    Args:
        loaded: the image.
        desk: takes drafts, clicks and saves.
        data: what to show; the desk fills in what it knows of the work.
        role: who may draw.
        key: of the viewer, one per page: slice, zoom and window stay from case to case.
    """
    mount_volume(loaded.packed, key=f"{key}-image")
    _viewer(desk, data, role, key)


def show_notice() -> None:
    """Show the line that was left, over the page: in its flow it would move what is drawn on."""
    if (notice := session.said()) is not None:
        st.toast(wording.sentence(notice), icon="⚠", duration=NOTICE_S)


def contour_layers(
    masks: Mapping[Layer, MaskArray], *, hidden: frozenset[Layer] = frozenset()
) -> tuple[ViewerLayer, ...]:
    """Return contours to look at, bool `[z, y, x]`, from below to above."""
    return tuple(
        ViewerLayer.of(layer, run_lengths.encode(mask), shown=layer not in hidden)
        for layer, mask in masks.items()
    )


@st.fragment
def _viewer(desk: Desk, data: ViewerData, role: str, key: str) -> None:
    """Mount the viewer; what it sends runs only this part of the page."""
    sign_in.current()  # who signed out elsewhere sees nothing here; the tab keeps the drawing
    mount_viewer(
        replace(data, idle_limit_s=desk.store.home.config.idle_limit_s, **desk.state()),
        key,
        on_draft=_checked(desk, role, desk.take),
        on_prompt=_checked(desk, role, desk.prompt),
        on_save=_checked(desk, role, desk.save),
    )
    if desk.page_is_behind:
        desk.page_is_behind = False
        if sign_in.in_part_of_page():
            st.rerun()  # the whole page: what is asked for, or who holds it, has changed


def _checked(desk: Desk, role: str, take: Take) -> Take:
    """Let only who is signed in, and may draw, do so: a page may be older than its sign-in."""

    def answer(message: object) -> None:
        try:
            if sign_in.actor(role).username != desk.author:
                raise DataError("somebody else signed in here: reload the page")
            sign_in.touch()
            take(message)
            if desk.page_is_behind and desk.refused is not None:
                session.say(desk.refused["message"])  # the viewer may be read-only by then
        except DataError as error:
            desk.turn_away(message, error)
        except Exception as error:  # the doctor goes on; what the browser has, it keeps
            line = failure_line(error)
            if line is None:
                raise
            log.error("%s", line)
            desk.turn_away(message, DataError(wording.NOT_STORED))

    return answer
