"""The command `fedgtv-site enrol`, and what `status` says about the certificate."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from algorithms.contracts.enrolment import WARN_BELOW_DAYS, days_left, fingerprint
from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome, open_home

ACTOR = "fedgtv-site enrol"
console = Console(markup=False, emoji=False, soft_wrap=True)


def enrol(
    home: Annotated[Path, typer.Option("--home", help="The site's home directory.")],
    output: Annotated[Path | None, typer.Option(help="File to write the request to.")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Ask for the next certificate.")] = False,
    new_keys: Annotated[
        bool, typer.Option("--new-keys", help="Make all keys anew, after a loss or a theft.")
    ] = False,
    answer: Annotated[Path | None, typer.Option(help="The coordinator's answer.")] = None,
    typed: Annotated[
        str | None,
        typer.Option("--fingerprint", help="Of the answer, as the coordinator read it out."),
    ] = None,
) -> None:
    """Make this hospital's keys and a request to enrol it, or take the answer in.

    Keys are made here and never leave. Read the fingerprint out to the coordinator when it calls.

    Example: fedgtv-site enrol --home hospital-b --output hospital-b.request.json
    """
    from site_agent.case_store import CaseStore
    from site_agent.enrolment import Asking, accept_answer, read_answer, request_enrolment

    site = open_home(home)
    if renew and new_keys:
        raise DataError("give --renew or --new-keys, not both: new keys renew the certificate too")
    if (output is None) == (answer is None):
        raise DataError(
            "give --output FILE for a request, or --answer FILE with what the coordinator sent"
        )
    engine, now = CaseStore(site).engine, datetime.now(UTC)
    if answer is not None:
        accept_answer(
            site, engine, read_answer(answer), typed_fingerprint=typed, actor=ACTOR, now=now
        )
        console.print(f"{site.config.name}: enrolled in {site.config.study}")
        console.print(f"certificate: {certificate_line(site)}; restart the site's services")
        return
    assert output is not None  # noqa: S101 - one of the two is given
    asking = Asking.RENEWAL if renew else Asking.NEW_KEYS if new_keys else Asking.FIRST
    request = request_enrolment(site, engine, asking, actor=ACTOR, now=now)
    output.write_text(request.model_dump_json(indent=1), encoding="utf-8")
    console.print(f"{output}: send it to the coordinator; no secret is in it. Its fingerprint:")
    print(fingerprint(request.sha256))  # noqa: T201 - a command's answer


def certificate_line(site: SiteHome) -> str:
    """Say how long the site's certificate is valid, and what to do when it ends soon."""
    from site_agent.site_keys import certificate_not_after

    not_after = certificate_not_after(site)
    if not_after is None:
        return "none: not enrolled"
    left = days_left(not_after, datetime.now(UTC))
    line = f"until {not_after:%Y-%m-%d}, {left} days left"
    if left < 0:
        return f"WARNING: expired on {not_after:%Y-%m-%d}: run 'fedgtv-site enrol --renew'"
    if left < WARN_BELOW_DAYS:
        return f"WARNING: {line}: run 'fedgtv-site enrol --renew'"
    return line
