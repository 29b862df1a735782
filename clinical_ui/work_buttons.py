"""The buttons of a case that is worked on: begin, begin anew, release; and what they may not do."""

from collections.abc import Callable
from typing import Literal

import streamlit as st

from algorithms.contracts.errors import DataError
from clinical_ui import session, sign_in, wording
from clinical_ui.desk import Desk
from site_agent import claims
from site_agent.accounts import Account
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
            disabled=holder is not None and not mine,
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


def _attempt(role: str, act: Callable[[], None]) -> None:
    """Do what a button says; what cannot be done is said on the page."""
    try:
        sign_in.actor(role)
        act()
    except DataError as error:
        session.say(str(error))
