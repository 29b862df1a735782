"""The signature of a review: who signs proves again who it is, and what was signed goes out."""

import streamlit as st

from algorithms.contracts.errors import DataError
from clinical_ui import session, sign_in, wording
from site_agent.accounts import Account
from site_agent.case_store import CaseStore
from site_agent.database import SignatureRow, utc_now
from site_agent.signature_delivery import send_signed, signed_rtstruct
from site_agent.signing import MEANINGS, Standing, sign, signature_state

ROLE = "reviewer"
_PASSWORD = "signing_password"  # noqa: S105 - the name of the field


@st.dialog("Signature", width="medium", on_dismiss="rerun")
def show(store: CaseStore, round_id: str, case_id: str, shown_sha256: str) -> None:
    """Ask for the signature of a reviewed case, or show it with what became of it.

    Args:
        store: of the site.
        round_id: of the review.
        case_id: of the review.
        shown_sha256: of the contour on the page, which is what is signed.
    """
    account = sign_in.require(ROLE)
    state = signature_state(store, round_id, case_id)
    st.caption(f"{case_id}. {wording.RESEARCH_ONLY}.")
    if state.standing is Standing.SIGNED and state.signature is not None:
        _signed(store, state.signature, account)
        return
    if state.standing is Standing.OUTDATED:
        st.info("This case was changed after it was signed: sign it again.")
    notice, where = session.said(), st.empty()  # what comes and goes must not move the form
    if notice is not None:
        where.error(wording.sentence(notice), icon="⚠")
    _ask(store, round_id, case_id, shown_sha256, account)


def _ask(
    store: CaseStore, round_id: str, case_id: str, shown_sha256: str, account: Account
) -> None:
    place = st.empty()
    with place.form("signature", border=False):
        meaning = st.radio("What you sign", MEANINGS)
        st.markdown(signs_line(account))
        password = ""
        if sign_in.uses_provider():
            confirmed = sign_in.is_confirmed()
            st.info("Confirmed just now." if confirmed else "Confirm first who you are.")
        else:
            password = st.text_input(
                "Your password, once more",
                type="password",
                autocomplete="off",
                key=session.field_key(_PASSWORD),
            )
        label = "Sign and send to the PACS" if _goes_to_pacs(store, case_id) else "Sign"
        pressed = st.form_submit_button(label, type="primary")
    if sign_in.uses_provider() and not sign_in.is_confirmed():
        st.button("Confirm who you are", on_click=sign_in.ask_provider, args=("review",))
    if not pressed:
        return
    place.info("One moment: your signature is being checked.")  # nothing to press meanwhile
    session.empty_field(_PASSWORD)
    sign_in.touch()
    try:
        if not password and not sign_in.uses_provider():  # or a second press would be a failure
            raise DataError("give your password to sign")
        sign_in.reauthenticate(password)
        signature = sign(
            store,
            round_id=round_id,
            case_id=case_id,
            username=account.username,
            person_name=account.person_name,
            meaning=str(meaning),
            method="oidc" if sign_in.uses_provider() else "password",
            now=utc_now(),
            shown_sha256=shown_sha256,
        )
    except DataError as error:
        session.say(str(error))
    else:
        if _goes_to_pacs(store, case_id):
            _send(store, signature, account)
    _draw_again()


def signs_line(account: Account) -> str:
    """Say who signs: as colleagues know the person, and as the signature will name it."""
    known, signs = account.display_name, wording.person(account.person_name)
    line = f"As **{wording.verbatim(known)}** ({account.username})"
    return f"{line}." if signs == known else f"{line}, signed as **{wording.verbatim(signs)}**."


def _goes_to_pacs(store: CaseStore, case_id: str) -> bool:
    return store.home.config.pacs is not None and store.identity_sealed(case_id) is not None


def _draw_again() -> None:
    """Draw the dialog anew, which is open as a part of the page."""
    st.rerun(scope="fragment" if sign_in.in_part_of_page() else "app")


def _signed(store: CaseStore, signature: SignatureRow, account: Account) -> None:
    name = wording.person(signature.person_name)
    st.markdown(f"✓ Signed by **{wording.verbatim(name)}**, {wording.moment(signature.signed_at)}.")
    st.markdown(f"> {signature.meaning}")
    if store.identity_sealed(signature.case_id) is None:
        st.info("This case did not come as DICOM: there is no RTSTRUCT of it.")
        return
    if signature.sent_at is not None:
        st.success(f"In the PACS since {wording.moment(signature.sent_at)}, APPROVED.")
    elif store.home.config.pacs is not None:
        st.warning("Signed, but not in the PACS yet; `fedgtv-site send-signed` tries again too.")
        if st.button("Send now", type="primary"):
            _send(store, signature, account)
            _draw_again()
    if (notice := session.said()) is not None:
        st.error(wording.sentence(notice), icon="⚠")
    _download(store, signature, account)


def _send(store: CaseStore, signature: SignatureRow, account: Account) -> None:
    try:
        with st.spinner("Sending to the PACS"):
            send_signed(store.home, store, signature.id, actor=account.username)
    except DataError as error:  # the signature is kept, and waits
        session.say(str(error))


def _download(store: CaseStore, signature: SignatureRow, account: Account) -> None:
    """Offer the structure set itself; it names the patient, so it is made only when asked for."""
    if not st.button("Prepare the RTSTRUCT", help="To hand it over as a file"):
        return
    try:
        with st.spinner("Exporting"):
            content, name = signed_rtstruct(store.home, store, signature.id, actor=account.username)
    except DataError as error:
        st.error(wording.sentence(str(error)))
        return
    st.download_button(
        "Download the RTSTRUCT",
        content,
        file_name=name,
        mime="application/dicom",
        on_click="ignore",  # or the dialog would be drawn anew, without it
        help="The file names the patient: treat it as you treat the images",
    )
