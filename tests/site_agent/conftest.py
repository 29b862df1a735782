"""Every database a site may have: a module that says so runs its tests on each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from site_agent.database import open_database
from tests.debian_packages import absent
from tests.empty_database import empty_database
from tests.postgresql import Cluster, binaries, running_cluster


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """Start a throw-away PostgreSQL server; skips where it is not installed."""
    folder = binaries()
    if folder is None:
        absent("PostgreSQL", "postgresql")
    with running_cluster(folder) as cluster:
        yield cluster


# The server is a real component, and costs more time than all else: with the journeys.
@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.journey)])
def each_database(request, monkeypatch) -> Iterator[str]:
    """Give the next home a database of this kind; with PostgreSQL, an empty one of the server."""
    if request.param == "sqlite":
        yield request.param
        return
    cluster = request.getfixturevalue("postgresql")
    url = cluster.new_database()
    monkeypatch.setenv("FEDGTV_SITE_DATABASE_URL", url)
    yield request.param
    cluster.give_back(url)


@pytest.fixture
def empty_engine(tmp_path: Path) -> Iterator[Engine]:
    """Open a database of a site without rows."""
    file = tmp_path / "site.db"
    file.write_bytes(empty_database())
    engine = open_database(f"sqlite:///{file}")
    yield engine
    engine.dispose()
