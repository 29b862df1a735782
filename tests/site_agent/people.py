"""Accounts for tests: real ones, whose passwords are hashed with little effort."""

from argon2 import PasswordHasher
from sqlalchemy import Engine

from site_agent import accounts
from site_agent.accounts import Account
from site_agent.database import utc_now

QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "correct horse battery"


def add(engine: Engine, username: str = "anna", *, roles=("annotator",), **changes) -> Account:
    """Add an account with `PASSWORD`, or with what `changes` says."""
    fields = {
        "display_name": "Dr Anna Example",
        "person_name": "Example^Anna^^Dr",
        "password": None if "oidc_subject" in changes else PASSWORD,
        "actor": "test",
        "now": utc_now(),
        "hasher": QUICK,
        **changes,
    }
    return accounts.create(engine, username, roles=roles, **fields)
