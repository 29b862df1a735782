import shlex
import socket

import pytest

from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome, open_home
from site_agent.coordinator_contact import examine_contact
from site_agent.serve import site_programs
from tests.enrolled import enrol_site
from tests.ports import free_ports
from tests.simulated_site import make_coordinator, make_site

LISTENER = """
[listener]
ae_title = "FEDGTV"
port = {port}
[[listener.peers]]
ae_title = "PACS"
address = "127.0.0.1"
[[listener.rules]]
modality = "MR"
"""


def make_home(folder, *more: str) -> SiteHome:
    site = make_site(folder / "b", "hospital-b")
    supernode, ui, operations = free_ports(3)
    with (site.folder / "site.toml").open("a") as config:
        config.write(
            f"supernode_port = {supernode}\noperations_port = {operations}\n"
            + "".join(more or (f"ui_port = {ui}\n",))
        )
    return open_home(site.folder)


def commands(home: SiteHome) -> dict[str, str]:
    return {program.name: shlex.join(program.command) for program in site_programs(home)}


def test_an_enrolled_site_runs_everything(tmp_path) -> None:
    home = make_home(tmp_path)
    enrol_site(make_coordinator(tmp_path / "c"), home)
    programs = commands(home)
    assert list(programs) == ["supernode", "executor", "worker", "ui", "operations"]
    secret = home.folder / "run" / "executor.secret"
    for name in ("supernode", "executor"):
        assert f"--secret-file {secret}" in programs[name]
        assert str(home.config.supernode_port) in programs[name]
    assert len(secret.read_bytes()) == 32
    assert secret.stat().st_mode & 0o077 == 0


def test_the_secret_is_new_at_every_start(tmp_path) -> None:
    home = make_home(tmp_path)
    enrol_site(make_coordinator(tmp_path / "c"), home)
    drawn = set()
    for _ in range(2):
        site_programs(home)
        drawn.add((home.folder / "run" / "executor.secret").read_bytes())
    assert len(drawn) == 2


def test_a_site_without_a_connection_runs_all_but_that(tmp_path) -> None:
    assert list(commands(make_home(tmp_path))) == ["worker", "ui", "operations"]


def test_an_air_gapped_site_is_enrolled_and_connects_to_nobody(tmp_path) -> None:
    home = make_home(tmp_path, "air_gapped = true\n", "ui_port = 0\n")
    enrol_site(make_coordinator(tmp_path / "c"), home)
    assert list(commands(home)) == ["worker", "operations"]
    assert "air-gapped" in examine_contact(home)


def test_pages_can_be_left_out(tmp_path) -> None:
    assert list(commands(make_home(tmp_path, "ui_port = 0\n"))) == ["worker", "operations"]


def test_what_is_sent_is_listened_for_where_it_is_configured(tmp_path) -> None:
    (port,) = free_ports(1)
    home = make_home(tmp_path, "ui_port = 0\n", LISTENER.format(port=port))
    programs = commands(home)
    assert list(programs) == ["worker", "listener", "operations"]
    assert programs["listener"].endswith(f"listen --home {home.folder} --log-json")


def test_a_taken_port_is_named_before_anything_starts(tmp_path) -> None:
    home = make_home(tmp_path)
    with (
        socket.create_server(("127.0.0.1", home.config.ui_port)),
        pytest.raises(DataError, match=r"site\.toml: key 'ui_port'"),
    ):
        site_programs(home)
