"""Twelve faults that hospitals really have, put in one at a time: `doctor` names each with its fix.

One enrolled site with an archive, a package and a coordinator's door; each test breaks one thing,
and the same command that found nothing wrong before names it, and it alone.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from coordinator.authority import Authority
from coordinator.config import CoordinatorHome
from coordinator.package_publisher import publish
from coordinator.study_keys import write_server_certificate
from coordinator.study_store import StudyStore
from site_agent.config import CONFIG_FILE, SiteHome, open_home
from site_agent.database import open_database
from site_agent.package_store import approve, store_package, verify_folder
from site_agent.site_keys import new_tls_key, trusted_keys
from site_agent.site_setup import initialise
from tests.enrolled import enrol_site
from tests.journeys.test_pacs import dimse_settings
from tests.orthanc import AE_TITLE, Orthanc
from tests.ports import free_ports
from tests.simulated_door import SimulatedDoor
from tests.simulated_site import STUDY, make_coordinator, tiny_package

pytestmark = pytest.mark.journey

COMMAND = Path(sys.executable).with_name("fedgtv-site")
NOW = datetime.now(UTC)
PORT = free_ports(1)[0]
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")


@dataclass
class Hospital:
    """A site on which everything is well."""

    home: SiteHome
    archive: Orthanc
    coordinator: CoordinatorHome
    door: SimulatedDoor

    def doctor(self) -> tuple[int, dict[str, str]]:
        """Run the command; return its exit code and what failed, by the check's name."""
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        done = subprocess.run(
            [COMMAND, "doctor", "--home", self.home.folder],
            capture_output=True, text=True, check=False, timeout=300, env=kept,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("✕ ")]
        return done.returncode, dict(line[2:].split(": ", 1) for line in lines)

    def names(self, check: str, *words: str) -> None:
        """See that one check fails, and that its line holds the words."""
        code, failed = self.doctor()
        assert code == 1
        assert list(failed) == [check]
        for word in words:
            assert word in failed[check]

    def change(self, old: str, new: str) -> None:
        file = self.home.folder / CONFIG_FILE
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def add(self, line: str) -> None:
        """Put a line above the tables."""
        file = self.home.folder / CONFIG_FILE
        file.write_text(f"{line}\n{file.read_text()}")

    def move_to(self, port: int) -> None:
        """Have the site call another port, as an answer of the coordinator would."""
        file = self.home.keys / "enrolment.json"
        file.write_text(file.read_text().replace(f":{self.door.port}", f":{port}"))

    def enrol(self, at: datetime, port: int) -> None:
        config = self.coordinator.config.model_copy(update={"address": f"127.0.0.1:{port}"})
        enrol_site(CoordinatorHome(self.coordinator.folder, config), self.home, now=at)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("archive") / "orthanc", {"FEDGTV": PORT}) as archive:
        yield archive


@pytest.fixture
def hospital(tmp_path: Path, archive: Orthanc) -> Iterator[Hospital]:
    coordinator = make_coordinator(tmp_path / "coordinator")
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        write_server_certificate(coordinator, store, ["127.0.0.1"], NOW)
    tls = coordinator.tls
    with SimulatedDoor(tls / "server.crt", tls / "server.key") as door:
        folder = tmp_path / "hospital-b"
        initialise(folder, name="hospital-b", study=STUDY, role="target", trusted_keys=())
        with (folder / CONFIG_FILE).open("a") as file:
            file.write(dimse_settings(archive, PORT, "move"))
        hospital = Hospital(open_home(folder), archive, coordinator, door)
        hospital.enrol(NOW, door.port)
        manifest, files = tiny_package()
        package = coordinator.packages / publish(coordinator, manifest, files)
        engine = open_database(hospital.home.database_url)
        parts = verify_folder(package, trusted_keys(hospital.home))
        approve(engine, store_package(hospital.home, engine, *parts), actor="it")
        engine.dispose()
        yield hospital


def test_nothing_is_wrong_before(hospital: Hospital) -> None:
    assert hospital.doctor() == (0, {})


def test_1_an_expired_certificate(hospital: Hospital) -> None:
    ended = hospital.home.folder.parent / "ended"
    initialise(ended, name="hospital-b", study=STUDY, role="target", trusted_keys=())
    other = Hospital(open_home(ended), hospital.archive, hospital.coordinator, hospital.door)
    other.enrol(NOW - timedelta(days=366), hospital.door.port)
    for name in ("enrolment.json", "tls.crt", "tls.key"):
        (hospital.home.keys / name).write_bytes((ended / "keys" / name).read_bytes())
    hospital.names("keys", "expired", "enrol --renew")


def test_2_a_clock_ten_minutes_off(hospital: Hospital) -> None:
    hospital.door.clock_off = timedelta(minutes=10)
    hospital.names("coordinator", "clock", "NTP")


def test_3_a_wrong_ae_title(hospital: Hospital) -> None:
    hospital.change(f'ae_title = "{AE_TITLE}"', 'ae_title = "NOBODY"')
    hospital.names("pacs", "correct the key ae_title")


@NEEDS_ROOT
def test_4_a_full_disk(hospital: Hospital, tmp_path: Path) -> None:
    """A disk of a few MB below the home, with all that is in it, filled up."""
    home, kept = hospital.home.folder, tmp_path / "kept"
    subprocess.run(["cp", "-a", home, kept], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", home], check=True)
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", home], check=True)
        with (
            (home / "images-of-somebody").open("wb") as file,
            pytest.raises(OSError, match="No space left"),
        ):
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        code, failed = hospital.doctor()
        assert code == 1
        assert "the disk is full: make room" in failed["disk"]
        assert set(failed) <= {"disk", "database", "records", "packages"}
    finally:
        subprocess.run(["umount", "-l", home], check=True)


@NEEDS_ROOT
def test_5_a_database_that_can_only_be_read(hospital: Hospital) -> None:
    home = hospital.home.folder
    subprocess.run(["mount", "--bind", home, home], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", home], check=True)
        code, failed = hospital.doctor()
    finally:
        subprocess.run(["umount", "-l", home], check=True)
    assert code == 1
    assert "only read the database" in failed["database"]
    assert "mounted for writing" in failed["database"]
    assert "cannot write there" in failed["disk"]


def test_6_a_door_of_another_authority(hospital: Hospital, tmp_path: Path) -> None:
    """As where a firewall opens TLS."""
    key, pem = Authority.create("firewall", NOW).server_certificate(("127.0.0.1",), NOW)
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "pem").write_bytes(pem)
    with SimulatedDoor(tmp_path / "pem", tmp_path / "key") as firewall:
        hospital.move_to(firewall.port)
        hospital.names("coordinator", "not of this study's authority", "exempt this address")


def test_7_a_port_in_use(hospital: Hospital) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (hospital.home.folder / CONFIG_FILE).open("a") as file:
            file.write(
                f"[listener]\nport = {port}\n"
                f'peers = [{{ ae_title = "{AE_TITLE}", address = "127.0.0.1" }}]\n'
                'rules = [{ modality = "MR" }]\n'
            )
        hospital.names("ports", f"another program uses port {port}", "choose another port")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_8_a_missing_gpu(hospital: Hospital) -> None:
    hospital.add("require_gpu = true")
    hospital.names("gpu", "no GPU that CUDA can use", "install its driver")


def test_9_a_proxy_that_is_down(hospital: Hospital) -> None:
    hospital.add(f'https_proxy = "http://127.0.0.1:{free_ports(1)[0]}"')
    hospital.names("coordinator", "the hospital's proxy does not answer", "correct https_proxy")


def test_10_a_wrong_key(hospital: Hospital) -> None:
    other = new_tls_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (hospital.home.keys / "tls.key").write_bytes(other)
    code, failed = hospital.doctor()
    assert code == 1
    assert "do not belong together" in failed["keys"]
    assert set(failed) == {"keys", "coordinator"}


def test_11_a_pacs_that_is_down(hospital: Hospital) -> None:
    hospital.change(f"port = {hospital.archive.dicom_port}\n", f"port = {free_ports(1)[0]}\n")
    hospital.names("pacs", "does not answer", "check that it runs")


def test_12_a_corrupt_package(hospital: Hospital) -> None:
    (file,) = hospital.home.packages.glob("*/model.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    hospital.names("packages", "model.safetensors", "ask the coordinator to send it again")
