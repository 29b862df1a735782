"""Bring a site's database to the tables that this version works with, forwards only.

Nothing but `init` and `fedgtv-site database upgrade` changes tables; every other command refuses a
database of another version (`database.open_database`). An upgrade is one transaction; a database on
SQLite is copied first, beside what it becomes.
"""

from datetime import datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, inspect

from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome
from site_agent.database import (
    SCHEMA,
    Base,
    answering,
    connect,
    is_newer,
    place,
    schema_of,
    writing,
)
from site_agent.site_lock import only_worker
from supervision.sqlite_copy import copy_sqlite

MIGRATIONS = Path(__file__).with_name("migrations")


def upgrade_home(home: SiteHome, *, now: datetime) -> tuple[str | None, Path | None]:
    """Upgrade the database of a site that no worker is busy with.

    Args:
        home: of the site.
        now: UTC, for the name of the copy.

    Returns:
        The revision it had ("" from before revisions), and the copy made of it, if any was.

    Raises:
        DataError: a worker is running, the database is missing, or of a newer version.
    """
    with only_worker(home):
        found = read_schema(home.database_url)
        if found is None:
            raise DataError(
                f"{place(home.database_url)}: the database holds no tables of a site: restore it "
                "from a backup"
            )
        if found == SCHEMA:
            return found, None
        _refuse_newer(home.database_url, found)
        copy = None
        if home.database_url.get_backend_name() == "sqlite":
            home.database_copies.mkdir(mode=0o700, exist_ok=True)
            copy = home.database_copies / f"{found or '0000'}-{now:%Y%m%dT%H%M%S%f}.db"
            copy_sqlite(Path(home.database_url.database or ""), copy)
        upgrade(home.database_url)
    return found, copy


def read_schema(location: URL) -> str | None:
    """Return the revision of a database: "" from before revisions, None without tables.

    Raises:
        DataError: its file is missing or its server does not answer.
    """
    if location.get_backend_name() == "sqlite" and not Path(location.database or "").is_file():
        raise DataError(f"{location.database}: the database is missing: restore it from a backup")
    engine = connect(location)
    try:
        with answering(location), engine.connect() as connection:
            return schema_of(connection)
    finally:
        engine.dispose()


def upgrade(location: URL, *, migrations: Path = MIGRATIONS) -> None:
    """Run the revisions that are missing, in one transaction; tables from before are taken over.

    Args:
        location: of the database.
        migrations: folder of alembic's env.py and versions.

    Raises:
        DataError: the database is of a newer version, or of one that was never released.
    """
    configuration = Config()
    # Alembic reads "%" as the beginning of a name.
    configuration.set_main_option("script_location", str(migrations).replace("%", "%%"))
    # Tables that are made anew may not take along the rows of those that name them.
    engine = connect(location, foreign_keys=False)
    try:
        with answering(location), writing(engine).begin() as connection:
            if found := schema_of(connection):
                _refuse_newer(location, found)
            configuration.attributes["connection"] = connection
            command.upgrade(configuration, "head")
            _refuse_other_columns(location, connection)
            _check_references(location, connection)
    finally:
        engine.dispose()


def _refuse_newer(location: URL, found: str) -> None:
    if found and is_newer(found):
        raise DataError(
            f"{place(location)}: schema {found} is newer than this version's, {SCHEMA}: nothing to "
            "upgrade; install the newer fedgtv again"
        )


def _refuse_other_columns(location: URL, connection: Connection) -> None:
    """Stop where a table has other columns than expected: it was made between two versions."""
    for table in Base.metadata.sorted_tables:
        held = {str(column["name"]) for column in inspect(connection).get_columns(table.name)}
        if different := held ^ {column.name for column in table.columns}:
            raise DataError(
                f"{place(location)}: table '{table.name}' differs in '{min(different)}': it was "
                "made by a version that was never released: use that version, or a new home"
            )


def _check_references(location: URL, connection: Connection) -> None:
    if connection.dialect.name != "sqlite":  # others check all the time
        return
    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
        raise DataError(
            f"{place(location)}: rows name others that are not there: restore the database from a "
            "backup, then upgrade"
        )
