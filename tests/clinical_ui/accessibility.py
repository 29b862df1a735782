"""What axe-core finds on a page."""

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from scripts.fetch_axe import FILE
from tests.debian_packages import absent

GRAVE = ("serious", "critical")


@cache
def axe_source() -> str:
    """Return axe-core, which `make setup` fetched; FEDGTV_AXE=FILE names another copy."""
    file = Path(os.environ.get("FEDGTV_AXE", Path(sys.prefix) / FILE))
    if not file.is_file():
        absent("axe-core", "it with 'make setup', which fetches it from the npm registry")
    return file.read_text("utf-8")


def grave_violations(page: Any) -> list[str]:
    """Return what axe-core calls serious or critical on a page, one line each with its place."""
    page.evaluate(axe_source())  # not a script tag, which the pages' own policy forbids
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['impact']} {violation['id']}: {node['target']} {node['html'][:200]}"
        for violation in found["violations"]
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
    ]
