"""Migrations: what they make, homes from before them, other versions, and failures half way."""

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, make_url, text, update
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from site_agent import audit_log, egress
from site_agent.backup import backup
from site_agent.case_store import CaseStore
from site_agent.config import open_home
from site_agent.database import (
    SCHEMA,
    Base,
    CaseRow,
    ContourRow,
    PackageRow,
    connect,
    create_database,
    open_database,
    transaction,
    writing,
)
from site_agent.restoring import restore
from site_agent.schema import MIGRATIONS, read_schema, upgrade, upgrade_home
from site_agent.site_lock import only_worker
from tests.phantoms import filled_store, make_home, tiny_case
from tests.site_agent.stored_site import killed_at, release

NOW = datetime(2031, 5, 6, 7, 8, 9)
NEXT_REVISION = f"{int(SCHEMA) + 1:04d}"
LATE_TABLES = (
    "release_memories",
    "plans",
    "model_activations",
    "site_models",
    "click_steps",
    "click_sessions",
)
PAGE_TABLES = (
    "claims",
    "drafts",
    "contour_saves",
    "signatures",
    "blinded_readings",
    "sign_ins",
    "accounts",
)


@pytest.fixture
def home(tmp_path, each_database):
    return make_home(tmp_path / "home")


def run(home, *statements: str) -> None:
    engine = connect(home.database_url, foreign_keys=False)
    with writing(engine).begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def make_old(home) -> None:
    """Undo what came after the first homes: versions, clicks, models, kinds of tasks, pages."""
    tables = ("alembic_version", *PAGE_TABLES, *LATE_TABLES)
    run(
        home,
        *(f"DROP TABLE {table}" for table in tables),
        "ALTER TABLE annotation_tasks DROP COLUMN kind",
        "ALTER TABLE reviews DROP COLUMN likert",
        "ALTER TABLE reviews DROP COLUMN reason",
        "ALTER TABLE cases DROP COLUMN t_stage",
        "ALTER TABLE measurements DROP COLUMN subgroups",
    )


def schema_dump(home) -> dict[str, object]:
    """Describe the tables: columns with type and null, indices, unique and foreign keys."""
    engine = connect(home.database_url)
    found = {}
    for table in inspect(engine).get_table_names():
        seen = inspect(engine)
        found[table] = (
            sorted((c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(table)),
            sorted(index["column_names"] for index in seen.get_indexes(table)),
            sorted(
                (key["constrained_columns"], key["referred_table"])
                for key in seen.get_foreign_keys(table)
            ),
        )
    engine.dispose()
    return found


def test_the_revisions_make_what_the_classes_say(home) -> None:
    """Who changes a class in `database` adds a revision."""
    engine = open_database(home.database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_the_named_schema_is_the_newest_revision_of_one_line() -> None:
    configuration = Config()
    configuration.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(configuration)
    assert scripts.get_heads() == [SCHEMA]
    line = [script.revision for script in scripts.walk_revisions()]
    assert line == [f"{number:04d}" for number in range(len(line), 0, -1)]


def test_a_new_home_needs_no_upgrade(home) -> None:
    assert read_schema(home.database_url) == SCHEMA
    assert upgrade_home(home, now=NOW) == (SCHEMA, None)
    assert not home.database_copies.exists()


def test_an_old_home_is_refused_until_it_is_brought_forward(home, each_database) -> None:
    expected = schema_dump(home)
    store = filled_store(home, 2)
    cases = store.cases()
    store.engine.dispose()
    make_old(home)
    with pytest.raises(DataError, match="run 'fedgtv-site database upgrade'") as refused:
        CaseStore(home)
    assert "\n" not in str(refused.value)
    found, copy = upgrade_home(home, now=NOW)
    assert found == ""
    assert schema_dump(home) == expected
    store = CaseStore(home)
    assert store.cases() == cases
    with Session(store.engine) as session:
        assert audit_log.verify(session) == 2
    if each_database == "sqlite":
        with closing(sqlite3.connect(copy)) as kept:  # as it was before
            tables = {name for (name,) in kept.execute("SELECT name FROM sqlite_master")}
            assert "cases" in tables
            assert not tables & {"alembic_version", *PAGE_TABLES, *LATE_TABLES}
        assert copy.stat().st_mode & 0o777 == 0o600
    else:
        assert copy is None


def test_what_tasks_of_old_homes_asked_for_is_a_contour(home) -> None:
    make_old(home)
    run(
        home,
        "INSERT INTO packages VALUES ('p', '1', 'k', 'approved', '2031-01-01 00:00:00')",
        "INSERT INTO cases VALUES ('c', 'p', 'MR', '', '', 'test', true, '{}', NULL,"
        " '2031-01-01 00:00:00')",
        "INSERT INTO rounds VALUES ('r', 'p', 's', 0, 'reported', NULL, '2031-01-01 00:00:00',"
        " '2031-01-01 00:00:00')",
        "INSERT INTO annotation_tasks (id, round_id, case_id, slice_z, rank, role, score, state)"
        " VALUES (1, 'r', 'c', 0, 0, 'chosen', 1.0, 'open')",
    )
    upgrade_home(home, now=NOW)
    (task,) = CaseStore(home).tasks("r")
    assert task.kind == "contour"


def test_an_old_home_is_backed_up_before_it_is_brought_forward(
    home, each_database, request, monkeypatch, tmp_path
) -> None:
    store = filled_store(home, 2)
    cases = store.cases()
    release(home, store, 1)
    store.engine.dispose()
    make_old(home)
    before = schema_dump(home)
    manifest = backup(home, tmp_path / "old.tar", with_secrets=True, now=NOW)
    assert manifest.db_schema == ""
    upgrade_home(home, now=NOW)  # and did no good
    if each_database == "postgresql":
        url = request.getfixturevalue("postgresql").new_database()
        monkeypatch.setenv("FEDGTV_SITE_DATABASE_URL", url)
    restore(tmp_path / "old.tar", tmp_path / "again")
    again = open_home(tmp_path / "again")
    assert schema_dump(again) == before
    assert upgrade_home(again, now=NOW)[0] == ""
    store = CaseStore(again)
    assert store.cases() == cases
    assert egress.verify_ledger(again, store.engine) == 1


@pytest.mark.parametrize("found", [NEXT_REVISION, "9999", "ab12cd"])
def test_a_newer_database_is_refused_with_what_to_do(home, found) -> None:
    run(home, f"UPDATE alembic_version SET version_num = '{found}'")  # noqa: S608
    before = schema_dump(home)
    with pytest.raises(DataError, match=f"schema {found}.*install the newer fedgtv"):
        open_database(home.database_url)
    with pytest.raises(DataError, match=f"schema {found}.*install the newer fedgtv"):
        upgrade_home(home, now=NOW)
    with pytest.raises(DataError, match=f"schema {found}.*install the newer fedgtv"):
        backup(home, home.folder.with_name("site.tar"), with_secrets=True, now=NOW)
    assert schema_dump(home) == before
    assert read_schema(home.database_url) == found


def test_an_empty_database_is_no_site(tmp_path) -> None:
    (tmp_path / "site.db").touch()
    url = make_url(f"sqlite:///{tmp_path / 'site.db'}")
    with pytest.raises(DataError, match="holds no tables of a site: restore it"):
        open_database(url)
    assert read_schema(url) is None


def test_a_table_of_no_released_version_is_named_and_nothing_changes(home) -> None:
    make_old(home)
    run(home, "ALTER TABLE reviews ADD COLUMN mood VARCHAR")
    before = schema_dump(home)
    with pytest.raises(DataError, match="table 'reviews' differs in 'mood'"):
        upgrade_home(home, now=NOW)
    assert schema_dump(home) == before


def test_an_upgrade_waits_for_the_worker(home) -> None:
    make_old(home)
    with only_worker(home), pytest.raises(DataError, match="another worker"):
        upgrade_home(home, now=NOW)
    assert read_schema(home.database_url) == ""


def test_a_site_of_before_the_table_of_memories_keeps_what_its_entries_remember(home) -> None:
    """And makes a backup first, of which the restored site can be brought forward as well."""
    store = filled_store(home, 2)
    release(home, store, 1)
    store.engine.dispose()
    expected = schema_dump(home)
    run(
        home,
        "DROP TABLE release_memories",
        "UPDATE alembic_version SET version_num = '0004'",
    )
    with pytest.raises(DataError, match=r"schema 0004, this version has .*database upgrade"):
        CaseStore(home)
    manifest = backup(home, home.folder.with_name("old.tar"), with_secrets=True, now=NOW)
    assert manifest.db_schema == "0004"
    assert upgrade_home(home, now=NOW)[0] == "0004"
    assert schema_dump(home) == expected
    assert egress.verify_ledger(home, CaseStore(home).engine) == 1


# -- revisions that are still to come -----------------------------------------------------------

NEXT = '''"""A revision of the future."""
import sqlalchemy as sa
from alembic import op
revision = "NEXT_REVISION"
down_revision = "SCHEMA"
def upgrade():
    with op.batch_alter_table("cases") as table:
        table.alter_column("modality", new_column_name="kind_of_image")
    op.create_table("letters", sa.Column("id", sa.Integer(), primary_key=True))
    FAILURE
'''


def with_next(folder: Path, failure: str = "") -> Path:
    """Copy the revisions and add one that makes anew a table which others name."""
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = NEXT.replace("NEXT_REVISION", NEXT_REVISION).replace("SCHEMA", SCHEMA)
    file = folder / "versions" / f"v{NEXT_REVISION}_next.py"
    file.write_text(text.replace("FAILURE", failure), "utf-8")
    return folder


def test_a_revision_that_fails_leaves_the_database_as_it_was(home, tmp_path) -> None:
    filled_store(home, 2).engine.dispose()
    before = schema_dump(home)
    revisions = with_next(tmp_path / "100% mine", "raise RuntimeError('the power went')")
    with pytest.raises(RuntimeError, match="the power went"):
        upgrade(home.database_url, migrations=revisions)
    assert schema_dump(home) == before
    assert len(CaseStore(home).cases()) == 2


def test_a_process_that_is_killed_in_a_revision_leaves_the_database_as_it_was(
    home, tmp_path
) -> None:
    filled_store(home, 2).engine.dispose()
    before = schema_dump(home)
    revisions = with_next(tmp_path / "next", "import os; os._exit(9)")
    child = os.fork()
    if child == 0:
        upgrade(home.database_url, migrations=revisions)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert schema_dump(home) == before
    assert len(CaseStore(home).cases()) == 2


def test_an_upgrade_that_is_killed_is_finished_by_the_next(home, tmp_path) -> None:
    """In the middle of its transaction, with some of the tables made."""
    expected = schema_dump(home)
    store = filled_store(home, 2)
    cases = store.cases()
    store.engine.dispose()
    make_old(home)
    old = schema_dump(home)
    shutil.copytree(MIGRATIONS, tmp_path / "m", ignore=shutil.ignore_patterns("__pycache__"))
    (first,) = (tmp_path / "m" / "versions").glob("v0001_*.py")
    made = "    tasks = sa.inspect"
    text_of_it = first.read_text("utf-8")
    assert text_of_it.count(made) == 1
    first.write_text(text_of_it.replace(made, f"    import os; os._exit(9)\n{made}"), "utf-8")
    child = os.fork()
    if child == 0:
        upgrade(home.database_url, migrations=tmp_path / "m")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert schema_dump(home) == old
    assert upgrade_home(home, now=NOW)[0] == ""
    assert schema_dump(home) == expected
    assert CaseStore(home).cases() == cases


def test_an_upgrade_is_finished_by_the_next_wherever_it_was_killed(tmp_path) -> None:
    """Its copy included; servers make none."""
    home = make_home(tmp_path / "home")
    filled_store(home, 2).engine.dispose()
    make_old(home)
    step = kills = 0
    while killed_at(step, lambda: upgrade_home(home, now=NOW)):
        assert read_schema(home.database_url) in ("", SCHEMA)
        step += 7 if step > 10 else 1
        kills += 1
    assert kills > 5
    assert upgrade_home(home, now=NOW) == (SCHEMA, None)
    assert len(CaseStore(home).cases()) == 2


def test_a_table_that_is_made_anew_keeps_the_rows_that_name_it(home, tmp_path) -> None:
    filled_store(home, 2).engine.dispose()
    # Its columns are no longer those of this version, which is said once it is made.
    with pytest.raises(DataError, match="table 'cases' differs in 'kind_of_image'"):
        upgrade(home.database_url, migrations=with_next(tmp_path / "next"))
    engine = open_database(home.database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM contours")).scalar() == 2
    engine.dispose()


# -- servers --------------------------------------------------------------------------------------


def test_a_server_that_does_not_answer_is_named_without_the_password(tmp_path) -> None:
    url = make_url(f"postgresql://u:secret@/fedgtv?host={tmp_path}")
    for act in (open_database, read_schema, create_database):
        with pytest.raises(DataError, match=r"no database answers at .*start its server") as caught:
            act(url)
        assert "secret" not in str(caught.value)


def test_a_second_writer_waits_and_a_reader_does_not(home) -> None:
    """On both databases the second writer is kept out from its beginning on."""
    engine, other = open_database(home.database_url), open_database(home.database_url)
    is_sqlite = other.dialect.name == "sqlite"
    hurry = "PRAGMA busy_timeout=50" if is_sqlite else "SET lock_timeout = '50ms'"
    with writing(engine).begin() as first:
        first.execute(text("SELECT 1"))
        with other.connect() as reader:
            assert reader.execute(text("SELECT count(*) FROM cases")).scalar() == 0
            reader.exec_driver_sql(hurry)
            reader.commit()
            with pytest.raises(OperationalError):
                reader.execution_options(fedgtv_writes=True).execute(text("SELECT 1"))
    engine.dispose()
    other.dispose()


# -- what the two databases must do alike --------------------------------------------------


def test_large_numbers_moments_and_odd_texts_come_back(home) -> None:
    """The test's server lives in another time zone."""
    moment = datetime(2031, 3, 30, 2, 30, 0, 123456)  # an hour that summer time leaves out
    case = tiny_case(1)
    scanner = {"manufacturer": "SIE\0MENS\0", "model": "Größe \N{GREEK SMALL LETTER MU}"}
    case = replace(case, volume=replace(case.volume, scanner=scanner), identity_sealed=b"\0\xff")
    store = CaseStore(home)
    store.add_cases([case], actor="Ärztin")
    with transaction(store.engine) as session:
        session.add(
            PackageRow(
                package_id="p", model_version="1", signed_by="k", state="stored", received_at=moment
            )
        )
    row = store.start_round("p", seed=2**63 - 1)
    store = CaseStore(home)
    assert store.round(row.round_id).seed == 2**63 - 1
    with Session(store.engine) as session:
        assert session.get_one(PackageRow, "p").received_at == moment
        assert audit_log.verify(session) == 1
    found = store.case(case.case_id)
    assert (found.manufacturer, found.scanner_model) == ("SIEMENS", scanner["model"])
    assert store.identity_sealed(case.case_id) == b"\0\xff"


def test_what_is_no_json_is_refused(home) -> None:
    store = filled_store(home, 1)
    (case,) = store.cases()
    with (
        pytest.raises((StatementError, ValueError), match="JSON"),
        transaction(store.engine) as session,
    ):
        session.execute(update(CaseRow).values(series={"score": float("nan")}))
    assert store.volume(case.case_id).image.size


def test_patients_are_ordered_alike(home) -> None:
    """A server may sort by language: the order of bytes is not the order of words."""
    names = ["patient-0b", "patient-0B", "patient-1a", "patient0c", "patient-00"]
    store = CaseStore(home)
    cases = [
        replace(tiny_case(i), case_id=f"case-{i}", patient_id=name) for i, name in enumerate(names)
    ]
    store.add_cases(cases, actor="test")
    assert [case.patient_id for case in store.cases()] == sorted(names)


def test_a_row_that_names_none_is_refused(home) -> None:
    store = CaseStore(home)
    with pytest.raises(IntegrityError), transaction(store.engine) as session:
        session.add(
            ContourRow(
                case_id="nobody",
                purpose="reference",
                roi_name="GTVp",
                provenance="manual",
                author="dr",
                file="f",
                saved_at=NOW,
            )
        )


def test_processes_that_write_at_once_make_one_chain(home) -> None:
    """Each reads the newest entry and adds one; nobody is refused and nothing forks."""
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                engine = open_database(home.database_url)
                for _ in range(10):
                    with transaction(engine) as session:
                        audit_log.append(
                            session, actor=str(number), event="e", subject="s", detail={}, at=NOW
                        )
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    with Session(open_database(home.database_url)) as session:
        assert audit_log.verify(session) == 30
