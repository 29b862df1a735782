"""Browsers that are signed in: random tokens, of which only the hash is kept.

A sign-in ends when somebody signs out, when nothing was done for a while, and in any case after
some hours. Nothing else is believed: not a cookie's own date, not a provider's cookie.
"""

import hashlib
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError
from site_agent import audit_log
from site_agent.accounts import SUBJECT_SEPARATOR, Account, note_refusal, of_row, of_subject
from site_agent.database import AccountRow, SignInRow, transaction

TOKEN_BYTES = 32
TOUCH_EVERY = timedelta(minutes=1)
KEPT = timedelta(days=30)  # ended sign-ins; the audit log keeps that they were
IDENTITY_AGE = timedelta(minutes=5)  # of what the provider says, clocks that differ included
_ROUNDING_S = 2.0
_ONCE = ("iss", "sub", "iat", "nonce")  # the nonce is drawn anew for every login


def open_sign_in(
    engine: Engine,
    username: str,
    *,
    now: datetime,
    method: str = "password",
    replaces: str | None = None,
) -> str:
    """Sign somebody in who proved to be `username`; return the token for the browser to keep.

    `replaces` is the token the browser had before: it ends, so that nobody who planted or saw it
    is signed in with it.

    Raises:
        DataError: no such account, or it is disabled.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with transaction(engine) as session:
        row = session.get(AccountRow, username)
        if row is None or row.disabled:
            raise DataError("this account cannot sign in: ask hospital IT")
        if replaces is not None:
            _end(session, replaces, now)
        session.execute(delete(SignInRow).where(SignInRow.signed_in_at < now - KEPT))
        session.add(
            SignInRow(
                token_sha256=_digest(token),
                username=username,
                signed_in_at=now,
                last_seen_at=now,
                ended_at=None,
            )
        )
        _note(session, username, "signed_in", now, method=method)
    return token


def seconds_left(
    engine: Engine, token: str, *, now: datetime, idle_s: float, absolute_s: float
) -> float:
    """Return how long a token is good if nothing is done; 0 when it is not."""
    with Session(engine) as session:
        row = session.get(SignInRow, _digest(token))
        return 0.0 if row is None else _left(row, now, idle_s, absolute_s)


def account_of(
    engine: Engine, token: str, *, now: datetime, idle_s: float, absolute_s: float
) -> Account | None:
    """Return who is signed in with a token; None when it is unknown, ended or too old."""
    with Session(engine) as session:
        row = session.get(SignInRow, _digest(token))
        if row is None or _left(row, now, idle_s, absolute_s) <= 0:
            return None
        account = session.get_one(AccountRow, row.username)
        return None if account.disabled else of_row(account)


def touch(engine: Engine, token: str, *, now: datetime, idle_s: float, absolute_s: float) -> None:
    """Note that somebody works, which puts the idle timeout off; at most once a minute."""
    with Session(engine) as session:
        row = session.get(SignInRow, _digest(token))
        if row is None or now - row.last_seen_at < TOUCH_EVERY:
            return
    with transaction(engine) as session:
        row = session.get(SignInRow, _digest(token))
        if row is not None and _left(row, now, idle_s, absolute_s) > 0:
            row.last_seen_at = now


def end(engine: Engine, token: str, *, now: datetime) -> None:
    """Sign a browser out; the token is good for nothing from here on."""
    with transaction(engine) as session:
        _end(session, token, now)


def take_identity(engine: Engine, claims: Mapping[str, Any], *, now: datetime) -> Account | None:
    """Return the account of somebody whom the OpenID provider just signed in.

    None for an ID token that is old or was taken before: its copy in a cookie lives for a month.

    Args:
        engine: of the site's database.
        claims: of an ID token whose signature, issuer, audience and nonce were checked.
        now: UTC.

    Raises:
        DataError: nobody here has this identity.
    """
    subject = f"{claims.get('iss', '')}{SUBJECT_SEPARATOR}{claims.get('sub', '')}"
    account = of_subject(engine, subject)
    username = None if account is None else account.username
    issued = _time(claims.get("iat"))
    if issued is None or abs(now - issued) > IDENTITY_AGE:
        return None
    if account is None or account.disabled:
        note_refusal(engine, username, "disabled" if account else "unknown", now=now)
        raise DataError(
            "you are signed in at the hospital, but no account here is yours. Ask hospital IT to "
            f"add one with: --oidc-subject '{subject}'"
        )
    try:
        with transaction(engine) as session:
            # A row that has ended: it signs nobody in, and its key keeps the token from coming
            # twice, whatever process and whatever restart it comes to.
            session.add(
                SignInRow(
                    token_sha256=sha256_hex(canonical_json([claims.get(k) for k in _ONCE])),
                    username=account.username,
                    signed_in_at=now,
                    last_seen_at=now,
                    ended_at=now,
                )
            )
    except IntegrityError:
        return None
    return account


def is_fresh_login(claims: Mapping[str, Any], *, asked_at: datetime, now: datetime) -> bool:
    """Say whether the provider made somebody prove who they are after we asked, not before.

    `auth_time` is when they did, `iat` when the provider told us: by the provider's own clock, no
    more time may lie between than went by here since the question.
    """
    authenticated, issued = _time(claims.get("auth_time")), _time(claims.get("iat"))
    if authenticated is None or issued is None:
        return False
    return (issued - authenticated).total_seconds() <= (now - asked_at).total_seconds() + (
        _ROUNDING_S
    )


def _left(row: SignInRow, now: datetime, idle_s: float, absolute_s: float) -> float:
    if row.ended_at is not None:
        return 0.0
    idle = idle_s - (now - row.last_seen_at).total_seconds()
    absolute = absolute_s - (now - row.signed_in_at).total_seconds()
    return max(0.0, min(idle, absolute))


def _end(session: Session, token: str, now: datetime) -> None:
    row = session.get(SignInRow, _digest(token))
    if row is not None and row.ended_at is None:
        row.ended_at = now
        _note(session, row.username, "signed_out", now)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def _time(seconds: object) -> datetime | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    except (OverflowError, ValueError, OSError):
        return None


def _note(session: Session, username: str, event: str, now: datetime, **detail: Any) -> None:
    audit_log.append(session, actor=username, event=event, subject=username, detail=detail, at=now)
