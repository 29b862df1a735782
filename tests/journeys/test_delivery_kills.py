"""`kill -9` of either party at any step of a delivery loses nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator.config import open_home as open_coordinator_home
from coordinator.study_store import StudyStore
from coordinator.study_workflow import SiteProgress
from site_agent import audit_log, egress
from site_agent.config import open_home
from site_agent.database import AuditRow, LedgerRow, PackageRow, open_database
from tests.simulated_site import make_study, prepare_source_package

STUDIES, LEAST_KILLS = 6, 20
TARGET = "hospital-b"
pytestmark = pytest.mark.journey


def _packages(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in (folder / "packages").rglob("*")
        if file.is_file()
    }


def _end_state(folder: Path) -> dict[str, object]:
    """Gather what a study is about, without times and how often something was asked."""
    coordinator = open_coordinator_home(folder / "coordinator")
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        package_id = store.current_package()
        assert package_id is not None
        progress = store.progress(package_id)
    home = open_home(folder / TARGET)
    engine = open_database(home.database_url)
    egress.verify_ledger(home, engine)
    with Session(engine) as session:
        audit_log.verify(session)
        events = [(row.event, row.subject) for row in session.scalars(select(AuditRow))]
        rows = [(row.package_id, row.state) for row in session.scalars(select(PackageRow))]
        said = {row.kind for row in session.scalars(select(LedgerRow))}
    engine.dispose()
    return {
        "progress": progress,
        "coordinator": _packages(folder / "coordinator"),
        "site": _packages(folder / TARGET),
        "rows": rows,
        "audit": events,
        "said": said,
    }


def test_a_delivery_that_is_killed_at_any_moment_ends_as_if_it_was_not(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path / "undisturbed", TARGET)
    settings = coordinator.folder / "coordinator.toml"
    settings.write_text(settings.read_text("utf-8") + "largest_part_bytes = 16384\n")
    prepare_source_package(homes["hospital-a"])
    for number in range(STUDIES):
        shutil.copytree(tmp_path / "undisturbed", tmp_path / f"killed-{number}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.journeys.delivery_kills", str(tmp_path), "7"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    undisturbed = _end_state(tmp_path / "undisturbed")
    assert undisturbed["progress"] == {TARGET: SiteProgress.DELIVERED}
    for number in range(STUDIES):
        assert _end_state(tmp_path / f"killed-{number}") == undisturbed
    assert int(done.stdout) >= LEAST_KILLS
