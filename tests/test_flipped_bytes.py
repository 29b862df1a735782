"""One flipped bit in what is kept: the commands that people run name what was changed.

A study is run once, over the embedded transport and over a disk. Then every test flips one bit at
seeded places of one thing, as a failing disk or a meddling hand would, and puts it back.
"""

import random
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from algorithms.contracts.health import Check, CheckState
from coordinator import cli as coordinator_cli
from coordinator.embedded_transport import EmbeddedTransport
from coordinator.package_publisher import public_key_hex
from coordinator.study_workflow import Goal
from evaluation import cli as evaluation_cli
from site_agent import cli as site_cli
from site_agent.acceptance_proof import write_proof
from site_agent.config import open_home
from site_agent.database import open_database
from site_agent.site_keys import SiteKeys
from supervision.sqlite_copy import copy_sqlite, put_back_sqlite
from tests.enrolled import enrol_site
from tests.simulated_site import (
    finish_round,
    make_study,
    prepare_source_package,
    sign_study_plan,
)

SITE_APP = "site_agent.client_app:app"
NEAR, FAR = "hospital-b", "hospital-c"
PLACES = 12  # at which a bit is flipped, in each thing
Run = Callable[..., tuple[int, str]]


@dataclass(frozen=True)
class Study:
    """What the tests meddle with."""

    folder: Path
    coordinator: Path
    site: Path
    far: Path
    package_id: str
    study_key: str
    site_key: str


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Run a study up to a report; its third hospital is reached by disks only."""
    folder = tmp_path_factory.mktemp("study")
    coordinator, homes = make_study(folder, NEAR, FAR, air_gapped=(FAR,))
    site, far = open_home(homes[NEAR]), open_home(homes[FAR])
    enrol_site(coordinator, site)
    enrol_site(coordinator, far)
    connected = {name: home for name, home in homes.items() if name != FAR}
    prepare_source_package(homes["hospital-a"])
    with EmbeddedTransport(coordinator, connected, site_app=SITE_APP) as transport:
        transport.tick(Goal.PUBLISHED, patience_s=10)
        package_id = transport.tick().package_id
        assert package_id is not None
        sign_study_plan(coordinator)
        transport.tick()
        engine = open_database(site.database_url)
        finish_round(engine, NEAR, package_id)
        engine.dispose()
        for _ in range(2):
            transport.tick()
    at = datetime(2031, 5, 6, tzinfo=UTC)
    checks = [Check("disk", CheckState.OK, "12.0 GiB free")]
    write_proof(site, folder / "proof", checks, {"seed": 1}, passed=True, at=at)
    key = SiteKeys.open(site).signing_public_key_hex
    study_key = public_key_hex(coordinator)
    return Study(folder, coordinator.folder, site.folder, far.folder, package_id, study_key, key)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs a command as its console script does: exit code, and what a person reads."""
    mains = {
        "fedgtv-site": site_cli.main,
        "fedgtv-coordinator": coordinator_cli.main,
        "fedgtv-evaluate": evaluation_cli.main,
    }
    monkeypatch.setenv("COLUMNS", "400")

    def run(name: str, *arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            mains[name]()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out + said.err

    return run


def one_bit(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@contextmanager
def flipped_file(file: Path, rng: random.Random) -> Iterator[None]:
    kept = file.read_bytes()
    file.write_bytes(one_bit(kept, rng))
    try:
        yield
    finally:
        file.write_bytes(kept)


@contextmanager
def flipped_cell(database: Path, table: str, columns: Sequence[str], rng: random.Random):
    """Flip one bit of one cell, which may not be a text any more afterwards."""
    kept = database.with_name("kept.db")
    copy_sqlite(database, kept)
    with closing(sqlite3.connect(database, isolation_level=None)) as opened:
        column = rng.choice(columns)
        found = opened.execute(
            f"SELECT rowid, {column}, CAST({column} AS BLOB) FROM {table} WHERE {column} NOTNULL"  # noqa: S608
        ).fetchall()
        row, value, data = rng.choice(found)
        if isinstance(value, int):
            value ^= 1 << rng.randrange(16, 24)  # or it could be the number of another entry
        else:
            value = one_bit(data, rng)
        opened.execute(
            f"UPDATE {table} SET {column} = CAST(? AS {'INT' if type(value) is int else 'TEXT'}) "  # noqa: S608
            "WHERE rowid = ?",
            (value, row),
        )
    try:
        yield f"{table}.{column} of row {row}"
    finally:
        put_back_sqlite(kept, database)


def assert_rows_are_named(
    run: Run,
    command: Sequence[str | Path],
    database: Path,
    table: str,
    columns: Sequence[str],
    named: str,
) -> None:
    """Flip bits at every column in turn, and run what has to name them."""
    code, said = run(*command)
    assert code == 0, said
    rng = random.Random(f"{table} {columns}")
    for number in range(PLACES):
        with flipped_cell(database, table, columns[number % len(columns) :][:1], rng) as where:
            code, said = run(*command)
            assert code != 0, where
            assert re.search(named, said), f"{where}: {said}"
    code, said = run(*command)
    assert code == 0, said


def assert_files_are_named(run: Run, command: Sequence[str | Path], files: Sequence[Path]) -> None:
    """Flip bits in every file in turn, and run what has to name it."""
    code, said = run(*command)
    assert code == 0, said
    rng = random.Random(str([file.name for file in files]))
    for number in range(max(PLACES, 2 * len(files))):
        file = files[number % len(files)]
        with flipped_file(file, rng):
            code, said = run(*command)
            assert code != 0, file
            assert file.name in said, f"{file}: {said}"
    code, said = run(*command)
    assert code == 0, said


CHAIN = ("sequence", "at", "detail", "previous_sha256", "sha256")
LEDGER = (*CHAIN, "kind", "message_sha256", "size_bytes", "state")
AUDIT = (*CHAIN, "actor", "event", "subject")


def test_the_ledger_and_its_copies(study: Study, run: Run) -> None:
    command = ("fedgtv-site", "ledger", "verify", "--home", study.site)
    database = study.site / "site.db"
    assert_rows_are_named(run, command, database, "ledger", LEDGER, r"ledger: .*broken at entry \d")
    named = r"ledger: .*memory of entry \d"
    assert_rows_are_named(run, command, database, "release_memories", ("memory",), named)
    copies = sorted(file for file in (study.site / "ledger").rglob("*") if file.is_file())
    assert len(copies) > 3
    rng = random.Random(0)
    for copy in copies:
        with flipped_file(copy, rng):
            code, said = run(*command)
        assert code != 0
        assert re.search(r"ledger: .*entry \d+", said), said


def test_the_audit_log(study: Study, run: Run) -> None:
    command = ("fedgtv-site", "audit-verify", "--home", study.site)
    named = r"audit: .*broken at entry \d"
    assert_rows_are_named(run, command, study.site / "site.db", "audit", AUDIT, named)


def test_the_plan_that_the_hospital_signed(study: Study, run: Run) -> None:
    """Its text and both signatures: under `plan_sha256`, `received_at` alone is nobody's word."""
    columns = ("plan", "signature", "approval", "plan_sha256", "plan_number", "package_id", "state")
    command = ("fedgtv-site", "plan", "verify", "--home", study.site)
    assert_rows_are_named(run, command, study.site / "site.db", "plans", columns, r"plan \S")


def test_what_the_coordinator_keeps(study: Study, run: Run) -> None:
    command = ("fedgtv-coordinator", "doctor", "--home", study.coordinator)
    database = study.coordinator / "study.db"
    plan = ("signed", "plan_sha256", "plan_number", "package_id")
    assert_rows_are_named(run, command, database, "plans", plan, r"records: .*\bplan")
    answer = ("approval", "plan_sha256", "site")
    named = r"records: (what .+ said about plan|plan_answers)"
    assert_rows_are_named(run, command, database, "plan_answers", answer, named)
    report = ("report", "sha256", "site", "package_id")
    assert_rows_are_named(run, command, database, "reports", report, r"records: .*\breport")


def test_packages_on_both_sides(study: Study, run: Run) -> None:
    names = ("manifest.json", "signature.json", "model.safetensors", "reference_points.npy")
    ours = study.coordinator / "packages" / study.package_id
    assert {file.name for file in ours.iterdir()} == set(names)
    command = ("fedgtv-coordinator", "doctor", "--home", study.coordinator)
    assert_files_are_named(run, command, [ours / name for name in names])
    theirs = study.site / "packages" / study.package_id
    verify = ("fedgtv-site", "package", "verify", "--home", study.site, theirs)
    assert_files_are_named(run, verify, [theirs / name for name in names])


def test_a_bundle_on_a_disk(study: Study, run: Run) -> None:
    """Both ways; what was refused does not spoil the one that is whole."""
    disk = study.folder / "disk"
    disk.mkdir()
    asked, answer = disk / "1.bundle", disk / "1.answer"
    write = ("--home", study.coordinator, "--site", FAR, "--output", asked)
    assert run("fedgtv-coordinator", "bundle", "write", *write)[0] == 0
    to_site = ("fedgtv-site", "bundle", "answer", asked, "--home", study.far, "--output", answer)
    back = ("fedgtv-coordinator", "bundle", "read", answer, "--home", study.coordinator)
    for file, command in ((asked, to_site), (answer, back)):
        rng = random.Random(file.name)
        for _ in range(PLACES):
            with flipped_file(file, rng):
                code, said = run(*command)
            assert code != 0
            assert file.name in said, said
            assert command is back or not answer.exists()
        code, said = run(*command)
        assert code == 0, said


def test_what_was_signed_for_others(study: Study, run: Run) -> None:
    """The proof of acceptance, the study's report, and the ledger that an auditor took along."""
    proof = ("fedgtv-site", "acceptance-verify", study.folder / "proof", "--key", study.site_key)
    assert_files_are_named(run, proof, sorted((study.folder / "proof").iterdir()))
    report = study.folder / "report"
    made = ("--home", study.coordinator, "--output", report)
    assert run("fedgtv-coordinator", "report", *made)[0] == 0
    verify = ("fedgtv-evaluate", "verify-report", report, "--key", study.study_key)
    assert_files_are_named(run, verify, sorted(report.iterdir()))
    ledger = study.folder / "exported"
    exported = ("--home", study.site, "--output", ledger)
    assert run("fedgtv-site", "ledger", "export", *exported)[0] == 0
    check = ("fedgtv-site", "ledger", "check", ledger, "--key", study.site_key)
    files = sorted(file for file in ledger.rglob("*") if file.is_file())
    assert_files_are_named(run, check, files)


def test_the_database_file_itself(study: Study, run: Run) -> None:
    """A bit in the file, below SQLite: where an entry lies, the entry is named."""
    rng = random.Random(0)
    with closing(sqlite3.connect(study.site / "site.db")) as opened:
        hashes = [one for (one,) in opened.execute("SELECT sha256 FROM ledger")]
    for number, digest in enumerate(rng.sample(hashes, 4)):
        site = study.folder / f"damaged-{number}"  # nobody has it open
        shutil.copytree(study.site, site, ignore=shutil.ignore_patterns("site.db*"))
        copy_sqlite(study.site / "site.db", site / "site.db")
        content = bytearray((site / "site.db").read_bytes())
        content[content.index(digest.encode()) + rng.randrange(64)] ^= 1 << rng.randrange(8)
        (site / "site.db").write_bytes(content)
        code, said = run("fedgtv-site", "ledger", "verify", "--home", site)
        assert code != 0
        assert re.search(r"ledger: .*broken at entry \d", said), said
