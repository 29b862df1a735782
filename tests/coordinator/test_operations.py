import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from algorithms.contracts.health import Check, CheckState
from coordinator import cli, doctor
from coordinator.cli import app
from coordinator.config import CONFIG_FILE, CoordinatorHome
from coordinator.doctor import examine_coordinator
from coordinator.operations import operations_server
from coordinator.package_publisher import publish
from coordinator.study_keys import write_server_certificate
from coordinator.study_store import DeliveryRow, StudyStore
from coordinator.study_workflow import Goal, SiteEvent
from coordinator.ticker import Ticker
from tests.command_here import command_here
from tests.simulated_site import make_coordinator, tiny_package

MANIFEST, FILES = tiny_package()


@pytest.fixture
def home(tmp_path) -> CoordinatorHome:
    home = make_coordinator(tmp_path / "c", targets=("hospital-b", "hospital-c"))
    publish(home, MANIFEST, FILES)
    with StudyStore(home.database_url, home.config) as store:
        store.add_package(MANIFEST, from_site="hospital-a")
        store.apply("hospital-b", MANIFEST.package_id, SiteEvent.RECEIPT_ACCEPTED)
        store.record_traffic({"hospital-b": 7}, {"hospital-b": 5})
        store.record_failure("hospital-c", "offline")
        store.record_run("1", Goal.ONE_TICK, reached=True)
    return home


@pytest.fixture
def url(home) -> Iterator[str]:
    with operations_server(home, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def read(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def found(folder: Path) -> dict[str, Check]:
    return {check.name: check for check in examine_coordinator(folder)}


def failed(folder: Path) -> dict[str, str]:
    checks = found(folder).values()
    return {check.name: check.line for check in checks if check.state is CheckState.FAILED}


def test_where_every_site_stands(url) -> None:
    assert read(f"{url}/healthz") == (200, "ok\n")
    assert read(f"{url}/readyz")[0] == 200
    _, text = read(f"{url}/metrics")
    figures = {
        (sample.name.removeprefix("fedgtv_coordinator_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert figures["bytes_to_site", "hospital-b"] == 7
    assert figures["bytes_from_site", "hospital-b"] == 5
    assert figures["failing", "hospital-c"] == 1
    assert figures["failing", "hospital-b"] == 0
    assert ("last_seen_seconds", "hospital-b") not in figures  # it never said anything
    assert 0 <= figures["no_progress_seconds", "hospital-c"] < 3600
    assert figures["stalled", "hospital-c"] == 0
    assert ("no_progress_seconds", "hospital-b") not in figures  # it has the package
    assert figures["sites", "delivered"] == figures["sites", "pending"] == 1
    assert figures["free_bytes",] > 0


def test_a_delivery_that_stalled_is_told_and_logged_once(home, url, caplog, monkeypatch) -> None:
    with (
        StudyStore(home.database_url, home.config) as store,
        Session(store.engine) as session,
        session.begin(),
    ):
        row = session.get_one(DeliveryRow, ("hospital-c", MANIFEST.package_id))
        row.changed_at -= timedelta(hours=2)
        since = row.changed_at.isoformat(" ", "seconds")
    _, text = read(f"{url}/metrics")
    assert 'fedgtv_coordinator_stalled{site="hospital-c"} 1.0' in text
    for _ in range(2):
        Ticker(home).watch_deliveries()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("site hospital-c: delivery_stalled: no progress since ")
    assert line.endswith("last failure: offline")
    monkeypatch.setattr(cli.console, "width", 400)  # a line that is not folded
    shown = CliRunner().invoke(app, ["status", "--home", str(home.folder)])
    assert f"STALLED: no progress since {since}" in shown.output


def test_without_its_key_it_is_not_ready_but_answers(home, url) -> None:
    home.signing_key.unlink()
    assert read(f"{url}/healthz")[0] == 200
    status, body = read(f"{url}/readyz")
    assert status == 503
    assert {c["name"] for c in json.loads(body) if c["state"] == "failed"} == {"signing-key"}


def test_a_coordinator_that_is_well(home) -> None:
    assert failed(home.folder) == {}
    assert found(home.folder)["packages"].line.startswith(MANIFEST.package_id[:12])


def test_what_is_wrong_is_named_with_what_helps(home, monkeypatch) -> None:
    file = home.packages / MANIFEST.package_id / next(iter(MANIFEST.files))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    home.signing_key.chmod(0o644)
    wrong = failed(home.folder)
    assert file.name in wrong["packages"]
    assert "backup" in wrong["packages"]
    assert "chmod 600" in wrong["signing-key"]
    monkeypatch.setattr(doctor, "LOW_SPACE_BYTES", 1 << 60)
    assert "make room" in found(home.folder)["disk"].line


def test_a_certificate_that_ends_is_told_before_hospitals_are_shut_out(home, url) -> None:
    assert found(home.folder)["certificate"].state is CheckState.WARNING
    assert "fedgtv-coordinator certificate" in found(home.folder)["certificate"].line
    for age, state in ((0, CheckState.OK), (350, CheckState.WARNING), (380, CheckState.FAILED)):
        with StudyStore(home.database_url, home.config) as store:
            write_server_certificate(home, store, [], datetime.now(UTC) - timedelta(days=age))
        assert found(home.folder)["certificate"].state is state
    assert "server.crt: expired: run" in failed(home.folder)["certificate"]
    assert read(f"{url}/readyz")[0] == 503


def test_every_name_is_whole_in_a_narrow_window(home) -> None:
    with StudyStore(home.database_url, home.config) as store:
        store.record_failure("hospital-b", "ReleaseHeld")
    shown = CliRunner().invoke(app, ["status", "--home", str(home.folder)], env={"COLUMNS": "80"})
    assert all(word in shown.output for word in ("hospital-b", "hospital-c", "ReleaseHeld"))


def test_without_a_configuration_nothing_else_is_looked_at(home) -> None:
    (home.folder / CONFIG_FILE).unlink()
    assert list(failed(home.folder)) == ["configuration"]


def test_the_command(home) -> None:
    run = Path(sys.executable).with_name("fedgtv-coordinator")
    command = ["doctor", "--home", home.folder]
    done = subprocess.run([run, *command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {one["name"] for one in json.loads(done.stdout)} >= {"signing-key", "packages"}
    (home.folder / "study.db").unlink()
    done = command_here(cli.main, *command)
    assert done.returncode == 1
    assert "✕ database" in done.stdout
