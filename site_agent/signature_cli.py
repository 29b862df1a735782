"""The commands about signed contours: `fedgtv-site signatures` and `fedgtv-site send-signed`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from algorithms.contracts.errors import DataError
from site_agent.config import open_home

Home = Annotated[Path, typer.Option("--home", help="The site's home directory.")]
console = Console(markup=False, emoji=False)


def add_signature_commands(app: typer.Typer) -> None:
    """Add them to those of `fedgtv-site`."""
    app.command()(signatures)
    app.command("send-signed")(send_signed)


def signatures(
    home: Home,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare each with the stored mask and the audit log.")
    ] = False,
) -> None:
    """List who signed which contour, when, and whether it is in the PACS.

    Example: fedgtv-site signatures --home hospital-b
    """
    from site_agent.case_store import CaseStore
    from site_agent.signing import Standing
    from site_agent.signing import signatures as every
    from site_agent.signing import verify as problems

    store = CaseStore(open_home(home))
    held = every(store)
    table = Table("case", "signed by", "signed (UTC)", "state", padding=0)
    for row, standing in held:
        where = "sent" if row.sent_at is not None else "waiting"
        if store.identity_sealed(row.case_id) is None:
            where = "stays here: came as NIfTI"
        if standing is Standing.OUTDATED:
            where = "outdated, was sent" if row.sent_at is not None else "outdated"
        signed_at = row.signed_at.isoformat(" ", timespec="seconds")
        table.add_row(row.case_id, row.username, signed_at, where)
    Console(markup=False, emoji=False, width=max(console.width, 100)).print(table)
    if verify:
        found = problems(store)
        for line in found:
            console.print(line, soft_wrap=True)
        if found:
            raise DataError(f"{len(found)} signatures are not as they were signed")
        console.print(f"{len(held)} signatures, each under the mask that is stored")


def send_signed(home: Home) -> None:
    """Send the signed contours that wait to the PACS, as APPROVED structure sets; run again freely.

    Example: fedgtv-site send-signed --home hospital-b
    """
    from site_agent.case_store import CaseStore
    from site_agent.signature_delivery import send_waiting, waiting

    site = open_home(home)
    store = CaseStore(site)
    if not waiting(store):
        console.print("nothing waits")
        return
    send_waiting(
        site,
        store,
        actor="fedgtv-site send-signed",
        say=lambda line: console.print(line, soft_wrap=True),
    )
