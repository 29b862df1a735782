"""Plans to sites that are late, refuse, lie or sign for another: plain objects, no Flower."""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.federation_plan import SignedPlan
from algorithms.contracts.messages import PlanApproval, PlanReceipt, RoundState, SiteStatus
from coordinator.config import CoordinatorHome
from coordinator.package_publisher import publish
from coordinator.plan_delivery import deliver_plan
from coordinator.plan_records import PlanRecords
from coordinator.sites import Answer, Conversation, Question, Silence, Sites
from coordinator.study_store import StudyStore
from coordinator.study_workflow import SiteEvent
from site_agent.site_keys import SiteKeys
from tests.enrolled import enrol_site
from tests.simulated_site import (
    STUDY,
    make_coordinator,
    make_site,
    sign_study_plan,
    tiny_package,
)

MANIFEST, FILES = tiny_package()
TARGETS = ("hospital-b", "hospital-c")


class SigningSite:
    """A hospital that keeps the plan it is sent, and signs it when told."""

    def __init__(self, name: str) -> None:
        self.name, self.key = name, Ed25519PrivateKey.generate()
        self.held: str | None = None
        self.approved: str | None = None
        self.refuses: str | None = None

    def status(self) -> SiteStatus:
        return SiteStatus(
            site=self.name,
            code_version="0.1.0",
            source_package_ready=False,
            packages_held=(MANIFEST.package_id,),
            round_state=RoundState.RECEIVED,
            open_annotation_tasks=0,
            report_ready=False,
            plan_held=self.held,
            plan_approved=self.approved,
        )

    def receive(self, signed: bytes) -> PlanReceipt:
        if self.refuses is None:
            self.held = SignedPlan.model_validate_json(signed).plan_sha256
        return PlanReceipt(
            site=self.name,
            received_sha256=sha256_hex(signed),
            accepted=self.refuses is None,
            refused_by_rule=self.refuses,
        )

    def approval(self, **changes: object) -> PlanApproval:
        fields: dict[str, object] = {
            "site": self.name,
            "study": STUDY,
            "plan_sha256": self.approved,
            "approved_at_unix_s": 1_900_000_000,
            "public_key_hex": self.key.public_key().public_bytes_raw().hex(),
            "signature_hex": "0" * 128,
        }
        unsigned = PlanApproval.model_validate(fields | changes)
        signature = self.key.sign(unsigned.signed_bytes()).hex()
        return unsigned.model_copy(update={"signature_hex": signature})


class SigningSites(Sites):
    """The hospitals that can be reached; `script` holds what one answers in place of the truth."""

    def __init__(self, *names: str) -> None:
        self.sites = {name: SigningSite(name) for name in names}
        self.asked: list[tuple[Question, str]] = []
        self.script: dict[str, Answer | Silence | BaseModel] = {}

    def online(self) -> tuple[str, ...]:
        return tuple(self.sites)

    def converse(self, conversations: Mapping[str, Conversation]) -> None:
        for name, conversation in conversations.items():
            request = next(conversation)
            self.asked.append((request.question, name))
            honest = self.sites[name]
            said: Answer | Silence | BaseModel
            if request.question is Question.RECEIVE_PLAN:
                assert request.signed_plan is not None
                said = honest.receive(request.signed_plan)
            else:
                said = honest.approval()
            said = self.script.pop(name, said)
            with contextlib.suppress(StopIteration):
                conversation.send(
                    Answer(said.model_dump_json().encode()) if isinstance(said, BaseModel) else said
                )


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    home = make_coordinator(tmp_path / "c", targets=TARGETS)
    publish(home, MANIFEST, FILES)
    with StudyStore(home.database_url, home.config) as store:
        store.add_package(MANIFEST, from_site="hospital-a")
        for site in TARGETS:
            store.apply(site, MANIFEST.package_id, SiteEvent.RECEIPT_ACCEPTED)
    return home


@pytest.fixture
def store(home: CoordinatorHome) -> StudyStore:
    return StudyStore(home.database_url, home.config)


def _tick(home: CoordinatorHome, store: StudyStore, sites: SigningSites) -> None:
    statuses = {name: site.status() for name, site in sites.sites.items()}
    deliver_plan(home, store, sites, statuses)


def test_a_plan_goes_out_and_signatures_come_back(home: CoordinatorHome, store: StudyStore) -> None:
    sites, records = SigningSites(*TARGETS), PlanRecords(store)
    _tick(home, store, sites)
    assert sites.asked == []  # nothing is signed yet
    plan = sign_study_plan(home).plan_sha256
    _tick(home, store, sites)
    assert {site.held for site in sites.sites.values()} == {plan}
    _tick(home, store, sites)
    assert not records.is_agreed(MANIFEST.package_id)
    for site in sites.sites.values():
        site.approved = plan
    _tick(home, store, sites)
    assert records.is_agreed(MANIFEST.package_id)
    answers = records.answers(plan)
    assert {n: a.approval for n, a in answers.items()} == {
        n: s.approval() for n, s in sites.sites.items()
    }
    _tick(home, store, sites)
    assert len(sites.asked) == 4  # once sent and once fetched, at two sites
    second = sign_study_plan(home).plan_sha256
    assert not records.is_agreed(MANIFEST.package_id)
    _tick(home, store, sites)
    assert {site.held for site in sites.sites.values()} == {second}


def test_a_plan_waits_for_its_package(home: CoordinatorHome, store: StudyStore) -> None:
    sign_study_plan(home)
    store.apply("hospital-b", MANIFEST.package_id, SiteEvent.RESEND_REQUESTED)
    sites = SigningSites(*TARGETS)
    _tick(home, store, sites)
    assert sites.asked == [(Question.RECEIVE_PLAN, "hospital-c")]


def test_a_refused_plan_is_sent_again_when_a_person_says_so(
    home: CoordinatorHome, store: StudyStore
) -> None:
    plan, records = sign_study_plan(home).plan_sha256, PlanRecords(store)
    sites = SigningSites("hospital-b")
    sites.sites["hospital-b"].refuses = "other_code"
    for _ in range(3):
        _tick(home, store, sites)
    assert len(sites.asked) == 1
    assert records.answers(plan)["hospital-b"].refused_by_rule == "other_code"
    records.forget_refusal("hospital-b", plan)
    sites.sites["hospital-b"].refuses = None
    _tick(home, store, sites)
    assert sites.sites["hospital-b"].held == plan


def test_a_site_restored_without_its_plan_is_sent_it_again(
    home: CoordinatorHome, store: StudyStore
) -> None:
    plan, sites = sign_study_plan(home).plan_sha256, SigningSites("hospital-b")
    (site,) = sites.sites.values()
    _tick(home, store, sites)
    site.approved = plan
    _tick(home, store, sites)
    site.held = site.approved = None
    _tick(home, store, sites)
    assert site.held == plan
    records = PlanRecords(store)
    records.forget_refusal("hospital-b", plan)
    assert records.answers(plan)["hospital-b"].approval is not None  # what was signed stays


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (Silence("no_answer"), "no_answer"),
        (Answer(b"{}"), "not_a_PlanReceipt"),
        (
            PlanReceipt(site="hospital-c", received_sha256="0" * 64, accepted=True),
            "wrong_receipt",
        ),
    ],
)
def test_a_receipt_that_does_not_fit_is_noted_and_the_plan_sent_again(
    home: CoordinatorHome, store: StudyStore, answer: Answer | Silence | BaseModel, rule: str
) -> None:
    sign_study_plan(home)
    sites = SigningSites(*TARGETS)
    sites.script["hospital-b"] = answer
    _tick(home, store, sites)
    assert store.sites()[1].last_failure == rule
    sites.sites["hospital-b"].held = None
    _tick(home, store, sites)
    assert sites.asked.count((Question.RECEIVE_PLAN, "hospital-b")) == 2
    assert sites.asked.count((Question.RECEIVE_PLAN, "hospital-c")) == 1


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"site": "hospital-c"}, "wrong_site"),
        ({"study": "another"}, "wrong_plan"),
        ({"plan_sha256": "0" * 64}, "wrong_plan"),
        ({"public_key_hex": "ab" * 32}, "bad_approval_signature"),
    ],
)
def test_a_signature_that_is_not_the_sites_under_this_plan_is_not_kept(
    home: CoordinatorHome, store: StudyStore, changes: dict[str, object], rule: str
) -> None:
    plan, sites = sign_study_plan(home).plan_sha256, SigningSites("hospital-b")
    (site,) = sites.sites.values()
    site.held = site.approved = plan
    sites.script["hospital-b"] = site.approval(**changes)
    _tick(home, store, sites)
    assert store.sites()[1].last_failure == rule
    assert PlanRecords(store).answers(plan) == {}
    _tick(home, store, sites)  # asked again, and honest now
    assert PlanRecords(store).answers(plan)["hospital-b"].approval == site.approval()


def test_an_enrolled_site_signs_with_the_key_that_a_person_compared(
    home: CoordinatorHome, store: StudyStore, tmp_path: Path
) -> None:
    hospital = make_site(tmp_path / "hospital-b", "hospital-b", auto_approve=False)
    enrol_site(home, hospital)
    sites, records = SigningSites("hospital-b"), PlanRecords(store)
    (site,) = sites.sites.values()
    plan = site.held = site.approved = sign_study_plan(home).plan_sha256
    _tick(home, store, sites)
    assert store.sites()[1].last_failure == "unknown_site_key"
    assert records.answers(plan) == {}
    site.key = SiteKeys.open(hospital).signing
    _tick(home, store, sites)
    assert records.answers(plan)["hospital-b"].approval == site.approval()


def test_the_key_of_the_first_approval_stays_the_sites(
    home: CoordinatorHome, store: StudyStore
) -> None:
    sites, records = SigningSites("hospital-b"), PlanRecords(store)
    (site,) = sites.sites.values()
    site.held = site.approved = sign_study_plan(home).plan_sha256
    _tick(home, store, sites)
    first = site.key
    second = site.held = site.approved = sign_study_plan(home).plan_sha256
    site.key = Ed25519PrivateKey.generate()
    _tick(home, store, sites)
    assert store.sites()[1].last_failure == "unknown_site_key"
    assert records.answers(second) == {}
    site.key = first
    _tick(home, store, sites)
    assert records.answers(second)["hospital-b"].approval == site.approval()
    now = datetime.now(UTC).replace(tzinfo=None)
    assert all(event.at <= now for event in store.events())
