"""The same study over a real SuperLink and real SuperNodes on the loopback interface."""

from pathlib import Path

import pytest

from algorithms.contracts.errors import ProtocolError
from coordinator.flower_transport import FlowerTransport
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal, SiteProgress
from site_agent import egress
from site_agent.config import open_home
from site_agent.database import open_database
from tests.simulated_site import (
    PLANTED,
    finish_round,
    make_study,
    prepare_source_package,
    sign_study_plan,
)

SITE_EXECUTOR = "site_agent.site_executor"


def _processes_in(folder: Path) -> list[int]:
    """Return the processes that work in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve().is_relative_to(folder):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.journey
def test_a_study_over_real_flower_processes(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path, "hospital-b")
    offered = prepare_source_package(homes["hospital-a"])
    engine = open_database(open_home(homes["hospital-b"]).database_url)
    with FlowerTransport(coordinator, homes, site_executor=SITE_EXECUTOR) as transport:
        delivered = transport.tick(Goal.DELIVERED, patience_s=30)
        assert delivered.package_id == offered.package_id
        assert delivered.sites[1].progress is SiteProgress.DELIVERED
        sign_study_plan(coordinator)
        assert transport.tick(Goal.APPROVED, patience_s=30).agreed
        report = finish_round(engine, "hospital-b", offered.package_id)
        reported = transport.tick(Goal.REPORTED, patience_s=30)
        assert _processes_in(tmp_path)

    assert reported.sites[1].progress is SiteProgress.REPORTED
    assert reported.sites[0].bytes_from_site > sum(f.size_bytes for f in offered.files.values())
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        assert store.reports(offered.package_id) == [report]
    egress.verify_ledger(open_home(homes["hospital-b"]), engine)
    content = b"".join(f.read_bytes() for f in coordinator.folder.rglob("*") if f.is_file())
    for identifier in PLANTED:
        assert identifier.encode() not in content
    assert not _processes_in(tmp_path)


@pytest.mark.journey
def test_a_failed_start_names_the_log_and_leaves_no_process(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path, "hospital-b")
    transport = FlowerTransport(coordinator, homes, site_executor=SITE_EXECUTOR, start_limit_s=0.1)
    with pytest.raises(ProtocolError, match=r"superlink\.log"), transport:
        pass
    assert not _processes_in(tmp_path)
