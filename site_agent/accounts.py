"""Who may use the pages, and proving to be one of them.

An account has a password here, or belongs to one identity at the hospital's OpenID provider. What
happens to it is told to the audit log by its user name; a name that nobody has is not written down,
because people type passwords into the wrong field.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from argon2 import PasswordHasher
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from site_agent import audit_log
from site_agent.database import AccountRow, SignInRow, transaction
from site_agent.passwords import HASHER, hash_password, is_right, renewed, wait_after

ROLES = ("annotator", "reviewer", "it", "lead")
USERNAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
SUBJECT_SEPARATOR = "|"  # of an OpenID issuer and what it calls somebody
UNKNOWN = "unknown account"
NAME_LENGTH = 64  # of a component of a DICOM person name, PS3.5 6.2
REFUSED = (
    "not signed in: the user name or the password is wrong. After five wrong passwords an account "
    "waits for up to 15 minutes; hospital IT can set a new password"
)


@dataclass(frozen=True)
class Account:
    """Somebody who may use the pages.

    Attributes:
        username: what is typed to sign in, and the author of what is saved.
        display_name: as colleagues know the person.
        person_name: as DICOM writes it, `Family^Given`; signs contours.
        roles: of `ROLES`.
        oidc_subject: `ISSUER|SUBJECT` of the one identity it belongs to, without a password here.
        disabled: nobody signs in with it any more.
        locked_until: UTC; no password is tried before.
    """

    username: str
    display_name: str
    person_name: str
    roles: frozenset[str]
    oidc_subject: str | None = None
    disabled: bool = False
    locked_until: datetime | None = None


def of_row(row: AccountRow) -> Account:
    """Return the account of a row, without its password."""
    return Account(
        username=row.username,
        display_name=row.display_name,
        person_name=row.person_name,
        roles=frozenset(row.roles),
        oidc_subject=row.oidc_subject,
        disabled=row.disabled,
        locked_until=row.locked_until,
    )


def create(
    engine: Engine,
    username: str,
    *,
    display_name: str,
    person_name: str,
    roles: Iterable[str],
    actor: str,
    now: datetime,
    password: str | None = None,
    oidc_subject: str | None = None,
    hasher: PasswordHasher = HASHER,
) -> Account:
    """Add an account with a password, or with an identity at the OpenID provider.

    Raises:
        DataError: the name is taken or no user name, a role is unknown, or the password too weak.
    """
    username = username.strip().lower()
    if not USERNAME.fullmatch(username):
        raise DataError("user name: give letters a to z, digits and . _ @ -, at most 64")
    if (password is None) == (oidc_subject is None):
        raise DataError("account: give either a password or --oidc-subject")
    if oidc_subject is not None and not all(oidc_subject.partition(SUBJECT_SEPARATOR)):
        raise DataError(f"OIDC subject: give ISSUER{SUBJECT_SEPARATOR}SUBJECT")
    row = AccountRow(
        username=username,
        display_name=_name("display name", display_name),
        person_name=_name("person name", person_name),
        roles=_known(roles),
        password_hash=None
        if password is None
        else hash_password(password, username=username, hasher=hasher),
        oidc_subject=oidc_subject,
        disabled=False,
        failures=0,
        locked_until=None,
        created_at=now,
    )
    with transaction(engine) as session:
        if session.get(AccountRow, username) is not None:
            raise DataError(f"account {username}: there is one already: choose another user name")
        if oidc_subject is not None and _of_subject(session, oidc_subject) is not None:
            raise DataError("OIDC subject: another account has it: disable that one, or use it")
        session.add(row)
        detail = {"roles": row.roles, "oidc": oidc_subject is not None}
        _note(session, actor, "account_added", username, now, **detail)
        return of_row(row)


def find(engine: Engine, username: str) -> Account:
    """Return an account.

    Raises:
        DataError: there is none of this name.
    """
    with Session(engine) as session:
        return of_row(_row(session, username))


def listed(engine: Engine) -> list[Account]:
    """Return all accounts in order of their names."""
    with Session(engine) as session:
        rows = session.scalars(select(AccountRow).order_by(AccountRow.username))
        return [of_row(row) for row in rows]


def display_names(engine: Engine) -> dict[str, str]:
    """Return what people are called, by user name."""
    return {account.username: account.display_name for account in listed(engine)}


def set_roles(
    engine: Engine, username: str, roles: Iterable[str], *, actor: str, now: datetime
) -> None:
    """Give an account other roles; they hold from the next click on.

    Raises:
        DataError: no such account, or an unknown role.
    """
    wanted = _known(roles)
    with transaction(engine) as session:
        row = _row(session, username)
        if row.roles != wanted:
            before, row.roles = row.roles, wanted
            _note(session, actor, "roles_changed", row.username, now, before=before, after=wanted)


def set_disabled(
    engine: Engine, username: str, disabled: bool, *, actor: str, now: datetime
) -> None:
    """Shut an account, ending its sign-ins, or open it again. An account is never removed.

    Raises:
        DataError: no such account.
    """
    with transaction(engine) as session:
        row = _row(session, username)
        if row.disabled != disabled:
            row.disabled = disabled
            ended = _end_all(session, row.username, now) if disabled else 0
            event = "account_disabled" if disabled else "account_enabled"
            _note(session, actor, event, row.username, now, sign_ins_ended=ended)


def set_password(
    engine: Engine,
    username: str,
    password: str,
    *,
    actor: str,
    now: datetime,
    hasher: PasswordHasher = HASHER,
) -> None:
    """Set a new password; sign-ins and waiting under the old one end.

    Raises:
        DataError: no such account, one without a password, or the password is too weak.
    """
    if find(engine, username).oidc_subject is not None:
        raise DataError(f"account {username}: its password is kept by the hospital's own sign-in")
    hashed = hash_password(password, username=username, hasher=hasher)
    with transaction(engine) as session:
        row = _row(session, username)
        row.password_hash, row.failures, row.locked_until = hashed, 0, None
        ended = _end_all(session, row.username, now)
        _note(session, actor, "password_set", row.username, now, sign_ins_ended=ended)


def end_sign_ins(engine: Engine, username: str, *, actor: str, now: datetime) -> int:
    """Sign an account out wherever it is signed in; return in how many browsers.

    Raises:
        DataError: no such account.
    """
    with transaction(engine) as session:
        row = _row(session, username)
        ended = _end_all(session, row.username, now)
        _note(session, actor, "signed_out_everywhere", row.username, now, sign_ins_ended=ended)
        return ended


def authenticate(
    engine: Engine, username: str, password: str, *, now: datetime, hasher: PasswordHasher = HASHER
) -> Account:
    """Return the account whose password this is.

    One answer for every reason, after one time of hashing: who guesses does not learn which names
    exist. Wrong passwords in a row make the account wait longer and longer.

    Raises:
        DataError: unknown, disabled, locked, or wrong.
    """
    username = username.strip().lower()
    if not USERNAME.fullmatch(username):
        username = ""  # nobody's; some texts are more than a database takes
    account = _check(engine, username, password, "sign_in_failed", now, hasher)
    if account is None:
        raise DataError(REFUSED)
    return account


def reauthenticate(
    engine: Engine, username: str, password: str, *, now: datetime, hasher: PasswordHasher = HASHER
) -> None:
    """Ask somebody who is signed in for the password once more, for a signature.

    Raises:
        DataError: it is wrong, or the account waits or was disabled meanwhile.
    """
    if _check(engine, username, password, "signature_password_failed", now, hasher) is not None:
        return
    account = find(engine, username)
    if account.disabled:
        raise DataError("this account was disabled: ask hospital IT")
    if account.oidc_subject is not None:
        raise DataError("this account has no password here: confirm with the hospital's sign-in")
    if account.locked_until is not None and account.locked_until > now:
        left = -(-(account.locked_until - now) // timedelta(minutes=1))
        raise DataError(f"too many wrong passwords: try again in {left} min")
    raise DataError("the password is wrong: nothing was signed; type it again")


def of_subject(engine: Engine, oidc_subject: str) -> Account | None:
    """Return the account of an identity at the OpenID provider, if IT added one."""
    with Session(engine) as session:
        row = _of_subject(session, oidc_subject)
        return None if row is None else of_row(row)


def note_refusal(engine: Engine, username: str | None, reason: str, *, now: datetime) -> None:
    """Write down that somebody whom the provider knows was not let in; None has no account."""
    with transaction(engine) as session:
        name = username or UNKNOWN
        _note(session, name, "sign_in_failed", name, now, reason=reason)


def _check(
    engine: Engine,
    username: str,
    password: str,
    event: str,
    now: datetime,
    hasher: PasswordHasher,
) -> Account | None:
    """Try a password and count; hashing is slow, so nobody's writing waits for it."""
    with Session(engine) as session:
        row = session.get(AccountRow, username)
        waits = row is not None and _waits(row, now)
        stored = None if row is None or waits else row.password_hash
    right = is_right(password, stored, hasher=hasher)
    better = renewed(password, stored, hasher=hasher) if right and stored else None
    with transaction(engine) as session:
        row = session.get(AccountRow, username)
        if row is None:
            _note(session, UNKNOWN, event, UNKNOWN, now, reason="unknown")
            return None
        # Asked again: others may have guessed, or IT disabled it, while this one was hashed.
        if waits or _waits(row, now) or row.disabled or row.password_hash is None:
            reason = "disabled" if row.disabled else "locked" if row.password_hash else "oidc"
            _note(session, username, event, username, now, reason=reason)
            return None
        if not right or row.password_hash != stored:
            row.failures += 1
            _note(session, username, event, username, now, reason="wrong", failures=row.failures)
            if wait := wait_after(row.failures):
                row.locked_until = now + wait
                waiting = int(wait.total_seconds())
                _note(session, username, "account_locked", username, now, seconds=waiting)
            return None
        row.failures, row.locked_until = 0, None
        row.password_hash = better or stored
        return of_row(row)


def _waits(row: AccountRow, now: datetime) -> bool:
    return row.locked_until is not None and row.locked_until > now


def _row(session: Session, username: str) -> AccountRow:
    row = session.get(AccountRow, username.strip().lower())
    if row is None:
        raise DataError(f"account {username}: there is none: see 'fedgtv-site account list'")
    return row


def _of_subject(session: Session, oidc_subject: str) -> AccountRow | None:
    return session.scalars(
        select(AccountRow).where(AccountRow.oidc_subject == oidc_subject)
    ).one_or_none()


def _end_all(session: Session, username: str, now: datetime) -> int:
    alive = (SignInRow.username == username, SignInRow.ended_at.is_(None))
    count = len(session.scalars(select(SignInRow.token_sha256).where(*alive)).all())
    session.execute(update(SignInRow).where(*alive).values(ended_at=now))
    return count


def _known(roles: Iterable[str]) -> list[str]:
    wanted = set(roles)
    if unknown := sorted(wanted - set(ROLES)):
        raise DataError(f"role '{unknown[0]}': there is none: give one of {', '.join(ROLES)}")
    if not wanted:
        raise DataError(f"roles: give at least one of {', '.join(ROLES)}")
    return [role for role in ROLES if role in wanted]


def _name(what: str, text: str) -> str:
    """Hold a name to what DICOM, pages and logs can all show."""
    text = text.strip()
    if not 1 <= len(text) <= NAME_LENGTH or not text.isprintable() or set(text) & set("\\=<>"):
        raise DataError(f"{what}: give 1 to {NAME_LENGTH} letters without \\ = < >")
    return text


def _note(
    session: Session, actor: str, event: str, subject: str, now: datetime, **detail: Any
) -> None:
    audit_log.append(session, actor=actor, event=event, subject=subject, detail=detail, at=now)
