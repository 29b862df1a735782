"""A study database of an earlier version: refused, brought forward, and gone back from."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, make_url

from algorithms.contracts.errors import DataError
from algorithms.contracts.health import CheckState
from coordinator.config import CoordinatorHome
from coordinator.doctor import examine_coordinator
from coordinator.plan_records import PlanRecords
from coordinator.schema import create, read_schema, roll_back, upgrade_home
from coordinator.study_store import SCHEMA, StudyStore
from coordinator.study_workflow import SiteEvent, SiteProgress
from supervision.serving import not_served
from tests.simulated_site import make_coordinator, tiny_package
from tests.site_agent.stored_site import killed_at

NOW, LATER = datetime(2031, 5, 6, 7, 8, 9), datetime(2031, 5, 6, 7, 8, 10)
OLD = Path(__file__).with_name("study_schema_0.sql").read_text("utf-8")
MANIFEST, _ = tiny_package()
PACKAGE = MANIFEST.package_id
AT = "2031-05-06 07:08:09.000000"
ROWS = (
    f"INSERT INTO packages VALUES ('{PACKAGE}', '1.0.0', 'hospital-a', '{AT}')",  # noqa: S608
    f"INSERT INTO deliveries VALUES ('hospital-b', '{PACKAGE}', 'pending', NULL, '{AT}')",  # noqa: S608
    "INSERT INTO sites VALUES ('hospital-a', 'source', NULL, NULL, NULL, 3, 4)",
    "INSERT INTO sites VALUES ('hospital-b', 'target', NULL, NULL, 'offline', 5, 6)",
    f"INSERT INTO events VALUES (1, '{AT}', 'package_published', 'hospital-a', '{{}}')",  # noqa: S608
)


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    """Make a coordinator of the version before, with a package on its way."""
    home = make_coordinator(tmp_path / "c")
    for file in home.folder.glob("study.db*"):
        file.unlink()
    run(home, *OLD.split(";\n"), *ROWS)
    return home


def database(home: CoordinatorHome) -> Path:
    return home.folder / "study.db"


def run(home: CoordinatorHome, *statements: str) -> None:
    with closing(sqlite3.connect(database(home))) as opened:
        opened.execute("PRAGMA journal_mode=WAL")
        for statement in statements:
            opened.execute(statement)
        opened.commit()


def dump(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as opened:
        return list(opened.iterdump())


def layout(file: Path) -> dict[str, list[tuple[object, ...]]]:
    """Describe the tables, whatever the order of their columns: with type, null and key."""
    with closing(sqlite3.connect(file)) as opened:
        names = [n for (n,) in opened.execute("SELECT name FROM sqlite_master WHERE sql NOTNULL")]
        return {n: sorted(r[1:] for r in opened.execute(f"PRAGMA table_info({n})")) for n in names}


def test_an_older_database_is_refused_until_it_is_brought_forward(home, tmp_path) -> None:
    with pytest.raises(DataError, match="run 'fedgtv-coordinator database upgrade'"):
        StudyStore(home.database_url, home.config)
    before = dump(database(home))
    found, copy = upgrade_home(home, now=NOW)
    assert (found, read_schema(home.database_url)) == (0, SCHEMA)
    assert copy is not None
    assert dump(copy) == before
    assert copy.stat().st_mode & 0o777 == 0o600
    new = make_coordinator(tmp_path / "new")
    assert layout(database(home)) == layout(database(new))
    with StudyStore(home.database_url, home.config) as store:
        assert store.current_package() == PACKAGE
        assert store.apply("hospital-b", PACKAGE, SiteEvent.STATUS_HOLDS) is SiteProgress.DELIVERED
        assert [site.bytes_to_site for site in store.sites()] == [3, 5]
    assert upgrade_home(home, now=NOW) == (SCHEMA, None)


def test_the_oldest_studies_get_every_table_that_came_later(home, tmp_path) -> None:
    """Before enrolments, plans, parts, bundles and averaging there were fewer tables."""
    later = ("bundles", "model_updates", "plan_answers", "plans", "site_keys", "transfers")
    run(home, *(f"DROP TABLE {table}" for table in later))
    with pytest.raises(DataError, match="database upgrade"):
        StudyStore(home.database_url, home.config)
    assert upgrade_home(home, now=NOW)[0] == 0
    assert layout(database(home)) == layout(database(make_coordinator(tmp_path / "new")))
    with StudyStore(home.database_url, home.config) as store:
        assert store.site_keys() == PlanRecords(store).all() == []
        assert store.current_package() == PACKAGE


def test_going_back_gives_the_older_version_what_it_had(home) -> None:
    before = dump(database(home))
    _, copy = upgrade_home(home, now=NOW)
    assert copy is not None
    # A connection that is open keeps a log beside the database: it must not be read as its own.
    store = StudyStore(home.database_url, home.config)
    store.apply("hospital-b", PACKAGE, SiteEvent.STATUS_HOLDS)
    found, kept = roll_back(home, copy, now=NOW)
    store.close()
    assert found == 0
    assert dump(database(home)) == before
    assert any("delivered" in line for line in dump(kept))
    with pytest.raises(DataError, match="needs an upgrade"):
        StudyStore(home.database_url, home.config)
    assert roll_back(home, kept, now=LATER)[0] == SCHEMA  # and forward again
    with StudyStore(home.database_url, home.config) as store:
        assert store.progress(PACKAGE) == {"hospital-b": SiteProgress.DELIVERED}


@pytest.mark.parametrize("act", [upgrade_home, None])
def test_a_newer_database_is_refused_with_what_to_do(home, act) -> None:
    upgrade_home(home, now=NOW)
    run(home, "UPDATE study_schema SET number = 99")
    before = dump(database(home))
    with pytest.raises(DataError, match=r"schema 99.*install the newer fedgtv again"):
        if act is None:
            StudyStore(home.database_url, home.config)
        else:
            act(home, now=NOW)
    assert dump(database(home)) == before


def test_the_doctor_names_a_schema_that_does_not_fit(home) -> None:
    def found() -> dict[str, tuple[CheckState, str]]:
        checks = examine_coordinator(home.folder)
        return {check.name: (check.state, check.line) for check in checks}

    state, line = found()["database"]
    assert state is CheckState.FAILED
    assert "database upgrade" in line
    upgrade_home(home, now=NOW)
    state, line = found()["database"]
    assert state is CheckState.OK
    assert f"schema {SCHEMA}" in line


def test_an_upgrade_is_finished_by_the_next_wherever_it_was_killed(home) -> None:
    before = dump(database(home))
    step = kills = 0
    while killed_at(step, lambda: upgrade_home(home, now=NOW)):
        assert dump(database(home)) == before or read_schema(home.database_url) == SCHEMA
        step += 1
        kills += 1
    assert kills > 5
    assert upgrade_home(home, now=NOW) == (SCHEMA, None)


def killed_at_statement(number: int, act: Callable[[], object]) -> bool:
    """Run `act` in a process that dies just before its n-th statement; say if it did."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), "the process failed by itself"
        return code == 9
    left = number

    @event.listens_for(Engine, "before_cursor_execute")
    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(9)

    try:
        act()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_kill_between_any_two_statements_changes_nothing(home) -> None:
    before = dump(database(home))
    number = 0
    while killed_at_statement(number, lambda: upgrade_home(home, now=NOW)):
        assert dump(database(home)) == before
        number += 1
    assert number > 20
    assert read_schema(home.database_url) == SCHEMA


def test_a_kill_while_going_back_leaves_one_or_the_other(home) -> None:
    old = dump(database(home))
    _, copy = upgrade_home(home, now=NOW)
    assert copy is not None
    new = dump(database(home))
    step = 0
    while killed_at(step, lambda: roll_back(home, copy, now=NOW)):
        assert dump(database(home)) in (old, new)
        step += 1
    assert step > 3
    assert dump(database(home)) == old


def test_a_study_that_is_served_is_left_alone(home) -> None:
    with not_served(home.folder):  # who serves holds the same lock
        with pytest.raises(DataError, match="stop the service first"):
            upgrade_home(home, now=NOW)
        with pytest.raises(DataError, match="stop the service first"):
            roll_back(home, database(home), now=NOW)
    assert read_schema(home.database_url) == 0


def test_a_table_of_no_released_version_is_named_and_nothing_changes(home) -> None:
    run(home, "ALTER TABLE reports ADD COLUMN mood VARCHAR")
    before = dump(database(home))
    with pytest.raises(DataError, match="table 'reports' differs in 'mood'"):
        upgrade_home(home, now=NOW)
    assert dump(database(home)) == before


def test_what_is_no_copy_of_a_study_is_not_gone_back_to(home, tmp_path) -> None:
    before = dump(database(home))
    with pytest.raises(DataError, match="no such copy"):
        roll_back(home, tmp_path / "none.db", now=NOW)
    (tmp_path / "text.db").write_text("not a database, but long enough to be one" * 100)
    with pytest.raises(DataError, match="no database"):
        roll_back(home, tmp_path / "text.db", now=NOW)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE cases (id INTEGER)")
    with pytest.raises(DataError, match="no tables of a study"):
        roll_back(home, tmp_path / "other.db", now=NOW)
    assert dump(database(home)) == before


def test_an_empty_database_is_no_study(home) -> None:
    for file in home.folder.glob("study.db*"):
        file.unlink()
    database(home).touch()
    for act in (
        lambda: StudyStore(home.database_url, home.config),
        lambda: upgrade_home(home, now=NOW),
    ):
        with pytest.raises(DataError, match="no tables of a study: restore it"):
            act()


def test_a_study_that_is_there_is_not_made_anew(home) -> None:
    before = dump(database(home))
    create(make_url(home.database_url))
    assert dump(database(home)) == before
