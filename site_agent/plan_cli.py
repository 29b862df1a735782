"""fedgtv-site plan: read what the study lead asks for, and sign it or not."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from site_agent.config import SiteHome, open_home

if TYPE_CHECKING:
    from sqlalchemy import Engine

plan_app = typer.Typer(
    help="See what the study lead asks this hospital for, and sign it. Nothing is learnt and no "
    "result leaves without both signatures.\n\nExample: fedgtv-site plan list --home SITE",
    no_args_is_help=True,
)
Home = Annotated[Path, typer.Option("--home", help="The site's home directory.")]
Number = Annotated[int, typer.Argument(help="Number of the plan, as 'plan list' shows it.")]
Actor = Annotated[str, typer.Option(help="Who decides, for the audit log.")]
console = Console(markup=False, emoji=False)


@plan_app.command("list")
def list_plans(home: Home) -> None:
    """List the plans that came, and what was said about them.

    Example: fedgtv-site plan list --home hospital-b
    """
    from site_agent.plan_store import plans_held, read_plan

    site, engine = _open(home)
    table = Table("plan", "state", "received (UTC)", "expires (UTC)", "package", padding=0)
    for row in plans_held(engine):
        expires = f"{read_plan(site, row).expires_at:%Y-%m-%d %H:%M}"
        received = row.received_at.isoformat(" ", "seconds")
        table.add_row(str(row.plan_number), row.state, received, expires, row.package_id[:12])
    console.print(table)


@plan_app.command("show")
def show(
    number: Number,
    home: Home,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the very text that was signed, indented.")
    ] = False,
) -> None:
    """Say in plain words what a plan changes against the one approved last; all of the first.

    Example: fedgtv-site plan show --home hospital-b 2
    """
    from site_agent.model_update import Promise, promise_in_words, promised_epsilon
    from site_agent.plan_difference import plan_difference
    from site_agent.plan_store import find_plan, last_approved, read_plan

    site, engine = _open(home)
    row = find_plan(engine, number)
    plan = read_plan(site, row)
    if json_output:
        typer.echo(json.dumps(json.loads(row.plan), indent=2, ensure_ascii=False))
        return
    before = last_approved(engine, number)
    if before is None:
        console.print(f"plan {number}: {row.state}; no plan was approved before it. It says:")
    else:
        console.print(f"plan {number}: {row.state}; against plan {before.plan_number}:")
    earlier = read_plan(site, before) if before is not None else None
    for line in plan_difference(plan, earlier):
        console.print(f"  {line}", soft_wrap=True)
    if plan.model_updates is not None:
        promise = Promise(1, promised_epsilon(plan.model_updates), plan.model_updates.delta)
        console.print(promise_in_words(promise), soft_wrap=True)
    console.print(f"SHA-256: {row.plan_sha256}", soft_wrap=True)


@plan_app.command("approve")
def approve(number: Number, home: Home, actor: Actor) -> None:
    """Sign a plan with this hospital's key; the one approved before is retired.

    Example: fedgtv-site plan approve --home hospital-b 2 --actor "Dr Anna Example"
    """
    from site_agent.database import utc_now
    from site_agent.plan_store import approve_plan

    site, engine = _open(home)
    approve_plan(site, engine, number, actor=actor, now=utc_now())
    console.print(f"plan {number}: approved and signed for {site.config.name}")


@plan_app.command("reject")
def reject(number: Number, home: Home, actor: Actor) -> None:
    """Say that this hospital does not work by a plan, or no longer: nothing leaves under it.

    Example: fedgtv-site plan reject --home hospital-b 2 --actor "Dr Anna Example"
    """
    from site_agent.database import utc_now
    from site_agent.plan_store import reject_plan

    _, engine = _open(home)
    reject_plan(engine, number, actor=actor, now=utc_now())
    console.print(f"plan {number}: rejected")


@plan_app.command("verify")
def verify(home: Home) -> None:
    """Check that no stored plan and no signature under one was changed, added or taken away.

    Example: fedgtv-site plan verify --home hospital-b
    """
    from site_agent.plan_store import verify_plans

    site, engine = _open(home)
    console.print(f"{verify_plans(site, engine)} plans, as they were signed")


def _open(home: Path) -> tuple[SiteHome, "Engine"]:
    from site_agent.database import open_database

    site = open_home(home)
    return site, open_database(site.database_url)
