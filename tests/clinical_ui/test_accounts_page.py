"""Hospital IT adds and changes accounts in the pages."""

from sqlalchemy.orm import Session

from site_agent import accounts, audit_log
from site_agent.accounts import Account, authenticate
from site_agent.database import AuditRow, utc_now
from tests.clinical_ui.people import PASSWORD, QUICK

NEW = "another horse battery"


def roles(page, form: int):
    """Return the field of the form for changes (0) or for a new account (1)."""
    return page.multiselect[form]


def press(page, label: str):
    (button,) = (button for button in page.button if button.label == label)
    return button.click().run()


def test_it_lists_everybody(site, run_page):
    table = run_page(site, "accounts", username="it").dataframe[0].value.set_index("User name")
    assert table.loc["everything", "Roles"] == "annotator, reviewer, IT, lead"
    assert set(table["State"]) == {"✓ active"}


def test_somebody_is_added_and_signs_in(site, run_page):
    page = run_page(site, "accounts", username="it")
    texts = {"User name": "Carla", "Name, as coll": "Dr Carla", "Name, as DICOM": "C^Carla"}
    for label, text in {**texts, "Password": NEW}.items():
        (field,) = (f for f in page.text_input if f.label.startswith(label))
        field.input(text)
    roles(page, 1).select("reviewer")
    page = press(page, "Add")
    assert not page.exception
    assert page.success[0].value == "carla: added."
    assert {field.value for field in page.text_input} == {""}  # the password above all
    account = authenticate(site.engine, "carla", NEW, now=utc_now(), hasher=QUICK)
    assert account == Account("carla", "Dr Carla", "C^Carla", frozenset({"reviewer"}))
    with Session(site.engine) as session:
        (row,) = session.query(AuditRow).filter_by(event="account_added", subject="carla")
        assert row.actor == "it"
        audit_log.verify(session)


def test_what_is_wrong_is_said_in_a_sentence_and_nothing_is_added(site, run_page):
    page = press(run_page(site, "accounts", username="it"), "Add")
    assert page.error[0].value.startswith("User name: give letters")
    assert len(accounts.listed(site.engine)) == 5


def test_roles_password_and_access_of_others_are_changed(site, run_page):
    username = "annotator"
    page = run_page(site, "accounts", username="it")
    assert page.selectbox[0].options == ["annotator", "everything", "lead", "reviewer"]
    roles(page, 0).select("reviewer")
    (field,) = (f for f in page.text_input if f.label.startswith("New password"))
    field.input(NEW)
    page = press(page, "Save")
    assert page.success[0].value == f"{username}: saved."
    assert authenticate(site.engine, username, NEW, now=utc_now(), hasher=QUICK).roles == {
        "annotator",
        "reviewer",
    }
    page.checkbox[0].uncheck()
    page = press(page, "Save")
    assert accounts.find(site.engine, username).disabled
    assert "✕ disabled" in set(page.dataframe[0].value["State"])


def test_too_short_a_password_changes_nothing(site, run_page):
    page = run_page(site, "accounts", username="it")
    (field,) = (f for f in page.text_input if f.label.startswith("New password"))
    field.input("short")
    roles(page, 0).select("lead")
    page = press(page, "Save")
    assert "12 to 1024 characters" in page.error[0].value
    assert accounts.find(site.engine, "annotator").roles == {"annotator"}
    authenticate(site.engine, "annotator", PASSWORD, now=utc_now(), hasher=QUICK)
