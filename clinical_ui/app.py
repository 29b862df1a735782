"""The frame around every page: banner, navigation and looks. Streamlit runs this file."""

from collections.abc import Callable
from html import escape
from typing import Literal
from urllib.parse import urlsplit

import streamlit as st

from algorithms.contracts.errors import DataError
from clinical_ui import (
    accounts_page,
    annotation_page,
    blinded_page,
    connection,
    review_page,
    session,
    sign_in,
    study_page,
    wording,
    worklist_page,
)
from site_agent.accounts import Account

STYLE = """
<style>
  .block-container { padding: 4.2rem 1.6rem .6rem; max-width: 1880px; }
  .fedgtv-banner { display: flex; justify-content: space-between; align-items: baseline;
    gap: 1rem; border-left: 4px solid #b45309; background: #fff7ed; color: #7c2d12;
    padding: .35rem .8rem; border-radius: 4px; font-size: .9rem; }
  .fedgtv-banner b { font-weight: 600; }
  .st-key-sign_out button { min-height: 0; padding: .3rem .8rem; }
  .st-key-frame > div:has(.st-key-sign_in_cookie, .st-key-connection) { display: none; }
  h1 { font-size: 1.5rem !important; padding: 0 !important; }
  [data-testid=stMain] :is(h2, h3) { font-size: 1.1rem !important;
    padding: .3rem 0 .2rem !important; }
  /* Streamlit pulls up what follows a heading, over the border of a table. */
  [data-testid=stHeading] [data-testid=stMarkdownContainer] { margin-bottom: 0 !important; }
  blockquote, blockquote p { opacity: 1 !important; color: #46565f !important; }
  :focus-visible { outline: 3px solid #1f6f8b !important; outline-offset: 1px; }
  [data-testid=stCaptionContainer] { opacity: 1 !important; }
  [data-testid=stCaptionContainer] :is(p, code) { color: #46565f !important; }
  [data-testid=stAlertContainer] { padding: .45rem .8rem; }
  [data-testid=stAlertContainer] p { font-size: .92rem; }
  /* Over the banner, not over the page's buttons, which are at the right. */
  [data-testid=stToastContainer] { left: 50% !important; right: auto !important;
    top: .3rem !important; transform: translateX(-50%); }
  .fedgtv-amount { font-size: .9rem; font-variant-numeric: tabular-nums; }
  .fedgtv-line { display: block; }
  .fedgtv-facts { border-collapse: collapse; width: 100%; font-size: .85rem; }
  .fedgtv-facts th { text-align: left; font-weight: 500; color: #51636e; width: 30%; }
  .fedgtv-facts th, .fedgtv-facts td { padding: .12rem .3rem .12rem 0; vertical-align: top; }
</style>
"""


# A page is named to those whose roles have work on it; None is everybody. The page itself asks
# again, see `sign_in.require`.
Roles = frozenset[str] | None
DOCTORS = frozenset({"annotator", "reviewer"})


def main() -> None:
    """Draw the frame and the page that was chosen."""
    st.set_page_config(page_title="fedgtv", page_icon="◎", layout="wide")
    st.html(STYLE)
    try:
        site = session.store().home.config
    except DataError as error:
        _frame("", None)
        st.error(wording.sentence(str(error)))
        st.stop()
    place = f"{site.name}, study {site.study}"
    account = sign_in.signed_in()
    if account is None:
        st.navigation(_pages(None), position="hidden")  # keeps the address for afterwards
        _frame(place, None)
        sign_in.current()  # shows the sign-in page and ends this run
    else:
        pages = _pages(account)
        page = st.navigation(pages, position="top")
        sign_in.touch()
        _frame(place, account)
        _take_confirmation(pages)
        page.run()


def _pages(account: Account | None) -> list[st.Page]:
    """Return the pages for an account, the first of them to begin with; None returns all.

    Every address leads to a page, or Streamlit would put a window of its own over the first one:
    what is for other roles, and what does not exist, says so.
    """

    def show_worklist() -> None:
        worklist_page.show(
            lambda: _open_case(pages["annotate"]),
            lambda: _open_case(pages["review"]),
            lambda: st.switch_page(pages["blinded"]),
        )

    def show_annotation() -> None:
        annotation_page.show(lambda: st.switch_page(pages[""]))

    def show_review() -> None:
        review_page.show(lambda: st.switch_page(pages["blinded"]))

    def refuse(title: str, why: str) -> Callable[[], None]:
        def show_refusal() -> None:
            st.title(title)
            st.info(why)
            st.page_link(pages[""], label="Go to the worklist")

        return show_refusal

    shown: list[tuple[str, str, Callable[[], None], Roles]] = [
        # For everybody: hospital IT and study leads release what somebody forgot.
        ("Worklist", "worklist", show_worklist, None),
        ("Annotate", "annotate", show_annotation, frozenset({"annotator"})),
        ("Review", "review", show_review, DOCTORS),
        ("Blinded", "blinded", blinded_page.show, frozenset({"reviewer"})),
        ("Study", "study", study_page.show, None),
        ("Accounts", "accounts", accounts_page.show, frozenset({"it"})),
    ]
    pages = {"": st.Page(show_worklist, title="Worklist", url_path="", default=True)}
    for title, path, show, roles in shown:
        if account is None or roles is None or account.roles & roles:
            hidden = path == "worklist"  # it stands there already, as the first page
        else:
            show, hidden = refuse(title, sign_in.refusal(roles)), True
        visibility: Literal["hidden", "visible"] = "hidden" if hidden else "visible"
        pages[path] = st.Page(show, title=title, url_path=path, visibility=visibility)
    asked = urlsplit(st.context.url or "").path.strip("/")
    if asked not in pages and "/" not in asked:
        nothing = refuse("No such page", wording.NO_SUCH_PAGE)
        pages[asked] = st.Page(nothing, title="fedgtv", url_path=asked, visibility="hidden")
    return list(pages.values())


def _open_case(page: st.Page) -> None:
    """Go to the page of the case that was chosen.

    With the case in the address from the start: a page that adds it afterwards makes an entry of
    the browser's history without it, to which Back leads first.
    """
    st.switch_page(page, query_params=session.case_query())


def _take_confirmation(pages: list[st.Page]) -> None:
    """Go back to the page that sent somebody to the OpenID provider to confirm a signature."""
    try:
        came_from = sign_in.take_confirmation()
    except DataError as error:
        st.error(wording.sentence(str(error)))
        return
    for page in pages:
        if came_from is not None and page.url_path == came_from.url_path:
            st.switch_page(page, query_params=came_from.query)


def _frame(place: str, account: Account | None) -> None:
    """Show the banner: what this is, where it is, who is signed in, and the way out."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="frame"):
        st.html(_banner(place, account), width="stretch")
        if account is not None:
            st.button("Sign out", key="sign_out", on_click=sign_in.leave)
            sign_in.keep()
        connection.watch()


def _banner(place: str, account: Account | None) -> str:
    """Return the banner; site and study names are checked words without markup."""
    who = ""
    if account is not None:
        who = f"<span>{escape(account.display_name)} ({wording.role_names(account.roles)})</span>"
    return (
        f'<div class="fedgtv-banner" role="note"><b>⚠ {wording.RESEARCH_ONLY}</b>'
        f"<span>{place}</span>{who}</div>"
    )


main()
