"""Make a home from a backup: into an empty place, after every file was compared with its hash."""

from pathlib import Path

from sqlalchemy import URL, inspect

from algorithms.contracts.errors import DataError
from site_agent.backup import BackupManifest, unpack
from site_agent.config import SiteHome, open_home
from site_agent.database import SCHEMA, answering, connect, is_newer, place
from site_agent.postgresql_tools import load
from supervision.archive import DATABASE, FILES, new_home, place_sqlite

_VARIABLE = "FEDGTV_SITE_DATABASE_URL"


def restore(archive: Path, folder: Path) -> BackupManifest:
    """Make `folder` the home that an archive was made of; it appears in one step at the end.

    A database on PostgreSQL is filled where the key `database_url` says, or the environment in its
    place, and must be empty; that is the last step but one, and is one transaction.

    Raises:
        DataError: the home or its database is not empty, the archive is damaged, or of a newer
            version.
    """
    folder = folder.absolute()
    with new_home(archive, folder) as staging:
        manifest = unpack(archive, staging)
        if manifest.db_schema and is_newer(manifest.db_schema):
            raise DataError(
                f"{archive}: of a newer version (schema {manifest.db_schema}, this one has "
                f"{SCHEMA}): install fedgtv {manifest.fedgtv} first"
            )
        home = SiteHome(folder, open_home(staging / FILES).config)
        _place_database(manifest, home, staging)
    return manifest


def _place_database(manifest: BackupManifest, home: SiteHome, staging: Path) -> None:
    location, database = home.database_url, staging / DATABASE
    if location.get_backend_name() != manifest.database:
        raise DataError(
            f"{place(location)}: the backup holds a database of {manifest.database}: name one with "
            f"the environment variable {_VARIABLE}"
        )
    if manifest.database == "postgresql":
        _refuse_tables(location)
        load(location, database)
        return
    target = Path(location.database or "")
    place_sqlite(database, target, home=home.folder, staging=staging, variable=_VARIABLE)


def _refuse_tables(location: URL) -> None:
    engine = connect(location)
    try:
        with answering(location), engine.connect() as connection:
            if inspect(connection).get_table_names():
                raise DataError(
                    f"{place(location)}: the database is not empty: make a new one and name it "
                    f"with the environment variable {_VARIABLE}"
                )
    finally:
        engine.dispose()
