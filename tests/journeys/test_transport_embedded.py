"""A study from offer to report over the embedded transport, and what may not cross on the way."""

from pathlib import Path

import pytest
from sqlalchemy import update

from algorithms.contracts.errors import DataError
from coordinator.embedded_transport import EmbeddedTransport
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal, SiteProgress
from site_agent import egress
from site_agent.config import open_home
from site_agent.database import PackageRow, RoundRow, open_database, transaction
from site_agent.package_store import active_package, load_package
from tests.simulated_site import (
    PLANTED,
    finish_round,
    make_study,
    prepare_source_package,
    sign_study_plan,
)

SITE_APP = "site_agent.client_app:app"


def _everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def _assert_nothing_planted(folder: Path) -> None:
    content = _everything_in(folder)
    for identifier in PLANTED:
        assert identifier.encode() not in content


def test_a_study_from_offer_to_report(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path, "hospital-b", "hospital-c")
    with EmbeddedTransport(coordinator, homes, site_app=SITE_APP) as transport:
        assert transport.tick().package_id is None

        offered = prepare_source_package(homes["hospital-a"])
        summary = transport.tick(Goal.DELIVERED, patience_s=10)
        assert summary.package_id == offered.package_id
        for site in ("hospital-b", "hospital-c"):
            home = open_home(homes[site])
            engine = open_database(home.database_url)
            approved = active_package(engine)
            assert approved is not None
            assert load_package(home, approved.package_id)[0] == offered

        sign_study_plan(coordinator)
        assert transport.tick(Goal.APPROVED, patience_s=10).agreed
        engine = open_database(open_home(homes["hospital-b"]).database_url)
        report = finish_round(engine, "hospital-b", offered.package_id)
        summary = transport.tick()
        progress = {record.site: record.progress for record in summary.sites}
        assert progress["hospital-b"] is SiteProgress.REPORTED
        assert progress["hospital-c"] is SiteProgress.DELIVERED
        again = transport.tick()

    with StudyStore(coordinator.database_url, coordinator.config) as store:
        assert store.reports(offered.package_id) == [report]
    assert again.sites[1].progress is SiteProgress.REPORTED
    _assert_nothing_planted(coordinator.folder)
    assert report.site.encode() in _everything_in(coordinator.received)


def test_every_byte_that_left_is_in_the_ledger(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path, "hospital-b")
    prepare_source_package(homes["hospital-a"])
    with EmbeddedTransport(coordinator, homes, site_app=SITE_APP) as transport:
        transport.tick(Goal.DELIVERED, patience_s=10)
    received = _everything_in(coordinator.received)
    for folder in homes.values():
        home = open_home(folder)
        engine = open_database(home.database_url)
        assert egress.verify_ledger(home, engine) >= 2
        for copy in home.ledger.rglob("*"):
            assert copy.is_dir() or copy.read_bytes() in received


def test_text_of_an_exception_does_not_cross(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path, "hospital-b")
    offered = prepare_source_package(homes["hospital-a"])
    engine = open_database(open_home(homes["hospital-b"]).database_url)
    with EmbeddedTransport(coordinator, homes, site_app=SITE_APP) as transport:
        transport.tick(Goal.DELIVERED, patience_s=10)
        finish_round(engine, "hospital-b", offered.package_id)
        with transaction(engine) as session:  # a report that cannot be read: its text would tell
            session.execute(update(RoundRow).values(report={"study": PLANTED[0]}))
        summary = transport.tick()
    assert summary.sites[1].last_failure == "ValidationError"
    assert summary.sites[1].progress is SiteProgress.DELIVERED
    _assert_nothing_planted(coordinator.folder)


def test_a_report_with_a_planted_identifier_stays_inside(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path, "hospital-b")
    offered = prepare_source_package(homes["hospital-a"])
    engine = open_database(open_home(homes["hospital-b"]).database_url)
    with EmbeddedTransport(coordinator, homes, site_app=SITE_APP) as transport:
        transport.tick(Goal.DELIVERED, patience_s=10)
        sign_study_plan(coordinator)
        transport.tick(Goal.APPROVED, patience_s=10)
        finish_round(engine, "hospital-b", offered.package_id, code_version=PLANTED[0])
        summary = transport.tick()
    assert summary.sites[1].last_failure == "ReleaseRefused"
    refused = egress.list_entries(engine)[-1]
    assert (refused.state, refused.detail) == ("refused", {"rule": "residue_identifier"})
    _assert_nothing_planted(coordinator.folder)


def test_a_site_that_refuses_or_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path, "hospital-b", "hospital-c", "hospital-d")
    prepare_source_package(homes["hospital-a"])
    refusing = homes["hospital-b"] / "site.toml"
    refusing.write_text(refusing.read_text().replace("trusted_keys = [", "trusted_keys = [] #"))
    (homes["hospital-c"] / "site.toml").unlink()
    with EmbeddedTransport(coordinator, homes, site_app=SITE_APP) as transport:
        summary = transport.tick()
    records = {record.site: record for record in summary.sites}
    assert records["hospital-b"].progress is SiteProgress.REFUSED
    assert records["hospital-b"].refused_by_rule == "unknown_key"
    assert records["hospital-c"].last_failure == "DataError"
    assert records["hospital-c"].progress is SiteProgress.PENDING
    assert records["hospital-d"].progress is SiteProgress.DELIVERED


def test_a_site_restored_without_its_package_is_sent_it_again(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path, "hospital-b")
    prepare_source_package(homes["hospital-a"])
    engine = open_database(open_home(homes["hospital-b"]).database_url)
    with EmbeddedTransport(coordinator, homes, site_app=SITE_APP) as transport:
        package_id = transport.tick().package_id
        with transaction(engine) as session:
            session.delete(session.get_one(PackageRow, package_id))
        assert active_package(engine) is None
        transport.tick()
    assert active_package(engine) is not None


def test_bytes_that_crossed_are_counted_by_site(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path, "hospital-b")
    offered = prepare_source_package(homes["hospital-a"])
    size = sum(entry.size_bytes for entry in offered.files.values())
    with EmbeddedTransport(coordinator, homes, site_app=SITE_APP) as transport:
        source, target = transport.tick().sites
    assert source.bytes_from_site > size
    assert target.bytes_to_site > size
    received = sum(file.stat().st_size for file in coordinator.received.iterdir())
    assert received == source.bytes_from_site + target.bytes_from_site


def test_an_app_that_is_not_installed_is_a_data_error(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path, "hospital-b")
    with (
        pytest.raises(DataError, match="no such app"),
        EmbeddedTransport(coordinator, homes, site_app="no_such_module:app"),
    ):
        pass
