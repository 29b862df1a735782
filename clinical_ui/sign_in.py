"""Stand-in until the real sign-in is merged: same names, everybody is the same doctor."""

from dataclasses import dataclass

from algorithms.contracts.errors import DataError


@dataclass(frozen=True)
class Account:
    """Somebody who may use the pages."""

    username: str
    display_name: str
    roles: frozenset[str]


def current() -> Account:
    """Return who is signed in."""
    return Account("doctor", "Dr Example", frozenset({"annotator", "reviewer", "it", "lead"}))


def actor(*roles: str) -> Account:
    """Return who is signed in and has one of `roles`, for callbacks, which cannot stop a page.

    Raises:
        DataError: nobody is, or another role would be needed.
    """
    account = current()
    if roles and not account.roles & set(roles):
        raise DataError("another role is needed")
    return account


def touch() -> None:
    """Say that who is signed in is working."""
