"""The viewer's ES modules and style as the one module that Streamlit loads.

Streamlit serves a component's files only from a package whose name is the distribution's, and
tells browsers to cache them. Handed over as text they work from a checkout, an editable install
and a wheel alike, and always are of this version. The browser loads the text from a blob: address,
so a content security policy needs `script-src 'self' blob:`.
"""

import json
import re
from functools import cache
from importlib.resources import files

from algorithms.contracts.errors import DataError

ENTRY = "main"
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.MULTILINE)
_EXPORTED = re.compile(r"^export (?=async function|function|class|const)", re.MULTILINE)
_DEFAULT = re.compile(r"^export default function (\w+)", re.MULTILINE)

_COMMENT = re.compile(r"^ *(?:/\*\*.*?\*/|//[^\n]*)\n", re.MULTILINE | re.DOTALL)
_INDENT = re.compile(r"^ +", re.MULTILINE)


@cache
def script() -> str:
    """Return modules and style as one module; its default export is the entry's.

    Each module keeps a scope of its own.

    Raises:
        DataError: when the installation lacks a module.
    """
    parts: dict[str, str] = {}
    _add(ENTRY, parts, ())
    whole = "\n".join([*parts.values(), f"export default modules.{ENTRY}.default;"])
    # Comments are for people: the browser is sent the script with every update.
    return (
        _INDENT.sub("", _COMMENT.sub("", whole))
        + f"\nconst STYLE = {json.dumps(_read('style.css'))};\nexport {{ modules }};\n"
    )


@cache
def doorway() -> str:
    """Return the module of the viewer's own mount, which leads to `script`.

    Raises:
        DataError: when the installation lacks it.
    """
    return module("doorway")


def module(name: str) -> str:
    """Return the text of one ES module.

    Raises:
        DataError: when the installation lacks it.
    """
    return _read(f"{name}.js")


def _add(name: str, parts: dict[str, str], importers: tuple[str, ...]) -> None:
    """Put a module behind those that it imports from."""
    if name in importers:
        raise ValueError(f"{name}.js imports itself by way of {', '.join(importers)}")
    if name in parts:
        return
    text = module(name)
    for _, imported in IMPORT.findall(text):
        _add(imported, parts, (*importers, name))
    exported = _EXPORT.findall(text)
    if default := _DEFAULT.search(text):
        exported.append(f"default: {default[1]}")
        text = _DEFAULT.sub(r"function \1", text)
    text = IMPORT.sub(r"const {\1} = modules.\2;\n", text)
    text = _EXPORTED.sub("", text)
    head = "" if parts else "const modules = {};\n"
    parts[name] = (
        f"{head}modules.{name} = (() => {{\n{text}return {{ {', '.join(exported)} }};\n}})();"
    )


def _read(name: str) -> str:
    try:
        return files(__package__).joinpath(name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"the viewer's {name} is missing: install fedgtv again") from error
