"""A tick against sites that lie, fail or are silent: plain objects, no Flower."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pydantic import BaseModel

from algorithms.contracts.enrolment import fingerprint
from algorithms.contracts.messages import (
    PackageReceipt,
    RoundState,
    SiteReportMessage,
    SiteStatus,
    SourcePackageOffer,
)
from algorithms.contracts.unfolded_size import MOST_WORDS_BYTES
from coordinator.config import CoordinatorHome
from coordinator.enrolment import enrol, revoke
from coordinator.server_app import tick
from coordinator.sites import Answer, Conversation, Question, Silence, Sites
from coordinator.study_store import StudyStore
from coordinator.study_workflow import SiteProgress
from evaluation.aggregate_report import aggregate
from tests.coordinator.test_enrolment import Hospital
from tests.enrolled import NOW
from tests.simulated_site import make_coordinator, tiny_package, tiny_report

MANIFEST, FILES = tiny_package()
PACKAGE = MANIFEST.package_id
Reply = Callable[[], Answer | Silence]


def _status(site: str, **changes: object) -> SiteStatus:
    fields: dict[str, object] = {
        "site": site,
        "code_version": "0.1.0",
        "source_package_ready": site == "hospital-a",
        "packages_held": (),
        "round_state": RoundState.NONE,
        "open_annotation_tasks": 0,
        "report_ready": False,
    }
    return SiteStatus.model_validate(fields | changes)


def _answer(message: BaseModel, files: dict[str, bytes] | None = None) -> Answer:
    return Answer(message.model_dump_json().encode(), files or {})


class ScriptedSites(Sites):
    """Sites that answer what the test says; honest unless told otherwise."""

    def __init__(self) -> None:
        self.asked: list[tuple[Question, str]] = []
        self.connected: tuple[str, ...] = ("hospital-a", "hospital-b", "hospital-c")
        self.script: dict[tuple[Question, str], Answer | Silence] = {}

    def online(self) -> tuple[str, ...]:
        return self.connected

    def converse(self, conversations: Mapping[str, Conversation]) -> None:
        for site, conversation in conversations.items():
            with contextlib.suppress(StopIteration):
                question = next(conversation).question
                while True:
                    self.asked.append((question, site))
                    answer = self.script.get((question, site)) or self._honest(question, site)
                    question = conversation.send(answer).question

    def _honest(self, question: Question, site: str) -> Answer:
        if question is Question.STATUS:
            return _answer(_status(site))
        if question is Question.SOURCE_PACKAGE:
            return _answer(SourcePackageOffer(site=site, manifest=MANIFEST), FILES)
        if question is Question.RECEIVE_PACKAGE:
            return _answer(PackageReceipt(site=site, package_id=PACKAGE, accepted=True))
        return _answer(SiteReportMessage(report=tiny_report(site, PACKAGE)))


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return make_coordinator(tmp_path / "c", targets=("hospital-b", "hospital-c"))


@pytest.fixture
def store(home: CoordinatorHome) -> StudyStore:
    return StudyStore(home.database_url, home.config)


def _holds(site: str, **changes: object) -> Answer:
    return _answer(_status(site, packages_held=(PACKAGE,), current_package=PACKAGE, **changes))


def test_honest_sites_get_there(home: CoordinatorHome, store: StudyStore) -> None:
    sites = ScriptedSites()
    tick(home, store, sites)
    for site in ("hospital-b", "hospital-c"):
        sites.script[Question.STATUS, site] = _holds(site, report_ready=True)
    tick(home, store, sites)
    assert set(store.progress(PACKAGE).values()) == {SiteProgress.REPORTED}
    before = len(sites.asked)
    tick(home, store, sites)
    assert {question for question, _ in sites.asked[before:]} == {Question.STATUS}


@pytest.mark.parametrize(
    "bad",
    [
        Silence("message_expired"),
        Answer(b"not json"),
        Answer(b" " * MOST_WORDS_BYTES + _status("hospital-b").model_dump_json().encode()),
        Answer(b'{"kind":"site_status","note":"patient"}'),
        _answer(_status("hospital-c")),  # speaks for another site
    ],
)
def test_a_bad_status_stops_only_its_own_site(
    home: CoordinatorHome, store: StudyStore, bad: Answer | Silence
) -> None:
    sites = ScriptedSites()
    sites.script[Question.STATUS, "hospital-b"] = bad
    tick(home, store, sites)
    assert store.progress(PACKAGE)["hospital-b"] is SiteProgress.PENDING
    assert store.progress(PACKAGE)["hospital-c"] is SiteProgress.DELIVERED
    assert store.sites()[1].last_failure is not None


@pytest.mark.parametrize(
    "offer",
    [
        _answer(SourcePackageOffer(site="hospital-b", manifest=MANIFEST), FILES),
        _answer(SourcePackageOffer(site="hospital-a", manifest=MANIFEST)),
        _answer(
            SourcePackageOffer(site="hospital-a", manifest=MANIFEST),
            {name: data[::-1] for name, data in FILES.items()},
        ),
        Silence("ReleaseHeld"),
    ],
)
def test_an_offer_that_does_not_fit_is_not_published(
    home: CoordinatorHome, store: StudyStore, offer: Answer | Silence
) -> None:
    sites = ScriptedSites()
    sites.script[Question.SOURCE_PACKAGE, "hospital-a"] = offer
    tick(home, store, sites)
    assert store.current_package() is None
    assert not home.packages.exists()


def test_a_receipt_that_got_lost_is_confirmed_by_the_next_status(
    home: CoordinatorHome, store: StudyStore
) -> None:
    sites = ScriptedSites()
    sites.script[Question.RECEIVE_PACKAGE, "hospital-b"] = Silence("message_expired")
    tick(home, store, sites)
    assert store.progress(PACKAGE)["hospital-b"] is SiteProgress.PENDING
    sites.script[Question.STATUS, "hospital-b"] = _holds("hospital-b")
    tick(home, store, sites)
    assert store.progress(PACKAGE)["hospital-b"] is SiteProgress.DELIVERED
    assert sites.asked.count((Question.RECEIVE_PACKAGE, "hospital-b")) == 1


ARM = tiny_report("hospital-b", PACKAGE).arms[0]
IMPOSSIBLE = ARM.dsc.model_copy(update={"mean": 5.0})


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"study": "another"}, "wrong_study"),
        ({"site": "hospital-c"}, "wrong_site"),
        ({"package_id": "0" * 64}, "wrong_package"),
        ({"model_version": "9.9.9"}, "wrong_model_version"),
        ({"arms": (ARM, ARM)}, "wrong_arms"),
        ({"arms": (ARM.model_copy(update={"arm": "tuned"}),)}, "wrong_arms"),
        ({"arms": (ARM.model_copy(update={"dsc": IMPOSSIBLE}),)}, "not_a_SiteReportMessage"),
    ],
)
def test_a_report_that_cannot_be_used_is_not_kept_and_asked_for_again(
    home: CoordinatorHome, store: StudyStore, change: dict[str, object], rule: str
) -> None:
    sites = ScriptedSites()
    tick(home, store, sites)
    sites.script[Question.STATUS, "hospital-b"] = _holds("hospital-b", report_ready=True)
    forged = tiny_report("hospital-b", PACKAGE).model_copy(update=change)
    sites.script[Question.SITE_REPORT, "hospital-b"] = _answer(SiteReportMessage(report=forged))
    tick(home, store, sites)
    assert store.reports(PACKAGE) == []
    assert store.sites()[1].last_failure == rule
    del sites.script[Question.SITE_REPORT, "hospital-b"]
    tick(home, store, sites)
    assert aggregate(store.reports(PACKAGE)).packages[0].sites[0].report.site == "hospital-b"


def test_only_connected_sites_of_the_study_are_asked(
    home: CoordinatorHome, store: StudyStore
) -> None:
    sites = ScriptedSites()
    sites.connected = ("hospital-c", "stranger")
    tick(home, store, sites)
    assert sites.asked == [(Question.STATUS, "hospital-c")]
    assert store.sites()[0].last_failure == "offline"


def test_a_revoked_site_is_not_spoken_to_though_it_is_connected(
    home: CoordinatorHome, store: StudyStore
) -> None:
    request = Hospital("hospital-b").ask()
    typed = fingerprint(request.sha256)
    enrol(home, store, request, typed_fingerprint=typed, now=NOW)
    revoke(home, store, "hospital-b", NOW)
    sites = ScriptedSites()
    tick(home, store, sites)
    assert {site for _, site in sites.asked} == {"hospital-a", "hospital-c"}
    (row,) = [one for one in store.sites() if one.site == "hospital-b"]
    assert row.last_failure == "revoked"
    assert row.revoked
