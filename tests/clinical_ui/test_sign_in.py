"""Signing in, being signed in, and being somebody who may: the pages, run without a browser."""

from datetime import timedelta

import pytest
from sqlalchemy import update
from streamlit.testing.v1 import AppTest

from algorithms.contracts.errors import DataError
from clinical_ui import wording
from clinical_ui.launch import HOME_VARIABLE
from clinical_ui.session import SIGN_IN_TOKEN
from clinical_ui.sign_in_cookie import cookie_name
from site_agent import accounts, demo_account, sign_ins
from site_agent.config import SiteConfig, open_home
from site_agent.database import SignInRow, transaction, utc_now
from tests.clinical_ui.people import EVERYTHING, PASSWORD, add_people, sign_in_token

WRONG = "wrong horse battery"


def titles(page) -> list[str]:
    return [title.value for title in page.title]


def banner(page) -> str:
    return "".join(element.proto.body for element in page.get("html"))


def sign_in(page, username: str, password: str):
    name, secret = page.text_input
    name.input(username)
    secret.input(password)
    (button,) = (button for button in page.button if button.label == "Sign in")
    return button.click().run()


def test_nothing_is_shown_before_signing_in_and_all_of_it_after(site, run_app):
    add_people(site.engine)
    page = run_app(site, None)
    assert not page.exception
    assert titles(page) == ["Sign in"]
    assert len(page.dataframe) == 0
    assert wording.RESEARCH_ONLY in banner(page)
    page = sign_in(page, EVERYTHING, PASSWORD)
    assert titles(page) == ["Worklist"]
    assert "Dr Eve Everything (annotator, reviewer, IT, lead)" in banner(page)
    assert wording.RESEARCH_ONLY in banner(page)


def test_a_wrong_password_is_refused_and_not_shown(site, run_app):
    add_people(site.engine)
    page = sign_in(run_app(site, None), EVERYTHING, WRONG)
    assert titles(page) == ["Sign in"]
    assert page.error[0].value == wording.sentence(accounts.REFUSED)
    assert WRONG not in repr(page.error)


def test_signing_out_ends_it_on_the_server_and_forgets(site, run_app):
    page = run_app(site)
    token = page.session_state[SIGN_IN_TOKEN]
    page.session_state["open_case"] = "case-1"
    page = page.button(key="sign_out").click().run()
    assert titles(page) == ["Sign in"]
    assert "open_case" not in page.session_state
    limits = {"idle_s": 3600.0, "absolute_s": 3600.0}
    assert sign_ins.account_of(site.engine, token, now=utc_now(), **limits) is None


@pytest.mark.parametrize("how", ["signed out elsewhere", "disabled", "idle", "too long"])
def test_a_sign_in_that_ended_elsewhere_shows_nothing_from_the_next_run_on(site, run_app, how):
    page = run_app(site)
    token, now = page.session_state[SIGN_IN_TOKEN], utc_now()
    if how == "signed out elsewhere":
        sign_ins.end(site.engine, token, now=now)
    elif how == "disabled":
        accounts.set_disabled(site.engine, EVERYTHING, True, actor="it", now=now)
    else:
        column = "last_seen_at" if how == "idle" else "signed_in_at"
        with transaction(site.engine) as session:
            session.execute(update(SignInRow).values({column: now - timedelta(hours=13)}))
    page = page.run()
    assert titles(page) == ["Sign in"]
    assert len(page.dataframe) == 0


def test_a_change_of_roles_holds_from_the_next_run_on(site, run_page):
    page = run_page(site, "accounts")
    assert titles(page) == ["Accounts"]
    accounts.set_roles(site.engine, EVERYTHING, ["reviewer"], actor="it", now=utc_now())
    page = page.run()
    assert "This is for hospital IT." in page.error[0].value
    assert len(page.dataframe) == 0


@pytest.mark.parametrize(
    ("page_name", "let_in"),
    [
        ("worklist", {"annotator", "reviewer", "it", "lead"}),
        ("annotate", {"annotator"}),
        ("review", {"annotator", "reviewer"}),
        ("study", {"annotator", "reviewer", "it", "lead"}),
        ("accounts", {"it"}),
    ],
)
def test_each_page_itself_asks_who_is_there(site, run_page, page_name, let_in):
    """Whatever the navigation shows: an address can be typed."""
    for username in (*accounts.ROLES, None):
        page = run_page(site, page_name, username=username)
        assert not page.exception
        if username in let_in:
            assert titles(page) == [page_name.capitalize()]
            assert not page.error
        elif username is None:
            assert titles(page) == ["Sign in"]
        else:
            assert titles(page) == []
            assert "This is for" in page.error[0].value


def test_only_it_and_the_lead_see_what_left_the_hospital(site, run_page):
    seen = {
        username: sum(
            "Size" in table.value.columns
            for table in run_page(site, "study", username=username).dataframe
        )
        for username in accounts.ROLES
    }
    assert seen == {"annotator": 0, "reviewer": 0, "it": 1, "lead": 1}


def test_working_puts_the_idle_timeout_off(site, run_app):
    page = run_app(site)
    before = utc_now() - timedelta(minutes=20)
    with transaction(site.engine) as session:
        session.execute(update(SignInRow).values(last_seen_at=before))
    page.run()
    token = page.session_state[SIGN_IN_TOKEN]
    limits = {"idle_s": 60.0, "absolute_s": 3600.0}
    assert sign_ins.account_of(site.engine, token, now=utc_now(), **limits) is not None


def test_a_site_without_accounts_says_which_command_adds_one(site, run_app):
    page = run_app(site, None)
    assert "fedgtv-site account add" in page.info[0].value
    assert len(page.text_input) == 0


SIGNING = """
import streamlit as st
from algorithms.contracts.errors import DataError
from clinical_ui import sign_in

password = st.text_input("Password")
if st.button("Sign"):
    try:
        sign_in.actor("reviewer")
        sign_in.reauthenticate(password)
    except DataError as error:
        st.error(str(error))
    else:
        st.success("signed")
"""


@pytest.fixture
def signing(site, monkeypatch, run_page):
    """Return a function that signs on a small page; `run_page` keeps the caches clean."""
    add_people(site.engine)
    monkeypatch.setenv(HOME_VARIABLE, str(site.home.folder))

    def sign(username: str | None, password: str) -> str:
        page = AppTest.from_string(SIGNING, default_timeout=30)
        if username is not None:
            page.session_state[SIGN_IN_TOKEN] = sign_in_token(site.engine, username)
        page.run().text_input[0].input(password)
        page = page.button[0].click().run()
        assert not page.exception
        return next(element.value for element in (*page.success, *page.error))

    return sign


def test_a_signature_asks_for_the_password_of_who_is_signed_in(signing):
    assert signing("reviewer", PASSWORD) == "signed"
    assert "the password is wrong" in signing("reviewer", WRONG)
    assert signing("annotator", PASSWORD).startswith("This is for reviewers.")
    assert "sign in again" in signing(None, PASSWORD)


def test_sites_on_one_machine_have_cookies_of_their_own():
    names = {
        cookie_name(SiteConfig(name=name, study=study))
        for name in ("hospital-a", "hospital-b")
        for study in ("npc", "sts")
    }
    assert len(names) == 4
    assert all(name.isidentifier() for name in names)  # no letter that a cookie cannot have


def test_a_sign_in_page_of_a_demonstration_names_its_account(site, run_app, monkeypatch):
    monkeypatch.setenv("FEDGTV_SITE_AUTO_APPROVE", "true")
    demonstration = open_home(site.home.folder)
    password = demo_account.prepare(demonstration, site.engine, now=utc_now())
    page = run_app(site, None)
    assert page.text_input[0].value == demo_account.USERNAME
    assert "terminal" in page.info[0].value
    page = sign_in(page, demo_account.USERNAME, password or "")
    assert "Demo account" in banner(page)


def test_whoever_cannot_be_stopped_is_refused(site, run_page):
    """Outside a page, as in a callback, there is an error to show in place of a stop."""
    from clinical_ui import sign_in as module

    run_page(site, "study")
    with pytest.raises(DataError, match="sign in again"):
        module.actor()
