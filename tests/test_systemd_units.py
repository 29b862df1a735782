"""The units in docs/deployment, as systemd itself reads them."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.debian_packages import absent

UNITS = sorted((Path(__file__).parents[1] / "docs" / "deployment").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_has_nothing_to_say_against_it(unit: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        absent("systemd-analyze", "systemd")

    def verify(text: str) -> str:
        copy = tmp_path / unit.name
        copy.write_text(text)
        command = [program, "verify", copy]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    # What it starts is not installed here.
    text = unit.read_text().replace(f"/opt/fedgtv/bin/{unit.stem}", shutil.which("true") or "")
    assert unit.name not in verify(text)
    assert "ProtectSytem" in verify(text.replace("ProtectSystem", "ProtectSytem"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_it_is_started_again_and_may_write_its_home_alone(unit: Path) -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text())
    service = dict(parser["Service"])
    expected = {
        "Restart": "always",
        "RestartSec": "20",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ReadWritePaths": "/var/lib/fedgtv",
        "UMask": "0077",
    }
    assert {key: service.get(key) for key in expected} == expected
    assert service["ExecStart"].split()[0].endswith(unit.stem)
    assert "MemoryMax" in service


def test_both_parties_have_one() -> None:
    assert [unit.stem for unit in UNITS] == ["fedgtv-coordinator", "fedgtv-site"]
