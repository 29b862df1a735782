"""A study of which one hospital has no network: bundles on a folder that stands for the disk."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from algorithms.contracts.bundle import BundleRefused
from algorithms.contracts.site_report import SiteReport
from coordinator.cli import app as coordinator_app
from coordinator.config import open_home as open_coordinator
from coordinator.embedded_transport import EmbeddedTransport
from coordinator.plan_records import PlanRecords
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal, SiteProgress
from site_agent import audit_log, egress
from site_agent.cli import app as site_app
from site_agent.config import SiteHome, open_home
from site_agent.database import AuditRow, LedgerRow, PackageRow, open_database
from tests.enrolled import enrol_site
from tests.journeys.bundle_kills import STEPS, do
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

    def __init__(
        self, folder: Path, *, air_gapped: tuple[str, ...] = (FAR,), far: str = FAR
    ) -> None:
        self._far = far
        self.disk = folder / "disk"
        self.disk.mkdir(parents=True)
        self.coordinator, self.homes = make_study(folder, NEAR, FAR, air_gapped=air_gapped)
        self.far: SiteHome = open_home(self.homes[far])
        enrol_site(self.coordinator, self.far)

    def write(self, name: str) -> Path:
        run(
            coordinator_app,
            *("bundle", "write", "--home", self.coordinator.folder),
            *("--site", self._far, "--output", self.disk / name),
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

    def near_enrolled(self) -> Path:
        """Enrol the connected hospital, too, and return its home."""
        enrol_site(self.coordinator, open_home(self.homes[NEAR]))
        return self.homes[NEAR]

    def progress(self) -> dict[str, SiteProgress]:
        with StudyStore(self.coordinator.database_url, self.coordinator.config) as store:
            return store.progress(store.current_package() or "")


def run(app: typer.Typer, *words: str | Path) -> str:
    """Run a command in this process and return what it says; expected errors are raised."""
    result = CliRunner().invoke(app, [str(word) for word in words])
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
    crossed = b"".join(file.read_bytes() for file in study.coordinator.folder.rglob("*.*"))
    assert not any(word.encode() in crossed for word in PLANTED)


def test_the_source_hospital_may_be_the_one_without_a_network(tmp_path: Path) -> None:
    study = Study(tmp_path, air_gapped=("hospital-a", FAR), far="hospital-a")
    prepared = prepare_source_package(study.far.folder)
    study.round_trip(1)
    with StudyStore(study.coordinator.database_url, study.coordinator.config) as store:
        assert store.current_package() == prepared.package_id
    assert (study.coordinator.packages / prepared.package_id).is_dir()


def test_bundles_that_must_be_refused_are_and_the_study_goes_on(study: Study) -> None:
    study.publish()
    first = study.write("1.bundle")
    flipped = bytearray(first.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (study.disk / "flipped").write_bytes(flipped)
    for file, home, rule in (
        (study.disk / "flipped", study.far.folder, "tampered"),
        (first, study.near_enrolled(), "wrong_site"),
    ):
        with pytest.raises(BundleRefused, match=f"^{rule}"):
            run(site_app, "bundle", "answer", file, "--home", home, "--output", study.disk / "x")
    second = study.write("2.bundle")
    answered = study.answer(second, "2.answer")
    for file, rule in ((second, "replayed"), (first, "stale")):
        with pytest.raises(BundleRefused, match=f"^{rule}"):
            study.answer(file, "y")
    with pytest.raises(BundleRefused, match=r"^wrong_site"):
        study.read(second)
    assert "package delivered" in study.read(answered)
    with pytest.raises(BundleRefused, match=r"^replayed"):
        study.read(answered)
    with StudyStore(study.coordinator.database_url, study.coordinator.config) as store:
        refused = [row.detail for row in store.events() if row.event == "bundle_refused"]
    assert refused == [{"rule": "wrong_site"}, {"rule": "replayed"}]


def _end_state(folder: Path) -> dict[str, object]:
    """Gather what a study is about, without times, numbers and how often something was asked."""
    coordinator = open_coordinator(folder / "coordinator")
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        progress = store.progress(store.current_package() or "")
    home = open_home(folder / FAR)
    engine = open_database(home.database_url)
    egress.verify_ledger(home, engine)
    with Session(engine) as session:
        audit_log.verify(session)
        events = [row.event for row in session.scalars(select(AuditRow))]
        rows = [(row.package_id, row.state) for row in session.scalars(select(PackageRow))]
        said = {row.kind for row in session.scalars(select(LedgerRow))}
    engine.dispose()
    packages = {
        str(file.relative_to(home.packages)): file.read_bytes()
        for file in home.packages.glob("[!.]*/*")  # a kill may leave a folder that does not count
    }
    return {"progress": progress, "events": events, "rows": rows, "said": said, **packages}


def test_a_kill_at_any_moment_of_any_step_loses_nothing(tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.publish()
    done = subprocess.run(
        [sys.executable, "-m", "tests.journeys.bundle_kills", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills = dict(zip(STEPS, map(int, done.stdout.split()), strict=True))
    assert min(kills.values()) >= 4, kills
    undisturbed = _end_state(tmp_path / f"read-{kills['read'] + 1:02d}")
    assert undisturbed["progress"] == {NEAR: SiteProgress.DELIVERED, FAR: SiteProgress.DELIVERED}
    for step, count in kills.items():
        for number in range(1, count + 1):
            folder = tmp_path / f"{step}-{number:02d}"
            assert _end_state(folder) == undisturbed, folder.name
            for again in ("answer", "read"):
                with pytest.raises(BundleRefused, match=r"^replayed"):
                    do(folder, again)
