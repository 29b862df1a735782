"""Plans that came in: every way to be refused, both signatures, and rows that somebody changed."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from algorithms.contracts.federation_plan import FederationPlan, SignedPlan, method_parameters
from algorithms.contracts.model_package import MANIFEST_FILE
from site_agent.config import SiteConfig, SiteHome
from site_agent.database import AuditRow, PlanRow, open_database, transaction
from site_agent.plan_approval import is_signed_here, sign_approval
from site_agent.plan_store import (
    PlanRefused,
    approve_plan,
    approved_plan,
    last_approved,
    plan_in_force,
    plans_held,
    read_approval,
    reject_plan,
    store_plan,
    verify_plans,
)
from site_agent.site_keys import SiteKeys
from tests.phantoms import tiny_manifest
from tests.simulated_site import AT, LEAD_PUBLIC, STUDY, make_site, sign_plan, tiny_federation_plan

MANIFEST = tiny_manifest(study=STUDY)
CONTENT = MANIFEST.signed_bytes()
PACKAGE = MANIFEST.package_id
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def plan(number: int = 1, **changes: Any) -> FederationPlan:
    fields = {"plan_number": number, "parameters": method_parameters(CONTENT)}
    return tiny_federation_plan(PACKAGE, **(fields | changes))


def sent(one: FederationPlan, key: Ed25519PrivateKey | None = None) -> bytes:
    signed = sign_plan(one) if key is None else sign_plan(one, key)
    return signed.model_dump_json().encode()


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """Make a site that holds the package; of it a plan looks at the manifest alone."""
    home = make_site(tmp_path / "site", "hospital-b", auto_approve=False)
    folder = home.packages / PACKAGE
    folder.mkdir(parents=True)
    (folder / MANIFEST_FILE).write_bytes(CONTENT)
    return home


@pytest.fixture
def engine(home: SiteHome) -> Engine:
    return open_database(home.database_url)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(PlanRefused) as refused:
        action()
    assert "\n" not in str(refused.value)
    return refused.value.rule


def approved(home: SiteHome, engine: Engine, one: FederationPlan) -> None:
    store_plan(home, engine, sent(one), now=AT)
    approve_plan(home, engine, one.plan_number, actor="it", now=AT)


def in_force(home: SiteHome, engine: Engine, now: datetime = AT) -> FederationPlan:
    return plan_in_force(home, engine, PACKAGE, now=now)


# -- what comes in --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"study": "another"}, "wrong_study"),
        ({"code_version": "9.9.0"}, "other_code"),
        ({"expires_at": AT.replace(tzinfo=UTC)}, "plan_expired"),
        ({"package_id": "0" * 64}, "unknown_package"),
        ({"parameters": method_parameters(CONTENT) | {"seed": 5}}, "wrong_parameters"),
        ({"model_version": "9.9.9"}, "wrong_parameters"),
        ({"cohort": plan().cohort.model_copy(update={"modality": "CT"})}, "wrong_cohort"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_by_name(
    home: SiteHome, engine: Engine, changes: dict[str, Any], rule: str
) -> None:
    one = plan().model_copy(update=changes)
    assert refusal(lambda: store_plan(home, engine, sent(one), now=AT)) == rule
    assert plans_held(engine) == []


def test_only_the_study_lead_signs_plans(home: SiteHome, engine: Engine) -> None:
    assert refusal(lambda: store_plan(home, engine, sent(plan(), STRANGER), now=AT)) == (
        "unknown_key"
    )
    hospital = sent(plan(), SiteKeys.open(home).signing)  # one signature, twice
    assert refusal(lambda: store_plan(home, engine, hospital, now=AT)) == "unknown_key"
    assert refusal(lambda: store_plan(home, engine, b"{}", now=AT)) == "unreadable_plan"


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict | list) and value:
        keys = value if isinstance(value, dict) else range(len(value))
        return [leaf for key in keys for leaf in _leaves(value[key], (*path, key))]
    return [path]


def test_no_field_can_be_changed_after_the_signature(home: SiteHome, engine: Engine) -> None:
    signed = sign_plan(plan())
    for path in _leaves(json.loads(signed.plan)):
        fields = json.loads(signed.plan)
        place = fields
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = f"{place[path[-1]]}0" if isinstance(place[path[-1]], str) else 7
        forged = SignedPlan(plan=json.dumps(fields), signature=signed.signature)
        body = forged.model_dump_json().encode()
        rule = refusal(lambda body=body: store_plan(home, engine, body, now=AT))
        assert rule == "bad_signature", path
    assert plans_held(engine) == []


BODY = sent(plan())


@given(place=st.integers(0, len(BODY) - 1), bit=st.integers(0, 7))
def test_no_bit_can_be_changed_on_the_way(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    config = SiteConfig(name="hospital-b", study=STUDY, trusted_keys=(LEAD_PUBLIC,))
    nothing = SiteHome(tmp_path_factory.getbasetemp() / "nothing", config)
    unused = create_engine("sqlite://")  # without tables: nobody gets so far
    body = bytearray(BODY)
    body[place] ^= 1 << bit
    rules = ("bad_signature", "unknown_key", "unreadable_plan")
    assert refusal(lambda: store_plan(nothing, unused, bytes(body), now=AT)) in rules


def test_an_older_plan_never_comes_back(home: SiteHome, engine: Engine) -> None:
    first, second = sent(plan(1)), sent(plan(2))
    store_plan(home, engine, first, now=AT)
    assert store_plan(home, engine, first, now=AT) == plans_held(engine)[0].plan_sha256
    store_plan(home, engine, second, now=AT)
    store_plan(home, engine, second, now=AT)  # a receipt got lost: nothing new
    twin = sent(plan(2, nonce="1" * 32))
    for body in (first, twin, sent(plan(1, nonce="2" * 32))):
        assert refusal(lambda body=body: store_plan(home, engine, body, now=AT)) == "plan_replayed"
    assert [row.plan_number for row in plans_held(engine)] == [1, 2]
    approve_plan(home, engine, 2, actor="it", now=AT)
    assert refusal(lambda: approve_plan(home, engine, 1, actor="it", now=AT)) == "plan_replayed"


# -- two signatures -------------------------------------------------------------------------------


def test_a_plan_counts_once_the_hospital_has_signed_too(home: SiteHome, engine: Engine) -> None:
    assert refusal(lambda: in_force(home, engine)) == "no_plan"
    store_plan(home, engine, sent(plan()), now=AT)
    assert refusal(lambda: in_force(home, engine)) == "no_plan"
    approval = approve_plan(home, engine, 1, actor="Dr Example", now=AT)
    assert in_force(home, engine) == plan()
    (row,) = plans_held(engine)
    assert read_approval(row) == approval
    assert is_signed_here(home, approval)
    with Session(engine) as session:
        entries = list(session.scalars(select(AuditRow).where(AuditRow.subject == row.plan_sha256)))
    assert [(e.event, e.actor) for e in entries] == [
        ("plan_stored", "federation"),
        ("plan_approved", "Dr Example"),
    ]
    other = "0" * 64
    assert refusal(lambda: plan_in_force(home, engine, other, now=AT)) == "no_plan"


def test_a_plan_is_in_force_only_within_its_time_and_code(
    home: SiteHome, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, end = AT.replace(tzinfo=UTC), AT.replace(tzinfo=UTC) + timedelta(days=2)
    approved(home, engine, plan(valid_from=begin, expires_at=end))
    assert in_force(home, engine).plan_number == 1
    early, late = AT - timedelta(seconds=1), AT + timedelta(days=2)
    assert refusal(lambda: in_force(home, engine, early)) == "plan_too_early"
    assert refusal(lambda: in_force(home, engine, late)) == "plan_expired"
    monkeypatch.setattr("site_agent.plan_store.version", lambda _name: "7.0.0")
    assert refusal(lambda: in_force(home, engine)) == "other_code"


def test_a_plan_that_expired_unread_cannot_be_approved(home: SiteHome, engine: Engine) -> None:
    end = AT.replace(tzinfo=UTC) + timedelta(days=2)
    store_plan(home, engine, sent(plan(expires_at=end)), now=AT)
    late = AT + timedelta(days=3)
    assert refusal(lambda: approve_plan(home, engine, 1, actor="it", now=late)) == "plan_expired"


def test_a_new_plan_retires_the_one_before_and_a_rejected_one_ends(
    home: SiteHome, engine: Engine
) -> None:
    approved(home, engine, plan(1))
    store_plan(home, engine, sent(plan(2)), now=AT)
    assert in_force(home, engine).plan_number == 1  # until a person signs the new one
    approve_plan(home, engine, 2, actor="it", now=AT)
    assert [row.state for row in plans_held(engine)] == ["retired", "approved"]
    assert verify_plans(home, engine) == 2
    reject_plan(engine, 2, actor="it", now=AT)
    assert refusal(lambda: in_force(home, engine)) == "no_plan"
    assert approved_plan(engine) is None
    before = last_approved(engine, 3)
    assert before is not None
    assert before.plan_number == 1
    approve_plan(home, engine, 2, actor="it", now=AT)  # a person may think again
    assert in_force(home, engine).plan_number == 2
    assert verify_plans(home, engine) == 2
    for number, action in ((1, "approve"), (2, "approve"), (1, "reject"), (3, "approve")):
        with pytest.raises(DataError, match="plan list"):
            if action == "approve":
                approve_plan(home, engine, number, actor="it", now=AT)
            else:
                reject_plan(engine, number, actor="it", now=AT)


def test_a_hospital_that_would_tell_of_smaller_groups_does_not_sign(
    home: SiteHome, engine: Engine
) -> None:
    large = plan().cohort.model_copy(update={"minimum_group_size": 9})
    trusting = replace(home, config=home.config.model_copy(update={"auto_approve": True}))
    store_plan(trusting, engine, sent(plan(cohort=large)), now=AT)
    assert [row.state for row in plans_held(engine)] == ["stored"]
    assert refusal(lambda: approve_plan(home, engine, 1, actor="it", now=AT)) == (
        "minimum_group_size"
    )
    store_plan(trusting, engine, sent(plan(2)), now=AT)
    assert [row.state for row in plans_held(engine)] == ["stored", "approved"]
    assert in_force(home, engine).plan_number == 2


def test_another_hospitals_signature_or_key_does_not_count(home: SiteHome, engine: Engine) -> None:
    approved(home, engine, plan())
    (row,) = plans_held(engine)
    mine = read_approval(row)
    other = make_site(home.folder.parent / "other", "hospital-b")
    for forged in (
        sign_approval(other, row.plan_sha256, now=AT),
        sign_approval(home, "0" * 64, now=AT),
        mine.model_copy(update={"approved_at_unix_s": 0}),
    ):
        _change(engine, approval=forged.model_dump_json())
        assert refusal(lambda: in_force(home, engine)) == "single_signed"
    _change(engine, approval=None)
    assert refusal(lambda: in_force(home, engine)) == "single_signed"
    _change(engine, approval=mine.model_dump_json())
    assert in_force(home, engine) == plan()
    (home.folder / "keys" / "signing.key").unlink()
    assert refusal(lambda: in_force(home, engine)) == "single_signed"


# -- what somebody changed ------------------------------------------------------------------------


def _change(engine: Engine, **values: Any) -> None:
    with transaction(engine) as session:
        row = session.scalars(select(PlanRow)).one()
        for name, value in values.items():
            setattr(row, name, value)


def test_one_flipped_byte_anywhere_in_a_stored_plan_is_named(
    home: SiteHome, engine: Engine
) -> None:
    approved(home, engine, plan())
    assert verify_plans(home, engine) == 1
    (whole,) = plans_held(engine)
    for column in ("plan", "signature", "approval", "package_id", "state"):
        text = getattr(whole, column)
        for place in range(0, len(text), 1 + len(text) // 40):
            flipped = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
            _change(engine, **{column: flipped})
            with pytest.raises(PlanRefused, match="plan 1: "):
                verify_plans(home, engine)
        _change(engine, **{column: text})
    _change(engine, plan_number=3)
    assert refusal(lambda: verify_plans(home, engine)) == "plan_changed"
    _change(engine, plan_number=1)
    assert verify_plans(home, engine) == 1


def test_a_plan_that_was_taken_away_or_put_in_is_named(home: SiteHome, engine: Engine) -> None:
    approved(home, engine, plan())
    with transaction(engine) as session:
        row = session.scalars(select(PlanRow)).one()
        fields = {c.name: getattr(row, c.name) for c in PlanRow.__table__.columns}
        session.delete(row)
    with pytest.raises(PlanRefused, match="it is gone"):
        verify_plans(home, engine)
    signed = sign_plan(plan(2))
    with transaction(engine) as session:
        session.add(PlanRow(**fields))
        put_in = {"plan": signed.plan, "signature": signed.signature.model_dump_json()}
        named = {"plan_sha256": signed.plan_sha256, "plan_number": 2, "state": "stored"}
        session.add(PlanRow(**(fields | put_in | named)))
    with pytest.raises(PlanRefused, match="plan 2: "):
        verify_plans(home, engine)
