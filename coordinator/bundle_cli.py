"""The commands for a hospital that no network reaches: bundle write, bundle read."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from algorithms.contracts.bundle import VALID_DAYS, BundleRefused
from coordinator.config import open_home

Home = Annotated[Path, typer.Option("--home", help="The coordinator's home directory.")]
console = Console(markup=False, emoji=False, soft_wrap=True)
bundle_app = typer.Typer(
    help="Speak to an air-gapped hospital by files on a disk.\n\n"
    "Example: fedgtv-coordinator bundle write --home study --site hospital-b --output 1.bundle",
    no_args_is_help=True,
)


@bundle_app.command()
def write(
    home: Home,
    site: Annotated[str, typer.Option(help="The hospital, one of air_gapped_sites.")],
    output: Annotated[Path, typer.Option(help="File to write, such as on the disk.")],
    valid_days: Annotated[
        int, typer.Option(min=1, max=366, help="The hospital refuses it afterwards.")
    ] = VALID_DAYS,
    after: Annotated[
        int, typer.Option(min=0, help="Number it higher than this, after a restore.")
    ] = 0,
) -> None:
    """Write all that there is to ask of a hospital into one signed and encrypted file.

    Example: fedgtv-coordinator bundle write --home study --site hospital-b --output 1.bundle
    """
    from coordinator.bundles import write_bundle
    from coordinator.study_store import StudyStore

    coordinator, now = open_home(home), datetime.now(UTC)
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        written = write_bundle(
            coordinator, store, site, output, now=now, valid_days=valid_days, after=after
        )
    console.print(
        f"{output}: bundle {written.sequence} for {site}, {written.questions} questions, "
        f"{output.stat().st_size} bytes, valid for {valid_days} days. "
        "There: fedgtv-site bundle answer FILE --output FILE"
    )


@bundle_app.command()
def read(
    file: Annotated[Path, typer.Argument(help="As 'fedgtv-site bundle answer' wrote it.")],
    home: Home,
) -> None:
    """Take a hospital's answer in and act on it.

    Example: fedgtv-coordinator bundle read 1.answer --home study
    """
    from coordinator.bundles import read_bundle
    from coordinator.study_store import StudyStore

    coordinator, now = open_home(home), datetime.now(UTC)
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        try:
            done = read_bundle(coordinator, store, file, now=now)
        except BundleRefused as refused:
            raise refused.of(str(file)) from None
        (record,) = [one for one in store.sites() if one.site == done.site]
    progress = f", package {record.progress.value}" if record.progress is not None else ""
    console.print(f"{done.site}: answer {done.sequence} taken in{progress}")
    if done.questions:
        console.print(f"{done.questions} questions follow from it: 'bundle write' takes them along")
