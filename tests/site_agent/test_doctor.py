import json
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update

from algorithms.contracts.health import Check, CheckState
from site_agent import audit_log, cli, doctor
from site_agent.database import AuditRow, open_database, transaction, utc_now
from site_agent.doctor import examine_site
from site_agent.package_store import store_package, verify_folder
from site_agent.site_lock import only_listener
from tests.command_here import command_here
from tests.phantoms import make_home, public_hex, sign_folder
from tests.simulated_site import STUDY, make_site, prepare_source_package

SITE_TOML = "site.toml"
LISTENER = """
[listener]
port = {port}
keep_free_mb = 0
peers = [{{ ae_title = "ORTHANC", address = "127.0.0.1" }}]
rules = [{{ modality = "MR" }}]
"""


def found(folder: Path) -> dict[str, Check]:
    return {check.name: check for check in examine_site(folder)}


def failed(folder: Path) -> dict[str, str]:
    checks = found(folder).values()
    return {check.name: check.line for check in checks if check.state is CheckState.FAILED}


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "home")


def test_a_new_home_is_well(home) -> None:
    checks = found(home.folder)
    assert {check.state for check in checks.values()} <= {CheckState.OK, CheckState.WARNING}
    assert list(checks) == [
        "configuration", "secrets", "disk", "database", "records", "packages", "gpu", "ports",
        "keys", "coordinator",
    ]  # fmt: skip
    assert checks["packages"].line.startswith("none yet")


def test_looking_changes_nothing(home) -> None:
    def files() -> set[str]:
        return {file.name for file in home.folder.rglob("*") if not file.name.startswith("site.db")}

    before = files()
    found(home.folder)
    assert files() == before
    with sqlite3.connect(home.folder / "site.db") as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    assert "cases" in tables
    assert "doctor_probe" not in tables


def test_without_a_configuration_nothing_else_is_looked_at(tmp_path) -> None:
    assert list(failed(tmp_path)) == ["configuration"]
    assert "fedgtv-site init" in failed(tmp_path)["configuration"]


def test_a_site_that_approves_by_itself_is_a_concern(tmp_path) -> None:
    make_home(tmp_path / "home", auto_approve=True)
    check = found(tmp_path / "home")["configuration"]
    assert check.state is CheckState.WARNING
    assert "auto_approve" in check.line


@pytest.mark.parametrize("auto_approve", [False, True])
def test_a_small_minimum_group_is_a_concern_and_no_more(tmp_path, auto_approve: bool) -> None:
    make_home(tmp_path / "home", minimum_group_size=4, auto_approve=auto_approve)
    check = found(tmp_path / "home")["configuration"]
    assert check.state is CheckState.WARNING
    assert "minimum_group_size 4: figures about so few can be solved for single" in check.line
    assert ("auto_approve" in check.line) is auto_approve
    assert "\n" not in check.line
    make_home(tmp_path / "other", minimum_group_size=5)
    assert found(tmp_path / "other")["configuration"].state is CheckState.OK


def test_a_secret_that_others_can_read(home) -> None:
    (home.folder / "secrets" / "crosswalk.key").chmod(0o644)
    assert "chmod 600" in failed(home.folder)["secrets"]


def test_a_secret_that_is_missing(home) -> None:
    (home.folder / "secrets" / "pseudonym.key").unlink()
    assert "copy it back" in failed(home.folder)["secrets"]


def test_little_space_is_a_concern(home, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "LOW_SPACE_BYTES", 1 << 60)
    check = found(home.folder)["disk"]
    assert check.state is CheckState.WARNING
    assert "make room" in check.line


def test_an_entry_that_was_changed_is_named(home) -> None:
    engine = open_database(home.database_url)
    with transaction(engine) as session:
        audit_log.append(session, actor="a", event="e", subject="s", detail={}, at=utc_now())
    with transaction(engine) as session:
        session.execute(update(AuditRow).values(actor="b").where(AuditRow.sequence == 1))
    engine.dispose()
    assert "entry 1" in failed(home.folder)["records"]


def test_a_package_of_which_a_byte_was_changed_is_named(tmp_path) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "source").mkdir()
    prepare_source_package(tmp_path / "source")
    package = sign_folder(tmp_path / "source" / "source-package", tmp_path / "signed", key)
    home = make_site(tmp_path / "home", "hospital-b", public_hex(key), auto_approve=False)
    engine = open_database(home.database_url)
    package_id = store_package(home, engine, *verify_folder(package, home.config.trusted_keys))
    engine.dispose()
    assert found(home.folder)["packages"].state is CheckState.WARNING  # nobody approved it yet
    file = next((home.packages / package_id).glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert file.name in failed(home.folder)["packages"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_counted_on(tmp_path) -> None:
    make_home(tmp_path / "home", require_gpu=True)
    assert "require_gpu" in failed(tmp_path / "home")["gpu"]


def test_a_port_that_another_program_uses(home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (home.folder / SITE_TOML).open("a") as file:
            file.write(LISTENER.format(port=port))
        assert f"uses port {port}" in failed(home.folder)["ports"]
        with only_listener(home):  # the port is rightly taken
            assert "ports" not in failed(home.folder)


def test_a_pacs_that_is_not_there(home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with (home.folder / SITE_TOML).open("a") as file:
        file.write(
            f'[pacs]\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {port}\n'
            'retrieve = "get"\ntimeout_s = 2\n'
        )
    assert f"port {port}" in failed(home.folder)["pacs"]


AS_NOBODY = """
import os, sys
from pathlib import Path
import site_agent.doctor as doctor, site_agent.egress, site_agent.package_store, torch
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for check in doctor.examine_site(Path(sys.argv[1])):
    print(check.name, check.state.value, check.line)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_home_that_can_only_be_read(home) -> None:
    for folder in (home.folder, *home.folder.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    for file in home.folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, home.folder], capture_output=True, text=True, check=True
    )
    lines = {line.split(" ", 1)[0]: line for line in done.stdout.splitlines()}
    assert lines["disk"].startswith("disk failed")
    assert "cannot write there" in lines["disk"]
    assert lines["database"].startswith("database failed")
    assert "only read the database" in lines["database"]


def test_the_command_says_it_for_people_and_for_programs(home) -> None:
    run = Path(sys.executable).with_name("fedgtv-site")
    command = ["doctor", "--home", home.folder]
    done = subprocess.run([run, *command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {one["name"] for one in json.loads(done.stdout)} >= {"disk", "database"}
    (home.folder / "secrets" / "pseudonym.key").unlink()
    done = command_here(cli.main, *command)
    assert done.returncode == 1
    assert "✕ secrets" in done.stdout
    assert STUDY not in done.stderr
