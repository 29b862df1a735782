"""The browser's part of staying signed in: a cookie, and a question when time should be up."""

import hashlib
from pathlib import Path

import streamlit as st

from site_agent.config import SiteConfig

KEY = "sign_in_cookie"
_PROGRAM = Path(__file__).with_name("sign_in_cookie.js").read_text("utf-8")
_SLACK_S = 1.0  # the browser asks when the server is sure to say no


def cookie_name(config: SiteConfig) -> str:
    """Return the cookie's name; cookies know no ports, and one machine may show several sites."""
    site = hashlib.sha256(f"{config.study}/{config.name}".encode()).hexdigest()
    return f"fedgtv_{site[:12]}"


def mount(config: SiteConfig, *, token: str | None, seconds_left: float | None) -> None:
    """Put a token into the cookie, "" to remove it, None to leave it; ask again in some seconds."""
    component = st.components.v2.component("fedgtv_sign_in_cookie", js=_PROGRAM)
    wait_ms = None if seconds_left is None else round((seconds_left + _SLACK_S) * 1000)
    component(
        key=KEY,
        data={"name": cookie_name(config), "token": token, "check_in_ms": wait_ms},
        on_check_change=lambda: None,  # running again is all that is asked for
    )
