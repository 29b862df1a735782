"""A package's folder is there with all of its files, or not at all."""

import os
import signal
from pathlib import Path

import pytest

from algorithms.contracts import package_folder
from algorithms.contracts.package_folder import write_package_folder

CONTENTS = {"one.json": b"{}", "two.bin": b"\0" * 1000}


def _written(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def test_the_files_are_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "packages" / "abc"
    write_package_folder(folder, CONTENTS)
    assert _written(folder) == CONTENTS
    assert _names(folder.parent) == ["abc"]


def test_what_a_killed_attempt_left_is_gone_after_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "abc"
    process = os.fork()
    if process == 0:
        monkeypatch.setattr(package_folder.os, "fsync", lambda _: os.kill(os.getpid(), 9))
        write_package_folder(folder, {"three.bin": b"3"})
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert not folder.exists()
    assert _names(tmp_path)
    write_package_folder(folder, CONTENTS)
    assert _written(folder) == CONTENTS
    assert _names(tmp_path) == ["abc"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_package_folder(tmp_path / "abc", {"one.json": b"{}", "no/where": b""})
    assert _names(tmp_path) == []
