"""A study in an archive and back: whole, checked, and without what must not be in it."""

import io
import tarfile
from datetime import datetime
from pathlib import Path

import pytest

from algorithms.contracts.errors import DataError
from algorithms.contracts.health import CheckState
from coordinator.backup import backup, restore
from coordinator.config import CoordinatorHome, open_home
from coordinator.doctor import examine_coordinator
from coordinator.package_publisher import publish
from coordinator.plan_records import PlanRecords
from coordinator.study_keys import write_server_certificate
from coordinator.study_store import SCHEMA, StudyStore
from coordinator.study_workflow import SiteEvent
from site_agent.backup import backup as backup_site
from tests.simulated_site import (
    AT,
    make_coordinator,
    make_site,
    sign_study_plan,
    tiny_package,
    tiny_report,
)
from tests.site_agent.stored_site import files, killed_at

NOW = datetime(2031, 5, 6, 7, 8, 9)
MANIFEST, FILES = tiny_package()
PACKAGE = MANIFEST.package_id


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    home = make_coordinator(tmp_path / "study")
    publish(home, MANIFEST, FILES)
    with StudyStore(home.database_url, home.config) as store:
        store.add_package(MANIFEST, from_site="hospital-a")
        store.apply("hospital-b", PACKAGE, SiteEvent.RECEIPT_ACCEPTED)
        store.add_report(tiny_report("hospital-b", PACKAGE))
        write_server_certificate(home, store, (), AT.astimezone())
    sign_study_plan(home)
    for name in ("updates", "received", "flower", "logs", "run", "database-copies"):
        (home.folder / name).mkdir()
        (home.folder / name / "file").write_text(name)
    return home


def told(folder: Path) -> dict[str, str]:
    checks = examine_coordinator(folder)
    return {check.name: check.line for check in checks if check.state is CheckState.FAILED}


def test_a_study_comes_back_as_it_was(home, tmp_path) -> None:
    kept = files(home.folder)
    with StudyStore(home.database_url, home.config) as store:
        before = (store.sites(), store.reports(PACKAGE), [e.event for e in store.events()])
    manifest = backup(home, tmp_path / "study.tar", with_secrets=True, now=NOW)
    assert (tmp_path / "study.tar").stat().st_mode & 0o777 == 0o600
    assert restore(tmp_path / "study.tar", tmp_path / "again") == manifest
    assert (manifest.study, manifest.db_schema, manifest.has_secrets) == (
        "npc-gtv",
        str(SCHEMA),
        True,
    )
    again = open_home(tmp_path / "again")
    with StudyStore(again.database_url, again.config) as store:
        assert (store.sites(), store.reports(PACKAGE), [e.event for e in store.events()]) == before
        assert PlanRecords(store).newest_number() == 1
    assert told(again.folder) == {}
    found = files(again.folder)
    tops = {"coordinator.toml", "packages", "secrets", "tls"}
    expected = {name for name in kept if name.partition("/")[0] in tops}
    assert {name for name in found if not name.startswith("study.db")} == expected
    assert all(found[name] == kept[name] for name in expected)


def test_without_the_keys_they_are_not_in_it_and_the_doctor_says_so(home, tmp_path) -> None:
    backup(home, tmp_path / "study.tar", with_secrets=False, now=NOW)
    secret = [data for name, data in files(home.folder).items() if name.startswith("secrets/")]
    secret.append((home.tls / "server.key").read_bytes())
    archive = (tmp_path / "study.tar").read_bytes()
    assert len(secret) > 2
    assert not any(data.strip() in archive for data in secret)
    assert not restore(tmp_path / "study.tar", tmp_path / "again").has_secrets
    # Without the key nobody can say either whether what it signed is as it was.
    assert list(told(tmp_path / "again")) == ["signing-key", "records", "packages"]


def test_a_flipped_byte_anywhere_is_found_and_nothing_is_restored(home, tmp_path) -> None:
    archive = tmp_path / "study.tar"
    backup(home, archive, with_secrets=True, now=NOW)
    whole = archive.read_bytes()
    with tarfile.open(archive) as opened:
        middles = [m.offset_data + m.size // 2 for m in opened if m.size]
    assert len(middles) > 5
    for position in middles:
        archive.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(DataError, match="damaged"):
            restore(archive, tmp_path / "again")
        assert not (tmp_path / "again").exists()


def test_a_kill_leaves_a_whole_archive_or_none_and_a_whole_home_or_none(home, tmp_path) -> None:
    target = tmp_path / "study.tar"
    step = 0
    while killed_at(step, lambda: backup(home, target, with_secrets=True, now=NOW)):
        assert not target.exists() or step
        if target.exists():
            break
        step += 5
    assert step > 10
    if not target.exists():
        backup(home, target, with_secrets=True, now=NOW)
    step = 0
    while killed_at(step, lambda: restore(target, tmp_path / "again")):
        if (tmp_path / "again").exists():
            break
        step += 5
    assert told(tmp_path / "again") == {}


def test_what_is_in_the_way_is_named(home, tmp_path) -> None:
    backup(home, tmp_path / "study.tar", with_secrets=True, now=NOW)
    with pytest.raises(DataError, match="exists already"):
        backup(home, tmp_path / "study.tar", with_secrets=True, now=NOW)
    with pytest.raises(DataError, match="lies in the home"):
        backup(home, home.folder / "study.tar", with_secrets=True, now=NOW)
    with pytest.raises(DataError, match="not empty"):
        restore(tmp_path / "study.tar", home.folder)
    with pytest.raises(DataError, match="no such backup"):
        restore(tmp_path / "other.tar", tmp_path / "again")


def test_the_archive_of_a_hospital_is_none_of_a_study(tmp_path) -> None:
    site = make_site(tmp_path / "b", "hospital-b")
    backup_site(site, tmp_path / "b.tar", with_secrets=True, now=NOW)
    with pytest.raises(DataError, match="is not one this version knows"):
        restore(tmp_path / "b.tar", tmp_path / "again")


def test_an_archive_of_a_newer_version_is_refused(home, tmp_path) -> None:
    backup(home, tmp_path / "study.tar", with_secrets=True, now=NOW)
    with tarfile.open(tmp_path / "study.tar") as opened:
        contents = {m.name: opened.extractfile(m).read() for m in opened}
    now, newer = f'"db_schema": "{SCHEMA}"'.encode(), b'"db_schema": "99"'
    assert now in contents["backup.json"]
    contents["backup.json"] = contents["backup.json"].replace(now, newer)
    with tarfile.open(tmp_path / "newer.tar", "w") as opened:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match=r"of a newer version \(schema 99"):
        restore(tmp_path / "newer.tar", tmp_path / "again")


def test_a_database_on_a_server_is_left_to_its_own_tools(home, tmp_path, monkeypatch) -> None:
    url = "postgresql://u:secret@db.invalid/study"
    monkeypatch.setenv("FEDGTV_COORDINATOR_DATABASE_URL", url)
    with pytest.raises(DataError, match="on a server") as refused:
        backup(open_home(home.folder), tmp_path / "study.tar", with_secrets=True, now=NOW)
    assert "secret" not in str(refused.value)
