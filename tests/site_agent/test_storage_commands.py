"""What the commands about storage say to hospital IT."""

import sqlite3
import sys
import tarfile
from contextlib import closing

import pytest

from site_agent import cli
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome, open_home
from site_agent.database import SCHEMA
from tests.phantoms import filled_store, make_home
from tests.site_agent.test_schema import make_old


@pytest.fixture
def home(tmp_path) -> SiteHome:
    home = make_home(tmp_path / "home")
    filled_store(home, 2).engine.dispose()
    return home


@pytest.fixture
def run(monkeypatch, capsys):
    def run_command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedgtv-site", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run_command


def execute(home: SiteHome, statement: str) -> None:
    with closing(sqlite3.connect(home.folder / "site.db")) as database, database:
        database.execute(statement)


def test_an_old_database_is_refused_by_every_kind_of_command_and_upgraded_by_one(home, run) -> None:
    make_old(home)
    for command in (("cases",), ("status",), ("ledger", "verify")):
        code, said, warned = run(*command, "--home", home.folder)
        assert (code, said, warned.count("\n")) == (2, "", 1)
        assert "make a backup, then run 'fedgtv-site database upgrade'" in warned
    assert "before 0001" in run("database", "status", "--home", home.folder)[1]
    archive, again = home.folder.with_name("old.tar"), home.folder.with_name("again")
    assert run("backup", archive, "--home", home.folder)[0] == 0
    code, said, _ = run("restore", archive, "--home", again)
    assert (code, "older version: run 'fedgtv-site database upgrade'" in said) == (0, True)
    code, said, _ = run("database", "upgrade", "--home", home.folder)
    assert (code, said.splitlines()[0]) == (0, f"schema before 0001: upgraded to {SCHEMA}")
    (copy,) = home.database_copies.iterdir()
    assert str(copy) in said
    assert "up to date" in run("database", "upgrade", "--home", home.folder)[1]
    assert "up to date" in run("database", "status", "--home", home.folder)[1]
    assert len(CaseStore(home).cases()) == 2
    assert "1 copies of the database" in run("database", "compact", "--home", home.folder)[1]
    assert "removed: nothing" in run("database", "compact", "--home", home.folder)[1]


def test_a_newer_database_is_named(home, run) -> None:
    execute(home, "UPDATE alembic_version SET version_num = '0099'")
    assert "newer than this version" in run("database", "status", "--home", home.folder)[1]
    for command in (("cases",), ("database", "upgrade")):
        code, _, warned = run(*command, "--home", home.folder)
        assert code == 2
        assert "install the newer fedgtv" in warned


@pytest.mark.parametrize(
    ("flags", "words"),
    [((), "without secrets/crosswalk.key nothing can be returned"), (["--with-secrets"], "knows")],
)
def test_a_backup_says_what_is_in_it_and_comes_back(home, run, tmp_path, flags, words) -> None:
    archive = tmp_path / "site.tar"
    code, said, _ = run("backup", archive, "--home", home.folder, *flags)
    assert code == 0
    assert words in said
    with tarfile.open(archive) as opened:
        held = len(opened.getnames()) - 1  # but the list of them
    assert f"{archive}: {held} files" in said
    code, said, _ = run("restore", archive, "--home", tmp_path / "new")
    assert code == 0
    assert f"{held} files of hospital-b" in said
    assert words in said
    assert len(CaseStore(open_home(tmp_path / "new")).cases()) == 2


def test_more_days_than_there_are_is_an_expected_error(home, run) -> None:
    code, _, warned = run("retention", "--home", home.folder, "--older-than", 99999999)
    assert code == 2
    assert "0<=x<=36525" in warned
    assert run("retention", "--home", home.folder, "--older-than", 36525, "--dry-run")[0] == 0


def test_a_damaged_archive_is_one_line(home, run, tmp_path) -> None:
    archive = tmp_path / "site.tar"
    run("backup", archive, "--home", home.folder)
    content = bytearray(archive.read_bytes())
    content[content.index(b"\x93NUMPY") + 200] ^= 1  # in an image or a mask
    archive.write_bytes(content)
    code, said, warned = run("restore", archive, "--home", tmp_path / "new")
    assert (code, said, warned.count("\n")) == (2, "", 1)
    assert "'home/cases/" in warned
    assert "nothing was restored" in warned
    assert not (tmp_path / "new").exists()
