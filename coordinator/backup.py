"""One archive of a study, made while it is served, and the way back; see `supervision.archive`.

In it are configuration, database, packages and certificates, and the private keys if asked for. Not
in it: model updates, which are deleted once they are averaged and must not outlive that in an
archive (a site is asked for its own again), what Flower keeps, and what is made anew.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import URL

from algorithms.contracts.errors import DataError
from coordinator.config import CONFIG_FILE, ENVIRONMENT_PREFIX, CoordinatorHome, open_home
from coordinator.schema import read_schema
from coordinator.study_store import SCHEMA, place, refuse_unknown_schema
from supervision.archive import (
    DATABASE,
    FILES,
    ArchivedFile,
    ArchiveManifest,
    home_files,
    new_archive,
    new_home,
    place_sqlite,
    unpack,
    write_archive,
)
from supervision.sqlite_copy import copy_sqlite

_LEFT_OUT = ("database-copies", "flower", "logs", "received", "run", "updates")
_SECRET = ("secrets", "server.key")  # a folder of the home, and a file in `tls`
_VARIABLE = f"{ENVIRONMENT_PREFIX}DATABASE_URL"


class StudyBackup(ArchiveManifest):
    """What an archive of a study is.

    Attributes:
        study: its name.
    """

    study: str

    @property
    def has_secrets(self) -> bool:
        """Say whether the study can go on with what is in the archive."""
        return f"{FILES}/secrets/signing.key" in self.files


def backup(
    home: CoordinatorHome, target: Path, *, with_secrets: bool, now: datetime
) -> StudyBackup:
    """Write a study into one archive that only its owner may read; it may be served meanwhile.

    Args:
        home: of the coordinator.
        target: file to write; it appears when it is whole.
        with_secrets: take the private keys along; whoever has the archive can then sign packages
            and plans, and certify sites.
        now: UTC.

    Raises:
        DataError: the target exists or lies in the home, the database is on a server, damaged or of
            a newer version, or a file went away meanwhile.
    """
    location = _on_sqlite(home.database_url)
    with new_archive(target, home.folder) as folder:
        copy_sqlite(Path(location.database or ""), folder / DATABASE)
        # An older one is taken as it is: a backup comes before an upgrade.
        found = read_schema(URL.create("sqlite", database=str(folder / DATABASE)))
        refuse_unknown_schema(location, found)

        def describe(files: Mapping[str, ArchivedFile]) -> StudyBackup:
            return StudyBackup(
                fedgtv=version("fedgtv"),
                made_at=f"{now.isoformat(timespec='seconds')}Z",
                study=home.config.study,
                database="sqlite",
                db_schema=str(found or ""),
                files=dict(files),
            )

        files = _files(home, with_secrets)
        return write_archive(folder / "archive", folder / DATABASE, home.folder, files, describe)


def restore(archive: Path, folder: Path) -> StudyBackup:
    """Make `folder` the home that an archive was made of; it appears in one step at the end.

    Raises:
        DataError: the home is not empty, the archive is damaged, not of a study, or of a newer
            version, or the configuration names a database on a server.
    """
    folder = folder.absolute()
    with new_home(archive, folder) as staging:
        manifest = unpack(archive, staging, StudyBackup, config_file=CONFIG_FILE)
        if int(manifest.db_schema or 0) > SCHEMA:
            raise DataError(
                f"{archive}: of a newer version (schema {manifest.db_schema}, this one has "
                f"{SCHEMA}): install fedgtv {manifest.fedgtv} first"
            )
        home = CoordinatorHome(folder, open_home(staging / FILES).config)
        target = Path(_on_sqlite(home.database_url).database or "")
        place_sqlite(staging / DATABASE, target, home=folder, staging=staging, variable=_VARIABLE)
    return manifest


def _on_sqlite(location: URL) -> URL:
    if location.get_backend_name() != "sqlite":
        raise DataError(
            f"{place(location)}: the database is on a server: back it up and restore it with its "
            "own tools, and copy the home beside it"
        )
    return location


def _files(home: CoordinatorHome, with_secrets: bool) -> Iterator[Path]:
    folder, file = _SECRET
    left_out = _LEFT_OUT if with_secrets else (*_LEFT_OUT, folder)
    for found in home_files(home.folder, left_out=left_out, database=home.database_url.database):
        if with_secrets or found != home.tls / file:
            yield found
