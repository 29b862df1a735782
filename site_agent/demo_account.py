"""The account of a demonstration: made by itself, and gone when the site is no demonstration.

A site is one when its configuration says `auto_approve = true`. The password is drawn once and lies
beside the site's keys, so that starting the pages again signs nobody out and can print it again.
"""

import os
from datetime import datetime

from sqlalchemy import Engine

from algorithms.contracts.errors import DataError
from site_agent import accounts
from site_agent.config import SiteHome
from site_agent.passwords import drawn_password

USERNAME = "demo"
PASSWORD_FILE = "demo.password"  # noqa: S105 - a file's name
_ACTOR = "pages"


def prepare(home: SiteHome, engine: Engine, *, now: datetime) -> str | None:
    """Make the demo account where it belongs and shut it elsewhere; return its password, if any.

    It belongs to a demonstration that signs in with passwords and to which nobody else was added.
    """
    known = {account.username: account for account in accounts.listed(engine)}
    demo = known.get(USERNAME)
    if not home.config.auto_approve or home.config.sign_in.method != "local":
        if demo is not None and not demo.disabled:
            accounts.set_disabled(engine, USERNAME, True, actor=_ACTOR, now=now)
        return None
    if demo is None and known:
        return None
    file = home.folder / "secrets" / PASSWORD_FILE
    if demo is None:
        password = drawn_password()
        accounts.create(
            engine,
            USERNAME,
            display_name="Demo account",
            person_name="Demo^Account",
            roles=accounts.ROLES,
            password=password,
            actor=_ACTOR,
            now=now,
        )
    elif demo.disabled:
        return None  # somebody did so on purpose
    elif file.is_file():
        return file.read_text("utf-8").strip()
    else:
        password = drawn_password()
        accounts.set_password(engine, USERNAME, password, actor=_ACTOR, now=now)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error.strerror}): mend its folder") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        opened.write(password + "\n")
    return password
