"""What the worklist is made of, read from a real store."""

from datetime import timedelta

from site_agent import claims
from site_agent.claims import WorkKey
from site_agent.database import AccountRow, SignatureRow, transaction, utc_now
from site_agent.worklist import read_worklist
from tests.clinical_ui.synthetic_site import CASES, REVIEWED_CASE, UNREVIEWED_CASE, make_site


def sign(store, case_id, at):
    signature = SignatureRow(
        round_id=store.latest_round().round_id,
        case_id=case_id,
        username="dr-beta",
        person_name="Beta^Bea",
        meaning="I approve",
        method="password",
        mask_sha256="0" * 64,
        signed_at=at,
    )
    with transaction(store.engine) as session:
        session.add(signature)


def test_everything_of_a_round_is_read_together(tmp_path):
    store = make_site(tmp_path / "home", simulated=False)
    current = store.latest_round()
    claims.claim(store, WorkKey(current.round_id, UNREVIEWED_CASE, "review"), author="dr-beta")
    with transaction(store.engine) as session:
        session.add(
            AccountRow(
                username="dr-beta",
                display_name="Dr Beta",
                person_name="Beta^Bea",
                roles=["reviewer"],
                disabled=False,
                failures=0,
                created_at=utc_now(),
            )
        )
    listed = read_worklist(store, current, looks="me")
    assert [case.case_id for case in listed.cases] == list(CASES)
    assert [task.rank for task in listed.tasks] == [0, 1, 2, 3]
    assert listed.segmented == {REVIEWED_CASE, UNREVIEWED_CASE}
    assert listed.holders[UNREVIEWED_CASE, "review"].author == "dr-beta"
    assert listed.names == {"dr-beta": "Dr Beta"}
    assert listed.slice_s == ()  # nobody was timed
    assert listed.signatures == {}
    assert listed.superseded == frozenset()


def test_a_signature_counts_until_the_case_is_reviewed_again(tmp_path):
    store = make_site(tmp_path / "home", simulated=False)
    current = store.latest_round()
    sign(store, REVIEWED_CASE, utc_now() - timedelta(hours=1))
    assert read_worklist(store, current, looks="me").signatures == {REVIEWED_CASE: False}
    sign(store, REVIEWED_CASE, utc_now())
    assert read_worklist(store, current, looks="me").signatures == {REVIEWED_CASE: True}


def test_a_contour_that_came_after_the_review_is_known(tmp_path):
    store = make_site(tmp_path / "home", simulated=False)
    current = store.latest_round()
    model = store.contour(UNREVIEWED_CASE, purpose="adapted", round_id=current.round_id)
    store.save_contour(REVIEWED_CASE, model, purpose="returned", author="planning")
    store.save_contour(UNREVIEWED_CASE, model, purpose="reviewed", round_id="later", author="me")
    listed = read_worklist(store, current, looks="me")
    assert listed.superseded == {REVIEWED_CASE, UNREVIEWED_CASE}
