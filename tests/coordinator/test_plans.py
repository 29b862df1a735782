from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from algorithms.contracts.errors import DataError
from algorithms.contracts.federation_plan import FederationPlan, method_parameters
from coordinator.config import CoordinatorHome
from coordinator.package_publisher import publish
from coordinator.plan_records import PlanRecords
from coordinator.plans import draft_plan, read_draft, readable, sign_plan
from coordinator.study_store import StudyStore
from tests.simulated_site import make_coordinator, tiny_package

NOW = datetime(2031, 5, 6, 7, 8, 9)
MANIFEST, FILES = tiny_package()


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return make_coordinator(tmp_path / "c")


@pytest.fixture
def store(home: CoordinatorHome) -> StudyStore:
    return StudyStore(home.database_url, home.config)


@pytest.fixture
def published(home: CoordinatorHome, store: StudyStore) -> None:
    publish(home, MANIFEST, FILES)
    store.add_package(MANIFEST, from_site="hospital-a")


def _draft(home: CoordinatorHome, store: StudyStore) -> FederationPlan:
    return draft_plan(home, store, valid_days=30, minimum_patients=7, minimum_group_size=6, now=NOW)


def test_before_there_is_a_package_there_is_no_plan(
    home: CoordinatorHome, store: StudyStore
) -> None:
    with pytest.raises(DataError, match="nothing is published"):
        _draft(home, store)


@pytest.mark.usefixtures("published")
def test_a_draft_says_what_the_package_says(home: CoordinatorHome, store: StudyStore) -> None:
    plan = _draft(home, store)
    assert (plan.plan_number, plan.package_id) == (1, MANIFEST.package_id)
    assert plan.parameters == method_parameters(MANIFEST.signed_bytes())
    assert plan.package_rule(MANIFEST.signed_bytes()) is None
    assert (plan.cohort.minimum_patients, plan.cohort.minimum_group_size) == (7, 6)
    assert plan.expires_at - plan.valid_from == timedelta(days=30)
    assert _draft(home, store).nonce != plan.nonce


@pytest.mark.usefixtures("published")
def test_what_a_person_reads_is_what_is_signed(
    home: CoordinatorHome, store: StudyStore, tmp_path: Path
) -> None:
    plan = _draft(home, store)
    file = tmp_path / "plan.json"
    file.write_text(readable(plan), "utf-8")
    signed = sign_plan(home, store, read_draft(file), now=NOW)
    assert signed.read() == plan
    assert sign_plan(home, store, plan, now=NOW) == signed  # once more changes nothing
    (row,) = PlanRecords(store).all()
    assert (row.plan_sha256, row.signed) == (signed.plan_sha256, signed.model_dump_json())
    assert _draft(home, store).plan_number == 2
    assert [e.event for e in store.events()].count("plan_signed") == 1


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"study": "another"}, "study"),
        ({"package_id": "0" * 64}, "package_id"),
        ({"expires_at": NOW.replace(tzinfo=UTC)}, "expires_at"),
        ({"parameters": {}}, "wrong_parameters"),
        ({"model_version": "2.0.0"}, "wrong_parameters"),
    ],
)
def test_what_every_site_would_refuse_is_not_signed(
    home: CoordinatorHome, store: StudyStore, changes: dict[str, Any], says: str
) -> None:
    plan = _draft(home, store).model_copy(update=changes)
    with pytest.raises(DataError, match=says):
        sign_plan(home, store, plan, now=NOW)
    assert PlanRecords(store).all() == []


@pytest.mark.usefixtures("published")
def test_a_number_is_used_once(home: CoordinatorHome, store: StudyStore) -> None:
    first, twin = _draft(home, store), _draft(home, store)
    sign_plan(home, store, first, now=NOW)
    with pytest.raises(DataError, match="plan_number: 1 is signed already: take 2"):
        sign_plan(home, store, twin, now=NOW)


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "correct the plan"), ("{}", "key 'study'"), (None, "no such file")],
)
def test_a_draft_that_cannot_be_read_is_one_line(
    tmp_path: Path, text: str | None, says: str
) -> None:
    file = tmp_path / "plan.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=says) as wrong:
        read_draft(file)
    assert "\n" not in str(wrong.value)
