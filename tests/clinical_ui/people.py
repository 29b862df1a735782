"""People of a test site, added and signed in as the real ones are."""

from argon2 import PasswordHasher
from sqlalchemy import Engine

from site_agent import accounts, sign_ins
from site_agent.accounts import ROLES
from site_agent.database import utc_now

QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "correct horse battery"
EVERYTHING = "everything"  # has all roles
DISPLAY_NAMES = {
    "annotator": "Dr Anna Annotator",
    "reviewer": "Dr Rita Reviewer",
    "it": "Ida IT",
    "lead": "Prof Lea Lead",
    EVERYTHING: "Dr Eve Everything",
}


def add_people(engine: Engine) -> None:
    """Add one account for each role, called like it, and one with all; all have `PASSWORD`."""
    known = {account.username for account in accounts.listed(engine)}
    for username, name in DISPLAY_NAMES.items():
        if username not in known:
            title, first, last = (["", *name.split()])[-3:]
            accounts.create(
                engine,
                username,
                display_name=name,
                person_name=f"{last}^{first}^^{title}".rstrip("^"),
                roles=ROLES if username == EVERYTHING else [username],
                password=PASSWORD,
                actor="test",
                now=utc_now(),
                hasher=QUICK,
            )


def sign_in_token(engine: Engine, username: str = EVERYTHING) -> str:
    """Sign somebody in and return the token that the browser keeps."""
    return sign_ins.open_sign_in(engine, username, now=utc_now())
