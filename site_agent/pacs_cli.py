"""The commands of the hospital's network: `fedgtv-site pacs ...` and `fedgtv-site listen`."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome, open_home

if TYPE_CHECKING:
    from site_agent.pacs import Pacs, SeriesFound

pacs_app = typer.Typer(
    help="Ask the hospital's PACS (table 'pacs' of site.toml).\n\n"
    "Example: fedgtv-site pacs echo --home SITE",
    no_args_is_help=True,
)
Home = Annotated[Path, typer.Option("--home", help="The site's home directory.")]
StudyUid = Annotated[str, typer.Option("--study-uid", help="StudyInstanceUID, as 'find' shows it.")]
console = Console(markup=False, emoji=False)


@pacs_app.command()
def echo(home: Home) -> None:
    """Check that the PACS answers and lets this site in.

    Example: fedgtv-site pacs echo --home hospital-b
    """
    with _open(home) as (_, pacs):
        pacs.echo()
    console.print(f"{pacs.name}: answers")


@pacs_app.command()
def find(
    home: Home,
    patient_id: Annotated[str, typer.Option(help="PatientID; '*' and '?' are wildcards.")] = "",
    accession_number: Annotated[str, typer.Option(help="AccessionNumber.")] = "",
    study_date: Annotated[str, typer.Option(help="YYYYMMDD or YYYYMMDD-YYYYMMDD.")] = "",
    modality: Annotated[str, typer.Option(help="Studies that have it, such as MR.")] = "",
    study_uid: Annotated[str, typer.Option(help="Show the series of this study.")] = "",
) -> None:
    """Show studies, or the series of one study. The screen shows patients; nothing is logged.

    Example: fedgtv-site pacs find --home hospital-b --patient-id 0815
    """
    from site_agent.pacs import StudyQuery

    query = StudyQuery(patient_id, accession_number, study_date, modality)
    if not study_uid and query == StudyQuery():
        raise DataError(
            "say what to find: --patient-id, --accession-number, --study-date, --modality or "
            "--study-uid"
        )
    if study_uid and query != StudyQuery():
        raise DataError("--study-uid shows the series of that study: give it alone")
    if not re.fullmatch(r"|\d{8}|\d{8}-(\d{8})?|-\d{8}", study_date):
        raise DataError("--study-date is YYYYMMDD, or a range YYYYMMDD-YYYYMMDD: write it so")
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    with _open(home) as (_, pacs):
        if study_uid:
            headings = ("series", "modality", "description", "body part", "images")
            rows = [
                (one.series_uid, one.modality, one.description, one.body_part, one.images)
                for one in pacs.find_series(study_uid)
            ]
        else:
            headings = ("study", "patient id", "name", "date", "description", "modalities")
            rows = [
                tuple(getattr(one, field.name) for field in fields(one))
                for one in pacs.find_studies(query)
            ]
    table = Table(padding=0)
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("series", "study"))
    for row in rows:
        table.add_row(*row)
    Console(markup=False, emoji=False, width=max(console.width, 160)).print(table)
    console.print(f"{len(rows)} found")


@pacs_app.command()
def fetch(
    home: Home,
    study_uid: StudyUid,
    series_uid: Annotated[
        list[str], typer.Option(help="SeriesInstanceUID; none means all that the site reads.")
    ] = [],  # noqa: B006 - typer copies it
) -> None:
    """Fetch series whole, de-identify and store them; run again to go on after an interruption.

    Example: fedgtv-site pacs fetch --home hospital-b --study-uid 1.2.3
    """
    from site_agent.case_store import CaseStore
    from site_agent.pacs import fetch as run

    with _open(home) as (site, pacs):
        series = _chosen(pacs.find_series(study_uid), series_uid, site, pacs)
        store = CaseStore(site)
        run(site, store, pacs, series, actor="fedgtv-site pacs fetch", say=_say)


def _chosen(
    found: "list[SeriesFound]", series_uids: list[str], site: SiteHome, pacs: "Pacs"
) -> "list[SeriesFound]":
    """Choose the series that were named, or else all whose kind this site reads."""
    kinds = {*site.config.modalities, "RTSTRUCT"}
    chosen = [
        one
        for one in found
        if (one.series_uid in series_uids if series_uids else one.modality in kinds)
    ]
    absent = set(series_uids) - {one.series_uid for one in chosen}
    if absent:
        raise DataError(
            f"{len(absent)} of the series asked for are not in that study, says {pacs.name}: see "
            "'fedgtv-site pacs find --study-uid'"
        )
    if not chosen:
        raise DataError(
            f"{pacs.name} lists no series of modality {' or '.join(sorted(kinds))} in that study: "
            "see 'fedgtv-site pacs find'"
        )
    return chosen


@pacs_app.command()
def send(
    files: Annotated[list[Path], typer.Argument(help="Exported contours.")],
    home: Home,
) -> None:
    """Store exported contours in the PACS, under the identity that they carry.

    Only what 'export-rtstruct' or 'export-seg' wrote, and nobody changed since, is sent.

    Example: fedgtv-site pacs send --home hospital-b rs.dcm
    """
    from site_agent import audit_log
    from site_agent.case_store import CaseStore
    from site_agent.database import transaction, utc_now
    from site_agent.export_store import check_passed

    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: no such file: give exported contours")
    with _open(home) as (site, pacs):
        store = CaseStore(site)
        files = list(dict.fromkeys(files))
        for file in files:
            check_passed(store, file)
        pacs.send(files)
    with transaction(store.engine) as session:
        audit_log.append(
            session,
            actor="fedgtv-site pacs send",
            event="sent_to_pacs",
            subject=pacs.name,
            detail={"objects": len(files)},
            at=utc_now(),
        )
    console.print(f"{pacs.name}: {len(files)} objects stored")


def listen(
    home: Home,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Write lines of JSON, as 'serve' asks for.")
    ] = False,
) -> None:
    """Receive images from allowed peers and take in the series that a rule wants, until Ctrl-C.

    Peers and rules are in the table 'listener' of site.toml.

    Example: fedgtv-site listen --home hospital-b
    """
    import signal
    import threading

    from algorithms.contracts.structured_log import log_as_json
    from site_agent.case_store import CaseStore
    from site_agent.dicom_elements import without_remarks
    from site_agent.listener import Listener
    from site_agent.site_lock import only_listener

    site = open_home(home)
    say: Callable[[str], None] = _say
    if log_json:
        log_as_json(f"site {site.config.name}")
        say = logging.getLogger("site_agent.listener").info
    stop = threading.Event()
    with (
        without_remarks(),
        only_listener(site),
        Listener(site, CaseStore(site), say) as listener,
    ):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        say(f"{listener.name}: listening")
        listener.serve(stop)
    say(f"{listener.name}: ended")


def _say(line: str) -> None:
    """Print one line whole, however long: it may end in a log."""
    console.print(line, soft_wrap=True)


@contextmanager
def _open(home: Path) -> "Iterator[tuple[SiteHome, Pacs]]":
    """Open the site and the way to its PACS; remarks of the libraries would quote patients."""
    from site_agent.dicom_elements import without_remarks
    from site_agent.pacs import open_pacs

    site = open_home(home)
    with without_remarks():
        yield site, open_pacs(site)
