"""One frozen configuration object per process, from TOML text and environment variables."""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError

from algorithms.contracts.errors import DataError

Configuration = TypeVar("Configuration", bound=BaseModel)


def parse_configuration(
    text: str, environ: Mapping[str, str], model: type[Configuration], *, prefix: str, source: str
) -> Configuration:
    """Build a `model` from TOML `text`, overridden by variables that start with `prefix`.

    `FEDGTV_SITE_THREADS=2` overrides the key `threads` when the prefix is "FEDGTV_SITE_", and
    `FEDGTV_SITE_ROI_NAMES='["GTVp"]'` a list, and `'{"key": ...}'` a table.

    Args:
        text: the TOML file's text.
        environ: the environment.
        model: the configuration class; its fields are the known keys.
        prefix: of the environment variables that count.
        source: name of the file, for error messages.

    Raises:
        DataError: for broken TOML, an unknown key (naming the nearest known one) or a bad value.
    """
    try:
        values = dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{source}: not valid TOML ({error}): correct the file") from error
    known = sorted(model.model_fields)
    _check_all_known(values, model, source)
    for variable, value in environ.items():
        if variable.startswith(prefix):
            key = variable.removeprefix(prefix).lower()
            _check_known(key, known, f"environment variable {variable}")
            values[key] = _listed(value)
            _check_all_known({key: values[key]}, model, f"environment variable {variable}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "configuration"
        raise DataError(f"{source}: key '{where}': {first['msg']}: correct the value") from error


def has_password_in_query(url: str) -> bool:
    """Say whether a password stands after the "?" of a URL, where nothing hides it.

    >>> has_password_in_query("postgresql://db.example.org/fedgtv?password=x")
    True
    """
    query = re.sub(r"%([0-9A-Fa-f]{2})", lambda code: chr(int(code[1], 16)), url.partition("?")[2])
    return any("password" in pair.partition("=")[0].lower() for pair in query.split("&"))


def refuse_password_in_query(url: str) -> str:
    """Return the URL of a database; only a password in its own place is hidden where it is shown.

    Raises:
        ValueError: a password stands after the "?".
    """
    if has_password_in_query(url):
        raise ValueError(
            "a password after the '?' would be shown: write it before the '@', or into ~/.pgpass"
        )
    return url


def _listed(value: str) -> object:
    """Read lists and tables, written as in JSON; everything else pydantic reads from text."""
    if value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _check_all_known(values: object, model: type[BaseModel], source: str, table: str = "") -> None:
    """Check the keys of a table, and of the tables and lists of tables in it."""
    for row in values if isinstance(values, list) else [values]:
        if not isinstance(row, dict):
            continue  # pydantic says what it should have been
        for key, value in row.items():
            _check_known(
                key, sorted(model.model_fields), f"{source}: table '{table}'" if table else source
            )
            inner = _table_model(model.model_fields[key].annotation)
            if inner is not None:
                _check_all_known(value, inner, source, f"{table}.{key}".lstrip("."))


def _table_model(annotation: object) -> type[BaseModel] | None:
    """Find the model that a field takes, alone, optional or many of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_table_model(part) for part in get_args(annotation))
    return next((model for model in found if model is not None), None)


def _check_known(key: str, known: list[str], source: str) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    raise DataError(f"{source}: unknown key '{key}': did you mean '{near[0]}'?")
