"""Make a file or folder beside where it will be, alone, and put it there once it is whole."""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from algorithms.contracts.errors import DataError

_LOCK, _END = "lock", ".part"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EACCES, errno.EMLINK}


@contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder of ours alone beside `target`; it is removed at the end.

    What earlier runs for the same target left when they were killed is removed first. A run holds a
    lock in its folder: where the file system knows none, leftovers stay.
    """
    remove_left(target)
    folder, lock = _make(target)
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left(target: Path) -> None:
    """Remove what runs for `target` left that were killed; one that is at work keeps its folder."""
    for left in target.parent.iterdir():
        if left.name.startswith(f".{target.name}.") and left.name.endswith(_END):
            _remove_if_left(left)


def _make(target: Path) -> tuple[Path, IO[str]]:
    while True:
        made = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_END, dir=target.parent)
        folder = Path(made)
        try:
            lock = (folder / _LOCK).open("a")
        except FileNotFoundError:  # another run took it for a leftover: it was not locked yet
            continue
        with suppress(OSError):  # no locks here
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits for one that is removing it
        if (folder / _LOCK).exists():
            return folder, lock
        lock.close()


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):  # at work, or just removed, or no locks here
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return
        with (folder / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def write_whole(file: Path, content: bytes, *, mode: int) -> None:
    """Write a file in one step, so that a kill leaves no half of it; an older one is replaced."""
    part = file.with_name(file.name + _END)
    part.unlink(missing_ok=True)
    part.touch(mode)
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)


def put_in_place(part: Path, target: Path) -> None:
    """Give a whole file its name in one step; what has the name already is never replaced.

    Raises:
        DataError: something has it.
    """
    try:
        try:
            os.link(part, target)
            part.unlink()
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # The name is taken first, as only one can: a kill just here leaves an empty file.
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            part.replace(target)
    except FileExistsError:
        raise DataError(f"{target}: exists already: give another name") from None
