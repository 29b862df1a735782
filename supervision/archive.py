"""One archive of a home, made while it works, and the way back from it: for both parties the same.

The archive is a tar file of its own order:

    database            of SQLite: the file; of PostgreSQL: pg_dump's custom format
    home/...            files of the home, by their paths in it
    backup.json         what it is, and size and SHA-256 of every file before it

The database comes first: a file is written before the row that names it, so all that the snapshot
names is still there afterwards. What of a home belongs into it is for its party to say.
"""

import errno
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from algorithms.contracts.errors import DataError
from supervision.working_folder import put_in_place, remove_left, working_folder

MANIFEST, DATABASE, FILES = "backup.json", "database", "home"
_BESIDE_SQLITE = ("", "-wal", "-shm", "-journal")
_BLOCK = 1 << 20


class ArchivedFile(BaseModel):
    """Size and SHA-256 of one file of an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ArchiveManifest(BaseModel):
    """What an archive is: `backup.json`, its last member.

    Attributes:
        format: of the archive.
        fedgtv: version that made it.
        made_at: UTC, ISO 8601.
        database: kind of its database.
        db_schema: revision of its tables; "" from before revisions.
        files: by their names in the archive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    fedgtv: str
    made_at: str
    database: Literal["sqlite", "postgresql"]
    db_schema: str
    files: dict[str, ArchivedFile]

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files.values())


ManifestT = TypeVar("ManifestT", bound=ArchiveManifest)


@contextmanager
def new_archive(target: Path, home: Path) -> Iterator[Path]:
    """Yield a folder for the work; the file ``archive`` in it becomes `target` at the end.

    Raises:
        DataError: the target exists, lies in the home, or its folder is missing.
    """
    target = target.absolute()
    if target.exists():
        remove_left(target)  # of one that was killed just after
        raise DataError(f"{target}: exists already: give another name")
    if target.resolve().is_relative_to(home):
        raise DataError(f"{target}: lies in the home that it is a backup of: give another place")
    if not target.parent.is_dir():
        raise DataError(f"{target.parent}: no such folder: make it first")
    with working_folder(target) as folder:
        yield folder
        put_in_place(folder / "archive", target)


def home_files(home: Path, *, left_out: Collection[str], database: str | None) -> Iterator[Path]:
    """Yield what belongs into an archive: all of a home but what is left out by name.

    Whatever is added to homes one day is in backups without anybody thinking of it. Locks, parts of
    files and what begins with a dot are not.

    Args:
        home: its folder.
        left_out: names of files and folders at its top.
        database: file of the database, which goes its own way, with what SQLite keeps beside it.
    """
    beside = {Path(f"{database}{end}") for end in _BESIDE_SQLITE}
    for folder, folders, names in os.walk(home, followlinks=True):
        folders.sort()
        here = Path(folder)
        names = [name for name in names if here / name not in beside]
        if here == home:
            folders[:] = [name for name in folders if name not in left_out]
            names = [name for name in names if name not in left_out]
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith((".part", ".lock")):
                yield here / name


def write_archive(
    part: Path,
    database: Path,
    home: Path,
    files: Iterable[Path],
    describe: Callable[[Mapping[str, ArchivedFile]], ManifestT],
    *,
    come_and_go: Collection[str] = (),
) -> ManifestT:
    """Write an archive that only its owner may read, and settle it on the disk.

    Args:
        part: file to write.
        database: its copy, of one moment.
        home: below which the files lie.
        files: of the home, absolute.
        describe: makes the manifest of what was written.
        come_and_go: names of folders in the home whose files are left out when they have gone.

    Raises:
        DataError: a file went away meanwhile.
    """
    part.touch(0o600)
    with part.open("r+b") as opened:
        with tarfile.open(fileobj=opened, mode="w", format=tarfile.PAX_FORMAT) as archive:
            written = {DATABASE: _add(archive, DATABASE, database)}
            for file in files:
                relative = file.relative_to(home)
                name = f"{FILES}/{relative.as_posix()}"
                try:
                    written[name] = _add(archive, name, file)
                except FileNotFoundError:
                    if relative.parts[0] not in come_and_go:
                        raise DataError(
                            f"{file}: went away while the backup was made: run it again"
                        ) from None
            manifest = describe(written)
            content = manifest.model_dump_json(indent=1).encode()
            archive.addfile(_member(MANIFEST, len(content)), io.BytesIO(content))
        opened.flush()
        os.fsync(opened.fileno())
    return manifest


class _Hashing(io.RawIOBase):
    """Reads a file and remembers the hash of what was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _add(archive: tarfile.TarFile, name: str, file: Path) -> ArchivedFile:
    """Add a file as it is when it is opened: whoever replaces it meanwhile makes another."""
    with file.open("rb") as opened:
        member = _member(name, os.fstat(opened.fileno()).st_size)
        reader = _Hashing(opened)
        archive.addfile(member, reader)
        return ArchivedFile(size_bytes=member.size, sha256=reader.hexdigest())


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def unpack(
    archive: Path, folder: Path, manifest_type: type[ManifestT], *, config_file: str
) -> ManifestT:
    """Write the files of an archive below `folder`, and compare every one with its hash.

    What is written keeps its name in the archive: `database` and `home/...`.

    Args:
        archive: file.
        folder: to write into.
        manifest_type: of the party whose archive it has to be.
        config_file: name of the file in a home without which it is none.

    Raises:
        DataError: naming the first file that is damaged, missing or not the archive's own.
    """
    found: dict[str, ArchivedFile] = {}
    manifest = None
    current = "its beginning"
    try:
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                if manifest is not None:
                    raise _damaged(archive, member.name, "comes after the end")
                current = member.name
                if not member.isreg() or not _is_ours(current) or current in found:
                    raise _damaged(archive, current, "does not belong there")
                source = opened.extractfile(member)
                assert source is not None  # noqa: S101 - a regular file has content
                if current == MANIFEST:
                    manifest = manifest_type.model_validate_json(source.read())
                else:
                    found[current] = _write(source, folder / current)
    except (tarfile.TarError, EOFError):
        raise _damaged(archive, current, "cannot be read") from None
    except ValueError:  # of the manifest; pydantic's own is one
        raise _damaged(archive, MANIFEST, "is not one this version knows") from None
    if manifest is None:
        raise _damaged(archive, current, "is the last that can be read")
    for name in sorted({*found, *manifest.files}):
        if found.get(name) != manifest.files.get(name):
            raise _damaged(archive, name, "is damaged or missing")
    for name in (DATABASE, f"{FILES}/{config_file}"):
        if name not in found:
            raise _damaged(archive, name, "is missing")
    return manifest


def _damaged(archive: Path, name: str, how: str) -> DataError:
    return DataError(
        f"{archive}: damaged: {name!r} {how}: use another backup; nothing was restored"
    )


def _is_ours(name: str) -> bool:
    """Say whether a name is one that a backup gives, and stays below the folder it is put in."""
    if name in (MANIFEST, DATABASE):
        return True
    path = PurePosixPath(name)
    plain = path.as_posix() == name and ".." not in path.parts and "\0" not in name
    return plain and len(path.parts) > 1 and path.parts[0] == FILES


def _write(source: IO[bytes], target: Path) -> ArchivedFile:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    target.touch(0o600)
    with target.open("wb") as written:
        while block := source.read(_BLOCK):
            digest.update(block)
            size += len(block)
            written.write(block)
        written.flush()
        os.fsync(written.fileno())
    return ArchivedFile(size_bytes=size, sha256=digest.hexdigest())


@contextmanager
def new_home(archive: Path, folder: Path) -> Iterator[Path]:
    """Yield a folder for the work; the folder ``home`` in it becomes `folder` at the end.

    Everything is unpacked and checked beside the home, which appears in one step. A kill leaves a
    folder with a dot before its name, which the next attempt removes.

    Raises:
        DataError: there is no such archive, or the home is not empty.
    """
    if not archive.is_file():
        raise DataError(f"{archive}: no such backup: give the file that 'backup' wrote")
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        remove_left(folder)  # of one that was killed just after
        raise _not_empty(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with working_folder(folder) as staging:
        yield staging
        unpacked = staging / FILES
        _settle_folders(unpacked)
        try:
            unpacked.rename(folder)  # over an empty folder at most
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise _not_empty(folder) from None


def _not_empty(folder: Path) -> DataError:
    return DataError(f"{folder}: not empty: a backup is restored into a new home: give another")


def place_sqlite(database: Path, target: Path, *, home: Path, staging: Path, variable: str) -> None:
    """Put an unpacked database where a configuration says, which may be on another disk.

    Args:
        database: as it was unpacked.
        target: where it belongs once the home is in place.
        home: the home that is made.
        staging: folder that `new_home` gave.
        variable: of the environment, that names another place.

    Raises:
        DataError: there is one already, or no folder for it.
    """
    if target.is_relative_to(home):
        target = staging / FILES / target.relative_to(home)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    advice = f"or name another with the environment variable {variable}"
    if not target.parent.is_dir():
        raise DataError(f"{target.parent}: no such folder for the database: make it, {advice}")
    if target.exists():
        raise DataError(f"{target}: there is a database already: move it away, {advice}")
    with working_folder(target) as beside:
        part = beside / DATABASE
        part.touch(0o600)
        with database.open("rb") as source, part.open("wb") as written:
            shutil.copyfileobj(source, written)
            written.flush()
            os.fsync(written.fileno())
        put_in_place(part, target)


def _settle_folders(folder: Path) -> None:
    """Write the names in all folders to disk: a power cut must not leave a home without them."""
    for path, _, _ in os.walk(folder):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
