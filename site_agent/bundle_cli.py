"""The command `fedgtv-site bundle answer`, for a hospital that no network reaches."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from algorithms.contracts.bundle import BundleRefused
from site_agent.config import open_home

ACTOR = "fedgtv-site bundle answer"
ADVICE = {
    "ReleaseHeld": ": see 'fedgtv-site ledger list'",
    "DataError": ": what is asked for is not there yet, unless an error stands above",
}
console = Console(markup=False, emoji=False, soft_wrap=True)
bundle_app = typer.Typer(
    help="Speak to the coordinator by files on a disk.\n\n"
    "Example: fedgtv-site bundle answer 1.bundle --home SITE --output 1.answer",
    no_args_is_help=True,
)


@bundle_app.callback()
def _bundle() -> None:
    """Keep `answer` a word of its own: typer would leave out the only one."""


@bundle_app.command()
def answer(
    file: Annotated[Path, typer.Argument(help="As 'fedgtv-coordinator bundle write' wrote it.")],
    home: Annotated[Path, typer.Option("--home", help="The site's home directory.")],
    output: Annotated[Path, typer.Option(help="File to write, such as on the disk.")],
) -> None:
    """Answer what the coordinator asks in a file into another, signed and encrypted.

    Example: fedgtv-site bundle answer 1.bundle --home hospital-b --output 1.answer
    """
    from site_agent.bundle_answer import answer_bundle
    from site_agent.case_store import CaseStore

    site, now = open_home(home), datetime.now(UTC)
    engine = CaseStore(site).engine
    try:
        done = answer_bundle(site, engine, file, output, actor=ACTOR, now=now)
    except BundleRefused as refused:
        raise refused.of(str(file)) from None
    console.print(
        f"{output}: answer to bundle {done.sequence}. There: fedgtv-coordinator bundle read FILE"
    )
    for reason, count in Counter(done.errors).items():
        console.print(f"{count} without an answer: {reason}{ADVICE.get(reason, '')}")
