"""The buttons of a case that is worked on: begin, begin anew, release; and what they may not do."""

from collections.abc import Callable
from typing import Literal

import streamlit as st

from algorithms.contracts.contour import Contour
from algorithms.contracts.errors import DataError
from clinical_ui import session, sign_in, wording
from clinical_ui.desk import Desk
from site_agent import claims, lost_draft
from site_agent.accounts import Account
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.database import ClaimRow


def is_mine(holder: ClaimRow | None, account: Account) -> bool:
    """Say whether who is signed in holds the case."""
    return holder is not None and holder.author == account.username


def work_buttons(
    desk: Desk,
    holder: ClaimRow | None,
    account: Account,
    *,
    role: str,
    start: str,
    anew: str,
    kind: Literal["primary", "secondary"] = "primary",
    can_be_shown: bool = True,
) -> None:
    """Show what can be done with a case just now.

    Args:
        desk: of the case.
        holder: who holds it.
        account: who is signed in.
        role: who may work on it.
        start: words of the button that begins.
        anew: what becomes of the case when somebody begins anew.
        kind: of the button that begins.
        can_be_shown: the image is there; without it no work begins and no clock starts.
    """
    mine = is_mine(holder, account)
    if mine and desk.draft is not None:
        with st.popover("Begin anew"):
            st.write(anew)
            st.button(wording.THROW_AWAY, on_click=_attempt, args=(role, desk.discard))
    else:
        st.button(
            start if desk.draft is None else "Go on",
            type=kind,
            disabled=not can_be_shown or (holder is not None and not mine),
            on_click=_attempt,
            args=(role, desk.begin),
            help="Claims the case and starts the clock; what you drew before is still there",
        )
    if mine:
        st.button(
            "Release",
            on_click=_attempt,
            args=(role, lambda: claims.release(desk.store, desk.key, author=account.username)),
            help="Lets others take the case; what you drew stays as your draft",
        )


def offer_to_begin_anew(
    store: CaseStore,
    key: WorkKey,
    holder: ClaimRow | None,
    account: Account,
    *,
    role: str,
    start: Contour | None = None,
) -> None:
    """Say that what was drawn cannot be read, with the way on where nobody else has the case."""
    if (notice := session.said()) is not None:
        st.error(wording.sentence(notice), icon="⚠")
    words, button = st.columns([5, 1], vertical_alignment="center")
    words.error(wording.NO_DRAFT, icon="⚠")
    if role not in account.roles or (holder is not None and not is_mine(holder, account)):
        return

    def begin_anew() -> None:
        lost_draft.throw_away(store, key, author=account.username)
        desk = Desk(store, key, account.username, start=start)
        desk.begin()
        desk.discard()  # or what is drawn next would count as clicked

    with button.popover("Begin anew"):
        st.write("This case begins anew; a backup cannot bring back what you drew after that.")
        st.button(wording.THROW_AWAY, on_click=_attempt, args=(role, begin_anew))


def _attempt(role: str, act: Callable[[], None]) -> None:
    """Do what a button says; what cannot be done is said on the page."""
    try:
        sign_in.actor(role)
        act()
    except DataError as error:
        session.say(str(error))
