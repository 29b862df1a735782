"""PostgreSQL's own programs for backups: pg_dump and pg_restore."""

import os
import shutil
import subprocess
from pathlib import Path

from sqlalchemy import URL

from algorithms.contracts.errors import DataError

_DEBIAN = Path("/usr/lib/postgresql")


def dump(location: URL, target: Path, *, snapshot: str) -> None:
    """Write a database as it is in an exported snapshot, in the custom format.

    Raises:
        DataError: pg_dump is missing or fails.
    """
    _run("pg_dump", location, "-Fc", "--no-owner", f"--snapshot={snapshot}", f"--file={target}")


def load(location: URL, source: Path) -> None:
    """Fill an empty database from what `dump` wrote, in one transaction.

    Raises:
        DataError: pg_restore is missing or fails; nothing is in the database then.
    """
    options = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
    _run("pg_restore", location, *options, str(source))


def _run(program: str, location: URL, *arguments: str) -> None:
    from psycopg.conninfo import make_conninfo

    parts = {
        "host": location.host,
        "port": location.port,
        "user": location.username,
        "dbname": location.database,
        **location.query,
    }
    target = make_conninfo("", **{key: str(value) for key, value in parts.items() if value})
    environment = dict(os.environ)
    if location.password:  # not among the arguments, which every user of the machine can read
        environment["PGPASSWORD"] = str(location.password)
    command = [_find(program), f"--dbname={target}", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, check=False)
    if ended.returncode != 0:  # what it says may hold rows
        raise DataError(
            f"{program} failed with exit code {ended.returncode}: check that the server answers, "
            f"and that '{program} --version' is no older than the server"
        )


def _find(program: str) -> str:
    """Return the newest of a program's versions: an older one refuses a newer server."""
    newest_first = sorted(
        _DEBIAN.glob(f"*/bin/{program}"), key=lambda path: path.parts[-3].zfill(4), reverse=True
    )
    found = str(newest_first[0]) if newest_first else shutil.which(program)
    if found is None:
        raise DataError(
            f"the program {program} is missing: install PostgreSQL's client programs (Debian: "
            "postgresql-client)"
        )
    return found
