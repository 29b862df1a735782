"""What a SuperLink keeps on disk, made small again while it does not run.

It keeps every run for ever, and a tick is a run: about 1.2 KB of rows each. What a killed run left
in its mailbox may be a whole package. Nothing of that is used after a restart: runs end with the
SuperLink, and what counts is in the study database. Only who is registered has to stay, since a
SuperLink takes no node key twice.
"""

import contextlib
import sqlite3
from pathlib import Path

# By what stays, not by what goes: the tables are Flower's own. Nonces keep old requests out.
STAYS = {"alembic_version", "node", "nonce_store"}


def forget_runs(file: Path) -> None:
    """Empty all other tables of a SuperLink that does not run; a damaged file is left to it."""
    if not file.is_file():
        return
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(sqlite3.connect(file, isolation_level=None)) as state,
    ):
        state.execute("BEGIN IMMEDIATE")
        tables = {
            n for (n,) in state.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        for table in tables - STAYS:
            if not table.startswith("sqlite_"):
                state.execute(f'DELETE FROM "{table}"')  # noqa: S608 - a name of the database's own
        state.execute("COMMIT")
        state.execute("VACUUM")
