import json
from pathlib import Path

import pytest
from sqlalchemy import update

from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.messages import SiteReportMessage
from site_agent import egress
from site_agent.client_app import site_status
from site_agent.config import SiteHome
from site_agent.database import LedgerRow, open_database, transaction
from site_agent.ledger_export import (
    LEDGER_FILE,
    MESSAGES,
    SIGNATURE_FILE,
    export_ledger,
    verify_export,
)
from site_agent.site_keys import SiteKeys
from tests.simulated_site import AT, approve_plan_for, make_site, tiny_report

PACKAGE = "cd" * 32


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """A site from which statuses left, one message was refused and one waits."""
    home = make_site(tmp_path / "hospital-b", "hospital-b", auto_approve=False)
    engine = open_database(home.database_url)
    for _ in range(2):
        egress.release(home, engine, site_status(home, engine), now=AT)
    approve_plan_for(home, engine, PACKAGE)
    report = tiny_report("hospital-b", PACKAGE)
    with pytest.raises(egress.ReleaseHeld):
        egress.release(home, engine, SiteReportMessage(report=report), now=AT)
    few = tiny_report("hospital-b", "ef" * 32)
    with pytest.raises(egress.ReleaseRefused):
        egress.release(home, engine, SiteReportMessage(report=few), now=AT)
    engine.dispose()
    return home


@pytest.fixture
def exported(home: SiteHome, tmp_path: Path) -> Path:
    engine = open_database(home.database_url)
    assert export_ledger(home, engine, tmp_path / "out") == 4
    engine.dispose()
    return tmp_path / "out"


def key(home: SiteHome) -> str:
    return SiteKeys.open(home).signing_public_key_hex


def test_all_of_it_is_there_and_holds(home: SiteHome, exported: Path) -> None:
    assert verify_export(exported, key(home)) == 4
    entries = [json.loads(line) for line in (exported / LEDGER_FILE).read_bytes().splitlines()]
    assert [entry["state"] for entry in entries] == ["released", "released", "held", "refused"]
    for entry in entries[:3]:
        assert (exported / MESSAGES / entry["message_sha256"]).is_file()
    assert not (exported / MESSAGES / entries[3]["message_sha256"]).exists()


def test_one_flipped_byte_anywhere_is_named(home: SiteHome, exported: Path) -> None:
    files = [file for file in exported.rglob("*") if file.is_file()]
    assert len(files) >= 4
    for file in files:
        content = file.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 7)):
            changed = bytearray(content)
            changed[place] ^= 1
            file.write_bytes(changed)
            with pytest.raises((ProtocolError, DataError)) as refused:
                verify_export(exported, key(home))
            assert file.name in str(refused.value) or exported.name in str(refused.value)
        file.write_bytes(content)
    assert verify_export(exported, key(home)) == 4


def test_what_was_cut_off_or_signed_by_another_is_noticed(home: SiteHome, exported: Path) -> None:
    with pytest.raises(ProtocolError, match="another key"):
        verify_export(exported, "0" * 64)
    file = exported / LEDGER_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(ProtocolError, match="missing at its end"):
        verify_export(exported, key(home))
    file.write_bytes(b"".join(lines[1:]))
    with pytest.raises(ProtocolError, match="entry 1"):
        verify_export(exported, key(home))
    (exported / SIGNATURE_FILE).unlink()
    with pytest.raises(DataError, match="no exported ledger"):
        verify_export(exported, key(home))


def test_a_broken_ledger_is_not_exported_and_nothing_is_written_over(
    home: SiteHome, exported: Path, tmp_path: Path
) -> None:
    engine = open_database(home.database_url)
    with pytest.raises(DataError, match="choose another folder"):
        export_ledger(home, engine, exported)
    with transaction(engine) as session:
        session.execute(update(LedgerRow).values(size_bytes=1).where(LedgerRow.sequence == 2))
    with pytest.raises(ProtocolError, match="entry 2"):
        export_ledger(home, engine, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    engine.dispose()
