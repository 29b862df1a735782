"""The commands hospital IT runs: what they print, and bad input as one line and exit code 2."""

import errno
import importlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import pydicom
import pytest
import sqlalchemy.exc
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError, failure_line
from algorithms.contracts.federation_plan import method_parameters
from algorithms.contracts.messages import SiteReportMessage
from algorithms.contracts.model_package import MANIFEST_FILE, MODEL_FILE, FileEntry
from site_agent import cli, egress
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.database import PackageRow, transaction, utc_now
from site_agent.ingest import ingest
from site_agent.package_store import active_package, packages_held
from site_agent.plan_store import store_plan
from tests.phantoms import (
    filled_store,
    make_home,
    public_hex,
    sign_folder,
    tiny_manifest,
    tiny_plan,
    tiny_volume,
    write_nifti_pair,
)
from tests.simulated_site import (
    approve_plan_for,
    sign_plan,
    tiny_federation_plan,
    tiny_package,
    tiny_report,
)
from tests.site_agent.test_ingest import (
    BREAKAGES,
    cut_a_file,
    remove_a_slice,
    use_another_frame,
    write_patient,
)
from tests.site_agent.tiny_road import SHARES

COMMAND = Path(sys.executable).with_name("fedgtv-site")
PARTIES = {
    "fedgtv-site": "site_agent.cli",
    "fedgtv-coordinator": "coordinator.cli",
    "fedgtv-evaluate": "evaluation.cli",
}
SOURCES = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `fedgtv-site` in this process: returns exit code, output and errors."""

    def run_command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedgtv-site", *map(str, arguments)])
        assert arguments[0] not in cli.LONG_COMMANDS, "starts itself again: use run_apart"
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run_command


def run_apart(*arguments: object) -> tuple[int, str, str]:
    """Run the installed command in a process of its own."""
    command = [COMMAND, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def home(tmp_path, key) -> SiteHome:
    return make_home(tmp_path / "home", trusted_key=public_hex(key), **SHARES)


@pytest.fixture
def package(tmp_path, key) -> Path:
    """Write a signed package of this site's study; its weights are random."""
    manifest, files = tiny_package(study="tiny")
    folder = tmp_path / "unsigned"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / MANIFEST_FILE).write_bytes(manifest.signed_bytes())
    return sign_folder(folder, tmp_path / "package", key)


def snapshot(home: SiteHome) -> str:
    """Dump every table of the site's database."""
    with sqlite3.connect(home.folder / "site.db") as database:
        return "\n".join(database.iterdump())


def one_line(errors: str) -> str:
    """Return the line of an error; before it there is nothing but progress."""
    assert errors.endswith("\n")
    *progress, line = errors.splitlines()
    assert all(re.fullmatch(r"\S+: reading series: \d+/\d+", said) for said in progress)
    assert line.startswith("error: ")
    return line


# -- help -------------------------------------------------------------------------------------


def commands(party: str) -> dict[str, click.Command]:
    """Walk a party's commands: name as typed, such as "fedgtv-site package list" -> command."""
    app = importlib.import_module(PARTIES[party]).app
    found: dict[str, click.Command] = {}

    def walk(name: str, command: click.Command) -> None:
        found[name] = command
        for sub, inner in getattr(command, "commands", {}).items():
            walk(f"{name} {sub}", inner)

    walk(party, typer.main.get_command(app))
    return found


@pytest.mark.parametrize("party", PARTIES)
def test_every_command_has_a_sentence_and_an_example_of_itself(party: str) -> None:
    every = commands(party)
    assert len(every) > 2
    for name, command in every.items():
        text = " ".join((command.help or "").split())
        sentence, _, example = text.partition("Example: ")
        assert re.match(r"[A-Z].{15,}\.", sentence), f"{name} has no sentence"
        assert example.startswith(party if command is every[party] else name), f"{name}: {example}"


@pytest.mark.parametrize("party", PARTIES)
def test_examples_use_options_that_exist(party: str) -> None:
    every = commands(party)
    for name, command in every.items():
        example = (command.help or "").partition("Example: ")[2].split()
        words = [w for w in example if not w.startswith("-")]
        longest = max((n for n in every if words[: n.count(" ") + 1] == n.split()), key=len)
        known = {option for p in every[longest].params for option in getattr(p, "opts", [])}
        assert {w for w in example if w.startswith("--")} <= known, name


@pytest.mark.parametrize("party", PARTIES)
def test_every_option_says_what_it_is(party: str) -> None:
    for name, command in commands(party).items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name}: {parameter.name}"


def test_every_argument_says_what_it_is() -> None:
    for party in PARTIES:
        for name, command in commands(party).items():
            for parameter in command.params:
                assert parameter.help, f"{name}: {parameter.name}"


def test_every_command_that_a_message_names_exists() -> None:
    known = {name for party in PARTIES for name in commands(party)}
    named = set()
    for package in ("site_agent", "coordinator", "evaluation", "clinical_ui", "algorithms"):
        for file in (SOURCES / package).rglob("*.py"):
            text = re.sub(r'"\s*\n\s*f?"', "", file.read_text("utf-8"))  # joined string parts
            for party, rest in re.findall(r"'(fedgtv-[a-z]+)((?: [a-z][a-z-]*)+)", text):
                words = rest.split()
                hits = [" ".join([party, *words[:n]]) for n in (2, 1)]
                named.add(next((hit for hit in hits if hit in known), f"{party}{rest}"))
    assert named - known == set()
    assert len(named) > 5


def test_help_says_that_this_is_research(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "Research use only, not a medical device" in " ".join(out.replace("│", " ").split())


# -- what commands say ------------------------------------------------------------------------


def test_from_an_empty_folder_to_a_filled_home(run, tmp_path) -> None:
    home = tmp_path / "new"
    code, out, _ = run("init", "--home", home, "--name", "hospital-c", "--study", "npc")
    assert code == 0
    assert "ready" in out
    for number in range(3):
        write_nifti_pair(tmp_path / "images", f"P{number}", *tiny_volume(number))
    code, out, _ = run("ingest", "--home", home, tmp_path / "images")
    assert (code, out) == (0, "hospital-c: 3 new cases, 3 in all\n")
    code, out, _ = run("ingest", "--json", "--home", home, tmp_path / "images")
    said = json.loads(out)
    assert (code, said["new"], len(said["unchanged"])) == (0, [], 3)
    assert said["seconds"] > 0
    code, out, _ = run("status", "--home", home)
    assert code == 0
    assert "none yet" in out


def test_a_package_is_verified_imported_and_approved(run, home, package) -> None:
    code, out, _ = run("package", "verify", "--home", home.folder, package)
    assert code == 0
    assert "genuine" in out
    assert packages_held(CaseStore(home).engine) == []
    code, out, _ = run("package", "import", "--home", home.folder, package)
    assert code == 0
    package_id = re.search(r"[0-9a-f]{64}", out.replace("\n", ""))[0]
    assert active_package(CaseStore(home).engine) is None
    assert run("package", "approve", "--home", home.folder, package_id)[0] == 0
    active = active_package(CaseStore(home).engine)
    assert active is not None
    assert active.package_id == package_id
    # Given again it changes nothing, and nobody is asked to approve it again.
    assert run("package", "import", "--home", home.folder, package) == (
        0,
        f"{package_id}: approved\n",
        "",
    )


def test_work_without_a_package_waits(home) -> None:
    code, out, _ = run_apart("work", "--home", home.folder)
    assert code == 0
    assert " ".join(out.split()) == (
        "hospital-b: none: approve a model first, see 'fedgtv-site package list'"
    )


def test_ledger_of_a_new_site_is_empty_and_unbroken(run, home) -> None:
    assert run("ledger", "list", "--home", home.folder)[0] == 0
    assert run("ledger", "verify", "--home", home.folder)[:2] == (0, "0 entries, unbroken\n")


def test_a_person_reads_what_waits_and_lets_it_leave(run, home, key) -> None:
    engine = CaseStore(home).engine
    approve_plan_for(home, engine, "ab" * 32, key=key)
    message = SiteReportMessage(report=tiny_report("hospital-b", "ab" * 32))
    with pytest.raises(egress.ReleaseHeld):
        egress.release(home, engine, message, now=utc_now())
    assert "waiting for a person: 1." in run("ledger", "list", "--home", home.folder)[1]
    code, said, _ = run("ledger", "show", "--home", home.folder, 1)
    assert code == 0
    assert json.loads(said) == message.model_dump(mode="json")
    assert "ledger show 1" in run("ledger", "approve", "--home", home.folder, 1)[1]
    assert "waiting" not in run("ledger", "list", "--home", home.folder)[1]
    assert egress.release(home, engine, message, now=utc_now())


def test_a_person_reads_a_plan_and_signs_it(run, home, key, package) -> None:
    engine = CaseStore(home).engine
    assert run("package", "import", "--home", home.folder, package)[0] == 0
    content = (package / MANIFEST_FILE).read_bytes()
    said = {"study": "tiny", "parameters": method_parameters(content)}
    for number, days in ((1, 1), (2, 2)):
        until = datetime(2040, 1, days, tzinfo=UTC)
        plan = tiny_federation_plan(
            sha256_hex(content), plan_number=number, expires_at=until, **said
        )
        signed = sign_plan(plan, key).model_dump_json().encode()
        store_plan(home, engine, signed, now=utc_now())
    code, first, _ = run("plan", "show", "--home", home.folder, 1)
    assert code == 0
    assert "share of slices that doctors are asked for: 0.2" in first
    assert run("plan", "approve", "--home", home.folder, 1, "--actor", "Dr Example")[0] == 0
    _, second, _ = run("plan", "show", "--home", home.folder, 2)
    assert second.splitlines()[:3] == [
        "plan 2: stored; against plan 1:",
        "  changed: number of the plan from 1 to 2",
        "  changed: expires from 2040-01-01T00:00:00Z to 2040-01-02T00:00:00Z",
    ]
    assert json.loads(run("plan", "show", "--home", home.folder, 2, "--json")[1]) == (
        plan.model_dump(mode="json")
    )
    assert "1, approved; 2 came" in run("status", "--home", home.folder)[1]
    assert run("plan", "verify", "--home", home.folder)[1] == "2 plans, as they were signed\n"
    assert run("plan", "reject", "--home", home.folder, 1, "--actor", "Dr Example")[0] == 0
    listed = run("plan", "list", "--home", home.folder)[1]
    assert "rejected" in listed
    assert "2040-01-02" in listed
    code, _, errors = run("plan", "approve", "--home", home.folder, 3, "--actor", "Dr Example")
    assert code == 2
    assert "no plan 3 here: see 'fedgtv-site plan list'" in one_line(errors)


def test_a_lost_database_is_one_line_that_says_what_to_do(run, home) -> None:
    (home.folder / "site.db").unlink()
    for command in (["cases"], ["ledger", "verify"], ["ledger", "list"]):
        code, _, errors = run(*command, "--home", home.folder)
        assert code == 2
        assert "site.db: the site's database is missing: restore it" in one_line(errors)
    assert not (home.folder / "site.db").exists()


def test_a_contour_goes_back_to_the_pacs_under_its_original_identity(run, home, tmp_path) -> None:
    write_patient(tmp_path / "export", 1)
    store = CaseStore(home)
    (case_id,) = ingest(home, store, tmp_path / "export", actor="test")
    output = tmp_path / "to-pacs" / "rs.dcm"
    command = ("export-rtstruct", case_id, "--home", home.folder, "--output", output)
    code, _, errors = run(*command)
    assert (code, output.exists()) == (2, False)
    assert "fedgtv-site work" in one_line(errors)

    mask = store.contour(case_id, purpose="reference").mask
    kept = {"round_id": start_round(store), "author": "test"}
    automatic = Contour("GTVp", mask, Provenance.AUTOMATIC)
    store.save_contour(case_id, automatic, purpose="adapted", **kept)
    code, out, _ = run(*command)
    assert code == 0
    written = pydicom.dcmread(output)
    assert (written.PatientID, written.ApprovalStatus) == ("KH-000001", "UNAPPROVED")
    assert [roi.ROIName for roi in written.StructureSetROISequence] == ["GTVp^AI"]
    assert "GTVp^AI, UNAPPROVED" in " ".join(out.split())
    code, _, errors = run(*command)
    assert code == 2
    assert "is there already" in one_line(errors)

    # Accepted as it was, it is still a model's contour; corrected, it is the oncologist's.
    for provenance, name in ((Provenance.AUTOMATIC, "GTVp^AI"), (Provenance.SEMIAUTOMATIC, "GTVp")):
        store.save_contour(case_id, Contour("GTVp", mask, provenance), purpose="reviewed", **kept)
        output.unlink()
        code, out, _ = run(*command)
        assert [r.ROIName for r in pydicom.dcmread(output).StructureSetROISequence] == [name]
        assert f"{name}, UNAPPROVED" in " ".join(out.split())

    # When the next round begins, what the oncologist left still goes back.
    later = store.start_round(store.latest_round().package_id, seed=99)
    assert store.latest_round().round_id == later.round_id != kept["round_id"]
    output.unlink()
    assert run(*command)[0] == 0
    assert [r.ROIName for r in pydicom.dcmread(output).StructureSetROISequence] == ["GTVp"]


def start_round(store: CaseStore) -> str:
    """Start a round with a package of which only the row is there."""
    with transaction(store.engine) as session:
        session.add(
            PackageRow(
                package_id="ab" * 32,
                model_version="1.0.0",
                signed_by="0" * 16,
                state="approved",
                received_at=utc_now(),
            )
        )
    return store.start_round("ab" * 32, seed=0).round_id


# -- bad input: one line that names the file and says what to do, exit code 2, nothing changed ---


@pytest.mark.parametrize("break_it", [remove_a_slice, cut_a_file, use_another_frame])
def test_a_bad_export_is_refused(run, home, tmp_path, break_it) -> None:
    filled_store(home, 1).engine.dispose()
    before = snapshot(home)
    for number in (1, 2):
        write_patient(tmp_path / "export" / f"P{number}", number)
    break_it(tmp_path / "export")
    code, out, errors = run("ingest", "--home", home.folder, tmp_path / "export")
    assert (code, out) == (2, "")
    assert [word for word in BREAKAGES[break_it] if word not in one_line(errors)] == []
    assert snapshot(home) == before


def test_an_empty_folder_and_a_lone_text_file_are_refused(run, home, tmp_path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    for _ in range(2):
        code, _, errors = run("ingest", "--home", home.folder, folder)
        assert code == 2
        assert "no DICOM series" in one_line(errors)
        assert str(folder) in errors
        (folder / "notes.txt").write_text("nothing here", "utf-8")
    assert "not DICOM" in errors


@pytest.mark.parametrize("command", ["verify", "import"])
def test_a_package_with_one_flipped_byte_is_refused(run, home, package, command) -> None:
    before = snapshot_of_new(home)
    for name in (MODEL_FILE, "reference_points.npy"):
        content = bytearray((package / name).read_bytes())
        content[len(content) // 2] ^= 1
        (package / name).write_bytes(content)
        code, _, errors = run("package", command, "--home", home.folder, package)
        assert code == 2
        assert f"error: {name}: its SHA-256" in one_line(errors)
        assert "ask the coordinator to send it again" in errors
        content[len(content) // 2] ^= 1
        (package / name).write_bytes(content)
    assert snapshot(home) == before


def test_a_changed_manifest_is_refused(run, home, package) -> None:
    text = (package / MANIFEST_FILE).read_text("utf-8")
    (package / MANIFEST_FILE).write_text(text.replace('"seed":0', '"seed":1'), "utf-8")
    code, _, errors = run("package", "import", "--home", home.folder, package)
    assert code == 2
    assert "signature does not fit" in one_line(errors)


def test_a_package_signed_by_an_unknown_key_is_refused(run, home, package, tmp_path) -> None:
    before = snapshot_of_new(home)
    stranger = Ed25519PrivateKey.generate()
    shutil.rmtree(package)
    sign_folder(tmp_path / "unsigned", package, stranger)
    code, _, errors = run("package", "import", "--home", home.folder, package)
    assert code == 2
    line = one_line(errors)
    assert sha256_hex(stranger.public_key().public_bytes_raw())[:16] in line
    assert "does not trust" in line
    assert "trusted_keys" in line
    assert snapshot(home) == before


def test_a_folder_that_is_no_package_and_one_of_another_study_are_refused(
    run, home, package, tmp_path, key
) -> None:
    (tmp_path / "other").mkdir()
    code, _, errors = run("package", "verify", "--home", home.folder, tmp_path / "other")
    assert code == 2
    assert "manifest.json: no such file" in one_line(errors)
    entries = {
        name: FileEntry(sha256=sha256_hex(data), size_bytes=len(data))
        for name, data in ((f.name, f.read_bytes()) for f in (tmp_path / "unsigned").iterdir())
        if name != MANIFEST_FILE
    }
    manifest = tiny_manifest(study="elsewhere", files=entries)
    (tmp_path / "unsigned" / MANIFEST_FILE).write_bytes(
        canonical_json(manifest.model_dump(mode="json"))
    )
    foreign = sign_folder(tmp_path / "unsigned", tmp_path / "foreign", key)
    code, _, errors = run("package", "verify", "--home", home.folder, foreign)
    assert code == 2
    assert "'elsewhere'" in one_line(errors)


def test_an_unknown_configuration_key_is_refused_with_the_nearest(run, home) -> None:
    with (home.folder / "site.toml").open("a", encoding="utf-8") as file:
        file.write("minimum_grup_size = 5\n")
    code, _, errors = run("status", "--home", home.folder)
    assert code == 2
    assert "'minimum_grup_size': did you mean 'minimum_group_size'?" in one_line(errors)
    assert "site.toml" in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "--home", "nowhere"], "fedgtv-site init"),
        (["simulate-doctors", "--home", "HOME"], "fedgtv-site work"),
        (["package", "approve", "--home", "HOME", "ab" * 32], "package list"),
        (["export-rtstruct", "--home", "HOME", "case-0", "--output", "x.dcm"], "is unknown"),
        (["init", "--home", "HOME", "--name", "b", "--study", "s"], "exists already"),
        (["init", "--home", "new", "--name", "Großklinik", "--study", "s"], "'name'"),
        (["ledger", "approve", "--home", "HOME", "7"], "7"),
        (["ledger", "show", "--home", "HOME", "7"], "no ledger entry 7"),
    ],
)
def test_a_question_out_of_turn_is_answered_in_one_line(run, home, arguments, words) -> None:
    code, _, errors = run(*[home.folder if a == "HOME" else a for a in arguments])
    assert code == 2
    assert words in one_line(errors)


def test_a_plan_that_is_not_there_is_refused(tmp_path) -> None:
    source = make_home(tmp_path / "source", role="source", **SHARES)
    plan = tmp_path / "plan.json"
    code, _, errors = run_apart("train-source", "--home", source.folder, "--plan", plan)
    assert code == 2
    assert f"{plan}: no such plan" in one_line(errors)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("{", "["), "plan.json: Invalid JSON"),
        (('"reference_points":3', '"reference_points":0'), "'reference_points'"),
        (('"in_plane_spacing_mm":1.0', '"in_plane_spacing_mm":1e999'), "in_plane_spacing_mm'"),
    ],
)
def test_a_plan_that_cannot_be_read_is_refused(tmp_path, change, words) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(tiny_plan().model_dump_json(), "utf-8")
    assert cli._read_plan(plan) == tiny_plan()
    plan.write_text(tiny_plan().model_dump_json().replace(*change), "utf-8")
    with pytest.raises(DataError, match=re.escape(words)) as refused:
        cli._read_plan(plan)
    assert str(refused.value).startswith(str(plan))


def test_an_unusable_disk_or_database_is_one_line(run, home, tmp_path) -> None:
    for file in home.folder.glob("site.db*"):
        file.unlink()
    (home.folder / "site.db").write_bytes(b"no database" * 1000)
    code, _, errors = run("cases", "--home", home.folder)
    assert code == 2
    assert "backup" in one_line(errors)
    (tmp_path / "file").touch()
    code, _, errors = run("init", "--home", tmp_path / "file" / "x", "--name", "b", "--study", "s")
    assert code == 2
    assert f"Not a directory ({tmp_path / 'file' / 'x'}" in one_line(errors)
    assert "disk space" in errors


def test_a_failure_is_told_without_what_was_in_it_and_a_mistake_of_ours_is_not_hidden() -> None:
    secret = sqlalchemy.exc.IntegrityError("INSERT", {"name": "Mr X"}, ValueError("Mr X"))
    unreadable = UnicodeDecodeError("utf-8", b"Mr X\xff", 4, 5, "invalid start byte")
    full = OSError(errno.ENOSPC, "No space left on device", "site.db")
    for error, words in ((secret, "backup"), (unreadable, "UTF-8"), (full, "disk space")):
        line = failure_line(error)
        assert line is not None
        assert line.startswith(type(error).__name__)
        assert words in line
        assert "Mr X" not in line
    assert failure_line(ValueError("a bug")) is None


def test_a_full_database_is_told_without_alarm(tmp_path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'full.db'}")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 2")
        connection.exec_driver_sql("CREATE TABLE held (content BLOB)")
        with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
            connection.exec_driver_sql("INSERT INTO held VALUES (zeroblob(100000))")
    line = "OperationalError: the disk is full: make room, then run again"
    assert failure_line(caught.value) == line
    assert failure_line(caught.value.orig) == line


def test_a_negative_seed_of_the_demo_is_refused(tmp_path) -> None:
    demo = [COMMAND.with_name("fedgtv-evaluate"), "demo", "--seed", "-1", "--output", tmp_path]
    done = subprocess.run(demo, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--seed" in done.stderr


def test_ids_are_whole_in_a_pipe(home, package) -> None:
    store = filled_store(home, 2)
    listed = run_apart("cases", "--home", home.folder)[1]
    for case in store.cases():
        assert case.case_id in listed
        assert case.patient_id in listed
    said = run_apart("package", "import", "--home", home.folder, package)[1]
    package_id = sha256_hex((package / MANIFEST_FILE).read_bytes())
    assert package_id in said
    assert package_id in run_apart("package", "list", "--home", home.folder)[1]


def test_the_installed_command_answers_in_one_line_too(home, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    code, out, errors = run_apart("ingest", "--home", home.folder, tmp_path / "empty")
    assert (code, out) == (2, "")
    assert "no DICOM series" in one_line(errors)


def snapshot_of_new(home: SiteHome) -> str:
    """Create the database of a new home and dump it."""
    CaseStore(home).engine.dispose()
    return snapshot(home)
