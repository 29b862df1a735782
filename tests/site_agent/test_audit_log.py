from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from algorithms.contracts.errors import ProtocolError
from site_agent import audit_log
from site_agent.database import AuditRow, open_database, transaction
from tests.simulated_site import AT, make_site


@pytest.fixture
def engine(tmp_path: Path, each_database: str) -> Iterator[Engine]:
    url = make_site(tmp_path / "site", "hospital-b").database_url
    engine = open_database(url)
    yield engine
    engine.dispose()


def _append(engine: Engine, event: str) -> None:
    with transaction(engine) as session:
        detail = {"b": 1.5, "a": (1, None)}
        audit_log.append(session, actor="a", event=event, subject="s", detail=detail, at=AT)


def test_an_empty_and_a_grown_chain_verify(engine: Engine) -> None:
    with Session(engine) as session:
        assert audit_log.verify(session) == 0
    for number in range(3):
        _append(engine, f"event{number}")
    with Session(engine) as session:
        assert audit_log.verify(session) == 3


@pytest.mark.parametrize("column", ["at", "actor", "event", "subject", "previous_sha256", "sha256"])
def test_a_changed_entry_breaks_the_chain(engine: Engine, column: str) -> None:
    for number in range(3):
        _append(engine, f"event{number}")
    with transaction(engine) as session:
        session.execute(update(AuditRow).where(AuditRow.sequence == 2).values({column: "f" * 64}))
    with Session(engine) as session, pytest.raises(ProtocolError, match="broken at entry 2"):
        audit_log.verify(session)


def test_a_removed_entry_breaks_the_chain(engine: Engine) -> None:
    for number in range(3):
        _append(engine, f"event{number}")
    with transaction(engine) as session:
        session.delete(session.get_one(AuditRow, 2))
    with Session(engine) as session, pytest.raises(ProtocolError, match="broken at entry 3"):
        audit_log.verify(session)


def test_several_writers_make_one_chain(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: _append(engine, f"event{number}"), range(40)))
    with Session(engine) as session:
        assert audit_log.verify(session) == 40


def test_an_entry_is_undone_with_the_work_it_belongs_to(engine: Engine) -> None:
    with pytest.raises(KeyError), transaction(engine) as session:
        audit_log.append(session, actor="a", event="e", subject="s", detail={}, at=AT)
        raise KeyError
    with Session(engine) as session:
        assert audit_log.verify(session) == 0
