"""The commands about who may use the pages."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome, open_home

if TYPE_CHECKING:
    from sqlalchemy import Engine

account_app = typer.Typer(
    help="Say who may use the pages, and as what.\n\n"
    "Roles: annotator (draws), reviewer (reviews and signs), it (accounts, models, ledger), lead "
    "(sees the study).\n\nExample: fedgtv-site account list --home SITE",
    no_args_is_help=True,
)
Home = Annotated[Path, typer.Option("--home", help="The site's home directory.")]
Username = Annotated[str, typer.Argument(help="What is typed to sign in.")]
Roles = Annotated[
    list[str], typer.Option("--role", help="annotator, reviewer, it or lead; may be repeated.")
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(help="Holds the password in its first line; else it is asked for, unseen."),
]
console = Console(markup=False, emoji=False, soft_wrap=True)
_ACTOR = "fedgtv-site account"


@account_app.command("add")
def add(
    username: Username,
    home: Home,
    name: Annotated[str, typer.Option(help="As colleagues know the person.")],
    role: Roles,
    person_name: Annotated[
        str, typer.Option(help="As DICOM writes it, Family^Given; signs contours.")
    ] = "",
    password_file: PasswordFile = None,
    oidc_subject: Annotated[
        str | None,
        typer.Option(help="ISSUER|SUBJECT at the hospital's own sign-in, in place of a password."),
    ] = None,
) -> None:
    """Add somebody; the password is asked for twice.

    Example: fedgtv-site account add anna --home hospital-b --name "Dr Anna Example" --role reviewer
    """
    from site_agent import accounts
    from site_agent.database import utc_now

    site, engine = _open(home)
    if oidc_subject is not None and password_file is not None:
        raise DataError("account: give either --password-file or --oidc-subject")
    added = accounts.create(
        engine,
        username,
        display_name=name,
        person_name=person_name or name,
        roles=role,
        password=None if oidc_subject is not None else _password(password_file),
        oidc_subject=oidc_subject,
        actor=_ACTOR,
        now=utc_now(),
    )
    console.print(f"{site.config.name}: {added.username} may sign in as {_listed(added.roles)}")


@account_app.command("list")
def show(home: Home) -> None:
    """List who may use the pages.

    Example: fedgtv-site account list --home hospital-b
    """
    from site_agent import accounts
    from site_agent.database import utc_now

    _, engine = _open(home)
    table = Table(padding=0)
    for heading in ("user name", "name", "roles", "signs in with", "state"):
        table.add_column(heading, overflow="fold")
    now = utc_now()
    for account in accounts.listed(engine):
        waits = account.locked_until is not None and account.locked_until > now
        state = "disabled" if account.disabled else "waits: wrong passwords" if waits else "active"
        kind = "password" if account.oidc_subject is None else account.oidc_subject
        roles = _listed(account.roles)
        table.add_row(account.username, account.display_name, roles, kind, state)
    console.print(table)


@account_app.command("roles")
def roles(username: Username, home: Home, role: Roles) -> None:
    """Give somebody these roles in place of those held before.

    Example: fedgtv-site account roles anna --home hospital-b --role annotator --role reviewer
    """
    from site_agent import accounts
    from site_agent.database import utc_now

    _, engine = _open(home)
    accounts.set_roles(engine, username, role, actor=_ACTOR, now=utc_now())
    console.print(f"{username}: {_listed(accounts.find(engine, username).roles)}")


@account_app.command("disable")
def disable(username: Username, home: Home) -> None:
    """Shut an account and sign it out everywhere; what it made keeps its name.

    Example: fedgtv-site account disable anna --home hospital-b
    """
    _set_disabled(home, username, True)
    console.print(f"{username}: disabled and signed out")


@account_app.command("enable")
def enable(username: Username, home: Home) -> None:
    """Open a disabled account again.

    Example: fedgtv-site account enable anna --home hospital-b
    """
    _set_disabled(home, username, False)
    console.print(f"{username}: may sign in")


@account_app.command("password")
def password(username: Username, home: Home, password_file: PasswordFile = None) -> None:
    """Set a new password; it is asked for twice. Signs the account out and ends its waiting.

    Example: fedgtv-site account password anna --home hospital-b
    """
    from site_agent import accounts
    from site_agent.database import utc_now

    _, engine = _open(home)
    accounts.find(engine, username)  # before anybody types one for nothing
    given = _password(password_file)
    accounts.set_password(engine, username, given, actor=_ACTOR, now=utc_now())
    console.print(f"{username}: new password set")


@account_app.command("sign-out")
def sign_out(username: Username, home: Home) -> None:
    """Sign an account out of every browser.

    Example: fedgtv-site account sign-out anna --home hospital-b
    """
    from site_agent import accounts
    from site_agent.database import utc_now

    _, engine = _open(home)
    ended = accounts.end_sign_ins(engine, username, actor=_ACTOR, now=utc_now())
    console.print(f"{username}: signed out of {ended} browsers")


def _set_disabled(home: Path, username: str, disabled: bool) -> None:
    from site_agent import accounts
    from site_agent.database import utc_now

    _, engine = _open(home)
    accounts.set_disabled(engine, username, disabled, actor=_ACTOR, now=utc_now())


def _open(home: Path) -> tuple[SiteHome, "Engine"]:
    from site_agent.database import open_database

    site = open_home(home)
    return site, open_database(site.database_url)


def _password(file: Path | None) -> str:
    """Read a password from a file, from what is piped in, or unseen from the terminal."""
    if file is not None:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise DataError(f"{file}: cannot be read as text: give the password's file") from None
    elif sys.stdin.isatty():
        lines = [typer.prompt("Password", hide_input=True, confirmation_prompt=True)]
    else:
        lines = sys.stdin.read().splitlines()
    return lines[0] if lines else ""


def _listed(roles: frozenset[str]) -> str:
    from site_agent.accounts import ROLES

    return ", ".join(role for role in ROLES if role in roles)
