"""An empty database of a site, copied into a new home: alembic takes 50 ms to make one.

`initialise` takes over the tables that it finds. That it makes them where there are none, and what
alembic makes, is tested in test_site_setup and test_schema.
"""

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from site_agent.database import create_database


@cache
def empty_database() -> bytes:
    """Make the file of a site's database without rows, once per process."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "site.db"
        create_database(f"sqlite:///{file}")
        return file.read_bytes()


def lay_database(folder: Path) -> None:
    """Put an empty database into a home that is about to be made, unless it has a server's."""
    file = folder / "site.db"
    if "FEDGTV_SITE_DATABASE_URL" in os.environ or file.exists():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_bytes(empty_database())
