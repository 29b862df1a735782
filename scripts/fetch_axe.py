"""Fetch axe-core, which checks the pages for people who see or move badly, into an environment.

Called by setup.sh as `fetch_axe.py VENV`. One file out of the package's archive, whose hash stands
here, from the registry that npm would ask; npm itself is not needed.
"""

import base64
import hashlib
import io
import os
import sys
import tarfile
import urllib.request
from pathlib import Path

VERSION = "4.14.1"
INTEGRITY_SHA512 = (
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)
FILE = Path("share") / "axe-core" / f"axe-{VERSION}.min.js"
_MEMBER = "package/axe.min.js"
_TIMEOUT_S = 60


def fetch(environment: Path) -> Path:
    """Return the file, after fetching it where it is absent.

    Raises:
        OSError: the registry does not answer.
        ValueError: it answers with something else.
    """
    target = environment / FILE
    if target.is_file():
        return target
    registry = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
    address = f"{registry}/axe-core/-/axe-core-{VERSION}.tgz"
    if not address.startswith("https://"):
        raise ValueError(f"{address} is no https address")
    with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        archive = answer.read()
    if base64.b64encode(hashlib.sha512(archive).digest()).decode() != INTEGRITY_SHA512:
        raise ValueError(f"{address} is not the archive that is known here")
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        member = opened.extractfile(_MEMBER)
        if member is None:
            raise ValueError(f"{address} holds no {_MEMBER}")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".part")
        temporary.write_bytes(member.read())
        temporary.replace(target)
    return target


if __name__ == "__main__":
    try:
        fetch(Path(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"setup: axe-core is absent, accessibility tests will be skipped: {error}")
