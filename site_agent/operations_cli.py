"""The commands of who keeps a site running: `fedgtv-site doctor`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from algorithms.contracts.health import CHECK_MARKS, CheckState, checks_json

Home = Annotated[Path, typer.Option("--home", help="The site's home directory.")]
console = Console(markup=False, emoji=False, soft_wrap=True)


def add_operations_commands(app: typer.Typer) -> None:
    """Add them to those of `fedgtv-site`."""
    app.command()(doctor)


def doctor(
    home: Home,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look at everything that this site needs, and say what is wrong and what helps.

    The exit code is 1 when something does not work.

    Example: fedgtv-site doctor --home hospital-b
    """
    from site_agent.doctor import examine_site

    checks = []
    for check in examine_site(home):
        checks.append(check)
        if not as_json:
            console.print(f"{CHECK_MARKS[check.state]} {check.name}: {check.line}")
    if as_json:
        typer.echo(checks_json(checks).decode())
    if any(check.state is CheckState.FAILED for check in checks):
        raise typer.Exit(1)
