"""What the pages do while their server is away, and when it is there again."""

from datetime import timedelta
from pathlib import Path

import streamlit as st

KEY = "connection"
_PROGRAM = Path(__file__).with_name("connection.js").read_text("utf-8")

# Streamlit 1.67 asks a server that is there again for nothing, unless some part of the page runs
# by itself now and then; the server, which may be a new one, then knows no part of the page and
# drops what the viewer sends.
_NOW_AND_THEN = timedelta(days=1)


@st.fragment(run_every=_NOW_AND_THEN)
def watch() -> None:
    """Say in a line that the server does not answer, and begin anew when it does."""
    st.components.v2.component("fedgtv_connection", js=_PROGRAM)(key=KEY)
