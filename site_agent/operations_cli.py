"""The commands of who keeps a site running: `doctor`, `serve` and `acceptance`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from algorithms.contracts.errors import DataError
from algorithms.contracts.health import CHECK_MARKS, Check, tell

Home = Annotated[Path, typer.Option("--home", help="The site's home directory.")]
LATER = ("pacs", "coordinator", "keys")  # checks of what a hospital goes on working without
console = Console(markup=False, emoji=False, soft_wrap=True)


def add_operations_commands(app: typer.Typer) -> None:
    """Add them to those of `fedgtv-site`."""
    for command in (doctor, serve, acceptance):
        app.command()(command)
    app.command("acceptance-verify")(acceptance_verify)
    app.command("audit-verify")(audit_verify)


def doctor(
    home: Home,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look at everything that this site needs, and say what is wrong and what helps.

    The exit code is 1 when something does not work.

    Example: fedgtv-site doctor --home hospital-b
    """
    from site_agent.doctor import examine_site

    if not tell(examine_site(home), typer.echo, as_json=as_json):
        raise typer.Exit(1)


def acceptance(
    home: Home,
    output: Annotated[Path, typer.Option(help="New folder for the signed proof.")],
) -> None:
    """Send a phantom through PACS, model, RTSTRUCT and back, and write a signed proof of it.

    The exit code is 1 when it did not pass. The phantom stays in the PACS, under a patient id that
    begins with FEDGTV-.

    Example: fedgtv-site acceptance --home hospital-b --output acceptance-proof
    """
    from site_agent.acceptance import STEPS, accept
    from site_agent.acceptance_proof import has_passed, write_proof
    from site_agent.config import open_home
    from site_agent.database import utc_now
    from site_agent.site_keys import SiteKeys

    if output.exists():
        raise DataError(f"{output}: is there already: choose another folder")
    checks: list[Check] = []
    facts: dict[str, object] = {}
    for check in accept(home, facts):
        checks.append(check)
        console.print(f"{CHECK_MARKS[check.state]} {check.name}: {check.line}")
    passed = has_passed(checks, tuple(STEPS))
    site = open_home(home)
    write_proof(site, output, checks, facts, passed=passed, at=utc_now())
    console.print(f"{output}: {'passed' if passed else 'not passed'}; signed")
    console.print(f"the hospital's public key: {SiteKeys.open(site).signing_public_key_hex}")
    if not passed:
        raise typer.Exit(1)


def acceptance_verify(
    folder: Annotated[Path, typer.Argument(help="A proof.")],
    key: Annotated[str, typer.Option(help="The hospital's public key, 64 hexadecimal digits.")],
) -> None:
    """Check that a proof of acceptance is as the hospital signed it.

    Example: fedgtv-site acceptance-verify acceptance-proof --key 0123...
    """
    from site_agent.acceptance_proof import verify_proof

    verify_proof(folder, key)
    console.print(f"{folder}: as it was signed")


def audit_verify(home: Home) -> None:
    """Check that no entry of the audit log was changed, removed or put in.

    Example: fedgtv-site audit-verify --home hospital-b
    """
    from sqlalchemy.orm import Session

    from site_agent import audit_log
    from site_agent.config import open_home
    from site_agent.database import open_database

    with Session(open_database(open_home(home).database_url)) as session:
        console.print(f"{audit_log.verify(session)} entries, unbroken")


def serve(home: Home) -> None:
    """Run everything that this site is made of, until it is ended.

    What a check finds wrong stops it before it begins; PACS, coordinator and a valid certificate
    may come later. The logs are in `logs` of the home.

    Example: fedgtv-site serve --home hospital-b
    """
    from site_agent.config import open_home
    from site_agent.serve import site_programs
    from supervision import serving

    us = str(Path(sys.argv[0]).resolve())
    doctor_command = (us, "doctor", "--home", str(home), "--json")
    for line in serving.lines(serving.check_first(doctor_command, later=LATER)):
        console.print(line)
    site = open_home(home)
    programs = site_programs(site)
    names = ", ".join(program.name for program in programs)
    console.print(f"{site.config.name}: serving {names}")
    if not any(program.name == "supernode" for program in programs):
        why = "air-gapped" if site.config.air_gapped else "not enrolled"
        console.print(f"{why}: without a connection to the coordinator")
    sys.stdout.flush()
    serving.serve(site.folder, programs, {"FLWR_HOME": str(site.folder / "flower" / "flwr-home")})
