"""Backups: all of a site in one archive while it works, and back only as a whole."""

import errno
import io
import json
import os
import re
import shutil
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from site_agent import audit_log, egress
from site_agent.backup import BackupManifest, backup, unpack
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome, open_home
from site_agent.database import create_database
from site_agent.pacs_export import export_rtstruct
from site_agent.restoring import restore
from site_agent.site_keys import SiteKeys
from site_agent.site_lock import nothing_erased, only_eraser, only_worker
from supervision.archive import DATABASE, MANIFEST
from supervision.working_folder import working_folder
from tests.phantoms import filled_store, make_home, tiny_case
from tests.site_agent.stored_site import files, fill, killed_at, release, rows, told_on_a_full_disk

NOW = datetime(2031, 5, 6, 7, 8, 9)
KEYS = ("pseudonym.key", "crosswalk.key")


@pytest.fixture
def home(tmp_path, each_database) -> SiteHome:
    return make_home(tmp_path / "home")


@pytest.fixture
def store(home, tmp_path) -> CaseStore:
    return fill(home, tmp_path / "exports")


@pytest.fixture
def elsewhere(each_database, request, monkeypatch) -> Callable[[], None]:
    """Give the home that is restored a database of its own, where it needs one."""

    def elsewhere() -> None:
        if each_database == "postgresql":
            url = request.getfixturevalue("postgresql").new_database()
            monkeypatch.setenv("FEDGTV_SITE_DATABASE_URL", url)

    return elsewhere


@pytest.fixture
def small(tmp_path) -> Path:
    """Make the archive of a small site on SQLite."""
    home = make_home(tmp_path / "small")
    filled_store(home, 2).engine.dispose()
    backup(home, tmp_path / "small.tar", with_secrets=True, now=NOW)
    return tmp_path / "small.tar"


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {m.name: opened.extractfile(m).read() for m in opened}


def rewrite(archive: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(archive, "w") as opened:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))


def assert_nothing_restored(target: Path) -> None:
    assert not target.exists()
    assert list(target.parent.glob(f".{target.name}*")) == []


def test_a_site_comes_back_as_it_was(home, store, elsewhere, tmp_path) -> None:
    before, kept = rows(store), files(home.folder)
    assert all(before.values())  # something of everything
    case_id = store.cases()[0].case_id
    volume = store.volume(case_id)
    manifest = backup(home, tmp_path / "site.tar", with_secrets=True, now=NOW)
    store.engine.dispose()
    elsewhere()
    assert restore(tmp_path / "site.tar", tmp_path / "new") == manifest
    new = open_home(tmp_path / "new")
    again = CaseStore(new)
    assert rows(again) == before
    found = files(new.folder)
    database = {name for name in {*found, *kept} if name.startswith("site.db")}
    expected = {name for name in kept if not name.endswith(".lock")} - database
    assert found.keys() - database == expected
    assert all(found[name] == kept[name] for name in expected)
    np.testing.assert_array_equal(again.volume(case_id).image, volume.image)
    with Session(again.engine) as session:
        assert audit_log.verify(session) == len(before["audit"])
    assert egress.verify_ledger(new, again.engine) == len(before["ledger"]) == 1
    assert export_rtstruct(new, again, case_id, tmp_path / "rs.dcm", actor="test") == "GTVp"
    release(new, again, 5)  # life goes on: keys count up, chains grow
    again.add_cases([tiny_case(7)], actor="test")
    assert egress.verify_ledger(new, again.engine) == 2


def test_without_being_asked_no_key_is_taken(home, store, elsewhere, tmp_path) -> None:
    (home.spool / "incoming").mkdir(parents=True)
    (home.spool / "incoming" / "1.dcm").write_bytes(b"Nobody-1^Aurelia")
    SiteKeys.open(home)
    (home.folder / "run").mkdir()
    (home.folder / "run" / "executor.secret").write_bytes(b"of this start")
    archive = tmp_path / "site.tar"
    manifest = backup(home, archive, with_secrets=False, now=NOW)
    assert not manifest.has_secrets
    content = archive.read_bytes()
    private = [(home.keys / name).read_bytes() for name in ("signing.key", "node.key")]
    assert all(key not in content for key in (*map(home.secret, KEYS), *private))
    assert b"Aurelia" not in content
    backup(home, tmp_path / "keys.tar", with_secrets=True, now=NOW)
    with_keys = (tmp_path / "keys.tar").read_bytes()
    assert all(key in with_keys for key in (*map(home.secret, KEYS), *private))
    assert b"of this start" not in content + with_keys
    case_id = store.cases()[0].case_id
    elsewhere()
    restore(archive, tmp_path / "new")
    new = open_home(tmp_path / "new")
    with pytest.raises(DataError, match=r"crosswalk\.key: secret is missing: copy it back"):
        export_rtstruct(new, CaseStore(new), case_id, tmp_path / "rs.dcm", actor="test")


def test_a_full_disk_is_not_taken_for_a_damaged_database(tmp_path) -> None:
    home = make_home(tmp_path / "home")
    target = tmp_path / "out" / "site.tar"
    target.parent.mkdir()
    told = told_on_a_full_disk(lambda: backup(home, target, with_secrets=False, now=NOW))
    assert "the disk is full" in told
    assert "damaged" not in told
    assert list(target.parent.iterdir()) == []


def test_only_its_owner_reads_an_archive_and_nothing_is_left_beside_it(home, tmp_path) -> None:
    os.umask(before := os.umask(0))
    os.umask(0)
    try:
        (tmp_path / "out").mkdir()
        backup(home, tmp_path / "out" / "site.tar", with_secrets=True, now=NOW)
    finally:
        os.umask(before)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["site.tar"]
    assert (tmp_path / "out" / "site.tar").stat().st_mode & 0o777 == 0o600


def test_wrong_targets_are_refused_and_change_nothing(home, tmp_path) -> None:
    held = tmp_path / "held.tar"
    held.write_bytes(b"precious")
    for target, words in (
        (held, "exists already"),
        (home.folder / "site.tar", "lies in the home"),
        (tmp_path / "no" / "site.tar", "no such folder"),
    ):
        with pytest.raises(DataError, match=words):
            backup(home, target, with_secrets=False, now=NOW)
    assert held.read_bytes() == b"precious"
    assert not (home.folder / "site.tar").exists()


def test_a_database_of_another_name_is_in_the_archive_once(tmp_path) -> None:
    url = f"sqlite:///{tmp_path / 'home' / 'data' / 'other.db'}"
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "site.toml").write_text(
        f'name = "b"\nstudy = "npc"\ndatabase_url = "{url}"\n', "utf-8"
    )
    home = open_home(tmp_path / "home")
    create_database(home.database_url)
    store = filled_store(home, 1)  # stays open: a log lies beside the database
    assert (home.folder / "data" / "other.db-wal").is_file()
    backup(home, tmp_path / "site.tar", with_secrets=True, now=NOW)
    assert [name for name in members(tmp_path / "site.tar") if "other.db" in name] == []
    store.engine.dispose()
    shutil.rmtree(home.folder)
    with pytest.raises(DataError, match="no such folder for the database"):
        restore(tmp_path / "site.tar", tmp_path / "new")  # the key names the old place
    assert_nothing_restored(tmp_path / "new")
    restore(tmp_path / "site.tar", home.folder)
    assert len(CaseStore(home).cases()) == 1


@pytest.mark.parametrize("where", ["site:hunter2@db/site", "/site?host=db&password=hunter2"])
def test_a_password_in_the_configuration_is_a_secret(home, tmp_path, where) -> None:
    with (home.folder / "site.toml").open("a") as opened:
        opened.write(f'database_url = "postgresql://{where}"\n')
    with pytest.raises(DataError, match=r"holds a password.*FEDGTV_SITE_DATABASE_URL") as caught:
        backup(home, tmp_path / "site.tar", with_secrets=False, now=NOW)
    assert "hunter2" not in str(caught.value)
    backup(home, tmp_path / "site.tar", with_secrets=True, now=NOW)
    assert b"hunter2" in (tmp_path / "site.tar").read_bytes()


def test_an_archive_is_made_while_a_worker_works_and_fits_together(
    home, elsewhere, tmp_path
) -> None:
    """Somebody adds cases and lets messages leave all the time; nothing is half in the archive."""
    store = filled_store(home, 1)
    stop, made = threading.Event(), [0]

    def work() -> None:
        with only_worker(home):
            while not stop.is_set():
                number = 10 + made[0]
                store.add_cases([tiny_case(number)], actor="worker")
                release(home, store, number)
                made[0] += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for attempt in range(100):
            before = made[0]
            archive = tmp_path / f"{attempt}.tar"
            backup(home, archive, with_secrets=False, now=NOW)
            if made[0] > before:
                break
        assert made[0] > before, "nobody worked meanwhile"
    finally:
        stop.set()
        worker.join()
    elsewhere()
    restore(archive, tmp_path / "new")
    new = open_home(tmp_path / "new")
    again = CaseStore(new)
    for case in again.cases():
        again.volume(case.case_id)
        again.contour(case.case_id, purpose="reference")
    with Session(again.engine) as session:
        assert audit_log.verify(session) == len(again.cases())
    egress.verify_ledger(new, again.engine)


def test_what_a_kill_left_unnamed_in_the_ledger_is_in_the_archive(
    home, elsewhere, tmp_path
) -> None:
    store = CaseStore(home)
    release(home, store, 1)
    (copy,) = home.ledger.glob("*.json")
    copy.rename(copy.with_name(f".{copy.name}.part"))  # killed after the commit
    (home.ledger / ".000002-site_status.json.part").write_bytes(b"{}")  # and before one
    backup(home, tmp_path / "site.tar", with_secrets=False, now=NOW)
    elsewhere()
    restore(tmp_path / "site.tar", tmp_path / "new")
    new = open_home(tmp_path / "new")
    assert egress.verify_ledger(new, CaseStore(new).engine) == 1


def test_a_site_whose_ledger_lost_a_copy_is_not_backed_up_as_if_whole(home, tmp_path) -> None:
    release(home, CaseStore(home), 1)
    next(home.ledger.glob("*.json")).unlink()
    with pytest.raises(DataError, match="missing, but the ledger names it"):
        backup(home, tmp_path / "site.tar", with_secrets=False, now=NOW)
    assert list(tmp_path.glob("site.tar*")) == []


def test_erasures_and_backups_wait_for_each_other(home, tmp_path) -> None:
    with only_eraser(home), pytest.raises(DataError, match="being erased"):
        backup(home, tmp_path / "site.tar", with_secrets=False, now=NOW)
    with nothing_erased(home):
        backup(home, tmp_path / "site.tar", with_secrets=False, now=NOW)  # two may read
        with pytest.raises(DataError, match="backup of this site is being made"), only_eraser(home):
            pass


def held_up(tmp_path: Path, name: str) -> SiteHome:
    """Make a home whose backup stops at two files, each until somebody has opened it to write."""
    home = make_home(tmp_path / name, name)
    filled_store(home, 2).engine.dispose()
    for stop in (1, 2):
        os.mkfifo(home.folder / "cases" / f"stop-{stop}")
    return home


def let_pass(home: SiteHome, stop: int, attempt: Future[BackupManifest]) -> None:
    """Wait until a backup stands at one of the two, and let it go on."""
    while not attempt.done():
        with suppress(OSError):  # nobody reads it yet
            os.close(os.open(home.folder / "cases" / f"stop-{stop}", os.O_WRONLY | os.O_NONBLOCK))
            return
        time.sleep(0.01)
    raise AssertionError(attempt.exception())


@pytest.mark.parametrize("links", [True, False])
def test_of_two_backups_to_one_name_the_first_is_whole_and_the_other_refused(
    tmp_path, monkeypatch, links
) -> None:
    def no_links(*_names: object) -> None:
        raise OSError(errno.EPERM, "not on this disk")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    target = tmp_path / "out" / "site.tar"
    target.parent.mkdir()
    homes = [held_up(tmp_path, name) for name in ("a", "b")]
    with ThreadPoolExecutor(2) as pool:
        first, second = (
            pool.submit(backup, home, target, with_secrets=False, now=NOW) for home in homes
        )
        let_pass(homes[0], 1, first)
        let_pass(homes[1], 1, second)  # both are writing
        let_pass(homes[0], 2, first)
        manifest = first.result()
        let_pass(homes[1], 2, second)
        with pytest.raises(DataError, match="exists already"):
            second.result()
    assert unpack(target, tmp_path / "unpacked") == manifest
    assert manifest.site == "a"
    assert list(target.parent.iterdir()) == [target]


def test_what_a_killed_run_left_goes_and_what_runs_stays(tmp_path) -> None:
    target, others = tmp_path / "site.tar", tmp_path / ".site.tar.theirs.part"
    others.symlink_to(tmp_path)
    child = os.fork()
    if child == 0:
        with working_folder(target) as folder:
            (folder / "archive").touch()
            os._exit(9)
    os.waitpid(child, 0)
    (tmp_path / ".site.tar.before-its-lock.part").mkdir()
    with working_folder(target) as one, working_folder(target) as two:
        hidden = {path for path in tmp_path.iterdir() if path != others}
        assert hidden == {one, two}
    assert list(tmp_path.iterdir()) == [others]


# -- the way back ---------------------------------------------------------------------------------


def test_only_a_new_home_is_restored(home, elsewhere, tmp_path) -> None:
    backup(home, tmp_path / "site.tar", with_secrets=False, now=NOW)
    before = files(home.folder)
    with pytest.raises(DataError, match="not empty"):
        restore(tmp_path / "site.tar", home.folder)
    assert files(home.folder) == before
    elsewhere()
    (tmp_path / "new").mkdir()  # empty: a place that was prepared
    restore(tmp_path / "site.tar", tmp_path / "new")
    assert CaseStore(open_home(tmp_path / "new")).cases() == []
    with pytest.raises(DataError, match="no such backup"):
        restore(tmp_path / "nothing.tar", tmp_path / "newer")


def test_a_database_that_is_in_use_is_never_restored_into(home, each_database, tmp_path) -> None:
    store = filled_store(home, 1)
    if each_database == "sqlite":
        with (home.folder / "site.toml").open("a") as opened:
            opened.write(f'database_url = "sqlite:///{home.folder / "site.db"}"\n')
        home = open_home(home.folder)
    backup(home, tmp_path / "site.tar", with_secrets=False, now=NOW)
    with pytest.raises(DataError, match=r"not empty|a database already"):
        restore(tmp_path / "site.tar", tmp_path / "new")
    assert_nothing_restored(tmp_path / "new")
    assert len(store.cases()) == 1


def test_a_database_of_another_kind_is_refused(small, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FEDGTV_SITE_DATABASE_URL", "postgresql://u:secret@db.invalid/site")
    with pytest.raises(DataError, match="database of sqlite") as caught:
        restore(small, tmp_path / "new")
    assert "secret" not in str(caught.value)
    assert_nothing_restored(tmp_path / "new")


def test_damage_is_named_by_file_and_nothing_is_put_in_place(small, tmp_path) -> None:
    whole = members(small)
    for name, content in whole.items():
        if name == MANIFEST:
            continue
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        rewrite(small, {**whole, name: bytes(changed)})
        with pytest.raises(DataError, match=f"damaged: '{name}'.*use another backup"):
            restore(small, tmp_path / "new")
        rewrite(small, {n: c for n, c in whole.items() if n != name})
        with pytest.raises(DataError, match=f"damaged: '{name}'"):
            restore(small, tmp_path / "new")
    assert_nothing_restored(tmp_path / "new")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_one_wrong_byte_or_a_cut_is_noticed_or_harmless(small, tmp_path, data) -> None:
    whole = small.read_bytes()
    expected = members(small)
    damaged = bytearray(whole)
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    copy = tmp_path / "damaged.tar"
    copy.write_bytes(damaged)
    target = tmp_path / "unpacked"
    try:
        unpack(copy, target)
    except DataError as error:
        assert "damaged" in str(error)
    else:
        del expected[MANIFEST]
        assert files(target) == expected
    for file in target.rglob("*"):
        if file.is_file():
            file.unlink()


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/outside", "home/../../outside", "home", "other", "home//x"]
)
def test_a_file_that_no_backup_holds_is_refused(small, tmp_path, name) -> None:
    whole = members(small)
    rewrite(small, {DATABASE: whole.pop(DATABASE), name: b"x", **whole})
    with pytest.raises(DataError, match="does not belong there"):
        restore(small, tmp_path / "new")
    assert_nothing_restored(tmp_path / "new")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_links_and_folders_are_refused(small, tmp_path, kind) -> None:
    with tarfile.open(small, "w") as opened:
        link = tarfile.TarInfo("home/cases")
        link.type, link.linkname = kind, str(tmp_path)
        opened.addfile(link)
    with pytest.raises(DataError, match="'home/cases' does not belong there"):
        restore(small, tmp_path / "new")
    assert_nothing_restored(tmp_path / "new")


def test_what_follows_the_end_or_comes_twice_is_refused(small, tmp_path) -> None:
    with tarfile.open(small, "a") as opened:
        opened.addfile(tarfile.TarInfo("home/more"))
    with pytest.raises(DataError, match="'home/more' comes after the end"):
        restore(small, tmp_path / "new")
    with tarfile.open(small, "w") as opened:
        for _ in range(2):
            opened.addfile(tarfile.TarInfo("home/twice"))
    with pytest.raises(DataError, match="'home/twice' does not belong there"):
        restore(small, tmp_path / "new")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"db_schema": "9999"}, r"of a newer version \(schema 9999.*install fedgtv"),
        ({"format": 2}, r"'backup\.json' is not one this version knows"),
        ({"mood": "good"}, r"'backup\.json' is not one this version knows"),
    ],
)
def test_an_archive_of_a_newer_version_is_refused(small, tmp_path, change, words) -> None:
    whole = members(small)
    whole[MANIFEST] = json.dumps({**json.loads(whole[MANIFEST]), **change}).encode()
    rewrite(small, whole)
    with pytest.raises(DataError, match=words):
        restore(small, tmp_path / "new")
    assert_nothing_restored(tmp_path / "new")


def test_a_restore_that_is_killed_leaves_a_whole_home_or_none(small, tmp_path) -> None:
    target, step = tmp_path / "new", 0
    while killed_at(step, lambda: restore(small, target)):
        assert not target.exists() or len(CaseStore(open_home(target)).cases()) == 2
        if target.exists():
            with pytest.raises(DataError, match="not empty"):
                restore(small, target)
            assert_only_homes(tmp_path)
            target.rename(tmp_path / f"whole-{step}")
        step += 1
    assert step > 10
    assert len(CaseStore(open_home(target)).cases()) == 2
    assert_only_homes(tmp_path)


@pytest.mark.parametrize("inside", [True, False])
def test_of_two_restores_into_one_home_one_succeeds(small, tmp_path, monkeypatch, inside) -> None:
    """Each waits, when it has begun to unpack, until the other has too."""
    if not inside:
        monkeypatch.setenv("FEDGTV_SITE_DATABASE_URL", f"sqlite:///{tmp_path / 'one.db'}")
    target, began = tmp_path / "new", threading.Barrier(2, timeout=60)
    began_here = threading.local()

    def wait(event: str, arguments: tuple[object, ...]) -> None:
        if ended.is_set() or event != "open" or getattr(began_here, "done", False):
            return
        if str(arguments[0]).endswith(f"/{DATABASE}"):
            began_here.done = True
            began.wait()

    ended = threading.Event()
    sys.addaudithook(wait)
    with ThreadPoolExecutor(2) as pool:
        attempts = [pool.submit(restore, small, target) for _ in range(2)]
        failures = [attempt.exception() for attempt in attempts]
    ended.set()
    (failure,) = [one for one in failures if one is not None]
    assert isinstance(failure, DataError)
    assert re.search("not empty|exists already|a database already", str(failure))
    assert len(CaseStore(open_home(target)).cases()) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def assert_only_homes(folder: Path) -> None:
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_backup_that_is_killed_leaves_no_archive(tmp_path) -> None:
    home = make_home(tmp_path / "home")
    filled_store(home, 2).engine.dispose()
    target, step = tmp_path / "site.tar", 0
    while killed_at(step, lambda: backup(home, target, with_secrets=True, now=NOW)):
        if target.exists():
            unpack(target, tmp_path / f"unpacked-{step}")
            target.unlink()
        step += 5  # most of them open a file to read
    assert step > 10
    assert_only_homes(tmp_path)
    restore(target, tmp_path / "new")
    assert len(CaseStore(open_home(tmp_path / "new")).cases()) == 2
