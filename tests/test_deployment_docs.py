"""What the deployment's papers name is there, and the wheelhouse script refuses what it should."""

import re
import subprocess
from pathlib import Path

import pytest

from coordinator.config import CoordinatorConfig
from site_agent.config import SiteConfig

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("document", [ROOT / "README.md", *DOCS], ids=lambda file: file.name)
def test_every_link_into_the_repository_leads_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


def test_the_ports_table_has_the_defaults() -> None:
    text = (ROOT / "docs" / "deployment" / "README.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    ports = {
        (row[1].split(":")[0], row[5].strip("`")): row[2]
        for row in rows
        if len(row) > 5 and row[1].startswith(("coordinator:", "site:"))
    }
    sides = {"coordinator": CoordinatorConfig, "site": SiteConfig}
    checked = 0
    for (side, key), port in ports.items():
        fields = sides[side].model_fields
        if key in fields and key != "listen":
            assert port == str(fields[key].default), key
            checked += 1
    assert checked >= 5


def test_the_wheelhouse_script_writes_over_nothing(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "build_wheelhouse.sh"
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    refused = subprocess.run(["sh", script, tmp_path], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "choose another folder" in refused.stderr
