"""The commands about what a site stores: upgrade, back up, restore, erase, retain."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from site_agent.config import open_home

if TYPE_CHECKING:
    from site_agent.erasure import Erased

database_app = typer.Typer(
    help="See and upgrade the database.\n\nExample: fedgtv-site database status --home SITE",
    no_args_is_help=True,
)
Home = Annotated[Path, typer.Option("--home", help="The site's home directory.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
_DAYS = "Days since the patient's last ingest; at most a century."
console = Console(markup=False, emoji=False, soft_wrap=True)


def add_commands(app: typer.Typer) -> None:
    """Add them to those of `fedgtv-site`."""
    app.add_typer(database_app, name="database")
    for command in (backup, restore, erase, retention):
        app.command()(command)


@database_app.command("status")
def database_status(home: Home) -> None:
    """Say what version the database is of, and whether it needs an upgrade.

    Example: fedgtv-site database status --home hospital-b
    """
    from site_agent.database import SCHEMA, is_newer, place
    from site_agent.schema import read_schema

    location = open_home(home).database_url
    found = read_schema(location)
    if found == SCHEMA:
        advice = "up to date"
    elif found is None:
        advice = "no tables of a site: restore it from a backup"
    elif is_newer(found or "0"):
        advice = "newer than this version: install the newer fedgtv again"
    else:
        advice = "run 'fedgtv-site database upgrade'"
    has = "none" if found is None else found or "before 0001"
    console.print(f"{place(location)}: schema {has}, this version has {SCHEMA}: {advice}")


@database_app.command("upgrade")
def database_upgrade(home: Home) -> None:
    """Bring the database to this version; SQLite is copied first. Stop pages and workers before.

    Example: fedgtv-site database upgrade --home hospital-b
    """
    from site_agent.database import SCHEMA, utc_now
    from site_agent.schema import upgrade_home

    found, copy = upgrade_home(open_home(home), now=utc_now())
    if found == SCHEMA:
        console.print(f"schema {SCHEMA}: up to date")
        return
    console.print(f"schema {found or 'before 0001'}: upgraded to {SCHEMA}")
    if copy is not None:
        console.print(f"as it was before: {copy}; remove it when all works")


@database_app.command("compact")
def database_compact(home: Home) -> None:
    """Remove files that no row names, and what deleted rows left in the database file.

    'erase' and 'retention' do so themselves; this finishes one that was killed or was in the way.

    Example: fedgtv-site database compact --home hospital-b
    """
    from site_agent.case_store import CaseStore
    from site_agent.erasure import sweep

    site = open_home(home)
    _tell(sweep(site, CaseStore(site)))


def backup(
    target: Annotated[Path, typer.Argument(help="The archive to write.")],
    home: Home,
    with_secrets: Annotated[
        bool,
        typer.Option("--with-secrets", help="Take the keys along: guard the archive like them."),
    ] = False,
) -> None:
    """Write database, cases, packages, models, ledger and settings into one archive.

    A worker and the pages may go on meanwhile.

    Example: fedgtv-site backup --home hospital-b hospital-b.tar
    """
    from site_agent.backup import backup as make
    from site_agent.database import utc_now

    site = open_home(home)
    manifest = make(site, target, with_secrets=with_secrets, now=utc_now())
    console.print(
        f"{target}: {len(manifest.files)} files, {manifest.size_bytes / 1e6:.1f} MB of "
        f"{site.config.name}"
    )
    _tell_about_keys(manifest.has_secrets)


def restore(
    archive: Annotated[Path, typer.Argument(help="As 'backup' wrote it.")], home: Home
) -> None:
    """Make a new home from a backup; everything is checked before anything is put in place.

    Example: fedgtv-site restore --home hospital-b hospital-b.tar
    """
    from site_agent.database import SCHEMA
    from site_agent.restoring import restore as make

    manifest = make(archive, home)
    console.print(
        f"{home}: {len(manifest.files)} files of {manifest.site}, as they were at "
        f"{manifest.made_at}, each as its SHA-256 says"
    )
    if manifest.db_schema != SCHEMA:
        console.print("its database is of an older version: run 'fedgtv-site database upgrade'")
    _tell_about_keys(manifest.has_secrets)


def _tell_about_keys(has_secrets: bool) -> None:
    if has_secrets:
        console.print("the keys are in it: who has the archive knows every patient")
    else:
        console.print(
            "the keys are not in it: without secrets/crosswalk.key nothing can be returned to the "
            "PACS, without secrets/pseudonym.key a patient who comes again is another and no "
            "report leaves, and without keys/ the site has to enrol anew; keep copies of both "
            "folders elsewhere"
        )


def erase(
    home: Home,
    patient: Annotated[
        str | None,
        typer.Argument(help="Pseudonym or original id; left out, it is asked for, unseen."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Remove everything of one patient for good, the way back to the PACS too.

    Example: fedgtv-site erase --home hospital-b patient-0123456789ab
    """
    from site_agent.case_store import CaseStore
    from site_agent.erasure import count_rows, find_patient, unknown_patient
    from site_agent.erasure import erase as remove

    site = open_home(home)
    store = CaseStore(site)
    if patient is None:  # an id on a command line stays in the shell's history
        unseen = sys.stdin.isatty()  # what is piped is on no screen
        patient = typer.prompt("Pseudonym or original id", hide_input=unseen)
    found = find_patient(site, store, patient)
    if found is None:
        raise unknown_patient()
    if not yes:
        counts = _listed(count_rows(store, [found])) or "images that wait to be taken in"
        typer.confirm(f"{found}: erase {counts}, for good?", abort=True)
    _tell(remove(site, store, [found], actor="fedgtv-site erase"))


def retention(
    home: Home,
    older_than: Annotated[int, typer.Option(help=_DAYS, min=0, max=36525)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say who it would be.")] = False,
    yes: Yes = False,
) -> None:
    """Erase the patients who came in long ago and are not part of a round under way.

    Example: fedgtv-site retention --home hospital-b --older-than 3650 --dry-run
    """
    from site_agent.case_store import CaseStore
    from site_agent.database import utc_now
    from site_agent.erasure import count_rows, outdated_patients
    from site_agent.erasure import erase as remove

    site = open_home(home)
    store = CaseStore(site)
    patients = outdated_patients(store, older_than_days=older_than, now=utc_now())
    console.print(f"{len(patients)} patients came in more than {older_than} days ago and can go")
    if dry_run or not patients:
        for patient in patients:
            console.print(patient)
        return
    if not yes:
        counts = _listed(count_rows(store, patients))
        typer.confirm(f"erase {counts}, for good?", abort=True)
    _tell(remove(site, store, patients, actor="fedgtv-site retention"))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()))


def _tell(erased: "Erased") -> None:
    counts = {
        "patients": erased.patients,
        "files": erased.files,
        "images that waited": erased.spooled,
        "copies of the database": erased.copies,
    }
    removed = erased.rows | {name: count for name, count in counts.items() if count}
    console.print(f"removed: {_listed(removed) or 'nothing'}")
    if erased.patients:
        console.print("backups from before still hold them: let those expire too")
    if not erased.complete:
        print(
            "warning: somebody was busy with the database: deleted rows may still be readable in "
            "its files; close the pages and run 'fedgtv-site database compact'",
            file=sys.stderr,
        )
