"""The spool: what came over the network and is no case yet.

It holds identified images, so it is readable to the site alone, and names in it are keyed
pseudonyms: a path can be logged. A series lies in a folder that is named like the case it becomes.
A file gets its name when it is whole and on the disk, so whatever is killed leaves no half image,
and everything goes on with what lies here.

    incoming/case-.../image-....dcm            what arrived
    working/case-.../case-.../image-....dcm    what is being taken in: series that belong together
    refused/case-..., refused/case-....txt     what was refused, and why in one line
"""

import errno
import io
import os
import secrets
import shutil
from collections.abc import Container, Iterable
from contextlib import suppress
from pathlib import Path

import pydicom

from algorithms.contracts.errors import DataError
from site_agent.deidentification import pseudonym

INSTANCE = "image-*.dcm"
_PART = ".part-"  # hidden: `dicom_series.scan` passes over it
_UID_TAGS = ["SOPInstanceUID", "SeriesInstanceUID"]


class Spool:
    """One spool folder; `key` is the site's secret for pseudonyms."""

    def __init__(self, folder: Path, key: bytes, *, keep_free_bytes: int = 0) -> None:
        self.incoming, self.working = folder / "incoming", folder / "working"
        self.refused = folder / "refused"
        self._key, self._keep_free_bytes = key, keep_free_bytes
        for one in (folder.parent, folder, self.incoming, self.working, self.refused):
            one.mkdir(mode=0o700, exist_ok=True)
            one.chmod(0o700)

    # -- arrival --------------------------------------------------------------------------------

    def keep(self, content: bytes, *, only: Container[str] | None = None) -> Path:
        """Write one received DICOM file and return its series' folder; safe from many threads.

        Args:
            content: the file, with preamble and file meta information.
            only: names of instances (`instance_name`) that were asked for; others are refused.

        Raises:
            DataError: it is no DICOM object with the UIDs of an instance and a series.
            OSError: the disk is full, or nearly.
        """
        instance_uid, series_uid = _uids(content)
        name = self.instance_name(instance_uid)
        if only is not None and name not in only:
            raise DataError("an object was sent that was not asked for")
        folder = self.incoming / self.series_name(series_uid)
        folder.mkdir(mode=0o700, exist_ok=True)
        if shutil.disk_usage(folder).free < self._keep_free_bytes + len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary = folder / f"{_PART}{secrets.token_hex(8)}"
        try:
            temporary.touch(0o600, exist_ok=False)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(
                    file.fileno()
                )  # the sender may delete its copy once we say that we have it
            temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        return folder

    def series_name(self, series_uid: str) -> str:
        """Name a series as its case will be named."""
        return pseudonym(series_uid, self._key, prefix="case")

    def instance_name(self, instance_uid: str) -> str:
        """Name the file of an instance."""
        return pseudonym(instance_uid, self._key, prefix="image") + ".dcm"

    def arrived(self, series_name: str) -> frozenset[str]:
        """Return the names of the files that arrived of a series."""
        return frozenset(file.name for file in (self.incoming / series_name).glob(INSTANCE))

    def series(self) -> list[Path]:
        """List the folders of the series that arrived."""
        return sorted(folder for folder in self.incoming.iterdir() if any(folder.glob(INSTANCE)))

    # -- on the way to becoming cases -----------------------------------------------------------

    def gather(self, series: Iterable[Path]) -> Path:
        """Set series apart for being taken in together, and return the folder that holds them.

        It is named after the first of them.
        What was refused of them before comes along: a sender that broke off sends the rest later.
        """
        folders = list(series)
        group = self.working / folders[0].name
        group.mkdir(mode=0o700, exist_ok=True)
        for folder in folders:
            self.forget_refusal(folder.name, bring_back=True)
            _move(folder, group / folder.name)
        return group

    def restore(self) -> None:
        """Put back what was being taken in when a process ended, and drop files cut off then."""
        for group in _held_in(self.working):
            self.put_back(group)
        for leftover in self.incoming.glob(f"*/{_PART}*"):
            leftover.unlink(missing_ok=True)

    def put_back(self, group: Path) -> None:
        """Let what `gather` set apart wait again."""
        for folder in _held_in(group):
            _move(folder, self.incoming / folder.name)
        _remove_empty(group)

    def refuse(self, group: Path, reason: str) -> None:
        """Move aside what `gather` set apart; `reason` is one line without patient data."""
        for folder in _held_in(group):
            _move(folder, self.refused / folder.name)
            note = self.refused / f"{folder.name}.txt"
            note.write_text(reason + "\n", "utf-8")
        _remove_empty(group)

    def forget_refusal(self, series_name: str, *, bring_back: bool = False) -> None:
        """Drop the refusal of a series; its files are deleted, or wait again."""
        folder = self.refused / series_name
        if folder.is_dir() and bring_back:
            _move(folder, self.incoming / series_name)
        elif folder.is_dir():
            delete(folder)
        (self.refused / f"{series_name}.txt").unlink(missing_ok=True)


def newest_time(folder: Path) -> float:
    """Return when the newest instance below `folder` came, in s since the epoch; 0 for none."""
    newest_s = 0.0
    for file in folder.rglob(INSTANCE):
        with suppress(FileNotFoundError):  # somebody removed it by hand
            newest_s = max(newest_s, file.stat().st_mtime)
    return newest_s


def delete(folder: Path) -> None:
    """Delete a folder of the spool, if it is there still."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _uids(content: bytes) -> tuple[str, str]:
    """Read the two UIDs without decoding anything else."""
    try:
        header = pydicom.dcmread(
            io.BytesIO(content), stop_before_pixels=True, specific_tags=_UID_TAGS
        )
        instance_uid, series_uid = str(header.SOPInstanceUID), str(header.SeriesInstanceUID)
        stated = str(header.file_meta.MediaStorageSOPInstanceUID)
    except Exception:  # a broken byte can raise anything in pydicom, and its text may quote a value
        raise DataError("an object without readable UIDs was sent: send it again") from None
    if not instance_uid.strip() or not series_uid.strip() or instance_uid != stated:
        raise DataError("an object was sent under another UID than its own: send it again")
    return instance_uid, series_uid


def _move(source: Path, target: Path) -> None:
    """Move the instances of a series; of two of one name that in `target` is the newer.

    What vanished meanwhile is passed over: an administrator may remove files by hand.
    """
    target.mkdir(mode=0o700, exist_ok=True)
    for file in _held_in(source):
        with suppress(FileNotFoundError):
            if (target / file.name).exists():
                file.unlink()
            else:
                file.replace(target / file.name)
    _remove_empty(source)


def _held_in(folder: Path) -> list[Path]:
    """List what a folder holds, in order; nothing where it is gone."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _remove_empty(folder: Path) -> None:
    with suppress(FileNotFoundError):
        folder.rmdir()
