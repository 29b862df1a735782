"""A site for the pages, and the pages run without a browser."""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from clinical_ui.launch import APP_FILE, HOME_VARIABLE
from clinical_ui.session import SIGN_IN_TOKEN
from site_agent.case_store import CaseStore
from tests.clinical_ui.people import EVERYTHING, add_people, sign_in_token
from tests.clinical_ui.synthetic_site import make_site

PAGES = {
    "worklist": "worklist_page",
    "annotate": "annotation_page",
    "review": "review_page",
    "study": "study_page",
    "accounts": "accounts_page",
}


@pytest.fixture(scope="session", autouse=True)
def scan_packages_once() -> Iterator[None]:
    """Let Streamlit look for components in the installed packages once, not for every page run."""
    with pytest.MonkeyPatch.context() as patch:
        once = cache(manifest_scanner.scan_component_manifests)
        patch.setattr(manifest_scanner, "scan_component_manifests", once)
        yield


@pytest.fixture(autouse=True)
def keep_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo that Streamlit puts the page in place of `__main__`.

    Processes that a later test spawns would run the page again when they start.
    """
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def site(tmp_path: Path) -> CaseStore:
    """Return a site in review, its doctors simulated."""
    return make_site(tmp_path / "home")


@pytest.fixture
def run_page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AppTest]]:
    """Return a function that runs one page on a site, by default for somebody with all roles."""

    def run(
        store: CaseStore, page: str, *, username: str | None = EVERYTHING, **query: str
    ) -> AppTest:
        monkeypatch.setenv(HOME_VARIABLE, str(store.home.folder))
        away = "lambda: None"
        arguments = {"worklist": f"{away}, {away}, {away}", "annotate": away, "review": away}
        call = f"{PAGES[page]}.show({arguments.get(page, '')})"
        script = f"from clinical_ui import {PAGES[page]}\n{call}\n"
        test = AppTest.from_string(script, default_timeout=30)
        add_people(store.engine)
        if username is not None:
            test.session_state[SIGN_IN_TOKEN] = sign_in_token(store.engine, username)
        for name, value in query.items():
            test.query_params[name] = value
        return test.run()

    st.cache_resource.clear()
    yield run
    st.cache_resource.clear()


@pytest.fixture
def run_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AppTest]]:
    """Return a function that runs the whole frame on a site; None is nobody signed in."""

    def run(store: CaseStore, username: str | None = EVERYTHING) -> AppTest:
        monkeypatch.setenv(HOME_VARIABLE, str(store.home.folder))
        test = AppTest.from_file(str(APP_FILE), default_timeout=30)
        if username is not None:
            add_people(store.engine)
            test.session_state[SIGN_IN_TOKEN] = sign_in_token(store.engine, username)
        return test.run()

    st.cache_resource.clear()
    yield run
    st.cache_resource.clear()
