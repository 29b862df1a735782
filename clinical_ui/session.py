"""What one browser session remembers: the only file that touches `st.session_state`.

Which case is open also stands in the address, so that reloading the page comes back to it. The
site's home comes from the environment variable that `launch` sets.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.volume import Volume
from clinical_ui.desk import Desk
from clinical_ui.launch import HOME_VARIABLE
from clinical_ui.orientation import percentile_window
from clinical_ui.viewer import pack_volume
from site_agent.case_store import CaseStore
from site_agent.claims import Purpose, WorkKey
from site_agent.config import open_home

CASE_CHOICE = "case_choice"
_OPEN_CASE = "open_case"
_OPEN_SLICES = "open_slices"
_DESK = "desk"
SIGN_IN_TOKEN = "sign_in_token"  # noqa: S105 - the name under which it is kept
_PROVIDER_ANSWER = "provider_answer"
_KEPT = "kept"
_NOTICE = "notice"
_DESTINATION = "destination"
_FIELDS = "field_"


@dataclass(frozen=True, eq=False)
class LoadedVolume:
    """An image as the viewer takes it, kept between page runs and shared between sessions.

    Attributes:
        volume: the image.
        window: grey values shown black and white at first.
        token: names it to the browser.
        packed: the bytes that are sent.
    """

    volume: Volume
    window: tuple[float, float]
    token: str
    packed: bytes


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


def field_key(name: str) -> str:
    """Return the widget key of a field that `empty_field` can empty."""
    return f"{name}_{st.session_state.get(_FIELDS + name, 0)}"


def empty_field(name: str) -> None:
    """Forget what was typed into a field, such as a password, and show it empty next time."""
    st.session_state.pop(field_key(name), None)
    st.session_state[_FIELDS + name] = st.session_state.get(_FIELDS + name, 0) + 1


def load_volume(case_id: str) -> LoadedVolume | None:
    """Read the image of a case, None when it is missing or damaged; the last few stay in memory."""
    try:
        return _volume(os.environ.get(HOME_VARIABLE, ""), case_id)
    except (OSError, ValueError):
        return None


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
    if st.query_params.to_dict() != {"case": shown}:
        st.query_params.from_dict({"case": shown})
    return shown


def case_query() -> dict[str, str]:
    """Return what an address says of the case that was opened last."""
    case_id = st.session_state.get(_OPEN_CASE)
    return {} if case_id is None else {"case": str(case_id)}


def slice_to_open(case_id: str) -> int | None:
    """Return the slice that somebody asked to see of a case; None: any."""
    return _slices().get(case_id)


def case_chosen() -> None:
    """Take over what the case choice was set to."""
    open_case(st.session_state[CASE_CHOICE])


def desk(key: WorkKey, author: str, make: Callable[[], Desk]) -> Desk:
    """Return the desk of this work; one that was open for other work is put away.

    A desk with nothing begun is made anew, as what it would begin from may have changed; so is one
    whose work was saved in another window.
    """
    held: Desk | None = st.session_state.get(_DESK)
    if held is not None and (held.key, held.author) != (key, author):
        held = None
    if held is not None and held.is_current:
        return held
    fresh = make()
    if held is not None:  # the answer to the message that ended the work
        fresh.stored, fresh.refused = held.stored, held.refused
    st.session_state[_DESK] = fresh
    return fresh


def kept(key: str, default: Any) -> Any:
    """Return what a widget was last set to, also after another page was shown in between.

    Call it before the widget, and `keep` when it is changed.
    """
    if key not in st.session_state:  # or it would overwrite what somebody is typing
        st.session_state[key] = _kept().get(key, default)
    return st.session_state[key]


def keep(key: str) -> None:
    """Take over what a widget was set to."""
    _kept()[key] = st.session_state[key]


def put(key: str, value: Any) -> None:
    """Keep a value that no widget shows; read it with `kept`."""
    _kept()[key] = st.session_state[key] = value


def say(notice: str) -> None:
    """Leave one line for the next run of the page to show."""
    st.session_state[_NOTICE] = notice


def said() -> str | None:
    """Return the line that was left, once."""
    notice: str | None = st.session_state.pop(_NOTICE, None)
    return notice


def go_to(page: Purpose) -> None:
    """Ask the next run of the page to go to another one."""
    st.session_state[_DESTINATION] = page


def destination() -> Purpose | None:
    """Return where to go, once."""
    page: Purpose | None = st.session_state.pop(_DESTINATION, None)
    return page


def _kept() -> dict[str, Any]:
    kept: dict[str, Any] = st.session_state.setdefault(_KEPT, {})
    return kept


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
    window = percentile_window(volume.image)
    token = sha256_hex(case_id.encode())[:16]
    return LoadedVolume(volume, window, token, pack_volume(volume, token, window))
