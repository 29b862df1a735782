"""Brings a study database to the tables that this version works with, and back by its copy.

Nothing but `init` and `fedgtv-coordinator database upgrade` changes tables; every other command
refuses a database of another version. An upgrade is one transaction; a database on SQLite is copied
first. What versions brought so far are tables and columns, and what is missing is added: one that
changes more begins with a step of its own in `_bring_forward`.
"""

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, delete, event, insert, inspect
from sqlalchemy.schema import CreateColumn

from algorithms.contracts.errors import DataError
from coordinator.config import CoordinatorHome
from coordinator.study_store import (
    SCHEMA,
    Base,
    SchemaRow,
    SiteRow,
    connect,
    place,
    refuse_missing,
    refuse_unknown_schema,
    schema_of,
)
from supervision.serving import not_served
from supervision.sqlite_copy import copy_sqlite, put_back_sqlite


def read_schema(location: URL) -> int | None:
    """Return the schema of a database: 0 from before it was kept, None without tables of a study.

    Raises:
        DataError: its file is missing.
    """
    refuse_missing(location)
    engine = connect(location)
    try:
        with engine.connect() as connection:
            return schema_of(connection)
    finally:
        engine.dispose()


def create(location: URL) -> None:
    """Make the tables of a new study; those of one that is there stay as they are."""
    engine = _one_transaction(connect(location))
    with engine.begin() as connection:
        if schema_of(connection) is None:
            _bring_forward(location, connection)
    engine.dispose()


def upgrade_home(home: CoordinatorHome, *, now: datetime) -> tuple[int, Path | None]:
    """Upgrade the database of a study that is not being served.

    Args:
        home: of the coordinator.
        now: UTC, for the name of the copy.

    Returns:
        The schema it had, and the copy made of it, if any was.

    Raises:
        DataError: it is served, or its database is missing, of a newer version, or of none that
            was released.
    """
    with not_served(home.folder):
        location = home.database_url
        found = read_schema(location)
        refuse_unknown_schema(location, found)
        if found == SCHEMA:
            return SCHEMA, None
        copy = None
        if location.get_backend_name() == "sqlite":
            copy = _copy(home, f"schema-{found}", now)
        engine = _one_transaction(connect(location))
        try:
            with engine.begin() as connection:
                _bring_forward(location, connection)
        finally:
            engine.dispose()
    return found or 0, copy


def roll_back(home: CoordinatorHome, copy: Path, *, now: datetime) -> tuple[int, Path]:
    """Make the database of a study that is not being served what a copy of it is.

    Returns:
        The schema that it has now, and the copy made of what it was.

    Raises:
        DataError: it is served or not on SQLite, or the copy is damaged or none of a study.
    """
    location = home.database_url
    if location.get_backend_name() != "sqlite":
        raise DataError(f"{place(location)}: on a server: go back with its own tools")
    found = _schema_of_copy(copy)
    with not_served(home.folder):
        refuse_missing(location)
        before = _copy(home, "before-rollback", now)
        put_back_sqlite(copy, Path(location.database or ""))
    return found, before


def _copy(home: CoordinatorHome, name: str, now: datetime) -> Path:
    home.database_copies.mkdir(mode=0o700, exist_ok=True)
    copy = home.database_copies / f"{name}-{now:%Y%m%dT%H%M%S%f}.db"
    copy_sqlite(Path(home.database_url.database or ""), copy)
    return copy


def _schema_of_copy(copy: Path) -> int:
    """Read a copy without writing beside it, as any other way of opening one would."""
    if not copy.is_file():
        raise DataError(f"{copy}: no such copy: those of upgrades are in 'database-copies'")
    tables: set[str] = set()
    found = None
    try:
        with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            tables = {name for (name,) in opened.execute("SELECT name FROM sqlite_master")}
            if SchemaRow.__tablename__ in tables:
                found = opened.execute(f"SELECT number FROM {SchemaRow.__tablename__}").fetchone()  # noqa: S608
    except sqlite3.DatabaseError:
        raise DataError(f"{copy}: damaged, or no database: use another copy") from None
    if SiteRow.__tablename__ not in tables:
        raise DataError(f"{copy}: holds no tables of a study: use another copy")
    return int(found[0]) if found else 0


def _bring_forward(location: URL, connection: Connection) -> None:
    """Add what is missing, and say which schema it is now."""
    held = set(inspect(connection).get_table_names())
    Base.metadata.create_all(connection)
    for table in Base.metadata.sorted_tables:
        if table.name in held:
            _add_columns(location, connection, table)
    connection.execute(delete(SchemaRow))
    connection.execute(insert(SchemaRow).values(number=SCHEMA))


def _add_columns(location: URL, connection: Connection, table: Table) -> None:
    held = {str(column["name"]) for column in inspect(connection).get_columns(table.name)}
    if strange := held - set(table.columns.keys()):
        raise DataError(
            f"{place(location)}: table '{table.name}' differs in '{min(strange)}': it was made by "
            "a version that was never released: use that version, or a new home"
        )
    for column in table.columns:
        if column.name not in held:
            added = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {added}")


def _one_transaction(engine: Engine) -> Engine:
    """Let changes of tables be undone with the rest: SQLite's driver would commit before each."""
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _begin_by_hand(connection: Any, _record: Any) -> None:
            connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
