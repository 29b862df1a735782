"""Make a site's home directory: configuration, secrets and an empty database."""

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.fernet import Fernet

from algorithms.contracts.configuration import parse_configuration
from algorithms.contracts.errors import DataError
from site_agent.config import CONFIG_FILE, ENVIRONMENT_PREFIX, SiteConfig, SiteHome
from site_agent.database import create_database
from site_agent.residue import text_residue

_TEMPLATE = """\
# fedgtv site. Research use only, not a medical device.
# Every key can be overridden by an environment variable FEDGTV_SITE_<KEY>.
name = {name}
study = {study}
role = {role}
trusted_keys = {trusted_keys}
# auto_approve = true   # demonstrations only: packages and reports pass without a person
"""


def initialise(
    folder: Path, *, name: str, study: str, role: str, trusted_keys: Sequence[str]
) -> None:
    """Make `folder` a site's home; secrets are drawn here and never leave.

    The configuration comes last and in one step: a home that has one is complete, and an attempt
    that was killed is finished by the next.

    Raises:
        DataError: when there is one already, or a value is wrong.
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
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    secrets_folder = folder / "secrets"
    secrets_folder.mkdir(mode=0o700, exist_ok=True)
    keys = {"pseudonym.key": secrets.token_bytes(32), "crosswalk.key": Fernet.generate_key()}
    for key, value in keys.items():
        if not (secrets_folder / key).exists():
            _write_whole(secrets_folder / key, value, mode=0o600)
    create_database(home.database_url)
    _write_whole(file, text.encode(), mode=0o644)


def _write_whole(file: Path, content: bytes, *, mode: int) -> None:
    """Write a file in one step, so that a kill leaves no half of it."""
    temporary = file.with_name(file.name + ".part")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode)
    temporary.write_bytes(content)
    temporary.replace(file)
