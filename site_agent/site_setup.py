"""Make a site's home directory: configuration, secrets and an empty database."""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.fernet import Fernet

from algorithms.contracts.errors import DataError
from site_agent.config import CONFIG_FILE, open_home
from site_agent.database import open_database

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

    Raises:
        DataError: when there is one already, or a value is wrong.
    """
    file = folder / CONFIG_FILE
    if file.exists():
        raise DataError(f"{file}: exists already: edit it, or choose another --home")
    values = {"name": name, "study": study, "role": role, "trusted_keys": list(trusted_keys)}
    folder.mkdir(parents=True, exist_ok=True)
    # TOML and JSON write strings and lists of strings alike.
    file.write_text(_TEMPLATE.format(**{k: json.dumps(v) for k, v in values.items()}), "utf-8")
    try:
        home = open_home(folder)
    except DataError:
        file.unlink()
        raise
    keys = {"pseudonym.key": secrets.token_bytes(32), "crosswalk.key": Fernet.generate_key()}
    (folder / "secrets").mkdir(mode=0o700, exist_ok=True)
    for key, value in keys.items():
        target = folder / "secrets" / key
        target.touch(mode=0o600)
        target.write_bytes(value)
    open_database(home.database_url)
