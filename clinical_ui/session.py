"""What one browser session remembers: the only file that touches `st.session_state`.

Which case and slice is open also stands in the address, so that reloading the page comes back to
it. The site's home comes from the environment variable that `launch` sets.
"""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from algorithms.contracts.volume import Volume
from clinical_ui.case_layers import Layer
from clinical_ui.launch import HOME_VARIABLE
from clinical_ui.slice_picture import percentile_window
from site_agent.case_store import CaseStore
from site_agent.config import open_home

CASE_CHOICE = "case_choice"
SLICE_SLIDER = "slice_slider"
_OPEN_CASE = "open_case"
_OPEN_SLICES = "open_slices"
_LAYERS = "layers"
SIGN_IN_TOKEN = "sign_in_token"  # noqa: S105 - the name under which it is kept
_PROVIDER_ANSWER = "provider_answer"
_MESSAGE = "message"
_FIELDS = "field_"


@dataclass(frozen=True, eq=False)
class LoadedVolume:
    """An image with the window that suits it, kept between page runs."""

    volume: Volume
    window: tuple[float, float]


def store() -> CaseStore:
    """Return the case store of the site this process was started for.

    Raises:
        DataError: when its configuration is missing or wrong, or its database is missing.
    """
    return _store(os.environ.get(HOME_VARIABLE, ""))


def token() -> str | None:
    """Return the token of who signed in here; "" after signing out here, None when neither was."""
    kept = st.session_state.get(SIGN_IN_TOKEN)
    return None if kept is None else str(kept)


def begin(token: str) -> None:
    """Remember who signed in, and nothing of who was here before."""
    forget()
    st.session_state[SIGN_IN_TOKEN] = token


def forget() -> None:
    """Forget everything of who was here, whose cookie counts no more either."""
    answer = st.session_state.get(_PROVIDER_ANSWER)
    st.session_state.clear()
    st.session_state[SIGN_IN_TOKEN] = ""
    st.session_state[_PROVIDER_ANSWER] = answer


def is_new_answer(claims: Mapping[str, Any]) -> bool:
    """Say whether this answer of an OpenID provider is seen here for the first time; note it."""
    answer = repr(sorted(claims.items(), key=str))
    new = st.session_state.get(_PROVIDER_ANSWER) != answer
    st.session_state[_PROVIDER_ANSWER] = answer
    return new


def leave_message(text: str) -> None:
    """Keep what the page shall say once it is drawn anew."""
    st.session_state[_MESSAGE] = text


def take_message() -> str:
    """Return what was to be said, once."""
    return str(st.session_state.pop(_MESSAGE, ""))


def field_key(name: str) -> str:
    """Return the widget key of a field that `empty_field` can empty."""
    return f"{name}_{st.session_state.get(_FIELDS + name, 0)}"


def empty_field(name: str) -> None:
    """Forget what was typed into a field, such as a password, and show it empty next time."""
    st.session_state.pop(field_key(name), None)
    st.session_state[_FIELDS + name] = st.session_state.get(_FIELDS + name, 0) + 1


def load_volume(case_id: str) -> LoadedVolume:
    """Read the image of a case; the last few stay in memory.

    Raises:
        OSError, ValueError: when the image file is missing or damaged.
    """
    return _volume(os.environ.get(HOME_VARIABLE, ""), case_id)


def open_case(case_id: str, slice_z: int | None = None) -> None:
    """Remember the case, and slice, to show; None keeps the slice that was open last."""
    st.session_state[_OPEN_CASE] = case_id
    if slice_z is not None:
        _slices()[case_id] = slice_z


def case_shown(known: list[str]) -> str:
    """Return the case to show: the one opened, the one in the address, or the first of `known`."""
    wanted = st.session_state.get(_OPEN_CASE)
    if wanted not in known:
        wanted = st.query_params.get("case")
        text = st.query_params.get("slice", "")
        if wanted in known and text.isdecimal():
            _slices().setdefault(str(wanted), int(text) - 1)
    shown = str(wanted) if wanted in known else known[0]
    st.session_state[_OPEN_CASE] = shown
    st.session_state[CASE_CHOICE] = shown
    return shown


def slice_shown(case_id: str, slices: int, default: Callable[[], int]) -> int:
    """Return the slice to show of a case, and put it into the slider and the address."""
    shown = _slices().get(case_id)
    if shown is None or not 0 <= shown < slices:
        shown = default()
    _slices()[case_id] = shown
    st.session_state[SLICE_SLIDER] = shown + 1
    wanted = {"case": case_id, "slice": str(shown + 1)}
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)
    return shown


def case_chosen() -> None:
    """Take over what the case choice was set to."""
    open_case(st.session_state[CASE_CHOICE])


def slider_moved(case_id: str) -> None:
    """Take over where the slice slider was moved to."""
    open_case(case_id, st.session_state[SLICE_SLIDER] - 1)


def layers_shown(at_hand: Collection[Layer], at_first: Collection[Layer]) -> frozenset[Layer]:
    """Return those of the contours `at_hand` that are switched on; fill in the checkboxes."""
    chosen = _chosen_layers()
    for layer in Layer:
        on = layer in at_hand and chosen.get(layer, layer in at_first)
        st.session_state[layer_key(layer)] = on
    return frozenset(layer for layer in at_hand if st.session_state[layer_key(layer)])


def layer_switched(layer: Layer) -> None:
    """Take over what the checkbox of a contour was set to; it holds for every case."""
    _chosen_layers()[layer] = bool(st.session_state[layer_key(layer)])


def layer_key(layer: Layer) -> str:
    """Return the widget key of the checkbox of a contour."""
    return f"layer_{layer.value}"


def _chosen_layers() -> dict[Layer, bool]:
    chosen: dict[Layer, bool] = st.session_state.setdefault(_LAYERS, {})
    return chosen


def _slices() -> dict[str, int]:
    slices: dict[str, int] = st.session_state.setdefault(_OPEN_SLICES, {})
    return slices


@st.cache_resource(show_spinner=False)
def _store(home: str) -> CaseStore:
    return CaseStore(open_home(Path(home)))


@st.cache_resource(show_spinner="Reading the image", max_entries=6)
def _volume(home: str, case_id: str) -> LoadedVolume:
    volume = _store(home).volume(case_id)
    volume.image.setflags(write=False)  # shared between sessions
    return LoadedVolume(volume, percentile_window(volume.image))
