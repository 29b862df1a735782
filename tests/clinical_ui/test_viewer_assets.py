"""What the browser is sent as the viewer's code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clinical_ui import viewer
from clinical_ui.viewer import assets

FOLDER = Path(viewer.__file__).parent
MODULES = sorted(file.stem for file in FOLDER.glob("*.js"))


def test_every_module_is_in_the_script_once_and_behind_what_it_imports():
    script = assets.script()
    placed = re.findall(r"^modules\.(\w+) = ", script, re.MULTILINE)
    assert sorted(placed) == [name for name in MODULES if name != "doorway"]
    for name in placed:
        imported = re.findall(r'from "\./(\w+)\.js"', assets.module(name))
        assert all(placed.index(other) < placed.index(name) for other in imported)


def test_the_script_is_one_module_that_imports_and_fetches_nothing():
    for script in (assets.script(), assets.doorway()):
        assert not re.search(r"^import |\bimport\(|\bfetch\(|XMLHttpRequest|\beval\(", script)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", script)
        assert script.count("export default ") == 1


def test_the_script_is_the_same_in_another_process():
    code = "import sys; from clinical_ui.viewer import assets; sys.stdout.write(assets.script())"
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=FOLDER.parents[1],
    )
    assert other.stdout == assets.script()


def test_no_exported_name_is_lost():
    for name in MODULES:
        text = assets.module(name)
        exports = re.findall(r"^export (.*)$", text, re.MULTILINE)
        known = r"(default function|async function|function|class|const) \w+"
        assert all(re.match(known, line) for line in exports), name
        imports = re.findall(r"^import [^;]*;", text, re.MULTILINE)
        assert all(re.fullmatch(assets.IMPORT, line + "\n") for line in imports), name


def test_the_files_are_in_the_distribution():
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["*"]
    assert {"*.js", "*.css"} <= set(patterns)
    ignored = subprocess.run(
        ["git", "check-ignore", *(str(file) for file in FOLDER.iterdir() if file.suffix != ".pyc")],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in ignored.stdout.splitlines() if "__pycache__" not in line] == []
