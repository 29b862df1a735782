from pathlib import Path

import pytest

from algorithms.contracts.errors import DataError
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal, SiteEvent, SiteProgress
from tests.simulated_site import make_coordinator, tiny_package, tiny_report

MANIFEST, _ = tiny_package()
PACKAGE = MANIFEST.package_id


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    home = make_coordinator(tmp_path / "c", targets=("hospital-b", "hospital-c"))
    return StudyStore(home.database_url, home.config)


def test_a_package_is_added_once(store: StudyStore) -> None:
    store.add_package(MANIFEST, from_site="hospital-a")
    store.apply("hospital-b", PACKAGE, SiteEvent.RECEIPT_ACCEPTED)
    store.add_package(MANIFEST, from_site="hospital-a")
    assert store.current_package() == PACKAGE
    assert store.progress(PACKAGE) == {
        "hospital-b": SiteProgress.DELIVERED,
        "hospital-c": SiteProgress.PENDING,
    }
    assert [e.event for e in store.events()] == ["package_published", "receipt_accepted"]


def test_a_site_that_joins_after_publishing_is_owed_the_package(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "c")
    with StudyStore(home.database_url, home.config) as store:
        store.add_package(MANIFEST, from_site="hospital-a")
        store.apply("hospital-b", PACKAGE, SiteEvent.RECEIPT_ACCEPTED)
    joined = home.config.model_copy(update={"target_sites": ("hospital-b", "hospital-c")})
    for _ in range(2):
        with StudyStore(home.database_url, joined) as store:
            assert store.progress(PACKAGE) == {
                "hospital-b": SiteProgress.DELIVERED,
                "hospital-c": SiteProgress.PENDING,
            }
            added = [e.site for e in store.events() if e.event == "delivery_added"]
            assert added == ["hospital-c"]


def test_a_report_is_kept_once_and_moves_the_site_on(store: StudyStore) -> None:
    store.add_package(MANIFEST, from_site="hospital-a")
    store.apply("hospital-b", PACKAGE, SiteEvent.RECEIPT_ACCEPTED)
    report = tiny_report("hospital-b", PACKAGE)
    assert store.add_report(report)
    assert not store.add_report(report.model_copy(update={"seed": 1}))
    assert store.reports(PACKAGE) == [report]
    assert store.progress(PACKAGE)["hospital-b"] is SiteProgress.REPORTED


def test_a_report_that_cannot_have_come_is_not_kept(store: StudyStore) -> None:
    store.add_package(MANIFEST, from_site="hospital-a")
    with pytest.raises(ValueError, match="cannot happen"):
        store.add_report(tiny_report("hospital-b", PACKAGE))
    assert store.reports(PACKAGE) == []


def test_the_rule_of_a_refusal_is_shown_until_it_is_over(store: StudyStore) -> None:
    store.add_package(MANIFEST, from_site="hospital-a")
    store.apply("hospital-b", PACKAGE, SiteEvent.RECEIPT_REFUSED, rule="unknown_key")
    assert store.sites()[1].refused_by_rule == "unknown_key"
    store.apply("hospital-b", PACKAGE, SiteEvent.RESEND_REQUESTED)
    assert store.sites()[1].refused_by_rule is None


def test_a_failure_that_lasts_is_one_event(store: StudyStore) -> None:
    for _ in range(3):
        store.record_failure("hospital-b", "offline")
    assert [e.event for e in store.events()] == ["site_failed"]
    assert store.sites()[1].last_failure == "offline"


def test_traffic_adds_up_and_runs_are_known_by_id(store: StudyStore) -> None:
    for _ in range(2):
        store.record_traffic({"hospital-b": 10}, {"hospital-b": 3, "hospital-a": 1})
    source, target, _ = store.sites()
    assert (source.bytes_to_site, source.bytes_from_site) == (0, 2)
    assert (target.bytes_to_site, target.bytes_from_site) == (20, 6)
    store.record_run("t1", Goal.DELIVERED, reached=True)
    assert store.run_finished("t1")
    assert not store.run_finished("t2")


def test_an_unknown_delivery_is_a_data_error(store: StudyStore) -> None:
    with pytest.raises(DataError, match="hospital-b"):
        store.apply("hospital-b", PACKAGE, SiteEvent.STATUS_HOLDS)
