"""Make a home from a backup: into an empty place, after every file was compared with its hash."""

import errno
import os
import shutil
from pathlib import Path

from sqlalchemy import URL, inspect

from algorithms.contracts.errors import DataError
from site_agent.backup import DATABASE, FILES, BackupManifest, unpack
from site_agent.config import SiteHome, open_home
from site_agent.database import SCHEMA, answering, connect, is_newer, place
from site_agent.postgresql_tools import load
from site_agent.working_folder import put_in_place, remove_left, working_folder


def restore(archive: Path, folder: Path) -> BackupManifest:
    """Make `folder` the home that an archive was made of.

    Everything is unpacked and checked beside the home, which appears in one step at the end. A kill
    leaves a folder with a dot before its name, which the next attempt removes.

    A database on PostgreSQL is filled where the key `database_url` says, or the environment in its
    place, and must be empty; that is the last step but one, and is one transaction.

    Raises:
        DataError: the home or its database is not empty, the archive is damaged, or of a newer
            version.
    """
    if not archive.is_file():
        raise DataError(f"{archive}: no such backup: give the file that 'backup' wrote")
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        remove_left(folder)  # of one that was killed just after
        raise _not_empty(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with working_folder(folder) as staging:
        manifest = unpack(archive, staging)
        if manifest.db_schema and is_newer(manifest.db_schema):
            raise DataError(
                f"{archive}: of a newer version (schema {manifest.db_schema}, this one has "
                f"{SCHEMA}): install fedgtv {manifest.fedgtv} first"
            )
        unpacked = staging / FILES
        home = SiteHome(folder, open_home(unpacked).config)
        _place_database(manifest, home, staging / DATABASE, unpacked)
        _settle_folders(unpacked)
        try:
            unpacked.rename(folder)  # over an empty folder at most
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise _not_empty(folder) from None
    return manifest


def _not_empty(folder: Path) -> DataError:
    return DataError(f"{folder}: not empty: a backup is restored into a new home: give another")


def _place_database(
    manifest: BackupManifest, home: SiteHome, database: Path, unpacked: Path
) -> None:
    location = home.database_url
    if location.get_backend_name() != manifest.database:
        raise DataError(
            f"{place(location)}: the backup holds a database of {manifest.database}: name one with "
            "the environment variable FEDGTV_SITE_DATABASE_URL"
        )
    if manifest.database == "postgresql":
        _refuse_tables(location)
        load(location, database)
        return
    target = Path(location.database or "")
    if target.is_relative_to(home.folder):
        target = unpacked / target.relative_to(home.folder)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not target.parent.is_dir():
        raise DataError(
            f"{target.parent}: no such folder for the database: make it, or name another with the "
            "environment variable FEDGTV_SITE_DATABASE_URL"
        )
    if target.exists():
        raise DataError(
            f"{target}: there is a database already: move it away, or name another with the "
            "environment variable FEDGTV_SITE_DATABASE_URL"
        )
    with working_folder(target) as beside:  # it may be another disk
        part = beside / DATABASE
        part.touch(0o600)
        with database.open("rb") as source, part.open("wb") as written:
            shutil.copyfileobj(source, written)
            written.flush()
            os.fsync(written.fileno())
        put_in_place(part, target)


def _refuse_tables(location: URL) -> None:
    engine = connect(location)
    try:
        with answering(location), engine.connect() as connection:
            if inspect(connection).get_table_names():
                raise DataError(
                    f"{place(location)}: the database is not empty: make a new one and name it "
                    "with the environment variable FEDGTV_SITE_DATABASE_URL"
                )
    finally:
        engine.dispose()


def _settle_folders(folder: Path) -> None:
    """Write the names in all folders to disk: a power cut must not leave a home without them."""
    for path, _, _ in os.walk(folder):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
