"""Changes made on the study page: by hospital IT, after a question, and told when done."""

from collections.abc import Callable

import streamlit as st

from algorithms.contracts.errors import DataError, ProtocolError
from clinical_ui.study_actor import hospital_it

NOT_ALLOWED = "Only hospital IT can do this: sign in with an account of the role 'it'."


def ask_and_do(
    label: str, question: str, yes: str, do: Callable[[str], str], *, key: str, strong: bool = False
) -> None:
    """Show a button that asks before it does something.

    Args:
        label: of the button.
        question: what is about to happen.
        yes: of the button that does it.
        do: given the user name; returns what was done, in words.
        key: names the very thing that is changed: once it is, the question closes.
        strong: the button stands out.
    """
    with st.popover(label, key=f"ask_{key}", type="primary" if strong else "secondary"):
        st.markdown(question)
        st.button(yes, key=key, type="primary", on_click=carry_out, args=(do,))


def carry_out(do: Callable[[str], str]) -> None:
    """Do something in the name of who is signed in, and tell how it went.

    The role is looked up again: it may have been taken away since the page was drawn.
    """
    actor = hospital_it()
    if actor is None:
        st.error(NOT_ALLOWED)
        return
    try:
        done = do(actor)
    except (DataError, ProtocolError) as error:
        st.error(str(error))
        return
    st.toast(f"✓ {done}")
