"""Make a site's home directory: configuration, secrets and an empty database."""

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.fernet import Fernet
from sqlalchemy import select

from algorithms.contracts.configuration import parse_configuration
from algorithms.contracts.errors import DataError
from site_agent.config import CONFIG_FILE, ENVIRONMENT_PREFIX, KEY_BYTES, SiteConfig, SiteHome
from site_agent.database import CaseRow, answering, connect, create_database, schema_of
from site_agent.residue import text_residue
from supervision.working_folder import write_whole

_TEMPLATE = """\
# fedgtv site. Research use only, not a medical device.
# Every key can be overridden by an environment variable FEDGTV_SITE_<KEY>.
name = {name}
study = {study}
role = {role}
trusted_keys = {trusted_keys}
# auto_approve = true   # demonstrations only: packages and reports pass without a person
"""


_KEYS = {
    "pseudonym.key": lambda: secrets.token_bytes(KEY_BYTES),
    "crosswalk.key": Fernet.generate_key,
}


def initialise(
    folder: Path, *, name: str, study: str, role: str, trusted_keys: Sequence[str]
) -> None:
    """Make `folder` a site's home; secrets are drawn here and never leave.

    The configuration comes last and in one step: a home that has one is complete, and an attempt
    that was killed is finished by the next.

    Raises:
        DataError: when there is one already, a value is wrong, or a key is missing that the cases
            here were made with.
    """
    file = folder / CONFIG_FILE
    if file.exists():
        raise DataError(f"{file}: exists already: edit it, or choose another --home")
    values = {"name": name, "study": study, "role": role, "trusted_keys": list(trusted_keys)}
    # TOML and JSON write strings and lists of strings alike.
    text = _TEMPLATE.format(**{key: json.dumps(value) for key, value in values.items()})
    config = parse_configuration(
        text, os.environ, SiteConfig, prefix=ENVIRONMENT_PREFIX, source=str(file)
    )
    for key, text_of_key in (("name", config.name), ("study", config.study)):
        if looks_like := text_residue(text_of_key):
            raise DataError(
                f"{file}: key '{key}': looks like a {looks_like}, with which no message may leave: "
                "choose another"
            )
    home = SiteHome(folder.resolve(), config)
    secrets_folder = folder / "secrets"
    missing = [key for key in _KEYS if not (secrets_folder / key).exists()]
    if missing and _holds_cases(home):
        raise DataError(
            f"{secrets_folder / missing[0]}: missing, but there are cases here already, which no "
            "new key fits: copy it back from where you keep the keys, or choose another --home"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    secrets_folder.mkdir(mode=0o700, exist_ok=True)
    for key in missing:
        write_whole(secrets_folder / key, _KEYS[key](), mode=0o600)
    create_database(home.database_url)
    write_whole(file, text.encode(), mode=0o644)


def _holds_cases(home: SiteHome) -> bool:
    """Say whether there are cases of a site whose configuration was lost."""
    if any(home.cases.glob("*")):
        return True
    location = home.database_url
    if location.get_backend_name() == "sqlite" and not Path(location.database or "").is_file():
        return False
    engine = connect(location)
    try:
        with answering(location), engine.connect() as connection:
            if schema_of(connection) is None:
                return False
            return connection.execute(select(CaseRow.case_id).limit(1)).first() is not None
    finally:
        engine.dispose()
