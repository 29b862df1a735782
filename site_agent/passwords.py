"""Passwords of the pages: what one must be, how it is kept, and what wrong ones cost."""

import secrets
import unicodedata
from datetime import timedelta
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from algorithms.contracts.errors import DataError

MIN_LENGTH = 12
MAX_LENGTH = 1024  # hashing takes as long as its text
FREE_FAILURES = 4  # wrong ones before an account has to wait
FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(minutes=15)
HASHER = PasswordHasher()  # argon2id with the parameters of RFC 9106 for little memory


def hash_password(password: str, *, username: str, hasher: PasswordHasher = HASHER) -> str:
    """Return the argon2id hash that is kept of a new password, salt and parameters in it.

    Raises:
        DataError: it is too short, too long, or the user name.
    """
    password = _normal(password)
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise DataError(
            f"password: give one of {MIN_LENGTH} to {MAX_LENGTH} characters; a sentence will do"
        )
    if password.casefold() == username.casefold():
        raise DataError("password: the user name is the first that others try: give another")
    return hasher.hash(password)


def is_right(password: str, password_hash: str | None, *, hasher: PasswordHasher = HASHER) -> bool:
    """Say whether `password` is the one hashed; None is nobody's and takes as long to refuse."""
    decoy = _decoy(hasher)  # made before it is known whether there is an account
    if len(password) > MAX_LENGTH:
        password, password_hash = "", None
    try:
        return hasher.verify(password_hash or decoy, _normal(password))
    except (VerificationError, InvalidHashError):
        return False


def renewed(password: str, password_hash: str, *, hasher: PasswordHasher = HASHER) -> str | None:
    """Return a new hash of a right password where the old has not the parameters of today."""
    if not hasher.check_needs_rehash(password_hash):
        return None
    return hasher.hash(_normal(password))


def wait_after(failures: int) -> timedelta:
    """Return how long an account waits after so many wrong passwords in a row.

    >>> [int(wait_after(n).total_seconds()) for n in (4, 5, 6, 7, 9, 10, 10**6)]
    [0, 30, 60, 120, 480, 900, 900]
    """
    over = failures - FREE_FAILURES
    if over <= 0:
        return timedelta(0)
    return min(LONGEST_WAIT, FIRST_WAIT * (1 << min(over - 1, 16)))


def drawn_password() -> str:
    """Draw a password of 80 random bits that can be typed from a piece of paper."""
    text = secrets.token_hex(10)
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


@cache
def _decoy(hasher: PasswordHasher) -> str:
    return hasher.hash(secrets.token_hex(16))


def _normal(password: str) -> str:
    """Write letters with accents one way, whatever keyboard they came from (NIST SP 800-63B)."""
    return unicodedata.normalize("NFKC", password)
