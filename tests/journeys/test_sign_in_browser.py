"""Signing in with a real browser on the real server: staying in, getting out, and who may what."""

import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from algorithms.contracts.volume import Mask
from clinical_ui import launch
from clinical_ui.sign_in_cookie import cookie_name
from site_agent import accounts, audit_log
from site_agent.case_store import CaseStore
from site_agent.config import open_home
from site_agent.database import (
    AuditRow,
    SignInRow,
    transaction,
    utc_now,
)
from site_agent.review import record_review
from site_agent.signing import SIGNED
from tests.clinical_ui.browser import SHOW_LIMIT_MS, Server, open_window, serve, watch
from tests.clinical_ui.people import PASSWORD, add_people, sign_in_token
from tests.clinical_ui.synthetic_site import ADAPTED, CASES, UNREVIEWED_CASE, make_site
from tests.openid_provider import CLIENT_ID, CLIENT_SECRET, Provider, running_provider
from tests.ports import free_ports
from tests.site_agent.people import add

pytestmark = pytest.mark.journey

# From now on, how many password fields of a dialog were there at a time.
MOST_FORMS = """() => {
  const count = () => document.querySelectorAll('[role=dialog] input[type=password]').length;
  window.mostForms = count();
  new MutationObserver(() => { window.mostForms = Math.max(window.mostForms, count()); })
    .observe(document.body, { childList: true, subtree: true });
}"""


def heading(page, name: str):
    return page.get_by_role("heading", name=name, exact=True)


def sign_in(page, username: str, password: str = PASSWORD) -> None:
    """Sign in on the page that is open, with the keyboard."""
    page.get_by_label("User name").fill(username)
    page.get_by_label("Password", exact=True).click()
    page.keyboard.type(password)
    page.keyboard.press("Enter")


def wait_for_cookie(context, name: str) -> dict:
    for _ in range(100):
        for kept in context.cookies():
            if kept["name"].startswith(name):
                return kept
        context.pages[0].wait_for_timeout(50)
    raise AssertionError("no cookie was set")


def let_in(context, store: CaseStore, server: Server, username: str) -> None:
    """Give a browser the cookie of somebody who signed in."""
    token = sign_in_token(store.engine, username)
    kept = {"name": cookie_name(store.home.config), "value": token, "url": server.url}
    context.add_cookies([{**kept, "sameSite": "Strict"}])


def served(store: CaseStore, **more):
    """Serve a site; the server runs and logs beside its home."""
    return serve(store.home.folder, store.home.folder.with_name("run"), **more)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CaseStore:
    store = make_site(tmp_path_factory.mktemp("sign-in") / "home", reviewed=False)
    add_people(store.engine)
    return store


@pytest.fixture(scope="module")
def server(store) -> Iterator[Server]:
    with served(store) as server:
        yield server


@pytest.fixture
def opened(tmp_path):
    with open_window("", tmp_path / "profile") as window:
        yield window
    assert window.complaints == []
    assert window.hosts <= {launch.ADDRESS, "page"}


def test_in_by_keyboard_to_the_page_asked_for_and_out_in_every_tab(server, opened) -> None:
    page = opened.page
    page.goto(f"{server.url}/study")
    heading(page, "Sign in").wait_for(timeout=SHOW_LIMIT_MS)
    assert page.get_by_role("link", name="Worklist").count() == 0
    sign_in(page, "lead", "wrong horse battery")
    page.get_by_text("the user name or the password is wrong").wait_for()
    sign_in(page, "lead")
    heading(page, "Study").wait_for()
    page.get_by_text("Prof Lea Lead (lead)").wait_for()
    for hidden in ("Annotate", "Review", "Accounts"):  # a lead has no work there
        assert page.get_by_role("link", name=hidden).count() == 0
    kept = wait_for_cookie(page.context, "fedgtv_")
    assert (kept["sameSite"], kept["path"], kept["expires"]) == ("Strict", "/", -1)

    second = watch(page.context, server.url)
    other = second.page
    other.goto(server.url)
    heading(other, "Worklist").wait_for()
    page.reload()
    heading(page, "Study").wait_for()
    page.get_by_role("button", name="Sign out").click()
    heading(page, "Sign in").wait_for()
    other.reload()
    heading(other, "Sign in").wait_for()
    assert second.complaints == []
    page.context.add_cookies([{**kept}])  # somebody kept a copy of the cookie
    page.reload()
    heading(page, "Sign in").wait_for()
    log = server.log.read_text("utf-8")
    assert kept["value"] not in log
    assert PASSWORD not in log


def test_a_killed_server_comes_back_with_everybody_signed_in(tmp_path, opened) -> None:
    store = make_site(tmp_path / "home", reviewed=False)
    add_people(store.engine)
    (port,) = free_ports(1)
    page = opened.page
    with served(store, port=port) as server:
        page.goto(server.url)
        heading(page, "Sign in").wait_for(timeout=SHOW_LIMIT_MS)
        sign_in(page, "annotator")
        heading(page, "Worklist").wait_for()
        wait_for_cookie(page.context, "fedgtv_")
        server.kill()
    with served(store, port=port):
        page.get_by_text("Dr Anna Annotator (annotator)").wait_for()
        page.get_by_role("link", name="Review").click(timeout=60_000)
        heading(page, "Review").wait_for(timeout=60_000)


def test_a_page_left_alone_is_taken_away_when_the_time_is_up(tmp_path, opened) -> None:
    store = make_site(tmp_path / "home", reviewed=False)
    add_people(store.engine)
    with (store.home.folder / "site.toml").open("a", encoding="utf-8") as file:
        file.write("[sign_in]\nidle_timeout_min = 0.2\n")
    page = opened.page
    with served(store) as server:
        page.goto(server.url)
        heading(page, "Sign in").wait_for(timeout=SHOW_LIMIT_MS)
        sign_in(page, "annotator")
        heading(page, "Worklist").wait_for()
        heading(page, "Sign in").wait_for(timeout=60_000)  # nobody touched anything
        heading(page, "Slices to annotate").wait_for(state="detached")
        assert not server.called_out()


def test_what_the_browser_is_told_of_every_answer(server) -> None:
    for path in ("", "study", "_stcore/health", "_stcore/host-config", "oauth2callback"):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{server.url}/{path}") as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers.get("Set-Cookie") is None or "fedgtv" not in str(answer.headers)


def test_hospital_it_takes_an_account_away_while_it_is_used(store, server, opened) -> None:
    page = opened.page
    let_in(page.context, store, server, "reviewer")
    page.goto(server.url)
    heading(page, "Worklist").wait_for(timeout=SHOW_LIMIT_MS)
    engine = store.engine
    accounts.set_disabled(engine, "reviewer", True, actor="it", now=utc_now())
    try:
        page.get_by_role("link", name="Study").click()
        heading(page, "Sign in").wait_for()
    finally:
        accounts.set_disabled(engine, "reviewer", False, actor="it", now=utc_now())
    with Session(engine) as session:
        audit_log.verify(session)


def test_every_address_is_a_page_also_when_it_is_typed_or_reloaded(server, opened) -> None:
    page = opened.page
    page.goto(f"{server.url}/worklist")
    heading(page, "Sign in").wait_for(timeout=SHOW_LIMIT_MS)
    sign_in(page, "annotator")
    heading(page, "Worklist").wait_for()
    wait_for_cookie(page.context, "fedgtv_")
    for path, title, said in (
        ("worklist", "Worklist", "please annotate these slices"),
        ("blinded", "Blinded", "This is for reviewers."),
        ("nowhere", "No such page", "There is no page at this address."),
    ):
        page.goto(f"{server.url}/{path}")
        for _ in range(2):
            heading(page, title).wait_for()
            page.get_by_text(said).wait_for()
            assert page.get_by_role("dialog").count() == 0
            assert page.url == f"{server.url}/{path}"
            page.reload()
    page.get_by_role("link", name="Go to the worklist").click()
    heading(page, "Worklist").wait_for()


def test_back_leads_from_a_case_to_the_worklist(server, opened) -> None:
    page = opened.page
    page.goto(server.url)
    heading(page, "Sign in").wait_for(timeout=SHOW_LIMIT_MS)
    sign_in(page, "annotator")
    page.get_by_role("button", name=re.compile("^(Open next|Continue)$")).click()
    heading(page, "Annotate").wait_for()
    opened.wait_for_case()
    assert page.url.endswith(f"/annotate?case={CASES[0]}")
    page.go_back()
    heading(page, "Worklist").wait_for()
    page.get_by_role("button", name="Continue").wait_for()
    page.go_forward()
    heading(page, "Annotate").wait_for()


def test_a_signature_is_asked_for_in_one_form_and_counts_once(tmp_path, opened) -> None:
    store = make_site(tmp_path / "home")
    slow = PasswordHasher(time_cost=20, memory_cost=65536, parallelism=1)  # to look meanwhile
    add(store.engine, "rita", roles=["reviewer"], hasher=slow)
    round_id = store.latest_round().round_id
    mask = Mask(ADAPTED, store.geometry(UNREVIEWED_CASE))
    record_review(store, round_id, UNREVIEWED_CASE, mask, author="rita", simulated=False)
    page = opened.page
    with served(store) as server:
        let_in(page.context, store, server, "rita")
        page.goto(f"{server.url}/review?case={UNREVIEWED_CASE}")
        page.get_by_role("button", name="Sign", exact=True).click(timeout=SHOW_LIMIT_MS)
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("As Dr Anna Example (rita).").wait_for()
        page.evaluate(MOST_FORMS)
        for password in ("wrong", "wrong again"):
            dialog.locator("input[type=password]").fill(password)
            dialog.get_by_role("button", name="Sign", exact=True).click()
            dialog.get_by_text("being checked").wait_for()
            assert dialog.get_by_role("button", name="Sign", exact=True).count() == 0
            dialog.get_by_text("The password is wrong").wait_for()
        dialog.locator("input[type=password]").fill(PASSWORD)
        dialog.get_by_role("button", name="Sign", exact=True).dblclick()
        dialog.get_by_text("Signed by Dr Anna Example").wait_for()
        assert page.evaluate("() => window.mostForms") == 1
    with Session(store.engine) as session:
        told = [row.event for row in session.scalars(select(AuditRow))]
    assert told.count(SIGNED) == 1
    assert told.count("signature_password_failed") == 2


# -- the hospital's own sign-in -----------------------------------------------------------------


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture
def oidc(tmp_path, provider):
    """Return a site that signs in at the provider, and the port its pages must be at."""
    (port,) = free_ports(1)
    store = make_site(tmp_path / "home", reviewed=False)
    (store.home.folder / "secrets" / "oidc.secret").write_text(CLIENT_SECRET + "\n", "utf-8")
    with (store.home.folder / "site.toml").open("a", encoding="utf-8") as file:
        file.write(
            f"""
[sign_in]
method = "oidc"
server_metadata_url = "{provider.issuer}/.well-known/openid-configuration"
client_id = "{CLIENT_ID}"
client_secret_file = "secrets/oidc.secret"
redirect_uri = "http://{launch.ADDRESS}:{port}/oauth2callback"
"""
        )
    add(store.engine, "anna", roles=["reviewer"], oidc_subject=f"{provider.issuer}|7")
    return CaseStore(open_home(store.home.folder)), port


NO_PROXY = {"no_proxy": launch.ADDRESS}
AT_THE_HOSPITAL = "Sign in with the hospital's account"


def test_in_and_out_at_the_hospitals_own_sign_in(oidc, provider, opened) -> None:
    store, port = oidc
    page = opened.page
    with served(store, port=port, more=NO_PROXY) as server:
        page.goto(server.url)
        page.get_by_role("button", name=AT_THE_HOSPITAL).click(timeout=SHOW_LIMIT_MS)
        page.get_by_text("Dr Anna Example (reviewer)").wait_for()
        assert provider.asked[-1]["scope"] == "openid"
        wait_for_cookie(page.context, "fedgtv_")
        page.reload()
        heading(page, "Worklist").wait_for()

        # Streamlit's cookie says for 30 days who came: it must let nobody in a second time.
        kept = wait_for_cookie(page.context, "_streamlit_user")
        with transaction(store.engine) as session:
            session.execute(update(SignInRow).values(ended_at=utc_now()))
        page.reload()
        page.get_by_role("button", name=AT_THE_HOSPITAL).wait_for()
        page.get_by_role("button", name=AT_THE_HOSPITAL).click()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("button", name=AT_THE_HOSPITAL).wait_for()
        assert provider.signed_out == 1
        page.context.add_cookies([{**kept}])
        page.reload()
        page.get_by_role("button", name=AT_THE_HOSPITAL).wait_for()
        page.wait_for_timeout(500)
        assert heading(page, "Worklist").count() == 0

        provider.subject = "8"
        page.get_by_role("button", name=AT_THE_HOSPITAL).click()
        page.get_by_text(f"--oidc-subject '{provider.issuer}|8'").wait_for()
        assert "secret" not in server.log.read_text("utf-8")
    with Session(store.engine) as session:
        told = [row.event for row in session.scalars(select(AuditRow))]
        audit_log.verify(session)
    assert told.count("signed_in") == 2
    assert told.count("sign_in_failed") == 1


def test_a_signature_is_confirmed_by_proving_anew_who_one_is(oidc, provider, opened) -> None:
    store, port = oidc
    script = Path(__file__).with_name("confirming_page.py")
    program = (
        "import sys; from pathlib import Path\n"
        "from clinical_ui import launch; from site_agent.config import open_home\n"
        "launch.APP_FILE = Path(sys.argv[1])\n"
        "launch.serve(open_home(Path(sys.argv[2])), int(sys.argv[3]))"
    )
    arguments = [str(script), str(store.home.folder), str(port)]
    command = [sys.executable, "-c", program, *arguments]
    environment = {**NO_PROXY, launch.HOME_VARIABLE: str(store.home.folder)}
    page = opened.page
    with served(store, port=port, command=command, more=environment) as server:

        def confirm() -> None:
            page.get_by_role("button", name="Confirm").click()

        page.goto(server.url)
        page.get_by_role("button", name=AT_THE_HOSPITAL).click(timeout=SHOW_LIMIT_MS)
        heading(page, "Signing as anna").wait_for()
        wait_for_cookie(page.context, "fedgtv_")
        page.goto(f"{server.url}/signing?case=case-1")
        page.get_by_text("not confirmed").wait_for()
        page.get_by_role("button", name="Sign", exact=True).click()
        page.get_by_text("confirm with the hospital's sign-in first").wait_for()

        confirm()
        page.get_by_text("confirmed", exact=True).wait_for()
        page.get_by_text("case-1").wait_for()  # back where it was asked
        assert (provider.asked[-1]["prompt"], provider.asked[-1]["max_age"]) == ("login", "0")
        page.get_by_role("button", name="Sign", exact=True).click()
        page.get_by_text("signed", exact=True).wait_for()
        page.get_by_role("button", name="Sign", exact=True).click()  # it counts once
        page.get_by_text("confirm with the hospital's sign-in first").wait_for()

        provider.obeys_prompt, provider.logged_in_at = False, provider.logged_in_at - 3600
        confirm()
        page.get_by_text("did not ask who is there").wait_for()
        assert page.get_by_text("confirmed", exact=True).count() == 0

        provider.obeys_prompt, provider.subject = True, "8"
        add(store.engine, "berta", roles=["reviewer"], oidc_subject=f"{provider.issuer}|8")
        confirm()
        page.get_by_text("named somebody else").wait_for()
        heading(page, "Signing as anna").wait_for()
