"""Signing: who proves who it is signs what was shown, and then there is a file to hand over."""

from io import BytesIO

import numpy as np
import pydicom
import pytest
from sqlalchemy.orm import Session
from streamlit.testing.v1 import AppTest

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.volume import Mask
from clinical_ui.launch import HOME_VARIABLE
from clinical_ui.session import SIGN_IN_TOKEN
from clinical_ui.signing_dialog import signs_line
from site_agent import accounts
from site_agent.accounts import Account
from site_agent.case_store import CaseStore
from site_agent.click_store import mask_sha256
from site_agent.config import open_home
from site_agent.database import SignatureRow, utc_now
from site_agent.ingest import ingest
from site_agent.passwords import FREE_FAILURES
from site_agent.review import record_review
from site_agent.signature_delivery import signed_rtstruct
from tests.clinical_ui.people import EVERYTHING, PASSWORD, add_people, sign_in_token
from tests.clinical_ui.synthetic_site import (
    ADAPTED,
    REFERENCE,
    UNREVIEWED_CASE,
)
from tests.phantoms import make_home
from tests.site_agent.test_cli import start_round
from tests.site_agent.test_ingest import write_patient

SCRIPT = """
import streamlit as st
from clinical_ui import session, sign_in, signing_dialog

signing_dialog.show(session.store(), {round_id!r}, {case_id!r}, {sha256!r})
"""
CLOSED = """
[pacs]
ae_title = "AWAY"
host = "127.0.0.1"
port = 9
"""


@pytest.fixture
def reviewed(site) -> CaseStore:
    """Return a site on which somebody with all roles has revised a case, which was no DICOM."""
    review(site, UNREVIEWED_CASE, REFERENCE)
    return site


@pytest.fixture
def from_dicom(tmp_path) -> CaseStore:
    """Return a site with a revised case that came as DICOM."""
    home = make_home(tmp_path / "home")
    store = CaseStore(home)
    write_patient(tmp_path / "images", 1)
    ingest(home, store, tmp_path / "images", actor="test")
    case_id, round_id = store.cases()[0].case_id, start_round(store)
    reference = store.contour(case_id, purpose="reference").mask
    contour = Contour("GTVp", reference, Provenance.AUTOMATIC)
    store.save_contour(case_id, contour, purpose="adapted", round_id=round_id, author="model")
    review(store, case_id, np.roll(reference.voxels, 1, axis=2))
    return store


def review(store: CaseStore, case_id: str, drawn: np.ndarray, by: str = EVERYTHING) -> None:
    mask = Mask(drawn, store.geometry(case_id))
    record_review(store, store.latest_round().round_id, case_id, mask, author=by, simulated=False)


@pytest.fixture
def opened(monkeypatch, run_page):
    """Return a function that opens the dialog; `run_page` keeps the caches clean."""

    def run(store: CaseStore, *, sha256: str | None = None, username: str = EVERYTHING) -> AppTest:
        monkeypatch.setenv(HOME_VARIABLE, str(store.home.folder))
        round_id = store.latest_round().round_id
        case_id = next(r.case_id for r in store.reviews(round_id) if not r.simulated)
        drawn = store.contour(case_id, purpose="reviewed", round_id=round_id).mask.voxels
        script = SCRIPT.format(
            round_id=round_id, case_id=case_id, sha256=sha256 or mask_sha256(drawn)
        )
        page = AppTest.from_string(script, default_timeout=60)
        add_people(store.engine)
        page.session_state[SIGN_IN_TOKEN] = sign_in_token(store.engine, username)
        return page.run()

    return run


def sign(page: AppTest, password: str = PASSWORD) -> AppTest:
    page.text_input[0].input(password)
    return page.button[0].click().run()


def press(page: AppTest, label: str) -> AppTest:
    return next(button for button in page.button if button.label == label).click().run()


def signatures(store: CaseStore) -> list[SignatureRow]:
    with Session(store.engine) as session:
        return list(session.query(SignatureRow).order_by(SignatureRow.id))


def texts(page: AppTest) -> str:
    kinds = (page.markdown, page.info, page.warning, page.error, page.success, page.caption)
    return "\n".join(element.value for kind in kinds for element in kind)


def test_before_signing_it_says_what_is_signed_and_by_whom(reviewed, opened):
    page = opened(reviewed)
    assert not page.exception
    assert "research use only, not a medical device" in page.radio[0].value
    assert "As **Dr Eve Everything** (everything)." in texts(page)
    assert "Research use only" in texts(page)
    assert page.text_input[0].value == ""
    assert signatures(reviewed) == []


def test_who_signs_under_another_name_than_colleagues_use_reads_both():
    account = Account("eve", "Dr_Eve", "Adams^Eve", frozenset({"reviewer"}))
    assert signs_line(account) == "As **Dr\\_Eve** (eve), signed as **Eve Adams**."


def test_the_right_password_signs_what_was_shown(reviewed, opened):
    page = sign(opened(reviewed))
    assert not page.exception
    (row,) = signatures(reviewed)
    assert (row.username, row.person_name) == (EVERYTHING, "Everything^Eve^^Dr")
    assert (row.case_id, row.method) == (UNREVIEWED_CASE, "password")
    assert row.mask_sha256 == mask_sha256(REFERENCE)
    assert "✓ Signed by **Dr Eve Everything**" in texts(page)
    assert len(page.text_input) == 0


@pytest.mark.parametrize("password", ["", "not the password", PASSWORD + " "])
def test_a_wrong_password_signs_nothing_and_leaves_the_field(reviewed, opened, password):
    page = sign(opened(reviewed), password)
    assert not page.exception
    assert "password" in page.error[0].value
    assert signatures(reviewed) == []
    assert page.text_input[0].value == ""
    assert not password or password not in repr(page.session_state)
    sign(page)  # and the right one counts
    assert len(signatures(reviewed)) == 1


def test_guessing_ends_after_some_failures(reviewed, opened):
    page = opened(reviewed)
    for _ in range(FREE_FAILURES + 1):
        sign(page, "a guess")
    sign(page)
    assert signatures(reviewed) == []


def test_what_somebody_else_reviewed_cannot_be_signed(reviewed, opened):
    page = sign(opened(reviewed, username="reviewer"))
    assert "reviewed by somebody else" in page.error[0].value
    assert signatures(reviewed) == []


def test_another_contour_than_the_one_shown_cannot_be_signed(reviewed, opened):
    page = sign(opened(reviewed, sha256=mask_sha256(ADAPTED)))
    assert "look at it again" in page.error[0].value
    assert signatures(reviewed) == []


def test_who_is_no_reviewer_any_more_signs_nothing(reviewed, opened):
    page = opened(reviewed)
    accounts.set_roles(reviewed.engine, EVERYTHING, ["annotator"], actor="it", now=utc_now())
    sign(page)
    assert "This is for reviewers." in page.error[0].value
    assert signatures(reviewed) == []


def test_a_change_after_the_signature_asks_for_another(reviewed, opened):
    sign(opened(reviewed))
    review(reviewed, UNREVIEWED_CASE, ADAPTED)
    page = opened(reviewed)
    assert "changed after it was signed" in texts(page)
    sign(page)
    assert [row.mask_sha256 for row in signatures(reviewed)] == [
        mask_sha256(REFERENCE),
        mask_sha256(ADAPTED),
    ]


def test_a_case_that_never_was_dicom_has_nothing_to_hand_over(reviewed, opened):
    page = sign(opened(reviewed))
    assert "did not come as DICOM" in texts(page)
    assert [button.label for button in page.button] == []


def test_without_an_archive_the_file_is_offered(from_dicom, opened):
    page = sign(opened(from_dicom))
    assert not page.exception
    assert [button.label for button in page.button] == ["Prepare the RTSTRUCT"]
    assert page.get("download_button") == []  # nothing that names the patient is made before
    press(page, "Prepare the RTSTRUCT")
    assert not page.exception
    (offered,) = page.get("download_button")
    (row,) = signatures(from_dicom)
    assert offered.proto.label == "Download the RTSTRUCT"
    content, _ = signed_rtstruct(from_dicom.home, from_dicom, row.id, actor="test")
    assert pydicom.dcmread(BytesIO(content)).ApprovalStatus == "APPROVED"


def test_an_archive_that_is_away_keeps_the_signature_waiting(from_dicom, opened):
    settings = from_dicom.home.folder / "site.toml"
    settings.write_text(settings.read_text("utf-8") + CLOSED, "utf-8")
    store = CaseStore(open_home(from_dicom.home.folder))
    page = opened(store)
    assert page.button[0].label == "Sign and send to the PACS"
    sign(page)
    assert not page.exception
    (row,) = signatures(store)
    assert row.sent_at is None
    assert "not in the PACS yet" in texts(page)
    assert page.error
    assert [b.label for b in page.button] == ["Send now", "Prepare the RTSTRUCT"]
    press(page, "Send now")
    assert page.error
    assert len(signatures(store)) == 1
