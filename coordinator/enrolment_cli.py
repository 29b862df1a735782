"""The commands about who may take part: enrol, revoke, certificate, reverse-proxy."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from algorithms.contracts.enrolment import WARN_BELOW_DAYS, days_left, fingerprint
from coordinator.config import CoordinatorHome, open_home

if TYPE_CHECKING:
    from coordinator.study_store import StudyStore

Home = Annotated[Path, typer.Option("--home", help="The coordinator's home directory.")]
RELOAD = "'serve' has nginx read it by itself; without 'serve': nginx -s reload"
console = Console(markup=False, emoji=False, soft_wrap=True)


def add_enrolment_commands(app: typer.Typer) -> None:
    """Add them to those of `fedgtv-coordinator`."""
    for command in (enrol, revoke, certificate):
        app.command()(command)
    app.command("reverse-proxy")(reverse_proxy)


def enrol(
    request: Annotated[Path, typer.Argument(help="As 'fedgtv-site enrol' wrote it.")],
    home: Home,
    output: Annotated[Path, typer.Option(help="File to write the answer to.")],
    typed: Annotated[
        str | None,
        typer.Option("--fingerprint", help="As the hospital read it out; a renewal needs none."),
    ] = None,
) -> None:
    """Certify a hospital's keys, after its fingerprint was compared by telephone.

    Call a number that you know from elsewhere, and never copy the fingerprint from what was sent.

    Example: fedgtv-coordinator enrol b.request.json --home study --fingerprint "0123 4567 ..." \
        --output b.answer.json
    """
    from coordinator.enrolment import enrol as answer_to
    from coordinator.enrolment import read_request

    asked = read_request(request)
    with _opened(home) as (coordinator, store):
        now, before = datetime.now(UTC), store.site_key(asked.site)
        answer = answer_to(coordinator, store, asked, typed_fingerprint=typed, now=now)
    if before and before.signing_public_key_hex != asked.signing_public_key_hex:
        console.print(
            f"{asked.site} was enrolled with other keys, which count no more: see that nobody "
            "there still works with them"
        )
    output.write_text(answer.model_dump_json(indent=1), encoding="utf-8")
    console.print(f"{output}: send it to {answer.site}. {RELOAD}. Fingerprint of the answer:")
    print(fingerprint(answer.sha256))  # noqa: T201 - a command's answer


def revoke(site: Annotated[str, typer.Argument(help="The site to shut out.")], home: Home) -> None:
    """Shut a site out: its certificates count no more, and no tick speaks to it.

    Example: fedgtv-coordinator revoke hospital-b --home study
    """
    from coordinator.enrolment import revoke as take_back

    with _opened(home) as (coordinator, store):
        count = take_back(coordinator, store, site, datetime.now(UTC))
    console.print(f"{site}: {count} certificates revoked. {RELOAD}")


def certificate(
    home: Home,
    host: Annotated[
        list[str], typer.Option(help="A further name or IP address of this machine; repeat.")
    ] = [],  # noqa: B006 - typer copies it
) -> None:
    """Make the reverse proxy's certificate for the host of the key 'address', for one year.

    Example: fedgtv-coordinator certificate --home study --host study.example.org
    """
    from coordinator.study_keys import write_server_certificate

    with _opened(home) as (coordinator, store):
        until = write_server_certificate(coordinator, store, host, datetime.now(UTC))
    console.print(f"{coordinator.tls / 'server.crt'}: valid until {until:%Y-%m-%d}. {RELOAD}")


def reverse_proxy(
    home: Home,
    superlink_port: Annotated[
        int | None, typer.Option(help="Of the SuperLink, on 127.0.0.1, if not as configured.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="Where the sites knock, if not as configured.")
    ] = None,
) -> None:
    """Write the configuration of nginx: the one door in. 'serve' does it by itself.

    Example: fedgtv-coordinator reverse-proxy --home study --superlink-port 9092
    """
    from coordinator.reverse_proxy import write_configuration

    coordinator = open_home(home)
    file = write_configuration(
        coordinator,
        listen=listen or coordinator.config.listen,
        superlink_port=superlink_port or coordinator.config.superlink_port,
    )
    console.print(f"{file}: start it with: nginx -c {file}")


def certificate_cell(not_after: datetime | None, *, revoked: bool) -> str:
    """Say how long a certificate is valid, short enough for a table; `not_after` has its zone."""
    if revoked:
        return "revoked"
    if not_after is None:
        return "-"
    left = days_left(not_after, datetime.now(UTC))
    if left < 0:
        return "EXPIRED"
    return f"{left} days" if left >= WARN_BELOW_DAYS else f"{left} days (RENEW)"


def server_warning(home: CoordinatorHome) -> str | None:
    """Return what to do about the proxy's certificate and the authority's, None for nothing."""
    from coordinator.study_keys import WHAT_ENDS, not_valid_after

    for file, advice in WHAT_ENDS:
        not_after = not_valid_after(home.tls / file)
        if not_after is None:
            continue
        left = days_left(not_after, datetime.now(UTC))
        if left < WARN_BELOW_DAYS:
            return f"WARNING: {home.tls / file}: {left} days left: {advice}"
    return None


@contextmanager
def _opened(home: Path) -> Iterator[tuple[CoordinatorHome, "StudyStore"]]:
    from coordinator.study_store import StudyStore

    coordinator = open_home(home)
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        yield coordinator, store
