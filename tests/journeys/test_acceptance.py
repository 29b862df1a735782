"""`fedgtv-site doctor` and `acceptance` as hospital IT runs them on a new machine, with Orthanc."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from site_agent.site_keys import SiteKeys
from tests.journeys.test_pacs import dimse_settings, write_settings
from tests.orthanc import AE_TITLE, Orthanc
from tests.phantoms import make_home
from tests.ports import free_ports

pytestmark = pytest.mark.journey

COMMAND = Path(sys.executable).with_name("fedgtv-site")
STEPS = (
    "phantom", "to-pacs", "from-pacs", "de-identification", "model", "rtstruct", "back-to-pacs",
    "round-trip",
)  # fmt: skip


@dataclass
class Machine:
    """A new site and the archive of its hospital."""

    folder: Path
    archive: Orthanc

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [str(COMMAND), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    def accept(self, output: Path) -> subprocess.CompletedProcess[str]:
        return self.run("acceptance", "--home", self.folder, "--output", output)

    def change(self, old: str, new: str) -> None:
        file = self.folder / "site.toml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (port,) = free_ports(1)
    with Orthanc(tmp_path / "orthanc", {"FEDGTV": port}) as archive:
        make_home(tmp_path / "home")
        write_settings(tmp_path / "home", dimse_settings(archive, port, "move"))
        yield Machine(tmp_path / "home", archive)


def states(output: Path) -> dict[str, str]:
    said = json.loads((output / "acceptance.json").read_text())
    return {check["name"]: check["state"] for check in said["checks"]}


def test_a_phantom_goes_through_and_back_with_a_signed_proof(
    machine: Machine, tmp_path: Path
) -> None:
    output = tmp_path / "proof"
    done = machine.accept(output)
    assert done.returncode == 0, done.stdout + done.stderr
    found = states(output)
    assert [name for name in found if name in STEPS] == list(STEPS)
    assert "failed" not in found.values()
    said = json.loads((output / "acceptance.json").read_text())
    assert said["passed"]
    assert said["facts"]["returned_dice"] >= 0.99
    for file in output.iterdir():  # it is handed on
        assert str(machine.folder) not in file.read_text()

    # In the archive: the phantom's images and the contour, under a name that says what it is.
    assert machine.archive.instances() == 16 + 1
    patient = said["facts"]["phantom_patient_id"]
    assert patient.startswith("FEDGTV-")
    # At the site: no case, and nothing left of the run.
    listed = machine.run("cases", "--home", machine.folder).stdout
    assert patient not in listed
    assert not list(machine.folder.glob(".acceptance-*"))

    key = SiteKeys.open_folder(machine.folder / "keys", may_make=False).signing_public_key_hex
    assert machine.run("acceptance-verify", output, "--key", key).returncode == 0
    for name in ("acceptance.json", "acceptance.html", "acceptance.signature.json"):
        content = bytearray((output / name).read_bytes())
        content[len(content) // 2] ^= 1
        kept, _ = (output / name).read_bytes(), (output / name).write_bytes(content)
        refused = machine.run("acceptance-verify", output, "--key", key)
        assert refused.returncode == 2, name
        assert name in refused.stderr
        (output / name).write_bytes(kept)
    assert machine.run("acceptance-verify", output, "--key", "0" * 64).returncode == 2
    again = machine.accept(output)  # nothing is written over
    assert again.returncode == 2
    assert "choose another folder" in again.stderr


def test_a_pacs_that_takes_but_does_not_give_back(machine: Machine, tmp_path: Path) -> None:
    (elsewhere,) = free_ports(1)
    lines = (machine.folder / "site.toml").read_text().splitlines()
    text = [f"receive_port = {elsewhere}" if "receive_port" in one else one for one in lines]
    (machine.folder / "site.toml").write_text("\n".join(text) + "\ntransfer_timeout_s = 5\n")
    done = machine.accept(tmp_path / "proof")
    assert done.returncode == 1
    found = states(tmp_path / "proof")
    assert found["to-pacs"] == "ok"
    assert found["from-pacs"] == "failed"
    assert "de-identification" not in found  # it ends there
    assert not json.loads((tmp_path / "proof" / "acceptance.json").read_text())["passed"]


@pytest.mark.parametrize(
    ("fault", "named"),
    [("wrong AE", "another AE title"), ("PACS down", "does not answer")],
)
def test_a_pacs_that_cannot_be_reached_is_named(
    machine: Machine, tmp_path: Path, fault: str, named: str
) -> None:
    if fault == "wrong AE":
        machine.change(f'ae_title = "{AE_TITLE}"', 'ae_title = "NOBODY"')
    else:
        machine.change(f"port = {machine.archive.dicom_port}", f"port = {free_ports(1)[0]}")
    for done in (
        machine.run("doctor", "--home", machine.folder),
        machine.accept(tmp_path / "proof"),
    ):
        assert done.returncode == 1
        (line,) = [one for one in done.stdout.splitlines() if one.startswith("✕")]
        assert line.startswith("✕ pacs")
        assert named in line
    assert "to-pacs" not in states(tmp_path / "proof")
