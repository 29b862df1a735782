import shlex
import shutil
import socket
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from algorithms.contracts.errors import DataError
from coordinator import study_store
from coordinator.config import CoordinatorHome, open_home
from coordinator.operations import operations_server
from coordinator.serve import coordinator_programs
from coordinator.study_keys import write_server_certificate
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal
from supervision.guard import alone
from tests.coordinator.test_operations import read
from tests.debian_packages import absent
from tests.enrolled import NOW
from tests.ports import free_ports
from tests.simulated_site import make_coordinator


@pytest.fixture
def home(tmp_path) -> CoordinatorHome:
    if shutil.which("nginx") is None and shutil.which("nginx", path="/usr/sbin") is None:
        absent("nginx", "nginx")
    made = make_coordinator(tmp_path / "c")
    superlink, operations, listen = free_ports(3)
    with (made.folder / "coordinator.toml").open("a") as config:
        config.write(
            f"superlink_port = {superlink}\noperations_port = {operations}\n"
            f'listen = "127.0.0.1:{listen}"\n'
        )
    return open_home(made.folder)


def certify(home: CoordinatorHome) -> None:
    with StudyStore(home.database_url, home.config) as store:
        write_server_certificate(home, store, [], NOW)


def test_the_superlink_is_on_loopback_and_nginx_alone_opens_a_port_outside(home) -> None:
    certify(home)
    programs = {p.name: shlex.join(p.command) for p in coordinator_programs(home)}
    assert list(programs) == ["superlink", "nginx", "ticker", "operations"]
    assert f"--host 127.0.0.1 --port {home.config.superlink_port}" in programs["superlink"]
    assert "-m coordinator.superlink --largest-reply-bytes 2214592512 " in programs["superlink"]
    assert "--enable-supernode-auth" in programs["superlink"]
    assert "--disable-runtime-dependency-installation" in programs["superlink"]
    assert str(home.flower / "state.db") in programs["superlink"]
    assert home.config.listen in (home.folder / "nginx" / "nginx.conf").read_text()


def test_who_is_registered_stays_and_runs_are_forgotten(home) -> None:
    certify(home)
    home.flower.mkdir()
    file = home.flower / "state.db"
    with closing(sqlite3.connect(file)) as state:
        state.execute("PRAGMA journal_mode=WAL")
        state.execute("CREATE TABLE node (id INTEGER PRIMARY KEY AUTOINCREMENT)")
        state.execute("CREATE TABLE run (id INTEGER, log BLOB)")
        state.execute("INSERT INTO node VALUES (7)")
        state.executemany("INSERT INTO run VALUES (?, zeroblob(1000))", [(n,) for n in range(500)])
        state.commit()
    coordinator_programs(home)
    with closing(sqlite3.connect(file)) as state:
        assert state.execute("SELECT id FROM node").fetchall() == [(7,)]
        assert state.execute("SELECT count(*) FROM run").fetchone() == (0,)
        assert state.execute("SELECT seq FROM sqlite_sequence").fetchall() == [(7,)]
    assert file.stat().st_size < 50_000


def test_what_a_superlink_that_has_not_opened_its_port_yet_keeps_is_left_to_it(home) -> None:
    certify(home)
    home.flower.mkdir()
    file = home.flower / "state.db"
    with closing(sqlite3.connect(file)) as state:
        state.execute("CREATE TABLE run (id INTEGER)")
        state.execute("INSERT INTO run VALUES (7)")
        state.commit()
    (home.folder / "run").mkdir()
    with alone(home.folder), pytest.raises(DataError, match="is served"):
        coordinator_programs(home)
    with closing(sqlite3.connect(file)) as state:
        assert state.execute("SELECT id FROM run").fetchall() == [(7,)]


def test_a_damaged_database_of_the_superlink_is_left_as_it_is(home) -> None:
    certify(home)
    home.flower.mkdir()
    (home.flower / "state.db").write_bytes(b"no database")
    coordinator_programs(home)
    assert (home.flower / "state.db").read_bytes() == b"no database"


def test_without_a_certificate_it_says_which_command_helps(home) -> None:
    with pytest.raises(DataError, match="fedgtv-coordinator certificate"):
        coordinator_programs(home)


def test_a_taken_port_is_named_before_anything_starts(home) -> None:
    certify(home)
    with (
        socket.create_server(("127.0.0.1", home.config.superlink_port)),
        pytest.raises(DataError, match="superlink_port"),
    ):
        coordinator_programs(home)


def test_it_is_ready_as_long_as_ticks_go_on(home, monkeypatch) -> None:
    import json
    import threading

    with operations_server(home, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/readyz"
        code, body = read(url)
        assert (code, json.loads(body)[-1]["state"]) == (503, "failed")
        now = study_store._now()
        with StudyStore(home.database_url, home.config) as store:
            store.record_run("1", Goal.ONE_TICK, reached=True)
        assert read(url)[0] == 200
        long_ago = now - timedelta(hours=2)
        with StudyStore(home.database_url, home.config) as store:
            monkeypatch.setattr(study_store, "_now", lambda: long_ago)
            store.record_run("2", Goal.ONE_TICK, reached=True)
        code, body = read(url)
        assert code == 503
        assert "see logs/ticker.log" in body
        server.shutdown()
        thread.join()


def test_runs_are_forgotten_after_a_day_and_nothing_else_is(home, monkeypatch) -> None:
    now = study_store._now()
    with StudyStore(home.database_url, home.config) as store:
        monkeypatch.setattr(study_store, "_now", lambda: now - timedelta(hours=25))
        store.record_run("old", Goal.ONE_TICK, reached=True)
        store.record_failure("hospital-b", "offline")
        monkeypatch.setattr(study_store, "_now", lambda: now)
        store.record_run("new", Goal.ONE_TICK, reached=True)
        assert [event.event for event in store.events()] == ["site_failed", "run_finished"]
        assert store.run_finished("new")
        assert not store.run_finished("old")
        assert store.last_run_at() == now
