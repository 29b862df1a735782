"""The commands about what a coordinator stores: upgrade, roll back, back up, restore."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from coordinator.config import open_home

database_app = typer.Typer(
    help="See and upgrade the study's database.\n\n"
    "Example: fedgtv-coordinator database status --home STUDY",
    no_args_is_help=True,
)
Home = Annotated[Path, typer.Option("--home", help="The coordinator's home directory.")]
console = Console(markup=False, emoji=False, soft_wrap=True)


def add_storage_commands(app: typer.Typer) -> None:
    """Add them to those of `fedgtv-coordinator`."""
    app.add_typer(database_app, name="database")
    for command in (backup, restore):
        app.command()(command)


@database_app.command("status")
def database_status(home: Home) -> None:
    """Say what version the database is of, and whether it needs an upgrade.

    Example: fedgtv-coordinator database status --home study
    """
    from coordinator.schema import read_schema
    from coordinator.study_store import SCHEMA, place

    location = open_home(home).database_url
    found = read_schema(location)
    if found == SCHEMA:
        advice = "up to date"
    elif found is None:
        advice = "no tables of a study: restore it from a backup"
    elif found > SCHEMA:
        advice = "newer than this version: install the newer fedgtv again"
    else:
        advice = "run 'fedgtv-coordinator database upgrade'"
    has = "none" if found is None else found
    console.print(f"{place(location)}: schema {has}, this version has {SCHEMA}: {advice}")


@database_app.command("upgrade")
def database_upgrade(home: Home) -> None:
    """Bring the database to this version; SQLite is copied first. Stop the service before.

    Example: fedgtv-coordinator database upgrade --home study
    """
    from coordinator.schema import upgrade_home
    from coordinator.study_store import SCHEMA

    found, copy = upgrade_home(open_home(home), now=_now())
    if found == SCHEMA:
        console.print(f"schema {SCHEMA}: up to date")
        return
    console.print(f"schema {found}: upgraded to {SCHEMA}")
    if copy is not None:
        console.print(
            f"as it was before: {copy}; 'database rollback' goes back to it; remove it when all "
            "works"
        )


@database_app.command("rollback")
def database_rollback(
    copy: Annotated[Path, typer.Argument(help="As 'database upgrade' kept it.")], home: Home
) -> None:
    """Go back to the database from before an upgrade, for the older version. Stop the service.

    What happened since is not in it; the database as it is now is kept beside the others.

    Example: fedgtv-coordinator database rollback --home study study/database-copies/schema-0.db
    """
    from coordinator.schema import roll_back

    found, before = roll_back(open_home(home), copy, now=_now())
    console.print(f"schema {found}, as {copy} had it; as it was until now: {before}")
    console.print("install the version that it was of; revoke again who was revoked since")


def backup(
    target: Annotated[Path, typer.Argument(help="The archive to write.")],
    home: Home,
    with_secrets: Annotated[
        bool,
        typer.Option("--with-secrets", help="Take the keys along: guard the archive like them."),
    ] = False,
) -> None:
    """Write database, packages, plans, certificates and settings into one archive.

    The study may be served meanwhile.

    Example: fedgtv-coordinator backup --home study study.tar
    """
    from coordinator.backup import backup as make

    manifest = make(open_home(home), target, with_secrets=with_secrets, now=_now())
    console.print(
        f"{target}: {len(manifest.files)} files, {manifest.size_bytes / 1e6:.1f} MB of study "
        f"{manifest.study}"
    )
    _tell_about_keys(manifest.has_secrets)


def restore(
    archive: Annotated[Path, typer.Argument(help="As 'backup' wrote it.")], home: Home
) -> None:
    """Make a new home from a backup; everything is checked before anything is put in place.

    Example: fedgtv-coordinator restore --home study study.tar
    """
    from coordinator.backup import restore as make
    from coordinator.study_store import SCHEMA

    manifest = make(archive, home)
    console.print(
        f"{home}: {len(manifest.files)} files of study {manifest.study}, as they were at "
        f"{manifest.made_at}, each as its SHA-256 says"
    )
    if manifest.db_schema != str(SCHEMA):
        console.print(
            "its database is of an older version: run 'fedgtv-coordinator database upgrade'"
        )
    console.print("revoke again who was revoked since, then run 'fedgtv-coordinator certificate'")
    _tell_about_keys(manifest.has_secrets)


def _tell_about_keys(has_secrets: bool) -> None:
    if has_secrets:
        console.print("the private keys are in it: who has the archive can sign for the study")
    else:
        console.print(
            "the private keys are not in it: without secrets/signing.key and secrets/ca.key no "
            "package or plan can be signed and no site certified; keep copies of 'secrets' "
            "elsewhere"
        )


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
