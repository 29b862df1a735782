"""fedgtv-coordinator average: the next model, out of what the hospitals' models learnt."""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.config import open_home


def average(
    home: Annotated[Path, typer.Option("--home", help="The coordinator's home directory.")],
    model_version: Annotated[str, typer.Option(help="Of the next package, such as 1.1.0.")],
    yes: Annotated[bool, typer.Option("--yes", help="Average without a question.")] = False,
) -> None:
    """Average the model updates that are here into the next package, and publish it.

    The next tick delivers it; then draft and sign a plan for it. The single updates are deleted.

    Example: fedgtv-coordinator average --home study --model-version 1.1.0
    """
    from coordinator.model_averaging import in_words, plan_averaging, publish_average
    from coordinator.study_store import StudyStore

    coordinator = open_home(home)
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        averaging = plan_averaging(coordinator, store)
        for line in in_words(averaging):
            typer.echo(line)
        if not yes and not typer.confirm("Average these? An update that comes later is left out."):
            typer.echo("not averaged", err=True)
            raise typer.Exit(1)
        package_id = publish_average(coordinator, store, averaging, model_version)
    typer.echo(f"model {model_version}: package {package_id}; draft and sign a plan for it")
