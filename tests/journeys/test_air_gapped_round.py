"""A study of which one hospital has no network: bundles on a folder that stands for the disk."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from typer.testing import CliRunner

from algorithms.contracts.bundle import BundleRefused
from algorithms.contracts.site_report import SiteReport
from coordinator.cli import app as coordinator_app
from coordinator.config import CoordinatorHome
from coordinator.embedded_transport import EmbeddedTransport
from coordinator.plan_records import PlanRecords
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal, SiteProgress
from site_agent import audit_log, egress
from site_agent.cli import app as site_app
from site_agent.config import SiteHome, open_home
from site_agent.database import AuditRow, open_database, transaction
from tests.enrolled import enrol_site
from tests.simulated_site import (
    PLANTED,
    finish_round,
    make_study,
    prepare_source_package,
    sign_study_plan,
)

pytestmark = pytest.mark.journey

SITE_APP = "site_agent.client_app:app"
FAR, NEAR = "hospital-c", "hospital-b"


class Study:
    """Source, one connected hospital, one that a disk is carried to; both parties by command."""

    def __init__(self, folder: Path) -> None:
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.coordinator, self.homes = make_study(folder, NEAR, FAR, air_gapped=(FAR,))
        self.far: SiteHome = open_home(self.homes[FAR])
        enrol_site(self.coordinator, self.far)

    def write(self, name: str) -> Path:
        run(
            coordinator_app,
            *("bundle", "write", "--home", self.coordinator.folder),
            *("--site", FAR, "--output", self.disk / name),
        )
        return self.disk / name

    def answer(self, bundle: Path, name: str) -> Path:
        run(
            site_app,
            *("bundle", "answer", bundle, "--home", self.far.folder),
            *("--output", self.disk / name),
        )
        return self.disk / name

    def read(self, answer: Path) -> str:
        return run(coordinator_app, "bundle", "read", answer, "--home", self.coordinator.folder)

    def round_trip(self, number: int) -> str:
        return self.read(self.answer(self.write(f"{number}.bundle"), f"{number}.answer"))

    def publish(self) -> str:
        prepare_source_package(self.homes["hospital-a"])
        connected = {name: home for name, home in self.homes.items() if name != FAR}
        with EmbeddedTransport(self.coordinator, connected, site_app=SITE_APP) as transport:
            transport.tick(Goal.PUBLISHED, patience_s=10)
            package_id = transport.tick().package_id  # and delivered to the connected one
        assert package_id is not None
        return package_id

    def finish_round(self, package_id: str) -> SiteReport:
        engine = open_database(self.far.database_url)
        report = finish_round(engine, FAR, package_id)
        engine.dispose()
        return report

    def progress(self) -> dict[str, SiteProgress]:
        with StudyStore(self.coordinator.database_url, self.coordinator.config) as store:
            return store.progress(store.current_package() or "")


def run(app: object, *words: str | Path) -> str:
    """Run a command in this process and return what it says; expected errors are raised."""
    result = CliRunner().invoke(app, [str(word) for word in words])  # type: ignore[arg-type]
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_a_whole_study_with_one_hospital_on_a_disk(study: Study) -> None:
    package_id = study.publish()
    assert study.progress()[FAR] is SiteProgress.PENDING
    assert "package delivered" in study.round_trip(1)
    sign_study_plan(study.coordinator)
    study.round_trip(2)
    with StudyStore(study.coordinator.database_url, study.coordinator.config) as store:
        plan = PlanRecords(store).current(package_id)
        assert plan is not None
        approval = PlanRecords(store).answers(plan.plan_sha256)[FAR].approval
    assert approval is not None
    report = study.finish_round(package_id)
    assert "package reported" in study.round_trip(3)
    with StudyStore(study.coordinator.database_url, study.coordinator.config) as store:
        assert store.reports(package_id) == [report]
        assert store.progress(package_id) == {
            NEAR: SiteProgress.DELIVERED,
            FAR: SiteProgress.REPORTED,
        }
