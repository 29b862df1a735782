"""Erasure and retention: everything of a patient goes, everything of the others stays."""

import shutil
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from algorithms.contracts.case import Split
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState
from algorithms.contracts.volume import Mask
from evaluation.benchmarks.dicom_writer import study_uids
from site_agent import audit_log, cli, egress
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome, open_home
from site_agent.database import Base, CaseRow, RoundRow, open_database, transaction, utc_now
from site_agent.deidentification import find_residue, mapped_uid, pseudonym
from site_agent.erasure import count_rows, erase, find_patient, outdated_patients, sweep
from site_agent.ingest import ingest
from site_agent.site_lock import SiteBusyError, only_fetch, only_worker
from supervision.sqlite_copy import copy_sqlite
from tests.phantoms import make_home, tiny_volume
from tests.site_agent.stored_site import (
    PACKAGE_ID,
    audited,
    files,
    fill,
    killed_at,
    rows,
    told_on_a_full_disk,
)
from tests.site_agent.test_ingest import tags, write_patient

NOW = datetime(2031, 5, 6, 7, 8, 9)
ABOUT_PATIENTS = {
    "cases",
    "contours",
    "annotation_tasks",
    "click_sessions",
    "click_steps",
    "reviews",
    "measurements",
    "exports",
    "claims",
    "drafts",
    "contour_saves",
    "signatures",
    "blinded_readings",
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """Make a home that is copied, and what its patients came from."""
    folder = tmp_path_factory.mktemp("filled")
    fill(make_home(folder / "home"), folder / "exports").engine.dispose()
    return folder


@pytest.fixture
def home(tmp_path, each_database, request) -> SiteHome:
    """Give a home with what `store` holds."""
    if each_database == "sqlite":
        return copied(request.getfixturevalue("filled"), tmp_path)
    home = make_home(tmp_path / "home")
    fill(home, tmp_path / "exports").engine.dispose()
    return home


@pytest.fixture
def store(home) -> CaseStore:
    return CaseStore(home)


def copied(filled: Path, folder: Path) -> SiteHome:
    shutil.copytree(filled, folder, dirs_exist_ok=True)
    return open_home(folder / "home")


def patient(home: SiteHome, number: int) -> str:
    return pseudonym(tags(number).patient_id, home.secret("pseudonym.key"))


def identifying(home: SiteHome, number: int) -> list[str]:
    """List what points at a patient: names, ids, dates, UIDs as they were and as mapped."""
    key, who = home.secret("pseudonym.key"), tags(number)
    uids = study_uids(f"tiny {number} 0", 8)
    original = [uids.study, uids.series, uids.frame_of_reference, *uids.sop_instances]
    return [
        who.patient_id,
        who.name.partition("^")[0],
        who.accession_number,
        patient(home, number),
        *original,
        *(mapped_uid(uid, key) for uid in original),
    ]


def image_bytes(number: int) -> bytes:
    """Return a row of the patient's pixels, as the store keeps them."""
    return tiny_volume(10 * number)[0].image[4, 16].astype(np.int16).tobytes()


def traces(home: SiteHome, sealed: bytes, number: int) -> list[str]:
    """List what is left of a patient in any byte below the home: names of what was found."""
    kept = b"".join(files(home.folder).values())
    found = find_residue(kept, identifying(home, number))
    return found + [
        name
        for name, data in (("identity", sealed[:64]), ("image", image_bytes(number)))
        if data in kept
    ]


def case_of(store: CaseStore, patient_id: str) -> str:
    return next(c.case_id for c in store.cases() if c.patient_id == patient_id)


def assert_nobody_is_missed(home: SiteHome, store: CaseStore, numbers: tuple[int, ...]) -> None:
    """Check that these are the patients held, whole, and that both chains hold."""
    assert {c.patient_id for c in store.cases()} == {patient(home, n) for n in numbers}
    for number in numbers:
        case_id = case_of(store, patient(home, number))
        volume, _ = tiny_volume(10 * number)
        np.testing.assert_array_equal(store.volume(case_id).image, volume.image)
        for purpose, round_id in (("reference", ""), ("adapted", None), ("reviewed", None)):
            of_round = store.latest_round().round_id if round_id is None else round_id
            assert store.contour(case_id, purpose=purpose, round_id=of_round) is not None
    for task in store.tasks(store.latest_round().round_id, state="done"):
        store.task_label(task)
    with Session(store.engine) as session:
        audit_log.verify(session)
    egress.verify_ledger(home, store.engine)


@pytest.mark.parametrize("known_by", ["pseudonym", "original id"])
def test_everything_of_one_patient_goes_and_the_others_stay(home, store, known_by) -> None:
    one = patient(home, 1)
    case_id = case_of(store, one)
    before, entries = rows(store), audited(store)
    found = find_patient(home, store, one if known_by == "pseudonym" else " KH-000001 ")
    assert found == one
    expected = count_rows(store, [one])
    erased = erase(home, store, [found], actor="it")
    assert erased.rows == expected
    assert expected.keys() == ABOUT_PATIENTS
    assert (erased.patients, erased.complete) == (1, True)
    # Image, reference, one answer, the model's, the reviewer's, which is the exported one too.
    assert erased.files == 5
    assert_nobody_is_missed(home, store, (2, 3))
    assert not (home.cases / case_id).exists()
    after = rows(store)
    for table in before.keys() - {"audit", "rounds"}:
        assert all(case_id not in repr(row) and one not in repr(row) for row in after[table])
        kept = [row for row in before[table] if row in after[table]]
        assert kept == after[table]
        assert len(before[table]) - len(kept) == expected.get(table, 0)
    assert audited(store) == [*entries, ("case_erased", case_id)]
    assert find_patient(home, store, one) is None


def test_a_pseudonym_suffices_where_the_key_is_lost(home, store) -> None:
    one = patient(home, 1)
    (home.folder / "secrets" / "pseudonym.key").unlink()
    assert find_patient(home, store, one) == one
    assert erase(home, store, [one], actor="it").rows["cases"] == 1
    with pytest.raises(DataError, match=r"pseudonym\.key: secret is missing"):
        find_patient(home, store, tags(2).patient_id)


def test_without_the_key_nobody_says_that_nothing_of_a_patient_waits(home, store) -> None:
    one, key = patient(home, 1), home.folder / "secrets" / "pseudonym.key"
    write_patient(home.spool / "incoming", 1)
    key.write_bytes(b"")
    for act in (
        lambda: erase(home, store, [one], actor="it"),
        lambda: find_patient(home, store, tags(2).patient_id),
    ):
        with pytest.raises(DataError, match=r"pseudonym\.key: secret is damaged: copy it back"):
            act()
    assert find_patient(home, store, one) == one


@pytest.mark.parametrize("compact", [True, False])
def test_a_full_disk_is_told_as_one(tmp_path, compact) -> None:
    home = make_home(tmp_path / "home")
    store = fill(home, tmp_path / "exports", (1,))
    store.engine.dispose()

    def act() -> object:
        store = CaseStore(home)
        return sweep(home, store) if compact else erase(home, store, [one], actor="it")

    one = patient(home, 1)
    told = told_on_a_full_disk(act)
    assert "the disk is full" in told
    assert "backup" not in told
    assert act().complete


def test_no_byte_of_the_home_tells_of_an_erased_patient(tmp_path) -> None:
    """Database pages, write-ahead log and copies from upgrades included."""
    home = make_home(tmp_path / "home")
    store = fill(home, tmp_path / "exports")
    home.database_copies.mkdir()
    copy_sqlite(home.folder / "site.db", home.database_copies / "0000.db")
    sealed = store.identity_sealed(case_of(store, patient(home, 1)))
    other = store.identity_sealed(case_of(store, patient(home, 2)))
    assert sealed is not None
    assert other is not None
    held = traces(home, sealed, 1)
    assert {patient(home, 1), "identity", "image"} <= set(held)
    assert sum(uid.startswith("2.25.") for uid in held) > 8  # in database pages, all of them
    erased = erase(home, store, [patient(home, 1)], actor="it")  # the store's pool stays open
    assert (erased.complete, erased.copies) == (True, 1)
    assert traces(home, sealed, 1) == []
    assert {patient(home, 2), "identity", "image"} <= set(traces(home, other, 2))
    assert_nobody_is_missed(home, store, (2, 3))


def test_no_file_of_the_server_tells_of_an_erased_patient(
    tmp_path, postgresql, monkeypatch
) -> None:
    """Of PostgreSQL the tables are written anew; its own log is the server's, and is left out."""
    monkeypatch.setenv("FEDGTV_SITE_DATABASE_URL", postgresql.new_database())
    home = make_home(tmp_path / "home")
    store = fill(home, tmp_path / "exports")
    one = patient(home, 1)

    def held() -> bool:
        postgresql.execute("CHECKPOINT")
        tables = (postgresql.socket_folder / "data" / "base").rglob("*")
        return any(one.encode() in file.read_bytes() for file in tables if file.is_file())

    assert held()
    assert erase(home, store, [one], actor="it").complete
    assert not held()


def test_a_reader_in_the_way_is_told_and_compacting_again_finishes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("site_agent.database.BUSY_TIMEOUT_S", 0.05)
    home = make_home(tmp_path / "home")
    store = fill(home, tmp_path / "exports")
    sealed = store.identity_sealed(case_of(store, patient(home, 1)))
    assert sealed is not None
    store = CaseStore(home)
    reader = open_database(home.database_url)
    with Session(reader) as reading:
        assert reading.get(CaseRow, case_of(store, patient(home, 1))) is not None
        assert not erase(home, store, [patient(home, 1)], actor="it").complete
    assert traces(home, sealed, 1) != []
    assert sweep(home, store).complete
    assert traces(home, sealed, 1) == []


def test_a_kill_at_any_moment_leaves_what_the_next_run_removes(tmp_path) -> None:
    made = make_home(tmp_path / "made")
    fill(made, tmp_path / "exports", (1, 2)).engine.dispose()
    outcomes, step = set(), 0
    while True:
        home = SiteHome(tmp_path / f"home-{step}", made.config)
        shutil.copytree(made.folder, home.folder)
        one = patient(home, 1)
        killed = killed_at(step, lambda: erase(home, CaseStore(home), [one], actor="it"))  # noqa: B023
        store = CaseStore(home)
        known = find_patient(home, store, one) is not None
        outcomes.add((killed, known, (home.cases / case_id_of(made, 1)).exists()))
        sealed = CaseStore(made).identity_sealed(case_id_of(made, 1))
        assert sealed is not None
        if known:
            assert_nobody_is_missed(home, store, (1, 2))
            erase(home, store, [one], actor="it")
        else:
            sweep(home, store)
        assert traces(home, sealed, 1) == []
        assert_nobody_is_missed(home, store, (2,))
        store.engine.dispose()
        shutil.rmtree(home.folder)
        if not killed:
            break
        step += 1
    # Before the transaction, between it and the files, and after the files.
    assert {(True, True, True), (True, False, True), (False, False, False)} <= outcomes


def case_id_of(home: SiteHome, number: int) -> str:
    return case_of(CaseStore(home), patient(home, number))


def test_nobody_is_erased_while_a_worker_runs(home, store) -> None:
    before = rows(store)
    with only_worker(home), pytest.raises(DataError, match="another worker"):
        erase(home, store, [patient(home, 1)], actor="it")
    assert rows(store) == before


def test_a_mask_whose_row_is_still_to_come_is_not_swept_away(home, store) -> None:
    """A doctor saves a contour while files are swept: the page holds no worker lock."""
    case_id = case_of(store, patient(home, 2))
    geometry = store.geometry(case_id)
    voxels = np.zeros(geometry.shape_zyx, bool)
    voxels[0, 0, 0] = True
    written = threading.Event()

    def save() -> None:
        with transaction(store.engine) as session:
            contour = Contour("GTVp", Mask(voxels, geometry), Provenance.MANUAL)
            store.add_contour(session, case_id, contour, "corrected", "", "dr")
            written.set()
            time.sleep(0.5)  # for the sweep to come by

    doctor = threading.Thread(target=save)
    doctor.start()
    written.wait()
    assert sweep(home, CaseStore(home)).files == 0
    doctor.join()
    kept = store.contour(case_id, purpose="corrected")
    assert kept is not None
    np.testing.assert_array_equal(kept.mask.voxels, voxels)


def test_what_killed_writers_left_is_swept_and_nothing_else(home, store) -> None:
    case_id = case_of(store, patient(home, 2))
    left = [
        home.cases / case_id / "mask-0123.npy",
        home.cases / case_id / "image.npy.part",
        home.cases / "case-ffffffffffff" / "image.npy",
    ]
    left[2].parent.mkdir()
    stays = [home.cases / case_id / "notes.json", home.folder / "models" / "mask-1.npy"]
    for file in (*left, *stays):
        file.write_bytes(b"x")
    before = files(home.cases)
    assert sweep(home, store).files == len(left)
    assert files(home.cases).keys() == before.keys() - {
        file.relative_to(home.cases).as_posix() for file in left
    }
    assert all(file.exists() for file in stays)
    assert_nobody_is_missed(home, store, (1, 2, 3))


# -- rounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "learnt_anew"),
    [
        (RoundState.AWAITING_ANNOTATION, True),
        (RoundState.TRAINING, True),
        (RoundState.AWAITING_REVIEW, False),
        (RoundState.REPORTED, False),
    ],
)
def test_the_round_goes_on_without_the_patient(home, store, state, learnt_anew) -> None:
    latest = store.latest_round()
    with transaction(store.engine) as session:
        session.execute(update(RoundRow).values(state=state.value))
    weights = home.rounds / latest.round_id / "model.safetensors"
    assert weights.is_file()
    erase(home, store, [patient(home, 1)], actor="it")
    again = store.start_round(PACKAGE_ID, seed=0)
    assert (again.round_id, again.state) == (latest.round_id, state.value)
    assert weights.is_file() is not learnt_anew
    assert len(store.tasks(latest.round_id)) == 4


def test_a_patient_who_comes_back_and_joins_begins_another_round(home, store, tmp_path) -> None:
    first = store.latest_round().round_id
    erase(home, store, [patient(home, 1)], actor="it")
    ingest(home, store, tmp_path / "exports", actor="test")
    assert store.case(case_of(store, patient(home, 1))).split is Split.UNASSIGNED
    assert store.start_round(PACKAGE_ID, seed=0).round_id == first
    store.join_training([patient(home, 1)], "MR", actor="test")
    second = store.start_round(PACKAGE_ID, seed=0).round_id
    assert second != first
    assert store.start_round(PACKAGE_ID, seed=0).round_id == second


# -- images that wait ----------------------------------------------------------------------------


def test_images_that_wait_go_too_and_only_the_patients(home, store, tmp_path) -> None:
    for number in (1, 4):
        write_patient(home.spool / f"incoming-{number}", number)
    (home.spool / "half.dcm").write_bytes(b"DICM?")
    waiting = len(files(home.spool / "incoming-1"))
    erased = erase(home, store, [patient(home, 1)], actor="it")
    assert erased.spooled == waiting > 8
    assert files(home.spool / "incoming-1") == {}
    assert len(files(home.spool)) == waiting + 1
    # Somebody of whom nothing was taken in yet is known all the same.
    four = find_patient(home, store, tags(4).patient_id)
    assert four == patient(home, 4)
    assert erase(home, store, [four], actor="it").spooled == waiting
    assert set(files(home.spool)) == {"half.dcm"}


def waiting(home: SiteHome, number: int) -> str:
    """Write a patient's images below the spool, as they wait; return the patient's pseudonym."""
    write_patient(home.spool / "listener" / "incoming" / "case-000000000001", number)
    return patient(home, number)


def test_without_the_key_waiting_images_are_not_passed_over_in_silence(home, store) -> None:
    one = waiting(home, 1)
    refused = home.spool / "listener" / "refused"
    refused.mkdir()
    (refused / "case-000000000002.txt").write_text("a slice is missing")
    (home.folder / "secrets" / "pseudonym.key").unlink()
    before = rows(store)
    with pytest.raises(DataError, match=r"9 files wait in .*pseudonym\.key.*restore the key"):
        erase(home, store, [one], actor="it")
    assert rows(store) == before
    shutil.rmtree(home.spool / "listener" / "incoming")
    assert erase(home, store, [one], actor="it").rows["cases"] == 1


def test_whose_images_are_being_fetched_nobody_says_that_they_are_unknown(home, store) -> None:
    waiting(home, 4)
    with only_fetch(home), pytest.raises(SiteBusyError, match="another fetch"):
        find_patient(home, store, tags(4).patient_id)
    assert find_patient(home, store, patient(home, 1)) == patient(home, 1)


# -- retention -----------------------------------------------------------------------------------


def aged(store: CaseStore, patient_id: str, days: int, *, now: datetime = NOW) -> None:
    at = now - timedelta(days=days)
    with transaction(store.engine) as session:
        rows_of = update(CaseRow).where(CaseRow.patient_id == patient_id)
        session.execute(rows_of.values(ingested_at=at))


def test_who_came_in_long_ago_can_go(home, store) -> None:
    with transaction(store.engine) as session:
        session.execute(update(RoundRow).values(state=RoundState.REPORTED.value))
    for number, days in ((1, 400), (2, 365), (3, 1)):
        aged(store, patient(home, number), days)

    def outdated(days: int) -> set[str]:
        return set(outdated_patients(store, older_than_days=days, now=NOW))

    assert outdated(400) == set()
    assert outdated(399) == outdated(365) == {patient(home, 1)}
    assert outdated(364) == {patient(home, 1), patient(home, 2)}


def test_a_later_scan_keeps_a_patient(home, store, tmp_path) -> None:
    with transaction(store.engine) as session:
        session.execute(update(RoundRow).values(state=RoundState.REPORTED.value))
    for number in (1, 2):
        aged(store, patient(home, number), 400, now=utc_now())
    write_patient(tmp_path / "later" / "P1", 1, scan=1)
    ingest(home, store, tmp_path / "later", actor="test")
    found = outdated_patients(store, older_than_days=100, now=utc_now())
    assert found == [patient(home, 2)]


@pytest.mark.parametrize("state", [s for s in RoundState if s is not RoundState.NONE])
def test_a_round_under_way_keeps_its_patients(home, store, state) -> None:
    """Patient 3 is not of the study, but a doctor reviews what the model drew for this round."""
    with transaction(store.engine) as session:
        session.execute(update(RoundRow).values(state=state.value))
        of_three = update(CaseRow).where(CaseRow.patient_id == patient(home, 3))
        session.execute(of_three.values(split=Split.UNASSIGNED.value))
    for number in (1, 2, 3):
        aged(store, patient(home, number), 400)
    found = outdated_patients(store, older_than_days=1, now=NOW)
    assert len(found) == (3 if state is RoundState.REPORTED else 0)


def test_a_patient_whom_no_round_needs_can_go_while_one_is_under_way(home, store, tmp_path) -> None:
    write_patient(tmp_path / "later" / "P4", 4)
    ingest(home, store, tmp_path / "later", actor="test")
    for number in (1, 2, 3, 4):
        aged(store, patient(home, number), 400)
    assert outdated_patients(store, older_than_days=1, now=NOW) == [patient(home, 4)]


# -- commands ------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    def run_command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedgtv-site", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run_command


@pytest.fixture
def site(tmp_path, filled) -> SiteHome:
    return copied(filled, tmp_path)


def test_erasing_asks_first_and_tells_counts(site, run, capsys, monkeypatch) -> None:
    one = patient(site, 1)
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115, PTH123
    code, said, _ = run("erase", "--home", site.folder, one)
    assert code == 1  # nobody said yes
    assert f"{one}: erase 2 annotation tasks, 1 blinded readings, 1 cases" in said
    assert len(CaseStore(site).cases()) == 3
    code, said, warned = run("erase", "--home", site.folder, tags(1).patient_id, "--yes")
    assert (code, warned) == (0, "")
    assert "2 annotation tasks, 1 blinded readings, 1 cases" in said
    assert "4 contours" in said
    assert "5 files" in said
    assert tags(1).patient_id not in said
    assert "backups from before still hold them" in said
    assert len(CaseStore(site).cases()) == 2


def test_an_id_that_is_piped_is_taken_without_a_remark(site) -> None:
    command = [sys.executable, "-c", "from site_agent.cli import main; main()", "erase", "--yes"]
    ended = subprocess.run(
        [*command, "--home", site.folder],
        input=f"{tags(1).patient_id}\n",
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # so that there is no terminal to ask on
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert tags(1).patient_id not in ended.stdout
    assert len(CaseStore(site).cases()) == 2


def test_who_is_unknown_is_not_repeated(site, run) -> None:
    for unknown in ("KH-999999", "patient-ffffffffffff", "  "):
        code, said, warned = run("erase", "--home", site.folder, unknown, "--yes")
        assert code == 2
        assert warned.startswith("error: no patient is known here")
        assert warned.count("\n") == 1
        assert not unknown.strip() or unknown not in said + warned
    assert len(CaseStore(site).cases()) == 3


def test_retention_says_who_and_then_does_it(site, run) -> None:
    store = CaseStore(site)
    with transaction(store.engine) as session:
        session.execute(update(RoundRow).values(state=RoundState.REPORTED.value))
        of_one = update(CaseRow).where(CaseRow.patient_id == patient(site, 1))
        session.execute(of_one.values(ingested_at=datetime(2001, 1, 1)))
    code, said, _ = run("retention", "--home", site.folder, "--older-than", 3650, "--dry-run")
    assert (code, len(store.cases())) == (0, 3)
    assert said.splitlines()[1:] == [patient(site, 1)]
    code, said, _ = run("retention", "--home", site.folder, "--older-than", 3650, "--yes")
    assert (code, len(store.cases())) == (0, 2)
    assert "1 patients" in said
    code, said, _ = run("retention", "--home", site.folder, "--older-than", 3650, "--yes")
    assert said.startswith("0 patients")


# -- tables that are still to come ---------------------------------------------------------------


def test_every_column_that_names_a_case_is_a_foreign_key() -> None:
    """Or erasure would not see what points at a patient."""
    for table in Base.metadata.sorted_tables:
        if table.name == "cases":
            continue
        assert "patient_id" not in table.columns, table.name
        if "case_id" in table.columns:
            targets = {key.target_fullname for key in table.c.case_id.foreign_keys}
            assert targets == {"cases.case_id"}, table.name
    found = {table.name for table in Base.metadata.sorted_tables if reaches_cases(table)}
    assert found == ABOUT_PATIENTS


def reaches_cases(table) -> bool:
    return table.name == "cases" or any(
        reaches_cases(key.column.table) for key in table.foreign_keys
    )
