"""The two roots of every expected failure.

`DataError` and `ProtocolError` carry one line that a person can act on. Programming mistakes stay
`ValueError` and `TypeError`.
"""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class DataError(Exception):
    """What came in is wrong: the message names the file, series or field and says what to do."""


class ProtocolError(Exception):
    """The other party broke the agreement: the message names the rule that was broken."""


def failure_line(error: Exception) -> str | None:
    """Say in one line what a command tells a person about a failure; None for a mistake of ours.

    Of a failing disk or database only the kind is told: texts and parameters may name a patient.
    """
    kind = type(error).__name__
    if isinstance(error, DataError | ProtocolError):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        if isinstance(error, FileNotFoundError):
            return f"{kind}: there is no such file or folder{where}: correct the path"
        reason = error.strerror or "failed"
        return f"{kind}: {reason}{where}: check disk space and permissions, then run again"
    if isinstance(error, UnicodeDecodeError):
        return f"{kind}: a text file is not in UTF-8: save it as UTF-8, or restore it from a backup"
    # By name, since the nouns do without SQLAlchemy.
    if isinstance(error, sqlite3.Error) or any(
        (c.__module__, c.__name__) == _DATABASE_ERROR for c in type(error).__mro__
    ):
        return f"{kind}: {_advice(getattr(error, 'orig', None) or error)}"
    return None


@contextmanager
def expected_errors_are_one_line() -> Iterator[None]:
    """Surround a command: an expected error ends it with its line and exit code 2, others go on."""
    try:
        yield
    except Exception as error:  # the edge of the process
        line = failure_line(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)  # noqa: T201 - a command's answer
        sys.exit(2)


def _advice(error: object) -> str:
    """Say what helps by what the driver of SQLite or PostgreSQL names its error."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or getattr(error, "sqlstate", "") == _DISK_FULL:
        return "the disk is full: make room, then run again"
    if name.startswith("SQLITE_IOERR"):
        return "the disk is full or fails: make room or have it checked, then run again"
    return (
        "the database cannot be used: check disk space and permissions, or restore the database "
        "from a backup"
    )


_DISK_FULL = "53100"  # of PostgreSQL
_DATABASE_ERROR = ("sqlalchemy.exc", "SQLAlchemyError")
