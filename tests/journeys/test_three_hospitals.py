"""A whole study as hospitals run it, with nothing simulated but the doctors, scanners and lines.

A coordinator behind nginx, a source hospital, and three that adapt its model to what their own
archives hold: one behind a line of 1 MB/s, one that is cut off in mid-study and works on, one that
joins when another has finished. Every hospital's web proxy reads what passes, so that it can be
held against the hospital's ledger, byte for byte, and searched for what belongs to patients.
"""

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
import pytest

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.messages import RoundState
from algorithms.contracts.model_package import NetworkSpec
from coordinator.config import CoordinatorHome
from coordinator.study_store import SiteRecord, StudyStore
from coordinator.study_workflow import SiteProgress
from evaluation.benchmarks.dicom_writer import study_uids, write_study
from site_agent import egress
from site_agent.case_store import CaseStore
from site_agent.config import CONFIG_FILE, SiteHome, open_home
from site_agent.database import LedgerRow
from site_agent.pacs import fetch, open_pacs
from site_agent.plan_store import approved_plan
from site_agent.simulated_annotator import annotate_open_tasks, review_cases
from site_agent.source_package import train_source
from tests.debian_packages import absent
from tests.enrolled import enrol_site
from tests.inspecting_proxy import InspectingProxy, Reply
from tests.journeys.test_pacs import dimse_settings, write_settings
from tests.orthanc import Orthanc
from tests.phantoms import SHAPE_ZYX, filled_store, tiny_plan, tiny_volume
from tests.ports import free_ports
from tests.served import (
    BIN,
    LIMIT_S,
    Served,
    make_served_coordinator,
    make_served_site,
    processes_in,
    wait,
)
from tests.simulated_site import sign_study_plan
from tests.site_agent.test_ingest import SCANNER, tags
from tests.site_agent.tiny_road import SHARES

pytestmark = [pytest.mark.journey, pytest.mark.xdist_group("three hospitals")]

SOURCE, SLOW, OFFLINE, LATE = "hospital-a", "hospital-b", "hospital-c", "hospital-d"
TARGETS = (SLOW, OFFLINE, LATE)
PATIENTS = 6
SLOW_BYTES_PER_S = 1e6
NETWORK = NetworkSpec(base_channels=24, levels=4)  # a package of several megabytes
SHARE_OF_THE_DISK = "vol7-radioonkologie"  # in the paths of one hospital, so in its tracebacks
PERSON = {
    "name": "Quarzhelm^Zelindora",
    "birth_date": "19470312",
    "institution": "Kvellmoor Klinikum",
    "referring_physician": "Osterbrandt^Ulv",
    "study_date": "20290817",
}
COMMENTS = {
    "ImageComments": "after Ximenovir, seen by Tharsgaard",
    "PatientTelephoneNumbers": "+49 30 5550142",
    "RequestingPhysician": "Wyszkowsky^Ida",
    "MedicalAlerts": "pacemaker Yttrix 9",
    "Occupation": "lighthouse keeper",
}
PLANTED = (
    *("Quarzhelm", "Zelindora", "KH-00", "ACCESSION-", "19470312", "20290817"),
    *("Kvellmoor", "Osterbrandt", "Radiographer^Imaginary", "Nowhere Lane", "Invented patient"),
    *("Ximenovir", "Tharsgaard", "5550142", "Wyszkowsky", "Yttrix", "lighthouse", "scanned as"),
    *("MRROOM7", "SN-88213-QX"),
)
"""Beside these twenty: every UID, and the path of a hospital's disk."""
MOST_ENVELOPE_BYTES = 4096  # of Flower, around what a message holds


@dataclass
class Study:
    """What runs, and who looks on."""

    folder: Path
    home: CoordinatorHome
    sites: dict[str, SiteHome]
    served: dict[str, Served]
    proxies: dict[str, InspectingProxy]
    archives: dict[str, Orthanc]

    def record(self, site: str) -> SiteRecord:
        """Return what the coordinator knows of a site."""
        with StudyStore(self.home.database_url, self.home.config) as store:
            return next(record for record in store.sites() if record.site == site)

    def wait_for(self, site: str, progress: SiteProgress) -> None:
        wait(lambda: self.record(site).progress is progress, f"{site} is not {progress.value}")

    def join(self, site: str) -> None:
        """Enrol a hospital, and let it serve."""
        enrol_site(self.home, self.sites[site])
        self.proxies[site].read_for(self.sites[site])
        self.served[site].start()

    def store(self, site: str) -> CaseStore:
        return CaseStore(self.sites[site])

    def do_the_doctors_work(self, *sites: str) -> None:
        """Annotate and review what the hospitals' own programs ask for, until nothing is left."""
        stores = [self.store(site) for site in sites]
        done = {RoundState.REPORTED}
        wait(lambda: {_look(store) for store in stores} == done, f"{sites}: no report")

    def released(self, site: str) -> Counter[tuple[str, frozenset[str]]]:
        """Count what the ledger of a hospital has as released."""
        rows = egress.list_entries(self.store(site).engine)
        return Counter(_named_by(row) for row in rows if row.state == "released")

    def crossed(self, site: str) -> Counter[tuple[str, frozenset[str]]]:
        """Count what the hospital's proxy saw leave."""
        return Counter(map(_seen, self.messages(site)))

    def messages(self, site: str) -> list[Reply]:
        return [reply for reply in self.proxies[site].replies() if not reply.error]


def _look(store: CaseStore) -> RoundState | None:
    row = store.latest_round()
    if row is None:
        return None
    if row.state == RoundState.AWAITING_ANNOTATION:
        annotate_open_tasks(store)
    if row.state == RoundState.AWAITING_REVIEW:
        review_cases(store)
    return RoundState(row.state)


def _named_by(row: LedgerRow) -> tuple[str, frozenset[str]]:
    files = row.detail.get("files", {}).values()
    return row.message_sha256, frozenset(file["sha256"] for file in files)


def _seen(reply: Reply) -> tuple[str, frozenset[str]]:
    return sha256_hex(reply.body), frozenset(map(sha256_hex, reply.files.values()))


def _uids(site: str, number: int) -> Sequence[str]:
    uids = study_uids(f"{site} {number}", SHAPE_ZYX[0])
    return (uids.study, uids.series, uids.frame_of_reference, uids.rtstruct, *uids.sop_instances)


def _write_patient(folder: Path, site: str, number: int) -> None:
    """Write a patient as the scanner of a hospital does, with every planted text."""
    volume, mask = tiny_volume(1000 * TARGETS.index(site) + number, contrast=40.0)
    write_study(
        folder,
        volume.image,
        mask,
        volume.geometry,
        roi_name="gtv",
        patient=replace(tags(number), **PERSON),
        scanner=replace(SCANNER, station_name="MRROOM7", device_serial_number="SN-88213-QX"),
        entropy=f"{site} {number}",
    )
    for file in folder.glob("MR.*.dcm"):
        dataset = pydicom.dcmread(file)
        for keyword, text in COMMENTS.items():
            setattr(dataset, keyword, text)
        dataset.save_as(file)


def _make_target(study_folder: Path, site: str, proxy: InspectingProxy, stack: ExitStack):
    """Make a hospital with its archive, out of which its cases came."""
    folder = study_folder / (SHARE_OF_THE_DISK if site == SLOW else "") / site
    home = make_served_site(folder, site, threads=1, https_proxy=proxy.url, **SHARES)
    (port,) = free_ports(1)
    archive = stack.enter_context(Orthanc(study_folder / f"archive-{site}", {"FEDGTV": port}))
    for number in range(PATIENTS):
        _write_patient(study_folder / f"scanner-{site}" / str(number), site, number)
    archive.upload(study_folder / f"scanner-{site}")
    home = write_settings(home.folder, dimse_settings(archive, port, "move"))
    store, pacs = CaseStore(home), open_pacs(home)
    for number in range(PATIENTS):
        series = pacs.find_series(_uids(site, number)[0])
        fetch(home, store, pacs, series, actor="test", say=lambda _line: None)
    assert len(store.cases()) == PATIENTS
    return home, archive


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    if shutil.which("nginx") is None and shutil.which("nginx", path="/usr/sbin") is None:
        absent("nginx", "nginx")
    folder = tmp_path_factory.mktemp("study")
    home = make_served_coordinator(folder / "coordinator", *TARGETS, tick_every_s=4)
    with ExitStack() as stack:
        proxies, sites, archives = {}, {}, {}
        for site in (SOURCE, *TARGETS):
            speed = SLOW_BYTES_PER_S if site == SLOW else None
            proxies[site] = stack.enter_context(InspectingProxy(home, bytes_per_s=speed))
        for site in TARGETS:
            sites[site], archives[site] = _make_target(folder, site, proxies[site], stack)
        sites[SOURCE] = make_served_site(
            folder / SOURCE,
            SOURCE,
            role="source",
            threads=1,
            https_proxy=proxies[SOURCE].url,
            **SHARES,
        )
        plan = tiny_plan(target_trained=False).model_copy(update={"network": NETWORK})
        train_source(sites[SOURCE], filled_store(sites[SOURCE], 8), plan)
        served = {site: Served("fedgtv-site", one.folder) for site, one in sites.items()}
        served["coordinator"] = Served("fedgtv-coordinator", home.folder)
        for party in served.values():
            stack.callback(_end, party)
        yield Study(folder, home, sites, served, proxies, archives)


def _end(party: Served) -> None:
    for run in party.runs:
        if run.poll() is None:
            run.terminate()
            run.wait(LIMIT_S)


def test_the_model_reaches_the_two_who_are_there_one_of_them_slowly(study: Study) -> None:
    study.served["coordinator"].start()
    for site in (SOURCE, SLOW, OFFLINE):
        study.join(site)
    for site in (SLOW, OFFLINE):
        study.wait_for(site, SiteProgress.DELIVERED)
    sign_study_plan(study.home)
    for site in (SLOW, OFFLINE):
        engine = study.store(site).engine
        wait(lambda engine=engine: approved_plan(engine) is not None, f"{site} has no plan")


def test_one_is_cut_off_and_both_adapt_the_model_to_their_own_patients(study: Study) -> None:
    study.proxies[OFFLINE].go_away()
    study.do_the_doctors_work(SLOW, OFFLINE)
    study.wait_for(SLOW, SiteProgress.REPORTED)
    assert study.record(OFFLINE).progress is SiteProgress.DELIVERED


def test_a_failure_inside_says_no_more_than_its_name(study: Study) -> None:
    config = study.sites[SLOW].folder / CONFIG_FILE
    config.rename(config.with_name("moved.toml"))
    with pytest.raises(Exception, match=SHARE_OF_THE_DISK):
        open_home(config.parent)
    wait(lambda: study.record(SLOW).last_failure == "DataError", "the failure did not show")
    config.with_name("moved.toml").rename(config)
    wait(lambda: study.record(SLOW).last_failure is None, "it did not recover")


def test_one_joins_late_and_one_comes_back_and_the_study_finishes(study: Study) -> None:
    study.join(LATE)
    study.wait_for(LATE, SiteProgress.DELIVERED)
    study.do_the_doctors_work(LATE)
    study.wait_for(LATE, SiteProgress.REPORTED)
    assert study.record(OFFLINE).progress is SiteProgress.DELIVERED
    study.proxies[OFFLINE].come_back()
    study.wait_for(OFFLINE, SiteProgress.REPORTED)
    done = _run("fedgtv-coordinator", "report", study.home.folder, "--output", study.folder / "out")
    assert "report on 3 of 3, signed" in done.stdout, done.stderr


def test_what_the_ledgers_say_is_what_the_proxies_saw_to_the_byte(study: Study) -> None:
    ticker = study.served["coordinator"].process("ticker")
    assert ticker is not None
    os.kill(ticker, signal.SIGSTOP)  # nobody asks any more; what is under way still arrives
    for site in (SOURCE, SLOW, LATE):
        wait(
            lambda site=site: study.released(site) == study.crossed(site),
            f"{site}: the ledger is not what crossed",
        )
    # What was released to a line that was cut may never have crossed; nothing crossed beside it.
    assert study.crossed(OFFLINE) <= study.released(OFFLINE)
    os.kill(ticker, signal.SIGCONT)
    for party in reversed(study.served.values()):
        assert party.end() == 0
    assert not processes_in(study.folder / "coordinator")
    for site in (SOURCE, SLOW, LATE):
        rows = egress.list_entries(study.store(site).engine)
        in_ledger = sum(_ledger_bytes(row) for row in rows if row.state == "released")
        left = study.proxies[site].bytes_left()
        assert left.released == in_ledger
        # The rest of what the proxy counted, byte for byte, holds nothing of the hospital's own.
        framing = left.envelopes + left.polls + left.heads
        assert in_ledger + framing == study.proxies[site].bytes_up
        assert left.envelopes < MOST_ENVELOPE_BYTES * len(study.proxies[site].replies())
        checked = _run("fedgtv-site", "ledger verify", study.sites[site].folder)
        assert checked.returncode == 0, checked.stderr
    down = study.proxies[SLOW].bytes_down
    assert down > sum(file.stat().st_size for file in study.home.packages.rglob("*.safetensors"))


def test_nothing_of_a_patient_is_in_what_crossed_in_a_log_or_at_the_coordinator(
    study: Study,
) -> None:
    assert len(set(PLANTED)) == 20
    planted = set()
    for site in TARGETS:
        scanned = study.folder / f"scanner-{site}"
        images = b"".join(file.read_bytes() for file in scanned.rglob("*.dcm"))
        texts = {*PLANTED, *(uid for number in range(PATIENTS) for uid in _uids(site, number))}
        assert {text for text in texts if text.encode() not in images} == set()
        planted |= {text.encode() for text in texts}
    seen = {f"line of {site}": proxy.all_that_passed() for site, proxy in study.proxies.items()}
    for file in study.home.folder.rglob("*"):
        if file.is_file() and not file.is_relative_to(study.home.folder / "secrets"):
            seen[str(file)] = file.read_bytes()
    path = SHARE_OF_THE_DISK.encode()
    assert [place for place, content in seen.items() if path in content] == []
    for site, home in study.sites.items():
        seen[f"what {site} printed"] = study.served[site].printed().encode()
        for file in (home.folder / "logs").iterdir():
            seen[str(file)] = file.read_bytes()
    found = {
        (place, text.decode())
        for place, content in seen.items()
        for text in planted
        if text.lower() in content.lower()
    }
    assert found == set()


def _ledger_bytes(row: LedgerRow) -> int:
    return row.size_bytes + sum(f["size_bytes"] for f in row.detail.get("files", {}).values())


def _run(command: str, verb: str, home: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [BIN / command, *verb.split(), "--home", home, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
