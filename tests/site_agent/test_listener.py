"""Senders are real ones: pynetdicom as a scanner's side of the association."""

import contextlib
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
import pytest
import trustme
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from algorithms.contracts.errors import DataError
from site_agent.case_store import REFERENCE, CaseStore
from site_agent.config import CONFIG_FILE, SiteHome, open_home
from site_agent.deidentification import pseudonym
from site_agent.dimse import DimsePacs
from site_agent.erasure import erase
from site_agent.ingest import take_in
from site_agent.listener import Listener
from site_agent.network_config import PacsConfig
from site_agent.site_lock import only_worker
from site_agent.spool import delete
from tests.phantoms import make_home, tiny_volume
from tests.ports import free_ports
from tests.site_agent.dicom_builder import PLANTED, slices
from tests.site_agent.test_ingest import write_patient

SECRETS = (*PLANTED, "KH-0000", "Nobody", "Nowhere", "1.2.826")
QUIET_S = 30.0
HOUR_S = 3600.0
SETTINGS = """
[listener]
port = {port}
quiet_s = {quiet}
keep_free_mb = 0
[[listener.peers]]
ae_title = "SCANNER"
address = "127.0.0.1"
[[listener.peers]]
ae_title = "FARAWAY"
address = "10.9.8.7"
[[listener.rules]]
modality = "MR"
description = "T1*"
[[listener.rules]]
modality = "MR"
body_part = "HEAD"
"""


def make_site(folder: Path, *, more: str = "", quiet: float = QUIET_S) -> SiteHome:
    make_home(folder)
    (port,) = free_ports(1)
    with (folder / CONFIG_FILE).open("a", encoding="utf-8") as file:
        file.write(SETTINGS.format(port=port, quiet=quiet) + more)
    return open_home(folder)


@pytest.fixture
def home(tmp_path) -> SiteHome:
    return make_site(tmp_path / "home")


@pytest.fixture
def store(home) -> CaseStore:
    return CaseStore(home)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Collect what the listener says; none of it may name a patient."""
    lines: list[str] = []
    yield lines
    assert [secret for secret in SECRETS if secret in "\n".join(lines)] == []


@pytest.fixture
def listener(home, store, said) -> Iterator[Listener]:
    with Listener(home, store, said.append) as running:
        yield running


def port_of(home: SiteHome) -> int:
    assert home.config.listener is not None
    return home.config.listener.port


def connect(home: SiteHome, *, calling: str = "SCANNER", called: str = "FEDGTV_IN") -> Association:
    ae = AE(ae_title=calling)
    contexts = [
        build_context("1.2.840.10008.5.1.4.1.1.4"),
        build_context("1.2.840.10008.5.1.4.1.1.481.3"),
    ]
    return ae.associate("127.0.0.1", port_of(home), contexts=contexts, ae_title=called)


def send(home: SiteHome, images: Sequence[Dataset]) -> None:
    """Send as a scanner does: one association, released at the end."""
    with contextlib.closing(Released(connect(home))) as sender:
        for image in images:
            assert sender.association.send_c_store(image).Status == 0x0000


class Released:
    """An association that is released when closed."""

    def __init__(self, association: Association) -> None:
        assert association.is_established
        self.association = association

    def close(self) -> None:
        self.association.release()


def wait_until(happened) -> None:
    for _ in range(1000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def no_sender(listener: Listener) -> bool:
    return not any(listener.spool.incoming.glob("*/.open-*"))


def series(number: int = 1, **values: str) -> list[Dataset]:
    """Build an MR series of six slices that the rules take, as the scanner holds it."""
    images = slices()
    for image in images:
        image.SeriesInstanceUID = f"{image.SeriesInstanceUID}.{number}"
        image.SOPInstanceUID = f"{image.SOPInstanceUID}.{number}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SeriesDescription, image.BodyPartExamined = "T1 tra", ""
        for keyword, value in values.items():
            setattr(image, keyword, value)
    return images


def case_of(home: SiteHome, images: Sequence[Dataset]) -> str:
    return pseudonym(images[0].SeriesInstanceUID, home.secret("pseudonym.key"), prefix="case")


def sweep_after(listener: Listener, seconds: float) -> None:
    wait_until(lambda: no_sender(listener))
    listener.sweep(time.time() + seconds)


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


# -- who may send -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "words"),
    [
        ({"called": "FEDGTV"}, "called 'FEDGTV', not us"),
        ({"calling": "STRANGER"}, "'STRANGER' at 127.0.0.1: it is none of the peers"),
        ({"calling": "FARAWAY"}, "'FARAWAY' at 127.0.0.1: it is none of the peers"),
    ],
)
def test_whoever_has_not_the_right_names_and_address_is_refused(
    home, listener, said, caller, words
) -> None:
    assert not connect(home, **caller).is_established
    wait_until(lambda: said)
    assert words in said[-1]
    Released(connect(home)).close()


def test_without_settings_and_on_a_taken_port_the_reason_is_named(tmp_path, home, listener) -> None:
    with pytest.raises(DataError, match=r"no table \[listener\]"):
        bare = make_home(tmp_path / "bare")
        Listener(bare, CaseStore(bare), print)
    second = Listener(home, CaseStore(home), print)
    with pytest.raises(DataError, match=rf"port {port_of(home)}.*another listener"), second:
        pass


def test_noise_on_the_port_does_not_disturb_those_who_may_send(home, store, listener) -> None:
    rng = np.random.default_rng(0)
    request = b"\x01\x00\x00\x00\x00\xcd"  # an association request that is cut off or garbled
    for length in (0, 1, 5, 74, 211, 5000):
        for start in (b"", request):
            with socket.create_connection(("127.0.0.1", port_of(home)), timeout=10) as line:
                line.sendall(start + rng.bytes(length))
    send(home, series())
    sweep_after(listener, QUIET_S + 1)
    assert len(store.cases()) == 1


# -- whole series -------------------------------------------------------------------------------


def test_a_series_becomes_a_case_when_it_was_quiet_for_long_enough(
    home, store, listener, said
) -> None:
    images = series()
    send(home, images)
    sweep_after(listener, QUIET_S / 2)
    assert store.cases() == []
    assert {stat.S_IMODE(f.stat().st_mode) for f in files(home.spool)} == {0o600}
    sweep_after(listener, QUIET_S + 1)
    (case,) = store.cases()
    assert case.case_id == case_of(home, images)
    assert said == [f"{case.case_id}: 6 objects: 1 new case"]
    assert files(home.spool) == []


def test_two_series_that_two_threads_send_in_turn_become_two_cases(home, store, listener) -> None:
    both = series(1), series(2, PatientID="KH-2", FrameOfReferenceUID="1.2.3")
    turn = threading.Barrier(2)
    failures: list[str] = []

    def scanner(images: list[Dataset]) -> None:
        association = connect(home)
        for image in images:
            turn.wait(timeout=30)
            status = association.send_c_store(image)
            if status.Status != 0x0000:
                failures.append(hex(status.Status))
        association.release()

    threads = [threading.Thread(target=scanner, args=(images,)) for images in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    sweep_after(listener, QUIET_S + 1)
    assert {case.case_id for case in store.cases()} == {case_of(home, one) for one in both}
    assert [case.shape_zyx[0] for case in store.cases()] == [6, 6]


def test_two_series_in_one_association_are_told_apart(home, store, listener) -> None:
    first, second = series(1), series(2)
    send(home, [image for pair in zip(first, second, strict=True) for image in pair])
    sweep_after(listener, QUIET_S + 1)
    assert {case.case_id for case in store.cases()} == {case_of(home, s) for s in (first, second)}


def test_a_contour_that_comes_with_its_images_is_taken_in_with_them(
    home, store, listener, tmp_path
) -> None:
    write_patient(tmp_path / "P1", 1)
    images = [pydicom.dcmread(file) for file in sorted((tmp_path / "P1").iterdir())]
    assert {image.Modality for image in images} == {"MR", "RTSTRUCT"}
    send(home, images)
    sweep_after(listener, QUIET_S + 1)
    (case,) = store.cases()
    assert case.has_reference
    np.testing.assert_array_equal(store.volume(case.case_id).image, tiny_volume(10)[0].image)


def test_while_the_sender_is_connected_nothing_is_taken_in(home, store, listener) -> None:
    images = series()
    association = connect(home)
    for image in images[:3]:
        association.send_c_store(image)
    listener.sweep(time.time() + 100 * QUIET_S)
    assert store.cases() == []
    for image in images[3:]:
        association.send_c_store(image)
    association.release()
    sweep_after(listener, QUIET_S + 1)
    assert store.cases()[0].shape_zyx[0] == 6


def test_a_sender_that_breaks_off_leaves_no_half_case_and_may_go_on(
    home, store, listener, said
) -> None:
    """Its first half would pass for a whole series: the slices are even."""
    images = series()
    association = connect(home)
    for image in images[:3]:
        association.send_c_store(image)
    association.abort()
    for _ in range(3):
        sweep_after(listener, 10 * QUIET_S)
    assert store.cases() == []
    (line,) = said
    assert line.startswith(f"{case_of(home, images)}: waits: its sender broke off")
    assert "24 h after it came, unless it is sent again" in line
    send(home, images[3:])
    sweep_after(listener, QUIET_S + 1)
    assert store.cases()[0].shape_zyx[0] == 6


def test_an_older_association_that_ends_does_not_make_a_broken_one_whole(
    home, store, listener
) -> None:
    images = series()
    older, newer = connect(home), connect(home)
    older.send_c_store(images[0])
    for image in images[1:3]:
        newer.send_c_store(image)
    newer.abort()
    wait_until(lambda: any(listener.spool.incoming.glob("*/.broken-*")))
    older.release()
    sweep_after(listener, 10 * QUIET_S)
    assert store.cases() == []


def test_one_who_never_comes_back_is_moved_aside_with_the_reason(
    home, store, listener, said
) -> None:
    association = connect(home)
    association.send_c_store(series()[0])
    association.abort()
    sweep_after(listener, 25 * HOUR_S)
    name = case_of(home, series())
    assert said == [f"{name}: refused: its sender broke off and did not come back: send it again"]
    assert len(list(listener.spool.refused.glob("*/*.dcm"))) == 1


# -- rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "taken"),
    [
        ({}, True),
        ({"SeriesDescription": "T2 tra"}, False),
        ({"SeriesDescription": "T2 tra", "BodyPartExamined": "HEAD"}, True),
        ({"Modality": "CT"}, False),
    ],
)
def test_what_no_rule_takes_is_left_alone_and_deleted_after_the_stated_time(
    home, store, listener, said, values, taken
) -> None:
    images = series(**values)
    send(home, images)
    for _ in range(2):
        sweep_after(listener, 23 * HOUR_S)
    assert len(store.cases()) == taken
    assert len(list(listener.spool.incoming.glob("*/*.dcm"))) == (0 if taken else 6)
    sweep_after(listener, 25 * HOUR_S)
    assert files(home.spool) == []
    if not taken:
        name = case_of(home, images)
        assert said == [
            f"{name}: waits: no rule takes it; deleted 24 h after it came",
            f"{name}: no rule takes it: deleted",
        ]


# -- structure sets -----------------------------------------------------------------------------


@pytest.fixture
def structures(store_of, said) -> Iterator[tuple[Listener, CaseStore]]:
    """Listen at a site that takes structure sets, too."""
    home, store = store_of
    with Listener(home, store, said.append) as running:
        yield running, store


@pytest.fixture
def store_of(tmp_path) -> tuple[SiteHome, CaseStore]:
    rule = '[[listener.rules]]\nmodality = "RTSTRUCT"\n'
    home = make_site(tmp_path / "structures", more=rule)
    return home, CaseStore(home)


def patient_files(folder: Path, number: int) -> tuple[list[Dataset], Dataset]:
    """Return a patient's images, and the structure set drawn on them."""
    write_patient(folder / f"P{number}", number)
    images = [pydicom.dcmread(file) for file in (folder / f"P{number}").glob("MR.*")]
    (structure_set,) = (folder / f"P{number}").glob("RS.*")
    return images, pydicom.dcmread(structure_set)


def another_save(structure_set: Dataset) -> Dataset:
    again = deepcopy(structure_set)
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.9.1"
    again.SeriesInstanceUID = "1.2.826.0.9"
    return again


def test_what_came_of_a_group_is_named_by_its_case(store_of, structures, said, tmp_path) -> None:
    """Whichever of the two series sorts first."""
    home, store = store_of
    listener, _ = structures
    for number in (1, 2, 3, 4):
        images, structure_set = patient_files(tmp_path, number)
        send(home, [*images, structure_set])
    sweep_after(listener, QUIET_S + 1)
    expected = {f"{case.case_id}: 9 objects: 1 new case" for case in store.cases()}
    assert set(said) == expected
    assert len(expected) == 4


def test_a_structure_set_that_comes_after_its_images_is_their_reference(
    store_of, structures, said, tmp_path
) -> None:
    home, store = store_of
    listener, _ = structures
    images, structure_set = patient_files(tmp_path, 1)
    send(home, images)
    sweep_after(listener, QUIET_S + 1)
    (case,) = store.cases()
    assert not case.has_reference
    send(home, [structure_set])
    sweep_after(listener, QUIET_S + 1)
    assert said[-1].endswith(f": 1 objects: 1 contour added ({case.case_id})")
    reference = store.contour(case.case_id, purpose=REFERENCE)
    assert reference is not None
    together = make_site(tmp_path / "together")
    take_in(together, CaseStore(together), tmp_path / "P1", actor="test")
    (same,) = CaseStore(together).cases()
    at_once = CaseStore(together).contour(same.case_id, purpose=REFERENCE)
    np.testing.assert_array_equal(reference.mask.voxels, at_once.mask.voxels)
    for again in (structure_set, another_save(structure_set)):
        send(home, [again])
        sweep_after(listener, QUIET_S + 1)
        assert said[-1].endswith(f": 1 objects: 1 held already ({case.case_id})")
    assert files(home.spool) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"PatientID": "KH-000007"}, "images are not held: send or fetch them with it"),
        ({"PatientID": ""}, "has no PatientID"),
        ({"PatientBirthDate": "19610203"}, "another birth date"),
    ],
)
def test_a_structure_set_of_no_held_case_is_refused_with_what_to_do(
    store_of, structures, said, tmp_path, change, words
) -> None:
    home, store = store_of
    listener, _ = structures
    images, structure_set = patient_files(tmp_path, 1)
    send(home, images)
    sweep_after(listener, QUIET_S + 1)
    for keyword, value in change.items():
        setattr(structure_set, keyword, value)
    send(home, [structure_set])
    sweep_after(listener, QUIET_S + 1)
    assert ": refused: " in said[-1]
    assert words in said[-1]
    assert not store.cases()[0].has_reference


def test_of_two_cases_in_one_frame_a_structure_set_finds_the_one_it_names_or_none(
    store_of, structures, said, tmp_path
) -> None:
    home, store = store_of
    listener, _ = structures
    images, structure_set = patient_files(tmp_path, 1)
    second = deepcopy(images)
    for number, image in enumerate(second):
        image.SeriesInstanceUID = "1.2.826.0.8"
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.8.{number}"
    send(home, [*images, *second])
    sweep_after(listener, QUIET_S + 1)
    unnamed = another_save(structure_set)
    del unnamed.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    for contour in unnamed.ROIContourSequence[0].ContourSequence:
        del contour.ContourImageSequence
    send(home, [unnamed])
    sweep_after(listener, QUIET_S + 1)
    assert "could be of any of case-" in said[-1]
    assert not any(case.has_reference for case in store.cases())
    send(home, [structure_set])
    sweep_after(listener, QUIET_S + 1)
    assert [c.case_id for c in store.cases() if c.has_reference] == [case_of(home, images)]


def test_two_structure_sets_of_one_series_are_for_a_person_to_choose(
    store_of, structures, said, tmp_path
) -> None:
    home, store = store_of
    listener, _ = structures
    images, structure_set = patient_files(tmp_path, 1)
    both = [structure_set, another_save(structure_set)]
    send(home, [*images, *both])
    sweep_after(listener, QUIET_S + 1)
    assert "choose one with --series-uid" in said[-1]
    assert "move away" not in said[-1]
    send(home, images)
    sweep_after(listener, QUIET_S + 1)
    assert len(store.cases()) == 1
    send(home, both[:1])
    sweep_after(listener, QUIET_S + 1)
    assert store.cases()[0].has_reference


# -- refusals -----------------------------------------------------------------------------------


def test_a_refused_series_is_moved_aside_with_one_line_and_later_deleted(
    home, store, listener, said
) -> None:
    images = series()
    del images[2]
    send(home, images)
    other = series(2)
    send(home, other)
    sweep_after(listener, QUIET_S + 1)
    assert [case.case_id for case in store.cases()] == [case_of(home, other)]
    name = case_of(home, images)
    (reason,) = (listener.spool.refused / f"{name}.txt").read_text().splitlines()
    assert "misses a slice" in reason
    assert [secret for secret in SECRETS if secret in reason] == []
    assert any(line == f"{name}: refused: {reason}" for line in said)
    assert len(list((listener.spool.refused / name).iterdir())) == 5
    sweep_after(listener, 169 * HOUR_S)
    assert files(home.spool) == []


def test_the_slice_that_was_missing_may_come_later(home, store, listener) -> None:
    images = series()
    send(home, images[:2] + images[3:])
    sweep_after(listener, QUIET_S + 1)
    assert store.cases() == []
    send(home, images[2:3])
    sweep_after(listener, QUIET_S + 1)
    assert store.cases()[0].shape_zyx[0] == 6
    assert files(home.spool) == []


def test_what_is_no_image_is_refused_to_the_sender_and_not_kept(home, listener) -> None:
    (image, *_) = series()
    association = connect(home)
    del image.SeriesInstanceUID
    assert association.send_c_store(image).Status == 0xC000
    association.release()
    assert files(listener.spool.incoming) == []


def test_a_full_disk_is_told_to_the_sender_and_once_to_whoever_watches(tmp_path, said) -> None:
    home = make_site(tmp_path / "full")
    text = (
        (home.folder / CONFIG_FILE)
        .read_text()
        .replace("keep_free_mb = 0", f"keep_free_mb = {2**40}")
    )
    (home.folder / CONFIG_FILE).write_text(text)
    home = open_home(home.folder)
    with Listener(home, CaseStore(home), said.append):
        association = connect(home)
        for image in series():
            assert association.send_c_store(image).Status == 0xA700
        association.release()
    (line,) = said
    assert line.startswith("no room: what is sent is refused (No space left on device)")
    assert "keep_free_mb" in line


def test_a_sender_for_whom_there_was_no_room_leaves_no_half_case(home, store, listener) -> None:
    """Some scanners go on after a refusal, and release as if all had been stored."""
    images = series()
    association = connect(home)
    for image in images[:3]:
        assert association.send_c_store(image).Status == 0x0000
    folder = listener.spool.incoming / case_of(home, images)
    folder.rename(folder.with_name("aside"))
    folder.write_text("no folder can be made here")
    assert association.send_c_store(images[3]).Status == 0xA700
    folder.unlink()
    folder.with_name("aside").rename(folder)
    association.release()
    sweep_after(listener, 10 * QUIET_S)
    assert store.cases() == []
    send(home, images[3:])
    sweep_after(listener, QUIET_S + 1)
    assert store.cases()[0].shape_zyx[0] == 6


def test_while_the_site_works_a_series_waits_and_that_is_said_once(
    home, store, listener, said
) -> None:
    send(home, series())
    with only_worker(home):
        for _ in range(3):
            sweep_after(listener, QUIET_S + 1)
    assert store.cases() == []
    assert len(said) == 1
    assert "another worker" in said[0]
    sweep_after(listener, QUIET_S + 1)
    assert len(store.cases()) == 1


def test_what_an_erasure_removes_does_not_come_back_from_a_listener_that_moves_it(
    home, store, listener, said
) -> None:
    """While the site is busy, every sweep moves what waits to and fro."""
    both = [series(number, PatientID="KH-1") for number in range(1, 9)], series(9)
    for images in (*both[0], both[1]):
        send(home, images)
    wait_until(lambda: no_sender(listener))
    swept, ended = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def sweep() -> None:
        try:
            while not ended.is_set():
                listener.sweep(time.time() + QUIET_S + 1)
                swept.set()
        except BaseException as error:
            failures.append(error)
            swept.set()

    sweeping = threading.Thread(target=sweep)

    def patients() -> Iterator[str]:
        """Begin to sweep when the erasure holds the site, and end before it lets go of it."""
        sweeping.start()
        swept.wait()
        yield pseudonym("KH-1", home.secret("pseudonym.key"))
        ended.set()
        sweeping.join()

    assert erase(home, store, patients(), actor="test").spooled == 8 * 6
    assert failures == []
    assert all("another worker" in line for line in said)
    sweep_after(listener, QUIET_S + 1)
    assert [case.case_id for case in store.cases()] == [case_of(home, both[1])]
    assert files(home.spool) == []


def test_what_somebody_removes_by_hand_stops_no_other_series(home, store, listener, said) -> None:
    for number in (1, 2, 3):
        send(home, series(number))
    wait_until(lambda: no_sender(listener))
    group = listener.spool.gather([listener.spool.incoming / case_of(home, series(1))])
    shutil.rmtree(group)
    listener.spool.put_back(group)
    listener.spool.refuse(group, "no")
    delete(group)
    blocked = listener.spool.working / case_of(home, series(2))
    blocked.write_text("a file where a folder has to be")
    sweep_after(listener, QUIET_S + 1)
    sweep_after(listener, QUIET_S + 1)
    assert [case.case_id for case in store.cases()] == [case_of(home, series(3))]
    assert sum(blocked.name in line for line in said) == 1
    blocked.unlink()
    sweep_after(listener, QUIET_S + 1)
    assert len(store.cases()) == 2


# -- restart ------------------------------------------------------------------------------------


def test_after_a_restart_it_goes_on_with_what_lies_in_the_spool(home, store, said) -> None:
    images, half = series(1), series(2)
    with Listener(home, store, said.append) as first:
        send(home, images)
        association = connect(home)
        for image in half[:3]:
            association.send_c_store(image)
        first.spool.gather([first.spool.incoming / case_of(home, images)])  # killed at work
    association.abort()
    (marker,) = first.spool.incoming.glob("*/.broken-*")
    marker.rename(marker.with_name(marker.name.replace("broken", "open")))  # as a kill leaves it
    with Listener(home, store, said.append) as second:
        sweep_after(second, QUIET_S + 1)
        assert [case.case_id for case in store.cases()] == [case_of(home, images)]
        send(home, half[2:])
        sweep_after(second, QUIET_S + 1)
        assert len(store.cases()) == 2
    assert {case.shape_zyx[0] for case in store.cases()} == {6}
    assert files(home.spool) == []


def test_it_serves_until_it_is_stopped(tmp_path, said) -> None:
    home = make_site(tmp_path / "quick", quiet=0.2)
    store, stop = CaseStore(home), threading.Event()
    with Listener(home, store, said.append) as listener:
        serving = threading.Thread(target=listener.serve, args=(stop,))
        serving.start()
        send(home, series())
        wait_until(lambda: said)
        stop.set()
        serving.join(timeout=30)
        assert not serving.is_alive()
    assert len(store.cases()) == 1


# -- TLS ----------------------------------------------------------------------------------------


def test_with_tls_only_who_shows_a_trusted_certificate_may_send(tmp_path, said) -> None:
    authority, other = trustme.CA(), trustme.CA()
    paths = {}
    for name, issuer in (("own", authority), ("scanner", authority), ("stranger", other)):
        certificate = issuer.issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        paths[name] = {
            "certificate_file": str(tmp_path / f"{name}.pem"),
            "key_file": str(tmp_path / f"{name}.key"),
        }
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = {"ca_file": str(tmp_path / "ca.pem"), **paths["own"]}
    table = "[listener.tls]\n" + "".join(f'{key} = "{value}"\n' for key, value in tls.items())
    home = make_site(tmp_path / "home", more=table)

    def sender(**tls: str) -> DimsePacs:
        values = {"ae_title": "FEDGTV_IN", "host": "127.0.0.1", "port": port_of(home)}
        settings = {**values, "own_ae_title": "SCANNER", "timeout_s": 5, "transfer_timeout_s": 5}
        trusted = {"ca_file": str(tmp_path / "ca.pem"), **tls} if tls else None
        return DimsePacs(PacsConfig.model_validate({**settings, "tls": trusted}), tmp_path)

    with Listener(home, CaseStore(home), said.append):
        sender(**paths["scanner"]).echo()
        for untrusted in (sender(**paths["stranger"]), sender()):
            with pytest.raises(DataError, match="does not answer"):
                untrusted.echo()
        sender(**paths["scanner"]).echo()
