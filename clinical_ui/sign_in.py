"""Who is signed in at this browser, and what they may do. Every page asks here, on every run.

The token comes from the browser's cookie when a page is loaded and is looked up in the database
each time: a sign-out, a timeout or a disabled account holds in every tab from its next run on.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from algorithms.contracts.errors import DataError
from clinical_ui import launch, session, wording
from clinical_ui.sign_in_cookie import cookie_name, mount
from site_agent import accounts, sign_ins
from site_agent.accounts import Account
from site_agent.config import SiteConfig
from site_agent.database import utc_now

SIGNED_OUT = "you were signed out: sign in again; drafts are kept"
CONFIRMATION_LASTS = timedelta(minutes=5)


@dataclass(frozen=True)
class Place:
    """Where in the pages somebody is."""

    url_path: str
    query: dict[str, str]


@dataclass
class _Question:
    """A fresh sign-in that was asked of the OpenID provider for a signature."""

    asked_at: datetime
    asked_from: Place
    answered_at: datetime | None = None


def signed_in() -> Account | None:
    """Return who is signed in, or None."""
    token = _token()
    if not token:
        return None
    return sign_ins.account_of(session.store().engine, token, now=utc_now(), **_limits())


def current() -> Account:
    """Return who is signed in; where nobody is, show the sign-in page instead of this one."""
    account = signed_in()
    if account is None:
        if in_part_of_page():
            session.say(SIGNED_OUT)
            st.rerun()  # a part of a page cannot take the rest away
        from clinical_ui import sign_in_page

        sign_in_page.show()
        st.stop()
    return account


def may(role: str) -> bool:
    """Say whether somebody of this role is signed in."""
    account = signed_in()
    return account is not None and role in account.roles


def require(*roles: str) -> Account:
    """Return who is signed in and has one of `roles`; without roles, anybody. Stops the page."""
    account = current()
    if roles and not account.roles & set(roles):
        st.error(refusal(roles))
        st.stop()
    return account


def actor(*roles: str) -> Account:
    """Return who is signed in and has one of `roles`, for callbacks, which cannot stop a page.

    Raises:
        DataError: nobody is, or another role would be needed.
    """
    account = signed_in()
    if account is None:
        raise DataError(SIGNED_OUT)
    if roles and not account.roles & set(roles):
        raise DataError(refusal(roles))
    return account


def touch() -> None:
    """Note that somebody works here, which puts the idle timeout off."""
    token = _token()
    if token:
        sign_ins.touch(session.store().engine, token, now=utc_now(), **_limits())


def enter(username: str, password: str) -> None:
    """Sign in with a password.

    Raises:
        DataError: it is wrong, or the account waits.
    """
    engine, now = session.store().engine, utc_now()
    account = accounts.authenticate(engine, username, password, now=now)
    token = sign_ins.open_sign_in(engine, account.username, now=now, replaces=_token())
    session.begin(token)


def enter_by_provider() -> bool:
    """Sign in whom the OpenID provider just named; say whether there was anybody to sign in.

    Raises:
        DataError: no account belongs to the identity.
    """
    claims = _claims()
    if claims is None or not session.is_new_answer(claims):
        return False
    engine, now = session.store().engine, utc_now()
    account = sign_ins.take_identity(engine, claims, now=now)
    if account is None:
        return False
    token = sign_ins.open_sign_in(
        engine, account.username, now=now, method="oidc", replaces=_token()
    )
    session.begin(token)
    return True


def leave() -> None:
    """Sign out: the token is good for nothing from here on, in no tab."""
    token = _token()
    if token:
        sign_ins.end(session.store().engine, token, now=utc_now())
        _forget_question()
    session.forget()
    if uses_provider():
        st.logout()  # at the provider too, or the next person would come in without a question


def seconds_left() -> float:
    """Return how long the sign-in lasts if nothing is done."""
    token = _token()
    if not token:
        return 0.0
    engine = session.store().engine
    return sign_ins.seconds_left(engine, token, now=utc_now(), **_limits())


@st.fragment
def keep() -> None:
    """Keep the browser's cookie right, and take the page away when the time is up."""
    config = session.store().home.config
    left = seconds_left()
    if left > 0:
        token = session.token()
        mount(config, token=None if token == _cookie() else token, seconds_left=left)
    elif in_part_of_page():
        st.rerun()


def clear_cookie() -> None:
    """Remove the cookie of somebody who signed out here."""
    if session.token() == "":
        mount(session.store().home.config, token="", seconds_left=None)


def in_part_of_page() -> bool:
    """Say whether a fragment runs by itself, without the page around it."""
    context = get_script_run_ctx()
    return context is not None and bool(context.fragment_ids_this_run)


# -- signing: proving once more who one is ------------------------------------------------------


def uses_provider() -> bool:
    """Say whether people sign in at the hospital's OpenID provider, without passwords here."""
    return session.store().home.config.sign_in.method == "oidc"


def reauthenticate(password: str = "") -> None:
    """Make sure, for a signature, that it is still the person who signed in.

    With a password; or, without passwords here, by what `ask_provider` brought: it counts once and
    for five minutes.

    Raises:
        DataError: it is wrong or missing; nothing may be signed.
    """
    account = actor()
    if uses_provider():
        if not is_confirmed():
            raise DataError("confirm with the hospital's sign-in first, then sign")
        _forget_question()
        return
    accounts.reauthenticate(session.store().engine, account.username, password, now=utc_now())


def ask_provider(url_path: str) -> None:
    """Send the browser to the OpenID provider to prove who is there.

    It comes back to the page `url_path` with the query it has now.
    """
    current()
    place = Place(url_path, st.query_params.to_dict())
    with _questions_lock:
        _questions[_token() or ""] = _Question(asked_at=utc_now(), asked_from=place)
    st.login(launch.PROVIDER_ANEW)


def is_confirmed() -> bool:
    """Say whether the provider confirmed lately who is here, and it was not used yet."""
    question = _question() if signed_in() is not None else None
    if question is None or question.answered_at is None:
        return False
    return utc_now() - question.answered_at <= CONFIRMATION_LASTS


def take_confirmation() -> Place | None:
    """Take the provider's answer to `ask_provider`; return where to go back to, if it came.

    Raises:
        DataError: it is about somebody else, or it did not ask who is there.
    """
    account, claims = signed_in(), _claims()
    if account is None or claims is None or claims.get("provider") != launch.PROVIDER_ANEW:
        return None
    question = _question()
    if question is None or question.answered_at or not session.is_new_answer(claims):
        return None
    now = utc_now()
    named = sign_ins.take_identity(session.store().engine, claims, now=now)
    if named is None:
        return None
    if named.username != account.username:
        raise DataError("the hospital's sign-in named somebody else: nothing was confirmed")
    if not sign_ins.is_fresh_login(claims, asked_at=question.asked_at, now=now):
        raise DataError(
            "the hospital's sign-in did not ask who is there: nothing was confirmed. Hospital IT "
            "must let the provider follow prompt=login and tell auth_time"
        )
    question.answered_at = now
    return question.asked_from


# By token, in this process only: after a restart the question is asked again.
_questions: dict[str, _Question] = {}
_questions_lock = Lock()


def _question() -> _Question | None:
    with _questions_lock:
        return _questions.get(_token() or "")


def _forget_question() -> None:
    with _questions_lock:
        _questions.pop(_token() or "", None)


def _token() -> str | None:
    token = session.token()
    return _cookie() if token is None else token


def _cookie() -> str | None:
    """Return the token that the browser brought when it loaded the page."""
    kept = st.context.cookies.get(cookie_name(session.store().home.config))
    return kept if isinstance(kept, str) else None  # without a browser it is a stand-in


def _limits() -> dict[str, float]:
    config = session.store().home.config.sign_in
    return {"idle_s": config.idle_s, "absolute_s": config.absolute_s}


def _claims() -> dict[str, Any] | None:
    """Return what the provider's last answer to this browser says, if there is one."""
    if not uses_provider() or not st.user.get("is_logged_in"):
        return None
    return dict(st.user.to_dict())


def refusal(roles: Iterable[str]) -> str:
    """Say for whom something is that this account may not do."""
    return f"This is for {wording.whose(roles)}. Hospital IT can give an account more roles."


def demo_is_open(config: SiteConfig) -> bool:
    """Say whether this is a demonstration with its own account."""
    return config.auto_approve and config.sign_in.method == "local"
