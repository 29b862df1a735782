"""A study under supervisors: every program is killed while it goes on, and so is a supervisor.

One deployment for the whole file, whose tests go on where the one before ended: coordinator with
nginx, the source hospital, and two target hospitals, one of which is revoked on the way.
"""

import http.client
import json
import os
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.config import CoordinatorHome
from coordinator.enrolment import revoke
from coordinator.study_store import SiteRecord, StudyStore
from coordinator.study_workflow import SiteProgress
from site_agent import egress
from site_agent.config import SiteHome
from site_agent.database import open_database
from site_agent.package_store import active_package
from site_agent.plan_store import approved_plan
from site_agent.site_lock import only_worker
from tests.debian_packages import absent
from tests.served import LIMIT_S, Served, lives, make_served_study, processes_in, wait
from tests.simulated_site import PLANTED, finish_round, prepare_source_package, sign_study_plan

pytestmark = [pytest.mark.journey, pytest.mark.xdist_group("serve")]


@dataclass
class Study:
    """What runs."""

    folder: Path
    home: CoordinatorHome
    sites: dict[str, SiteHome]
    coordinator: Served
    hospitals: dict[str, Served]

    def record(self, site: str) -> SiteRecord:
        """Return what the coordinator knows of a site."""
        with StudyStore(self.home.database_url, self.home.config) as store:
            return next(record for record in store.sites() if record.site == site)

    def wait_for_status(self, *sites: str) -> None:
        """Wait until each of these sites has said anew where it stands."""
        since = datetime.now(UTC).replace(tzinfo=None)

        def has_said(site: str) -> bool:
            record = self.record(site)
            seen = record.last_seen_at
            return seen is not None and seen > since and record.last_failure is None

        for site in sites:
            wait(lambda site=site: has_said(site), f"{site} did not say where it stands")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    if shutil.which("nginx") is None and shutil.which("nginx", path="/usr/sbin") is None:
        absent("nginx", "nginx")
    folder = tmp_path_factory.mktemp("served")
    names = ("hospital-b", "hospital-c")
    home, sites = make_served_study(folder, *names, pages_at=("hospital-b",))
    coordinator = Served("fedgtv-coordinator", home.folder)
    hospitals = {name: Served("fedgtv-site", site.folder) for name, site in sites.items()}
    with ExitStack() as stack:
        for site in sites.values():  # of whom this file plays the doctors and the training
            stack.enter_context(only_worker(site))
        for party in (coordinator, *hospitals.values()):
            party.start()
            stack.callback(_end, party)
        yield Study(folder, home, sites, coordinator, hospitals)


def _end(party: Served) -> None:
    for run in party.runs:
        if run.poll() is None:
            run.terminate()
            run.wait(LIMIT_S)


def _read(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""


def test_all_connect_and_say_so_to_the_monitoring(study: Study) -> None:
    study.wait_for_status(*study.sites)
    ports = [study.home.config.operations_port]
    ports += [site.config.operations_port for site in study.sites.values()]
    for port in ports:
        wait(lambda port=port: _read(port, "/readyz")[0] == 200, f"port {port} is not ready")
    pages = study.sites["hospital-b"].config.ui_port
    wait(lambda: _read(pages, "/")[0] == 200, "the pages do not answer")
    metrics = _read(study.sites["hospital-b"].config.operations_port, "/metrics")[1]
    assert "fedgtv_site_last_asked_seconds" in metrics


def test_a_package_is_published_and_delivered_while_superlink_nginx_and_ticker_are_killed(
    study: Study,
) -> None:
    study.coordinator.kill("superlink")
    offered = prepare_source_package(study.sites["hospital-a"].folder)
    study.coordinator.kill("nginx")
    study.coordinator.kill("ticker")
    study.coordinator.kill("operations")
    for name in ("hospital-b", "hospital-c"):
        wait(
            lambda name=name: study.record(name).progress is SiteProgress.DELIVERED,
            f"{name} has no package",
        )
        current = active_package(open_database(study.sites[name].database_url))
        assert current is not None
        assert current.package_id == offered.package_id


def test_a_plan_is_approved_while_supernode_executor_and_pages_are_killed(study: Study) -> None:
    hospital = study.hospitals["hospital-b"]
    sign_study_plan(study.home)
    for name in ("supernode", "executor", "worker", "ui", "operations"):
        hospital.kill(name)
    engine = open_database(study.sites["hospital-b"].database_url)
    wait(lambda: approved_plan(engine) is not None, "the plan did not arrive")
    study.wait_for_status("hospital-b")


def test_a_revoked_hospital_is_out_and_the_others_are_not(study: Study) -> None:
    study.wait_for_status("hospital-c")
    with StudyStore(study.home.database_url, study.home.config) as store:
        revoke(study.home, store, "hospital-c", datetime.now(UTC))
    log = study.coordinator.home / "logs" / "ticker.log"
    wait(lambda: "site hospital-c: unregistered" in log.read_text(), "it is registered still")
    wait(lambda: study.record("hospital-c").last_failure == "revoked", "it is not out")
    supervised = study.hospitals["hospital-c"].home / "logs" / "supervisord.log"
    wait(lambda: "exited: supernode" in supervised.read_text(), "its SuperNode was not refused")
    study.wait_for_status("hospital-a", "hospital-b")


@pytest.mark.parametrize("which", ["supervisor", "guard"])
def test_a_killed_supervisor_leaves_nothing_and_the_study_goes_on(study: Study, which) -> None:
    party = study.coordinator
    started = [party.process(name) for name in ("superlink", "nginx", "ticker", "operations")]
    os.kill(party.supervisor() if which == "supervisor" else party.runs[-1].pid, signal.SIGKILL)
    assert party.runs[-1].wait(LIMIT_S) != 0  # so its service manager starts it again
    wait(lambda: not processes_in(party.home), "something outlived its supervisor")
    assert not any(process and lives(process) for process in started)
    party.start()
    study.wait_for_status("hospital-a", "hospital-b")


def test_the_report_is_collected_and_nothing_of_a_patient_crossed(study: Study) -> None:
    engine = open_database(study.sites["hospital-b"].database_url)
    package = active_package(engine)
    assert package is not None
    report = finish_round(engine, "hospital-b", package.package_id)
    wait(
        lambda: study.record("hospital-b").progress is SiteProgress.REPORTED,
        "the report was not collected",
    )
    with StudyStore(study.home.database_url, study.home.config) as store:
        assert store.reports(package.package_id) == [report]
    egress.verify_ledger(study.sites["hospital-b"], engine)
    content = b"".join(f.read_bytes() for f in study.home.folder.rglob("*") if f.is_file())
    logs = b"".join(hospital.logs() for hospital in study.hospitals.values())
    for identifier in PLANTED:
        assert identifier.encode() not in content
        assert identifier.encode() not in logs


def test_our_own_logs_are_lines_of_json(study: Study) -> None:
    ours = [study.coordinator.home / "logs" / "ticker.log"]
    ours.append(study.hospitals["hospital-b"].home / "logs" / "executor.log")
    for file in ours:
        lines = file.read_text().splitlines()
        assert lines
        assert all(json.loads(line)["party"] for line in lines)


def test_a_second_one_for_the_same_home_is_refused(study: Study) -> None:
    again = Served("fedgtv-site", study.hospitals["hospital-b"].home)
    again.start()
    assert again.runs[-1].wait(LIMIT_S) == 2
    assert "or this home is served already" in again.printed()


def test_a_polite_end_leaves_nothing(study: Study) -> None:
    for party in (*study.hospitals.values(), study.coordinator):
        assert party.end() == 0
    assert not processes_in(study.folder)
