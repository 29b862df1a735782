"""The page of those who are not signed in."""

import streamlit as st

from algorithms.contracts.errors import DataError
from clinical_ui import session, sign_in, wording
from clinical_ui.launch import PROVIDER
from site_agent import accounts, demo_account

_PASSWORD = "sign_in_password"  # noqa: S105 - a field's name


def show() -> None:
    """Show the page; who signs in lands on the page that was asked for."""
    config = session.store().home.config
    _, middle, _ = st.columns([3, 4, 3])
    with middle:
        st.title("Sign in")
        st.caption(f"{config.name}, study {config.study}")
        if sign_in.uses_provider():
            _provider()
        else:
            _password(demo=sign_in.demo_is_open(config))
    sign_in.clear_cookie()


def _password(*, demo: bool) -> None:
    known = accounts.listed(session.store().engine)
    if not known:
        st.info(wording.NO_ACCOUNTS)
        return
    demo = demo and any(account.username == demo_account.USERNAME for account in known)
    with st.form("sign_in", border=True):
        username = st.text_input(
            "User name",
            value=demo_account.USERNAME if demo else "",
            autocomplete="username",
            max_chars=64,
        )
        password = st.text_input(
            "Password",
            type="password",
            autocomplete="current-password",
            key=session.field_key(_PASSWORD),
        )
        pressed = st.form_submit_button("Sign in", type="primary", width="stretch")
    if said := session.said():
        st.error(wording.sentence(said))
    if demo:
        st.info(wording.DEMO_SIGN_IN)
    if pressed:
        try:
            sign_in.enter(username, password)
        except DataError as error:
            session.empty_field(_PASSWORD)
            session.say(str(error))
        st.rerun()


def _provider() -> None:
    try:
        entered = sign_in.enter_by_provider()
    except DataError as error:
        st.error(wording.sentence(str(error)))
        entered = False
    if entered:
        st.rerun()
    if st.button("Sign in with the hospital's account", type="primary", width="stretch"):
        st.login(PROVIDER)
