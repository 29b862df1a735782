"""Copies a SQLite database that may be in use, out of a home and back into it."""

import sqlite3
from contextlib import closing
from pathlib import Path

from algorithms.contracts.errors import DataError


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database that may be in use, as it is at one moment; the copy is whole or not there.

    Raises:
        DataError: the source is damaged.
    """
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    part.touch(0o600)
    try:
        with closing(sqlite3.connect(source)) as opened, closing(sqlite3.connect(part)) as copy:
            opened.backup(copy)
            # One file for the archive: no log beside it.
            copy.execute("PRAGMA journal_mode=DELETE")
            _check(copy)
    except sqlite3.OperationalError:  # of the disk, or of who uses it; damage is the next
        part.unlink(missing_ok=True)
        raise
    except sqlite3.DatabaseError:
        part.unlink(missing_ok=True)
        raise _damaged(source) from None
    part.replace(target)


def put_back_sqlite(copy: Path, target: Path) -> None:
    """Make a database what a copy of it is, in one transaction of SQLite's own.

    Never by renaming: the log beside a database would be read as that of the one put in its place.

    Raises:
        DataError: the copy is damaged; the database is as it was.
    """
    try:
        with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            _check(opened)
            with closing(sqlite3.connect(target)) as database:
                database.execute("PRAGMA busy_timeout=30000")
                opened.backup(database)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        raise _damaged(copy) from None


def _check(connection: sqlite3.Connection) -> None:
    """Read all of a database.

    Raises:
        sqlite3.DatabaseError: it is damaged.
    """
    if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
        raise sqlite3.DatabaseError


def _damaged(file: Path) -> DataError:
    return DataError(f"{file}: the database is damaged: restore it from a backup")
