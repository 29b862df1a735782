import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator import cli
from coordinator.config import open_home
from coordinator.study_store import StudyStore
from coordinator.study_workflow import SiteEvent
from evaluation.report_seal import SIGNED_FILES, verify_report
from site_agent.config import open_home as open_site_home
from site_agent.database import open_database
from tests.command_here import command_here
from tests.simulated_site import (
    finish_round,
    make_site,
    prepare_source_package,
    tiny_package,
    tiny_report,
)

INIT = ("--study", "npc-gtv", "--source-site", "hospital-a", "--target-site", "hospital-b")


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return command_here(cli.main, *arguments)


def _run_apart(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-c", "from coordinator.cli import main; main()"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.journey
def test_a_study_by_command(tmp_path: Path) -> None:
    home = tmp_path / "study"
    made = _run_apart("init", "--home", home, *INIT)
    assert made.returncode == 0, made.stderr
    key = _run_apart("public-key", "--home", home).stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{64}", key)
    assert key in made.stdout

    source, target = tmp_path / "a", tmp_path / "b"
    make_site(source, "hospital-a", key)
    make_site(target, "hospital-b", key)
    offered = prepare_source_package(source)
    sites = ("--site", f"hospital-a={source}", "--site", f"hospital-b={target}")
    ticked = _run_apart("tick", "--home", home, *sites, "--until", "delivered")
    assert ticked.returncode == 0, ticked.stderr
    early = _run_apart("tick", "--home", home, *sites, "--until", "reported", "--patience-s", "0")
    assert early.returncode == 1
    assert "tick again" in early.stderr

    draft = tmp_path / "plan.json"
    assert _run_apart("plan", "draft", "--home", home, "--output", draft).returncode == 0
    text = draft.read_text("utf-8")
    signed = _run_apart("plan", "sign", draft, "--home", home, "--yes")
    assert signed.returncode == 0, signed.stderr
    assert text in signed.stdout  # shown whole
    agreed = _run_apart("tick", "--home", home, *sites, "--until", "approved")
    assert agreed.returncode == 0, agreed.stderr
    assert "approved" in _run_apart("plan", "list", "--home", home).stdout
    assert _run_apart("plan", "show", "--home", home).stdout == text

    engine = open_database(open_site_home(target).database_url)
    finish_round(engine, "hospital-b", offered.package_id)
    assert _run_apart("tick", "--home", home, *sites, "--until", "reported").returncode == 0
    assert "reported" in _run_apart("status", "--home", home).stdout
    written = _run_apart("report", "--home", home, "--output", tmp_path / "out")
    assert written.returncode == 0, written.stderr
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "study.html",
        "study.csv",
        "study-subgroups.csv",
        "study-raters.csv",
        "study.json",
        "study.signature.json",
    }
    assert set(verify_report(tmp_path / "out", key).files) == set(SIGNED_FILES)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("status",), "run 'fedgtv-coordinator init"),
        (("init", "--study", "NPC", "--source-site", "a", "--target-site", "b"), "lower-case"),
        (("init", "--study", "npc", "--source-site", "a", "--target-site", "a"), "twice"),
        (("init", "--study", "npc", "--source-site", "a", "--target-site", 'b"'), "target_sites.0"),
    ],
)
def test_an_expected_error_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    done = _run_apart(*arguments, "--home", tmp_path / "x")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr


def test_sites_are_named_as_in_the_study(tmp_path: Path) -> None:
    _run("init", "--home", tmp_path / "x", *INIT)
    assert (
        "hospital-a, hospital-b" in _run("tick", "--home", tmp_path / "x", "--site", "q=/").stderr
    )
    assert "NAME=HOME" in _run("tick", "--home", tmp_path / "x", "--site", "hospital-a").stderr
    nowhere = _run("tick", "--home", tmp_path / "x", "--site", f"hospital-a={tmp_path}/no")
    assert nowhere.returncode == 2
    assert "no such folder: give the home of hospital-a" in " ".join(nowhere.stderr.split())


def test_resend_after_a_refusal(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    _run("init", "--home", folder, *INIT)
    assert "nothing is published" in _run("resend", "--home", folder, "--site", "hospital-b").stderr
    home = open_home(folder)
    manifest, _ = tiny_package()
    with StudyStore(home.database_url, home.config) as store:
        store.add_package(manifest, from_site="hospital-a")
        store.apply(
            "hospital-b", manifest.package_id, SiteEvent.RECEIPT_REFUSED, rule="unknown_key"
        )
        assert _run("resend", "--home", folder, "--site", "hospital-b").returncode == 0
        assert store.progress(manifest.package_id)["hospital-b"] == "pending"
        store.apply("hospital-b", manifest.package_id, SiteEvent.RECEIPT_ACCEPTED)
        store.add_report(tiny_report("hospital-b", manifest.package_id))
    assert "reported" in _run("resend", "--home", folder, "--site", "hospital-b").stderr


def test_a_refusal_ends_the_run_and_is_named(tmp_path: Path) -> None:
    home, source, target = (tmp_path / name for name in ("study", "a", "b"))
    _run("init", "--home", home, *INIT)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    make_site(source, "hospital-a")
    make_site(target, "hospital-b")  # trusts nobody
    prepare_source_package(source)
    sites = ("--site", f"hospital-a={source}", "--site", f"hospital-b={target}")
    ticked = _run("tick", "--home", home, *sites, "--until", "delivered")
    assert ticked.returncode == 1
    assert len(ticked.stderr.splitlines()) == 1
    assert "hospital-b (unknown_key)" in ticked.stderr


def test_a_lost_database_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    assert _run("init", "--home", tmp_path, *INIT).returncode == 0
    (tmp_path / "study.db").unlink()
    for command in (("status",), ("report", "--output", tmp_path / "out")):
        done = _run(*command, "--home", tmp_path)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "study.db: the study's database is missing: restore it from a backup" in done.stderr
    assert not (tmp_path / "study.db").exists()


def test_a_home_whose_making_was_killed_is_finished(tmp_path: Path) -> None:
    home = tmp_path / "study"
    (home / "study.db").mkdir(parents=True)  # no database can be made here
    assert _run("init", "--home", home, *INIT).returncode == 2
    assert not (home / "coordinator.toml").exists()
    key = (home / "secrets" / "signing.key").read_bytes()
    (home / "study.db").rmdir()
    assert _run("init", "--home", home, *INIT).returncode == 0
    assert (home / "secrets" / "signing.key").read_bytes() == key
    assert _run("status", "--home", home).returncode == 0
    assert not (home / ".draft").exists()


def test_a_damaged_database_is_one_line_without_parameters(tmp_path: Path) -> None:
    home = tmp_path / "study [b]"
    said = _run("init", "--home", home, *INIT).stdout
    assert "study [b]" in " ".join(said.split())  # a long path is wrapped at any blank
    (home / "study.db").write_bytes(b"no database" * 1000)
    done = _run("status", "--home", home)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "DatabaseError" in done.stderr
    assert "backup" in done.stderr
    assert "PRAGMA" not in done.stderr


def test_help_loads_neither_flower_nor_image_libraries() -> None:
    code = (
        "import sys, coordinator.cli;"
        "banned = ('flwr', 'torch', 'pydicom', 'scipy', 'site_agent');"
        "print([m for m in banned if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
