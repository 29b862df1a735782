"""A page that signs, for tests of confirming with the hospital's own sign-in."""

import streamlit as st

from algorithms.contracts.errors import DataError
from clinical_ui import sign_in


def sign() -> None:
    """Ask for a confirmation, and sign with it."""
    account = sign_in.current()
    sign_in.keep()
    st.title(f"Signing as {account.username}")
    st.write("Here is", st.query_params.get("case", "no case"))
    try:
        place = sign_in.take_confirmation()
        if place is not None:
            st.switch_page(PAGE, query_params=place.query)
    except DataError as error:
        st.error(str(error))
    st.write("confirmed" if sign_in.is_confirmed() else "not confirmed")
    if st.button("Confirm"):
        sign_in.ask_provider("signing")
    if st.button("Sign"):
        try:
            sign_in.reauthenticate()
        except DataError as error:
            st.error(str(error))
        else:
            st.success("signed")


PAGE = st.Page(sign, title="Signing", url_path="signing")
st.navigation([st.Page(sign, title="First", url_path="first"), PAGE]).run()
