"""One archive of a site, made while it works, and the way back from it.

The archive is a tar file of its own order:

    database            of SQLite: the file; of PostgreSQL: pg_dump's custom format
    home/...            configuration, cases, packages, models, rounds, ledger; secrets and keys
                        if asked for
    backup.json         what it is, and size and SHA-256 of every file before it

The database comes first: a file is written before the row that names it, and only an erasure
removes one, so all that the snapshot names is still there afterwards. Of the ledger only what the
snapshot names is taken, or the copies would be more than the entries.
"""

import hashlib
import io
import os
import tarfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import URL, create_engine, make_url, select
from sqlalchemy.orm import Session

from algorithms.contracts.configuration import has_password_in_query
from algorithms.contracts.errors import DataError
from site_agent.config import CONFIG_FILE, SiteHome
from site_agent.database import LedgerRow, answering, connect, refuse_unknown_schema, schema_of
from site_agent.egress import named_copies
from site_agent.postgresql_tools import dump
from site_agent.schema import copy_sqlite, read_schema
from site_agent.site_lock import nothing_erased
from site_agent.working_folder import put_in_place, remove_left, working_folder

MANIFEST, DATABASE, FILES = "backup.json", "database", "home"
CROSSWALK_KEY = "secrets/crosswalk.key"
# Made anew, not a site's own, or holding what no backup may: who waits is not pseudonymous yet.
_LEFT_OUT = ("database-copies", "spool", "progress.json", "logs", "run", "flower")
_SECRET = ("secrets", "keys")
_BESIDE_SQLITE = ("", "-wal", "-shm", "-journal")
_COMES_AND_GOES = ("rounds", "source-training")  # checkpoints; the steps do without them
_BLOCK = 1 << 20


class ArchivedFile(BaseModel):
    """Size and SHA-256 of one file of an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class BackupManifest(BaseModel):
    """What an archive is: `backup.json`, its last member.

    Attributes:
        format: of the archive.
        fedgtv: version that made it.
        made_at: UTC, ISO 8601.
        site: whose it is.
        database: kind of its database.
        db_schema: revision of its tables; "" from before revisions.
        files: by their names in the archive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    fedgtv: str
    made_at: str
    site: str
    database: Literal["sqlite", "postgresql"]
    db_schema: str
    files: dict[str, ArchivedFile]

    @property
    def has_secrets(self) -> bool:
        """Say whether contours can be returned to the PACS with what is in the archive."""
        return f"{FILES}/{CROSSWALK_KEY}" in self.files

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files.values())


@dataclass(frozen=True)
class _Snapshot:
    """A database at one moment: its copy, its tables' revision and what it says had left."""

    file: Path
    db_schema: str
    ledger: list[LedgerRow]


def backup(home: SiteHome, target: Path, *, with_secrets: bool, now: datetime) -> BackupManifest:
    """Write a site into one archive that only its owner may read; a worker may go on meanwhile.

    Args:
        home: of the site.
        target: file to write; it appears when it is whole.
        with_secrets: take the keys along; whoever has the archive then knows every patient.
        now: UTC.

    Raises:
        DataError: the target exists or lies in the home, the database is damaged or of a newer
            version, an erasure is under way, a file that is named is missing, or the configuration
            holds a password that was not asked for.
    """
    target = target.absolute()
    if not with_secrets:
        _refuse_a_password(home)
    if target.exists():
        remove_left(target)  # of one that was killed just after
        raise DataError(f"{target}: exists already: give another name")
    if target.resolve().is_relative_to(home.folder):
        raise DataError(f"{target}: lies in the home that it is a backup of: give another place")
    if not target.parent.is_dir():
        raise DataError(f"{target.parent}: no such folder: make it first")
    with working_folder(target) as folder:
        part = folder / "archive"
        with nothing_erased(home), _snapshot(home, folder / "database") as snapshot:
            manifest = _write_archive(home, part, snapshot, with_secrets=with_secrets, now=now)
        put_in_place(part, target)
    return manifest


def _refuse_a_password(home: SiteHome) -> None:
    """The configuration is in every archive; a password in it is a secret like the keys."""
    file = home.folder / CONFIG_FILE
    url = str(tomllib.loads(file.read_text("utf-8")).get("database_url", ""))
    # The environment may give another one, so that nobody has looked at this.
    if url and (make_url(url).password or has_password_in_query(url)):
        raise DataError(
            f"{file}: key 'database_url': holds a password, which would be in the archive: give "
            "the key as FEDGTV_SITE_DATABASE_URL or the password in ~/.pgpass, or back up with "
            "--with-secrets"
        )


@contextmanager
def _snapshot(home: SiteHome, copy: Path) -> Iterator[_Snapshot]:
    location = home.database_url
    # An older one is taken as it is: a backup comes before an upgrade. Ledgers are alike so far.
    refuse_unknown_schema(location, read_schema(location))
    if location.get_backend_name() == "sqlite":
        copy_sqlite(Path(location.database or ""), copy)
        engine = create_engine(URL.create("sqlite", database=str(copy)))
        with engine.connect() as connection:
            yield _read_snapshot(Session(connection), copy)
        engine.dispose()
        return
    engine = connect(location)
    copy.touch(0o600)
    repeatable = engine.execution_options(isolation_level="REPEATABLE READ")
    with answering(location), repeatable.connect() as connection:
        name = str(connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one())
        dump(location, copy, snapshot=name)
        snapshot = _read_snapshot(Session(connection), copy)
    engine.dispose()
    yield snapshot


def _read_snapshot(session: Session, copy: Path) -> _Snapshot:
    with session:
        ledger = list(session.scalars(select(LedgerRow).order_by(LedgerRow.sequence)))
        session.expunge_all()
        return _Snapshot(copy, schema_of(session.connection()) or "", ledger)


def _write_archive(
    home: SiteHome, part: Path, snapshot: _Snapshot, *, with_secrets: bool, now: datetime
) -> BackupManifest:
    part.touch(0o600)
    published = _identity(home.source_package)
    with part.open("r+b") as opened:
        with tarfile.open(fileobj=opened, mode="w", format=tarfile.PAX_FORMAT) as archive:
            files = {DATABASE: _add(archive, DATABASE, snapshot.file)}
            for file in _files(home, named_copies(home, snapshot.ledger), with_secrets):
                relative = file.relative_to(home.folder)
                name = f"{FILES}/{relative.as_posix()}"
                try:
                    files[name] = _add(archive, name, file)
                except FileNotFoundError:
                    if relative.parts[0] not in _COMES_AND_GOES:
                        raise DataError(
                            f"{file}: went away while the backup was made: run it again"
                        ) from None
            manifest = BackupManifest(
                fedgtv=version("fedgtv"),
                made_at=f"{now.isoformat(timespec='seconds')}Z",
                site=home.config.name,
                database="sqlite" if _is_sqlite(home) else "postgresql",
                db_schema=snapshot.db_schema,
                files=files,
            )
            content = manifest.model_dump_json(indent=1).encode()
            archive.addfile(_member(MANIFEST, len(content)), io.BytesIO(content))
        opened.flush()
        os.fsync(opened.fileno())
    if _identity(home.source_package) != published:
        raise DataError("a source package was made while the backup was: run it again")
    return manifest


def _is_sqlite(home: SiteHome) -> bool:
    return home.database_url.get_backend_name() == "sqlite"


def _identity(folder: Path) -> int | None:
    """Return what tells a folder from another one that took its place."""
    return folder.stat().st_ino if folder.exists() else None


def _files(home: SiteHome, ledger: frozenset[Path], with_secrets: bool) -> Iterator[Path]:
    """Yield what belongs into an archive: all of the home but what is left out by name.

    Whatever is added to homes one day is in backups without anybody thinking of it.

    Raises:
        DataError: a copy that the ledger names is missing.
    """
    for file in sorted(ledger):
        if not file.is_file():
            raise DataError(
                f"{file}: missing, but the ledger names it: see 'fedgtv-site ledger verify'"
            )
        yield file
    database = {Path(f"{home.database_url.database}{end}") for end in _BESIDE_SQLITE}
    left_out = {*_LEFT_OUT, *(() if with_secrets else _SECRET), home.ledger.name}
    for folder, folders, names in os.walk(home.folder, followlinks=True):
        folders.sort()
        here = Path(folder)
        names = [name for name in names if here / name not in database]
        if here == home.folder:
            folders[:] = [name for name in folders if name not in left_out]
            names = [name for name in names if name not in left_out]
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith((".part", ".lock")):
                yield here / name


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


def unpack(archive: Path, folder: Path) -> BackupManifest:
    """Write the files of an archive below `folder`, and compare every one with its hash.

    What is written keeps its name in the archive: `database` and `home/...`.

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
                    manifest = BackupManifest.model_validate_json(source.read())
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
    for name in (DATABASE, f"{FILES}/{CONFIG_FILE}"):
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
