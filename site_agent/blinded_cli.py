"""The commands of blinded readings: `fedgtv-site blinded start`, `status` and `unseal`."""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from site_agent.config import open_home

blinded_app = typer.Typer(
    help="Let a reader judge contours without knowing what made them.\n\n"
    "Example: fedgtv-site blinded status --home SITE",
    no_args_is_help=True,
)
Home = Annotated[Path, typer.Option("--home", help="The site's home directory.")]
Reading = Annotated[str, typer.Option("--reading", help="Its name, such as r1.")]
console = Console(markup=False, emoji=False)


@blinded_app.command("start")
def start(
    home: Home,
    reading: Reading,
    reader: Annotated[str, typer.Option(help="User name of who reads.")],
    seed: Annotated[int, typer.Option(help="Of the random order.", min=0)] = 0,
    arm: Annotated[
        list[str], typer.Option(help="adapted (AI), reference (manual), reviewed; none means all.")
    ] = [],  # noqa: B006 - typer copies it
    crossed: Annotated[
        bool, typer.Option("--crossed", help="Show every case with every arm, not with one.")
    ] = False,
    own_contours: Annotated[
        bool, typer.Option("--own-contours", help="The reader may have drawn some of them.")
    ] = False,
) -> None:
    """Choose at random, and seal, which contour of each case of the latest round is shown.

    Example: fedgtv-site blinded start --home hospital-b --reading r1 --reader olga --seed 7
    """
    from sqlalchemy.orm import Session

    from site_agent.blinded_reading import ARMS
    from site_agent.blinded_reading import start as begin
    from site_agent.case_store import CaseStore
    from site_agent.database import AccountRow, utc_now

    store = CaseStore(open_home(home))
    contours = begin(
        store,
        reading=reading,
        reader=reader,
        seed=seed,
        arms=arm or ARMS,
        crossed=crossed,
        own_contours=own_contours,
        actor="fedgtv-site blinded start",
        now=utc_now(),
    )
    console.print(f"reading {reading}: {contours} contours are sealed for {reader}")
    with Session(store.engine) as session:
        if session.get(AccountRow, reader) is None:
            console.print(f"no account is called {reader} yet: the reader has to sign in as that")


@blinded_app.command("status")
def status(home: Home) -> None:
    """List the readings and how far they are.

    Example: fedgtv-site blinded status --home hospital-b
    """
    from site_agent.blinded_reading import readings
    from site_agent.case_store import CaseStore

    table = Table("reading", "reader", "judged", "state", padding=0)
    for one in readings(CaseStore(open_home(home))):
        state = "stopped" if one.stopped else "over" if one.done else "under way"
        table.add_row(one.reading, one.reader, f"{one.judged} of {one.places}", state)
    console.print(table)


@blinded_app.command("unseal")
def unseal(
    home: Home,
    reading: Reading,
    stop: Annotated[
        bool, typer.Option("--stop", help="End a reading that is not over; nobody can go on.")
    ] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write one line per contour; keep it in here.")
    ] = None,
) -> None:
    """Say what had made the contours, and compare, when all are judged.

    Example: fedgtv-site blinded unseal --home hospital-b --reading r1 --csv r1.csv
    """
    from site_agent.blinded_results import ARM_NAMES, write_csv
    from site_agent.blinded_results import unseal as open_seals
    from site_agent.case_store import CaseStore
    from site_agent.database import utc_now

    store = CaseStore(open_home(home))
    by = "fedgtv-site blinded unseal"
    results = open_seals(store, reading, stop=stop, actor=by, now=utc_now())
    table = Table(
        "made by", "judged", "Likert median (IQR)", "usable as is", "with minor changes", padding=0
    )
    for arm in results.arms:
        likert = arm.likert
        table.add_row(
            ARM_NAMES[arm.arm],
            f"{likert.count} of {arm.shown}",
            f"{likert.median:g} ({likert.q1:g} to {likert.q3:g})" if likert.count else "-",
            _percent(arm.as_is),
            _percent(arm.with_minor_changes),
        )
    console.print(table)
    for one in results.comparisons:
        names = f"{ARM_NAMES[one.first]} against {ARM_NAMES[one.second]}"
        if one.test:
            console.print(f"{names}: {one.test} p = {one.p:.3g}, {one.p_holm:.3g} by Holm")
        else:
            console.print(f"{names}: too little to compare")
    cases = "the same" if results.crossed else "different"
    console.print(f"Likert scores on {cases} cases. Research use only, not a medical device")
    if csv_file is not None:
        write_csv(results, csv_file)
        console.print(f"{csv_file}: {len(results.judgements)} lines; they stay in the hospital")


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"
