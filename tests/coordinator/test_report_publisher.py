"""The study's report out of the coordinator's own store and home."""

from pathlib import Path

import pytest

from algorithms.contracts.errors import DataError, ProtocolError
from coordinator.config import CoordinatorHome
from coordinator.package_publisher import public_key_hex, publish
from coordinator.report_publisher import publish_report, study_record
from coordinator.study_store import StudyStore
from coordinator.study_workflow import SiteEvent
from evaluation.curve_figures import learning_points
from evaluation.report_seal import SEAL_FILE, SIGNED_FILES, verify_report
from tests.simulated_site import make_coordinator, tiny_package, tiny_report

MANIFEST, FILES = tiny_package()
PACKAGE = MANIFEST.package_id


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    made = make_coordinator(tmp_path / "coordinator", targets=("hospital-b", "hospital-c"))
    publish(made, MANIFEST, FILES)
    return made


def _store(home: CoordinatorHome) -> StudyStore:
    store = StudyStore(home.database_url, home.config)
    store.add_package(MANIFEST, from_site="hospital-a")
    return store


def _report(store: StudyStore, site: str) -> None:
    store.apply(site, PACKAGE, SiteEvent.RECEIPT_ACCEPTED)
    store.add_report(tiny_report(site, PACKAGE))


def test_the_report_is_signed_by_the_studys_key_and_the_same_once_more(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    with _store(home) as store:
        _report(store, "hospital-b")
        publish_report(home, store, tmp_path / "one")
        publish_report(home, store, tmp_path / "two")
    for name in (*SIGNED_FILES, SEAL_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    statement = verify_report(tmp_path / "one", public_key_hex(home))
    assert statement.study == home.config.study
    page = (tmp_path / "one" / "study.html").read_text("utf-8")
    assert "hospital-c: no report on this package has arrived" in page


def test_lineage_and_traffic_are_those_of_the_store(home: CoordinatorHome) -> None:
    with _store(home) as store:
        _report(store, "hospital-b")
        store.record_traffic({"hospital-b": 70}, {"hospital-b": 1234, "hospital-a": 9})
        store.record_traffic({}, {"hospital-b": 6})
        record = study_record(home, store)
    (lineage,) = record.lineage
    assert (lineage.package_id, lineage.from_site) == (PACKAGE, "hospital-a")
    assert lineage.manifest == MANIFEST
    assert lineage.signed_by is not None
    assert [(t.site, t.role, t.packages_offered, t.reports) for t in record.traffic] == [
        ("hospital-a", "source", 1, 0),
        ("hospital-b", "target", 0, 1),
        ("hospital-c", "target", 0, 0),
    ]
    assert [(t.bytes_to_site, t.bytes_from_site) for t in record.traffic] == [
        (0, 9),
        (70, 1240),
        (0, 0),
    ]


def test_every_package_of_the_study_is_reported(home: CoordinatorHome, tmp_path: Path) -> None:
    average, files = tiny_package(1, model_version="1.1.0", parent_version="1.0.0")
    with _store(home) as store:
        _report(store, "hospital-b")
        publish(home, average, files)
        store.add_package(average, from_site="")
        store.apply("hospital-b", average.package_id, SiteEvent.RECEIPT_ACCEPTED)
        report = tiny_report("hospital-b", average.package_id, model_version="1.1.0")
        made = publish_report(home, store, tmp_path / "before")
        assert [one.model_version for one in made.packages] == ["1.0.0"]
        store.add_report(report)
        made = publish_report(home, store, tmp_path / "after")
        record = study_record(home, store)
    assert [one.model_version for one in made.packages] == ["1.0.0", "1.1.0"]
    assert [(one.manifest.parent_version, one.from_site) for one in record.lineage] == [
        (None, "hospital-a"),
        ("1.0.0", None),
    ]
    assert [(t.packages_offered, t.reports) for t in record.traffic] == [(1, 0), (0, 2), (0, 0)]


def test_rounds_of_one_study_make_a_learning_curve(home: CoordinatorHome, tmp_path: Path) -> None:
    """Both hospitals report the first package, one the next: a curve, and who is not in it."""
    average, files = tiny_package(1, model_version="1.1.0", parent_version="1.0.0")
    with _store(home) as store:
        for site in ("hospital-b", "hospital-c"):
            _report(store, site)
        publish_report(home, store, tmp_path / "first")
        publish(home, average, files)
        store.add_package(average, from_site="")
        for number, site in enumerate(("hospital-b", "hospital-c"), start=1):
            store.apply(site, average.package_id, SiteEvent.RECEIPT_ACCEPTED)
            store.add_report(tiny_report(site, average.package_id, model_version="1.1.0"))
            made = publish_report(home, store, tmp_path / f"second-{number}")
    pages = {
        name: (tmp_path / name / "study.html").read_text("utf-8")
        for name in ("first", "second-1", "second-2")
    }
    assert learning_points(made) == {
        site: [(1.0, 80.0), (2.0, 80.0)] for site in ("hospital-b", "hospital-c", "All sites")
    }
    drawn = {name: 'id="learning-curve"' in page for name, page in pages.items()}
    assert drawn == {"first": False, "second-1": True, "second-2": True}
    warned = {name: "all sites are not the same ones" in page for name, page in pages.items()}
    assert warned == {"first": False, "second-1": True, "second-2": False}


def test_before_a_report_or_without_the_key_there_is_none(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    with _store(home) as store:
        with pytest.raises(ProtocolError, match="no site report"):
            publish_report(home, store, tmp_path / "out")
        _report(store, "hospital-b")
        home.signing_key.unlink()
        with pytest.raises(DataError, match="signing key"):
            publish_report(home, store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
