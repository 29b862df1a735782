"""fedgtv-coordinator: what the study lead runs."""

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from algorithms.contracts.errors import DataError, expected_errors_are_one_line
from coordinator.bundle_cli import bundle_app
from coordinator.config import (
    CONFIG_FILE,
    CoordinatorConfig,
    CoordinatorHome,
    open_home,
    write_config,
)
from coordinator.enrolment_cli import add_enrolment_commands, certificate_cell, server_warning
from coordinator.operations_cli import doctor, serve
from coordinator.plan_cli import plan_app
from coordinator.storage_cli import add_storage_commands
from coordinator.study_workflow import Goal, SiteEvent, SiteProgress, goal_reached
from coordinator.update_cli import average

if TYPE_CHECKING:
    from coordinator.transport import TickSummary, Transport

# Names, not imports: what answers for the sites, as installed there.
SITE_APP = "site_agent.client_app:app"
SITE_EXECUTOR = "site_agent.site_executor"

app = typer.Typer(
    help="A study's coordinator: signs and delivers models, collects aggregates; sees no image. "
    "Research use only, not a medical device.\n\nExample: fedgtv-coordinator status --home STUDY",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(plan_app, name="plan")
console = Console(markup=False, emoji=False)  # a path may hold brackets
Home = Annotated[Path, typer.Option("--home", help="The coordinator's home directory.")]


class Carrier(StrEnum):
    """How messages reach the sites."""

    EMBEDDED = "embedded"
    FLOWER = "flower"


@app.command()
def init(
    home: Home,
    study: Annotated[str, typer.Option(help="Name of the study.")],
    source_site: Annotated[str, typer.Option(help="The hospital that trains the first model.")],
    target_site: Annotated[list[str], typer.Option(help="A hospital that adapts it; repeat.")],
    air_gapped_site: Annotated[
        list[str], typer.Option(help="One of them that no network reaches; repeat.")
    ] = [],  # noqa: B006 - typer copies it
    address: Annotated[
        str, typer.Option(help="HOST:PORT at which the sites reach this machine.")
    ] = "localhost:8443",
    record_received: Annotated[
        bool, typer.Option(help="Keep every byte that sites send, for privacy tests.")
    ] = False,
) -> None:
    """Make a coordinator's home directory: configuration, signing key and database.

    Example: fedgtv-coordinator init --home study --study npc --source-site a --target-site b
    """
    from pydantic import ValidationError

    from coordinator.package_publisher import public_key_hex

    try:
        config = CoordinatorConfig(
            study=study,
            source_site=source_site,
            target_sites=tuple(target_site),
            air_gapped_sites=tuple(air_gapped_site),
            address=address,
            record_received=record_received,
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "sites"
        raise DataError(
            f"{field}: {first['msg']}: use lower-case letters, digits and hyphens, each name once; "
            "an address is HOST:PORT"
        ) from None
    _fill_home(CoordinatorHome(home, config))
    coordinator = open_home(home)
    console.print(f"{home}: ready. Public key, for trusted_keys at every site:")
    print(public_key_hex(coordinator))


@app.command("public-key")
def public_key(home: Home) -> None:
    """Print the key that sites put into trusted_keys; compare it by telephone.

    Example: fedgtv-coordinator public-key --home study
    """
    from coordinator.package_publisher import public_key_hex

    print(public_key_hex(open_home(home)))


@app.command()
def tick(
    home: Home,
    site: Annotated[list[str], typer.Option(help="NAME=HOME of a site on this machine; repeat.")],
    transport: Annotated[Carrier, typer.Option(help="How messages travel.")] = Carrier.EMBEDDED,
    until: Annotated[Goal, typer.Option(help="Go on until this is reached.")] = Goal.ONE_TICK,
    patience_s: Annotated[float, typer.Option(help="Give up after so many seconds.")] = 60.0,
) -> None:
    """Ask every site where it stands, and publish, deliver and collect what is ready.

    The exit code is 1 when the goal of --until was not reached, or a site refused the package.

    Example: fedgtv-coordinator tick --home study --site a=hospital-a --site b=hospital-b
    """
    coordinator = open_home(home)
    sites = _parse_sites(site, coordinator.config.sites)
    with (
        console.status(f"connecting to {len(sites)} sites ({transport.value})") as progress,
        _transport(transport, coordinator, sites) as carrier,
    ):
        progress.update(f"speaking to {len(sites)} sites ({transport.value})")
        summary = carrier.tick(until, patience_s=patience_s)
    _print_sites(summary)
    progress_of_sites = [s.progress for s in summary.sites if s.progress is not None]
    published, agreed = summary.package_id is not None, summary.agreed
    if not goal_reached(until, published, progress_of_sites, agreed=agreed):
        print(f"not {until.value} within {patience_s:.0f} s: tick again", file=sys.stderr)
        raise typer.Exit(1)
    refused = [f"{s.site} ({s.refused_by_rule})" for s in summary.sites if s.refused_by_rule]
    if refused and until in (Goal.DELIVERED, Goal.REPORTED):
        print(
            f"not {until.value}, the package was refused by {', '.join(refused)}: mend the cause, "
            "then 'fedgtv-coordinator resend'",
            file=sys.stderr,
        )
        raise typer.Exit(1)


@app.command()
def status(home: Home) -> None:
    """Show where every site stands, as far as the coordinator knows.

    Example: fedgtv-coordinator status --home study
    """
    from coordinator.transport import summarise

    coordinator = open_home(home)
    _print_sites(summarise(coordinator))
    if warning := server_warning(coordinator):
        print(warning)


@app.command()
def resend(
    home: Home, site: Annotated[str, typer.Option(help="The site to send the package to.")]
) -> None:
    """Deliver the package again at the next tick, after a site's reason to refuse it is gone.

    Example: fedgtv-coordinator resend --home study --site hospital-b
    """
    from coordinator.study_store import StudyStore

    coordinator = open_home(home)
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        package_id = store.current_package()
        if package_id is None:
            raise DataError("nothing is published yet: there is nothing to send again")
        if store.progress(package_id).get(site) is SiteProgress.REPORTED:
            raise DataError(f"site {site}: has reported on this package already")
        store.apply(site, package_id, SiteEvent.RESEND_REQUESTED)
    console.print(f"{site}: will be sent the package at the next tick")


@app.command()
def report(
    home: Home,
    output: Annotated[Path, typer.Option(help="Folder for the study report.")],
    pdf: Annotated[bool, typer.Option(help="Print it, too (pip install 'fedgtv[pdf]').")] = False,
) -> None:
    """Write and sign the study report: study.html to read, CSV and JSON to compute with.

    Example: fedgtv-coordinator report --home study --output study-report
    """
    from coordinator.report_publisher import publish_report
    from coordinator.study_store import StudyStore

    coordinator = open_home(home)
    with (
        StudyStore(coordinator.database_url, coordinator.config) as store,
        console.status("rendering the report"),
    ):
        made = publish_report(coordinator, store, output, pdf=pdf)
    reported = {site.report.site for package in made.packages for site in package.sites}
    console.print(
        f"{output}: report on {len(reported)} of {len(coordinator.config.target_sites)}, signed; "
        f"to check it: fedgtv-evaluate verify-report {output} --key PUBLIC_KEY",
        soft_wrap=True,
    )


add_enrolment_commands(app)
app.add_typer(bundle_app, name="bundle")
add_storage_commands(app)
app.command()(doctor)
app.command()(serve)
app.command()(average)


def _fill_home(home: CoordinatorHome) -> None:
    """Put the key, the database and then the configuration in place, the last in one step.

    A home with a configuration is complete; an attempt that was killed is finished by the next.
    """
    from coordinator.package_publisher import create_key
    from coordinator.study_store import create_database

    draft = home.folder / ".draft"
    file, key = home.folder / CONFIG_FILE, home.signing_key
    if file.exists():
        raise DataError(f"{file}: there is a coordinator here already: choose another folder")
    home.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(draft, ignore_errors=True)
    write_config(draft, home.config)
    create_key(draft / key.name)
    key.parent.mkdir(mode=0o700, exist_ok=True)
    if not key.exists():
        (draft / key.name).rename(key)
    settings = open_home(draft).config  # as later commands read it: the environment counts
    create_database(CoordinatorHome(home.folder.resolve(), settings).database_url)
    (draft / CONFIG_FILE).rename(file)
    shutil.rmtree(draft)


def _transport(
    carrier: Carrier, coordinator: CoordinatorHome, sites: dict[str, Path]
) -> "Transport":
    if carrier is Carrier.FLOWER:
        from coordinator.flower_transport import FlowerTransport

        return FlowerTransport(coordinator, sites, site_executor=SITE_EXECUTOR)
    from coordinator.embedded_transport import EmbeddedTransport

    return EmbeddedTransport(coordinator, sites, site_app=SITE_APP)


def _parse_sites(values: Sequence[str], known: Sequence[str]) -> dict[str, Path]:
    """Read NAME=HOME pairs.

    Raises:
        DataError: for a value that is no pair, a name that is not in the study, or no home.
    """
    sites = {}
    for value in values:
        name, separator, home = value.partition("=")
        if not separator or not home:
            raise DataError(f"--site {value}: write NAME=HOME, such as {known[0]}=/srv/{known[0]}")
        if name not in known:
            raise DataError(f"--site {name}: not in this study; its sites are {', '.join(known)}")
        sites[name] = Path(home).resolve()
        if not sites[name].is_dir():
            raise DataError(f"--site {value}: no such folder: give the home of {name}")
    return sites


def _print_sites(summary: "TickSummary") -> None:
    package_id = summary.package_id
    console.print(f"package: {package_id[:12] if package_id else 'none published yet'}")
    if package_id:
        agreed = "answered by all" if summary.agreed else "not answered by all target sites"
        console.print(f"plan: {agreed}; see 'fedgtv-coordinator plan list'")
    table = Table(padding=0)
    headings = ("site", "role", "package", "round", "tasks", "last seen (UTC)", "bytes to / from")
    for heading in (*headings, "access"):
        table.add_column(heading, overflow="fold")  # a narrow window leaves nothing out
    for site in summary.sites:
        delivery = site.progress.value if site.progress is not None else "-"
        if site.refused_by_rule is not None:
            delivery += f" ({site.refused_by_rule})"
        if site.progress is SiteProgress.PENDING and site.bytes_held:
            delivery += f" ({site.bytes_held / 1e6:.1f} MB there)"
        if site.stalled and site.no_progress_since is not None:
            since = site.no_progress_since.isoformat(" ", "seconds")
            delivery += f" (STALLED: no progress since {since})"
        seen = site.last_seen_at.isoformat(" ", "seconds") if site.last_seen_at else "never"
        if site.last_failure is not None:
            seen += f" ({site.last_failure})"
        table.add_row(
            site.site,
            site.role,
            delivery,
            site.status.round_state.value if site.status is not None else "-",
            str(site.status.open_annotation_tasks) if site.status is not None else "-",
            seen,
            f"{site.bytes_to_site} / {site.bytes_from_site}",
            certificate_cell(site.certificate_not_after, revoked=site.revoked),
        )
    console.print(table)


def main() -> None:
    """Run the command; an expected error is one line and exit code 2."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    # A polite end (systemd, a parent that gives up) must stop the transport's children too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with expected_errors_are_one_line():
        app()
