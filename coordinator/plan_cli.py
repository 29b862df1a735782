"""fedgtv-coordinator plan: what hospitals are asked to do, signed by the study lead."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from algorithms.contracts.errors import DataError
from coordinator.config import open_home

if TYPE_CHECKING:
    from algorithms.contracts.federation_plan import FederationPlan

plan_app = typer.Typer(
    help="Say what hospitals do with the package and what may leave them; it counts when the study "
    "lead and the hospital have signed it.\n\nExample: fedgtv-coordinator plan list --home STUDY",
    no_args_is_help=True,
)
Home = Annotated[Path, typer.Option("--home", help="The coordinator's home directory.")]
console = Console(markup=False, emoji=False)


@plan_app.command("draft")
def draft(
    home: Home,
    output: Annotated[Path, typer.Option(help="File to write; edit it, then sign it.")],
    valid_days: Annotated[int, typer.Option(min=1, help="It expires after so many days.")] = 365,
    minimum_patients: Annotated[
        int, typer.Option(min=1, help="A hospital with fewer does not begin.")
    ] = 5,
    minimum_group_size: Annotated[
        int, typer.Option(min=2, help="No figure about fewer patients leaves any hospital.")
    ] = 5,
    update_clip_norm: Annotated[
        float | None, typer.Option(help="Let adapted models leave, shortened to this L2 norm.")
    ] = None,
    update_noise: Annotated[
        float, typer.Option(min=0, help="Noise of this many times that norm on every weight.")
    ] = 0.0,
    update_delta: Annotated[float, typer.Option(help="Delta of what the noise promises.")] = 1e-5,
) -> None:
    """Write a readable plan from the published package, with all that a report may say permitted.

    Without --update-clip-norm no adapted model may leave.

    Example: fedgtv-coordinator plan draft --home study --output plan.json
    """
    from algorithms.contracts.federation_plan import ModelUpdateTerms
    from coordinator.plans import draft_plan, readable
    from coordinator.study_store import StudyStore

    coordinator = open_home(home)
    terms = None
    if update_clip_norm is not None:
        if not (update_clip_norm > 0 and 0 < update_delta < 1):
            raise DataError("--update-clip-norm is more than 0, --update-delta between 0 and 1")
        terms = ModelUpdateTerms(
            clip_norm=update_clip_norm, noise_multiplier=update_noise, delta=update_delta
        )
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        plan = draft_plan(
            coordinator,
            store,
            valid_days=valid_days,
            minimum_patients=minimum_patients,
            minimum_group_size=minimum_group_size,
            model_updates=terms,
            now=_now(),
        )
    output.write_text(readable(plan), "utf-8")
    console.print(
        f"{output}: draft of plan {plan.plan_number}, not signed yet; read and edit it, then "
        f"'fedgtv-coordinator plan sign {output}'",
        soft_wrap=True,
    )
    _warn_of_small_groups(plan)


@plan_app.command("sign")
def sign(
    file: Annotated[Path, typer.Argument(help="As 'plan draft' wrote it.")],
    home: Home,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without a question.")] = False,
) -> None:
    """Show a plan whole, and sign it with the study's key; the next tick sends it to the sites.

    Example: fedgtv-coordinator plan sign --home study plan.json
    """
    from coordinator.plans import read_draft, readable, sign_plan
    from coordinator.study_store import StudyStore

    coordinator = open_home(home)
    plan = read_draft(file)
    typer.echo(readable(plan), nl=False)
    _warn_of_small_groups(plan)
    if not yes and not typer.confirm("Sign this plan?"):
        typer.echo("not signed", err=True)
        raise typer.Exit(1)
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        signed = sign_plan(coordinator, store, plan, now=_now())
    console.print(f"plan {plan.plan_number}: signed, {signed.plan_sha256}", soft_wrap=True)


@plan_app.command("list")
def list_plans(home: Home) -> None:
    """List the plans, and which hospitals have signed them.

    Example: fedgtv-coordinator plan list --home study
    """
    from coordinator.plan_records import PlanRecords
    from coordinator.study_store import StudyStore

    coordinator = open_home(home)
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        records = PlanRecords(store)
        table = Table("plan", "SHA-256", "signed (UTC)", *coordinator.config.target_sites)
        for row in records.all():
            answers = records.answers(row.plan_sha256)
            said = []
            for site in coordinator.config.target_sites:
                answer = answers.get(site)
                rule = answer.refused_by_rule if answer is not None else None
                said.append("-" if answer is None else "approved" if rule is None else rule)
            signed_at = row.signed_at.isoformat(" ", "seconds")
            table.add_row(str(row.plan_number), row.plan_sha256[:12], signed_at, *said)
    console.print(table)


@plan_app.command("show")
def show(
    home: Home,
    number: Annotated[int, typer.Argument(help="Of the plan; left out: the newest.")] = 0,
) -> None:
    """Print a signed plan, every field of it.

    Example: fedgtv-coordinator plan show --home study 1
    """
    from algorithms.contracts.federation_plan import SignedPlan
    from coordinator.plan_records import PlanRecords
    from coordinator.plans import readable
    from coordinator.study_store import StudyStore

    coordinator = open_home(home)
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        rows = [r for r in PlanRecords(store).all() if number in (0, r.plan_number)]
    if not rows:
        raise DataError("there is no such plan: see 'fedgtv-coordinator plan list'")
    typer.echo(readable(SignedPlan.model_validate_json(rows[-1].signed).read()), nl=False)


@plan_app.command("resend")
def resend(
    home: Home, site: Annotated[str, typer.Option(help="The site that refused the plan.")]
) -> None:
    """Send the newest plan again at the next tick, after a site's reason to refuse it is gone.

    Example: fedgtv-coordinator plan resend --home study --site hospital-b
    """
    from coordinator.plan_records import PlanRecords
    from coordinator.study_store import StudyStore

    coordinator = open_home(home)
    if site not in coordinator.config.target_sites:
        raise DataError(f"--site {site}: no target site of this study")
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        records = PlanRecords(store)
        plans = records.all()
        if not plans:
            raise DataError("no plan is signed yet: see 'fedgtv-coordinator plan draft'")
        records.forget_refusal(site, plans[-1].plan_sha256)
    console.print(f"{site}: will be sent plan {plans[-1].plan_number} at the next tick")


def _warn_of_small_groups(plan: "FederationPlan") -> None:
    from algorithms.contracts.site_report import small_group_concern

    if few := small_group_concern(plan.cohort.minimum_group_size):
        typer.echo(f"! {few}", err=True)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
