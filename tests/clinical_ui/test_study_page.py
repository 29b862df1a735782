"""The study page: state, package, counts, and what left."""

import re

from algorithms.contracts.messages import RoundState
from clinical_ui.study_page import step_rows
from site_agent.cli import ledger_app
from tests.clinical_ui.synthetic_site import MODEL_VERSION, PACKAGE_ID


def test_it_shows_state_package_and_counts(site, run_page):
    page = run_page(site, "study")
    assert not page.exception
    steps, counts = (table.value for table in page.table)
    marks = [mark.split()[-1] for mark in steps["State"]]
    assert marks == ["done", "done", "done", "now", "later"]
    assert dict(zip(counts["Used for"].str.split(":").str[0], counts["Cases"], strict=True)) == {
        "Training": 2,
        "Validation": 1,
        "Test": 2,
    }
    assert page.code[0].value == PACKAGE_ID
    assert any(MODEL_VERSION in element.value for element in page.markdown)


def test_it_lists_what_left_the_hospital(site, run_page):
    ledger = run_page(site, "study").dataframe[0].value
    assert ledger["What"].tolist() == ["Status: how far the round is"]
    assert ledger["State"].tolist() == ["↗ left the hospital"]
    assert ledger["Time"].tolist()[0].endswith("UTC")


def test_it_names_only_what_hospital_it_can_do(site, run_page):
    (caption,) = [c.value for c in run_page(site, "study").caption if "Entries" in c.value]
    (named,) = re.findall(r"`fedgtv-site ledger (\w+)`", caption)
    assert named in {command.name for command in ledger_app.registered_commands}
    assert "hold" not in caption


def test_a_finished_round_has_no_step_left():
    assert {row["State"] for row in step_rows(RoundState.REPORTED)} == {"✓ done"}
    assert {row["State"] for row in step_rows(RoundState.NONE)} == {"○ later"}
