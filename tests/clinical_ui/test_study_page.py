"""The study page: what it shows to everybody, and what hospital IT changes on the real stores."""

import math
from datetime import timedelta

import pytest
import streamlit
from sqlalchemy import delete
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.messages import RoundState
from clinical_ui import study_job, wording
from clinical_ui.study_round import step_rows
from site_agent import accounts
from site_agent.blinded_reading import start
from site_agent.database import AuditRow, BlindedReadingRow, transaction, utc_now
from site_agent.egress import list_entries, verify_ledger
from site_agent.live_progress import LiveProgress, ProgressWriter
from site_agent.model_store import active_model
from site_agent.package_store import active_package
from site_agent.review import record_review
from site_agent.round_counts import RoundCounts
from site_agent.site_lock import only_worker
from tests.clinical_ui.people import EVERYTHING
from tests.clinical_ui.study_site import make_study_site
from tests.clinical_ui.synthetic_site import (
    MODEL_VERSION,
    PACKAGE_ID,
    REVIEWED_CASE,
    UNREVIEWED_CASE,
)

A, B, C = (sha256_hex(name)[:16] for name in (b"a", b"b", b"c"))


@pytest.fixture
def study(tmp_path):
    return make_study_site(tmp_path / "home")


def texts(page) -> str:
    kinds = (page.markdown, page.info, page.warning, page.caption, page.error, page.success)
    return "\n".join(element.value for kind in kinds for element in kind)


def table(page, column: str):
    return next(t.value for t in page.table if column in t.value.columns)


def messages(page) -> list[str]:
    bodies = (element.proto.body for element in page.get("html"))
    return [body for body in bodies if body.startswith("<pre")]


def audited(store) -> list[tuple[str, str]]:
    with Session(store.engine) as session:
        rows = session.query(AuditRow).order_by(AuditRow.sequence)
        return [(row.event, row.actor) for row in rows]


# -- what everybody sees --------------------------------------------------------------------------


def test_it_shows_state_package_and_counts(site, run_page):
    page = run_page(site, "study")
    assert not page.exception
    steps = table(page, "Step")
    marks = [mark.split()[-1] for mark in steps["State"]]
    assert marks == ["done", "done", "done", "now", "later"]
    assert steps["How far"].tolist() == [
        "4 slices of 3 cases",
        "4 of 4 slices",
        "2 of 2 test cases segmented",
        "1 of 2 test cases",
        "",
    ]
    counts = table(page, "Used for")
    assert dict(zip(counts["Used for"].str.split(":").str[0], counts["Cases"], strict=True)) == {
        "Training": 2,
        "Validation": 1,
        "Test": 2,
    }
    assert any(PACKAGE_ID in element.value for element in page.caption)
    assert any(MODEL_VERSION in element.value for element in page.markdown)


def test_it_lists_what_left_the_hospital(site, run_page):
    page = run_page(site, "study")
    ledger = next(d.value for d in page.dataframe if "Size" in d.value.columns)
    assert ledger["What"].tolist() == ["Status: how far the round is"]
    assert ledger["State"].tolist() == ["↗ left the hospital"]
    assert ledger["Time"].tolist()[0].endswith("UTC")


@pytest.mark.parametrize(
    ("state", "asked", "marks"),
    [
        (RoundState.NONE, 0, "○○○○○"),
        (RoundState.RECEIVED, 0, "●○○○○"),
        (RoundState.TRAINING, 4, "✓✓●○○"),
        (RoundState.FAILED, 0, "✕○○○○"),
        (RoundState.FAILED, 4, "✓✓✕○○"),
        (RoundState.REPORTED, 4, "✓✓✓✓✓"),
    ],
)
def test_every_step_is_done_now_failed_or_later(state, asked, marks):
    rows = step_rows(state, RoundCounts(slices_asked=asked))
    assert "".join(row["State"][0] for row in rows) == marks


def test_nothing_can_be_changed_by_others(study, run_page):
    page = run_page(study, "study", username="lead")
    assert not page.exception
    assert [button.key for button in page.button] == []
    assert messages(page) == []  # nothing is read either
    assert "waits for hospital IT to approve it: version 2.2.0" in texts(page)
    assert "1 message waits for hospital IT" in texts(page)


# -- models ---------------------------------------------------------------------------------------


def test_the_gate_is_told_for_every_model(study, run_page):
    models = table(run_page(study, "study"), "What the gate said").set_index("Model")
    assert models.loc[A, "State"] == "● in use"
    assert models.loc[A, "What the gate said"] == "Passed: 2.8 points better than what was in use."
    assert models.loc[B, "What the gate said"].startswith("Held back: 6.1 points worse")
    assert "no validation patient" in models.loc[C, "What the gate said"]
    assert models.loc[B, ["Dice", "Was in use", "Margin"]].tolist() == [
        "75.1 %",
        "81.2 %",
        "1.0 points",
    ]


def test_hospital_it_brings_a_model_into_use_and_goes_back(study, run_page):
    page = run_page(study, "study")
    chosen = next(o for o in page.selectbox(key="model_choice").options if o.startswith(B))
    page.selectbox(key="model_choice").select(chosen).run()
    page.button(key=f"activate_{B}").click().run()
    assert not page.exception
    assert active_model(study.engine).sha256.startswith(B)
    assert table(page, "What the gate said").set_index("Model").loc[B, "State"] == "● in use"
    assert f"activate_{B}" not in {button.key for button in page.button}
    page.button(key=f"rollback_{B}").click().run()
    assert active_model(study.engine).sha256.startswith(A)
    page.button(key=f"rollback_{A}").click().run()
    assert active_model(study.engine) is None
    assert "rollback" not in " ".join(button.key for button in page.button)
    assert [entry for entry in audited(study) if entry[0].startswith("model_")][-3:] == [
        ("model_activated", EVERYTHING),
        ("model_rolled_back", EVERYTHING),
        ("model_rolled_back", EVERYTHING),
    ]
    history = table(page, "Time")
    assert history["What"].tolist()[0].endswith("back to the package's own model")


def test_who_is_no_longer_hospital_it_changes_nothing(study, run_page):
    page = run_page(study, "study")
    accounts.set_roles(study.engine, EVERYTHING, ["lead"], actor="it", now=utc_now())
    page.button(key=f"rollback_{A}").click().run()
    assert active_model(study.engine).sha256.startswith(A)
    assert "Only hospital IT" in page.error[0].value


def test_going_back_means_the_model_that_was_shown(study, run_page):
    """Two people press at the same moment: only one step is gone back."""
    mine, other = run_page(study, "study"), run_page(study, "study")
    key = next(b.key for b in other.button if b.key.startswith("activate_"))
    other.button(key=key).click().run()
    now = active_model(study.engine).sha256
    mine.button(key=f"rollback_{A}").click().run()
    assert active_model(study.engine).sha256 == now
    assert "another model is in use by now" in mine.error[0].value


def test_lost_weights_are_told_and_cannot_be_chosen(study, run_page):
    next(study.home.models.glob(f"{B}*")).unlink()
    page = run_page(study, "study")
    assert table(page, "What the gate said").set_index("Model").loc[B, "State"].startswith("✕")
    assert not any(o.startswith(B) for o in page.selectbox(key="model_choice").options)


# -- packages -------------------------------------------------------------------------------------


def test_hospital_it_approves_a_verified_package(study, run_page):
    page = run_page(study, "study")
    facts = next(t.value for t in page.table if "About" in t.value.columns)
    assert "2.2.0, follows 2.1.0" in facts["Says"].tolist()
    (key,) = (b.key for b in page.button if b.key.startswith("approve_"))
    page.button(key=key).click().run()
    assert not page.exception
    assert active_package(study.engine).model_version == "2.2.0"
    assert ("package_approved", EVERYTHING) in audited(study)
    assert "begins another round" in texts(page)


def test_a_package_that_was_changed_cannot_be_approved(study, run_page):
    page = run_page(study, "study")
    (key,) = (b.key for b in page.button if b.key.startswith("approve_"))
    folder = study.home.packages / next(
        p.name for p in study.home.packages.iterdir() if p.name.startswith(key[8:])
    )
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    page.button(key=key).click().run()
    assert active_package(study.engine).model_version == "2.1.0"
    assert "changed" in page.error[0].value
    streamlit.cache_resource.clear()  # as after five minutes
    fresh = run_page(study, "study")
    assert "Verification failed" in texts(fresh)
    assert not any(b.key.startswith("approve_") for b in fresh.button)


# -- what leaves ----------------------------------------------------------------------------------


def test_hospital_it_reads_a_held_message_and_lets_it_leave(study, run_page):
    page = run_page(study, "study")
    (shown,) = messages(page)
    assert "&quot;kind&quot;: &quot;site_report&quot;" in shown
    (key,) = (b.key for b in page.button if b.key.startswith("release_"))
    page.button(key=key).click().run()
    assert not page.exception
    entries = list_entries(study.engine)
    assert [entry.state for entry in entries] == ["released", "held", "approved"]
    assert ("release_approved", EVERYTHING) in audited(study)
    assert verify_ledger(study.home, study.engine) == 3
    ledger = next(d.value for d in page.dataframe if "Size" in d.value.columns)
    assert ledger["State"].tolist()[:2] == ["✓ approved to leave", "✓ was held, then approved"]
    assert not any(b.key.startswith("release_") for b in page.button)
    page.button(key="verify_ledger").click().run()
    assert page.toast[0].value == "✓ 3 entries, unbroken."


def test_a_changed_copy_of_a_message_is_told(study, run_page):
    (copy,) = (study.home.ledger / "held").iterdir()
    copy.write_bytes(copy.read_bytes().replace(b"0.8", b"0.9"))
    page = run_page(study, "study")
    assert "missing or changed" in page.error[0].value
    assert not any(b.key.startswith("release_") for b in page.button)


# -- drift and reviews ----------------------------------------------------------------------------


def test_new_cases_beyond_the_limits_are_told_in_words_marks_and_a_table(study, run_page):
    page = run_page(study, "study")
    assert "1 new case is unlike the cases of the study" in texts(page)
    assert "1 of 3 new cases beyond the limits" in texts(page)
    assert "of the study's own 13, " in texts(page)
    rows = next(d.value for d in page.dataframe if "Distance" in d.value.columns)
    assert rows["Verdict"].tolist()[-1] == "▲ above the limits"
    assert rows["Group"].tolist() == ["study"] * 13 + ["new"] * 3
    charts = [e.proto.body for e in page.get("html") if "<img class=" in e.proto.body]
    assert len(charts) == 2
    assert all('alt="Control chart of' in chart for chart in charts)


def test_a_tumour_that_is_not_seen_is_no_small_distance(tmp_path, run_page):
    store = make_study_site(tmp_path / "home", later=(math.nan,))
    page = run_page(store, "study")
    assert "1 new case is unlike" in texts(page)
    rows = next(d.value for d in page.dataframe if "Distance" in d.value.columns)
    assert rows.iloc[-1][["Distance", "Verdict"]].tolist() == ["no target seen", "✕ no figure"]


def test_few_cases_and_reviews_are_not_judged(site, run_page):
    said = texts(run_page(site, "study"))
    assert "No case was measured yet" in said
    assert "Too few to judge: 1 review so far, and limits need at least 8." in said


def test_reviews_are_summarised_for_all_and_for_each(study, run_page):
    page = run_page(study, "study")
    degrees = table(page, "Mean ± SD").set_index("Reviewer")
    assert degrees.index.tolist() == ["All reviewers", "Dr Example", "Dr Sample"]
    everybody, *each = degrees["Patients"].tolist()
    assert everybody == sum(each) == 15
    bins = degrees[["0-5 %", "\\>5-10 %", "\\>10-15 %", "\\>15 %"]].sum(axis=1)
    assert (bins == degrees["Patients"]).all()
    assert "(" in table(page, "Active time")["Active time"].tolist()[0]
    page.radio(key="which_reviews").set_value("All rounds").run()
    assert not page.exception


def reviewed_by_both(site) -> None:
    round_id = site.latest_round().round_id
    for case_id, author in ((REVIEWED_CASE, "reviewer"), (UNREVIEWED_CASE, EVERYTHING)):
        model = site.contour(case_id, purpose="adapted", round_id=round_id)
        record_review(site, round_id, case_id, model.mask, author=author, simulated=False)


def test_reviewers_are_called_by_their_names(site, run_page):
    reviewed_by_both(site)
    page = run_page(site, "study")
    names = ["All reviewers", "Dr Eve Everything", "Dr Rita Reviewer"]
    assert table(page, "Mean ± SD")["Reviewer"].tolist() == names
    assert table(page, "Active time")["Reviewer"].tolist() == names
    (drift,) = (t.value for t in page.dataframe if "Reviewer" in t.value.columns)
    assert drift["Reviewer"].tolist() == ["Dr Rita Reviewer", "Dr Eve Everything"]


def test_a_reader_of_a_blinded_reading_sees_no_figures_of_its_cases(site, run_page):
    reviewed_by_both(site)
    begun = {"seed": 1, "arms": ("adapted", "reference"), "actor": "lead", "now": utc_now()}
    start(site, reading="r1", reader=EVERYTHING, own_contours=True, **begun)
    with transaction(site.engine) as session:  # of one case only
        session.execute(delete(BlindedReadingRow).where(BlindedReadingRow.case_id == REVIEWED_CASE))
    page = run_page(site, "study")
    assert wording.BLINDED_LEFT_OUT in texts(page)
    degrees = table(page, "Mean ± SD")
    assert degrees["Reviewer"].tolist() == ["All reviewers", "Dr Rita Reviewer"]
    assert degrees["Accepted"].tolist() == [1, 1]
    others = run_page(site, "study", username="lead")
    assert wording.BLINDED_LEFT_OUT not in texts(others)
    assert table(others, "Mean ± SD")["Accepted"].tolist() == [2, 1, 1]


# -- the job --------------------------------------------------------------------------------------


def test_a_running_job_shows_its_bar_and_no_button(study, run_page):
    with only_worker(study.home):
        writer = ProgressWriter(study.home, "stage1")
        writer.update(100, 400, 0.5)
        page = run_page(study, "study")
        assert not page.exception
        bar = next(b.proto for b in page.get("progress"))
        assert bar.value == 25
        assert bar.text.startswith("Learning from the annotated slices · 100 of 400")
        assert "loss 0.500" in bar.text
        assert "continue" not in {button.key for button in page.button}


def test_a_killed_job_is_told_with_the_way_on(study, run_page):
    ProgressWriter(study.home, "stage3").update(30, 400, -1.0)
    page = run_page(study, "study")
    assert "stopped at 30 of 400" in texts(page)
    assert "fedgtv-site work" in texts(page)
    assert page.button(key="continue").label == "Continue the round"


@pytest.mark.parametrize("state", RoundState)
def test_the_computer_goes_on_unless_people_are_awaited(state):
    said = {
        waiting: study_job.what_next(state, waiting=waiting, other_package=False, new_cases=0)
        for waiting in (0, 3)
    }
    doctors = state in (RoundState.AWAITING_ANNOTATION, RoundState.AWAITING_REVIEW)
    ended = state in (RoundState.NONE, RoundState.REPORTED)
    assert (said[3] is None) == (doctors or ended)
    assert (said[0] is None) == ended


def test_an_approved_package_or_new_cases_are_work_too():
    for state in (RoundState.NONE, RoundState.REPORTED, RoundState.AWAITING_REVIEW):
        assert study_job.what_next(state, waiting=1, other_package=True, new_cases=0) is not None
    said = study_job.what_next(RoundState.REPORTED, waiting=0, other_package=False, new_cases=2)
    assert said is not None
    assert said.startswith("The computer has 2 cases left")  # they do not wait for a doctor


def test_the_bar_says_how_long_it_takes():
    now = utc_now()
    began = now - timedelta(seconds=100)
    progress = LiveProgress("stage1", 50, 100, 0.25, 0, began, began, now)
    assert study_job.bar_line(progress).startswith(
        "Learning from the annotated slices · 50 of 100 · about 2 min left · loss 0.250"
    )
