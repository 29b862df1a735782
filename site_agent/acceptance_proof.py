"""The proof of an acceptance: what was looked at and found, for people and programs, signed here.

acceptance.json            every check with its state and what was found, versions, figures
acceptance.html            the same for people
acceptance.signature.json  SHA-256 of both, under the hospital's Ed25519 key
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jinja2 import Environment
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.enrolment import KeyHex, SignatureHex, fingerprint
from algorithms.contracts.errors import DataError
from algorithms.contracts.health import CHECK_MARKS, Check, CheckState
from site_agent.config import SiteHome
from site_agent.site_keys import SiteKeys
from supervision.working_folder import write_whole

JSON_FILE, HTML_FILE = "acceptance.json", "acceptance.html"
SEAL_FILE = "acceptance.signature.json"
LIBRARIES = ("torch", "monai", "pydicom", "pynetdicom", "flwr", "streamlit", "cryptography")

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Acceptance of {{ site }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1f2937; }
h1 { margin-bottom: 0; } .verdict { font-size: 1.3rem; font-weight: 600; }
.passed { color: #166534; } .not { color: #991b1b; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
td, th { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #e5e7eb;
  vertical-align: top; }
.ok { color: #166534; } .warning { color: #92400e; } .failed { color: #991b1b; }
.note { color: #6b7280; font-size: .9rem; } code { word-break: break-all; }
</style></head><body>
<h1>Acceptance of {{ site }}</h1>
<p class="note">Study {{ study }}, {{ at }} (UTC). Research use only, not a medical device.</p>
<p class="verdict {{ 'passed' if passed else 'not' }}">
{{ "Passed: a phantom went from the PACS through the model to an RTSTRUCT in the PACS." if passed
   else "Not passed: see what failed, and what helps." }}</p>
<table><tr><th></th><th>What</th><th>Found</th></tr>
{% for check in checks %}<tr><td class="{{ check.state.value }}">{{ marks[check.state] }}</td>
<td>{{ check.name }}</td><td>{{ check.line }}</td></tr>
{% endfor %}</table>
<table><tr><th>Figure</th><th>Value</th></tr>
{% for name, value in facts %}<tr><td>{{ name }}</td><td><code>{{ value }}</code></td></tr>
{% endfor %}</table>
<table><tr><th>Software</th><th>Version</th></tr>
{% for name, value in software %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</table>
<p class="note">Signed with the key <code>{{ key }}</code>. To check it:
<code>fedgtv-site acceptance-verify FOLDER --key KEY</code></p>
</body></html>
"""


class Statement(BaseModel):
    """What is signed; it names itself, so that a signature of it is one of nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fedgtv_acceptance"] = "fedgtv_acceptance"
    files: dict[str, str]


class Seal(BaseModel):
    """The statement, and the hospital's signature over its canonical JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    statement: Statement
    public_key_hex: KeyHex
    signature_hex: SignatureHex = Field(default="0" * 128)


def has_passed(checks: Sequence[Check], steps: Sequence[str]) -> bool:
    """Say whether every step was reached, and nothing failed."""
    reached = {check.name for check in checks}
    failed = any(check.state is CheckState.FAILED for check in checks)
    return not failed and set(steps) <= reached


def write_proof(
    home: SiteHome,
    output: Path,
    checks: Sequence[Check],
    facts: Mapping[str, object],
    *,
    passed: bool,
    at: datetime,
) -> None:
    """Write and sign the proof; `at` is UTC.

    Raises:
        DataError: `output` is there already, or the hospital's key is lost or damaged.
    """
    if output.exists():
        raise DataError(f"{output}: is there already: choose another folder")
    keys = SiteKeys.open(home)
    # It is handed on: where on this hospital's disks the home lies is nobody's business.
    folder, name = str(home.folder), home.config.name
    told = [replace(check, line=check.line.replace(folder, name)) for check in checks]
    software = {"fedgtv": version("fedgtv"), "python": platform.python_version()}
    software |= {name: version(name) for name in LIBRARIES if _is_installed(name)}
    said = {
        "kind": "fedgtv_acceptance",
        "site": home.config.name,
        "study": home.config.study,
        "at": at.isoformat(timespec="seconds"),
        "passed": passed,
        "checks": [{"name": c.name, "state": c.state.value, "line": c.line} for c in told],
        "facts": dict(facts),
        "software": software,
        "public_key": keys.signing_public_key_hex,
    }
    page = Environment(autoescape=True).from_string(_PAGE)
    html = page.render(
        site=home.config.name,
        study=home.config.study,
        at=said["at"],
        passed=passed,
        checks=told,
        marks=CHECK_MARKS,
        facts=sorted(facts.items()),
        software=software.items(),
        key=fingerprint(keys.signing_public_key_hex),
    )
    contents = {JSON_FILE: canonical_json(said), HTML_FILE: html.encode()}
    statement = Statement(files={name: sha256_hex(body) for name, body in contents.items()})
    seal = Seal(
        statement=statement,
        public_key_hex=keys.signing_public_key_hex,
        signature_hex=keys.sign(_signed_bytes(statement)),
    )
    output.mkdir(parents=True)
    for name, content in (*contents.items(), (SEAL_FILE, seal.model_dump_json().encode())):
        write_whole(output / name, content, mode=0o644)


def verify_proof(folder: Path, public_key_hex: str) -> None:
    """Check a proof against the hospital's public key, which came by another way.

    Raises:
        DataError: naming the first file that is not what was signed.
    """
    file = folder / SEAL_FILE
    try:
        seal = Seal.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        raise DataError(f"{file}: not there, or no signature of an acceptance") from None
    if seal.public_key_hex != public_key_hex.replace(" ", "").lower():
        raise DataError(f"{file}: signed with another key: compare it with the hospital's")
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(seal.public_key_hex)).verify(
            bytes.fromhex(seal.signature_hex), _signed_bytes(seal.statement)
        )
    except (InvalidSignature, ValueError):
        raise DataError(f"{file}: the signature does not hold: do not trust it") from None
    if set(seal.statement.files) != {JSON_FILE, HTML_FILE}:
        raise DataError(f"{file}: does not sign what a proof consists of: do not trust it")
    for name, expected in seal.statement.files.items():
        part = folder / name
        if not part.is_file() or sha256_hex(part.read_bytes()) != expected:
            raise DataError(f"{part}: missing, or changed after it was signed: do not trust it")


def _signed_bytes(statement: Statement) -> bytes:
    return canonical_json(statement.model_dump(mode="json"))


def _is_installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None
