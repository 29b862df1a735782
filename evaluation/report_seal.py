"""The signature under a study report: which files, which hashes, whose key.

The statement that is signed names itself, so that a signature of a report is none of a package.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import Signature

SEAL_FILE = "study.signature.json"
SIGNED_FILES = (
    "study.json",
    "study.html",
    "study.csv",
    "study-subgroups.csv",
    "study-raters.csv",
)


class ReportStatement(BaseModel):
    """What is signed: the SHA-256 of every file of the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fedgtv_study_report"] = "fedgtv_study_report"
    study: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    files: dict[str, str]

    def signed_bytes(self) -> bytes:
        """Return the canonical JSON that is signed."""
        return canonical_json(self.model_dump(mode="json"))


class ReportSeal(BaseModel):
    """A statement and the Ed25519 signature over it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    statement: ReportStatement
    signature: Signature


class ReportSigner:
    """Signs reports with the study's key; whoever holds it makes one."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def seal(self, study: str) -> Callable[[Mapping[str, bytes]], bytes]:
        """Return what signs the files (name -> content) of a study's report: the `SEAL_FILE`."""

        def sign(files: Mapping[str, bytes]) -> bytes:
            statement = ReportStatement(
                study=study, files={name: sha256_hex(body) for name, body in files.items()}
            )
            public = self._key.public_key().public_bytes_raw()
            signature = Signature(
                key_id=sha256_hex(public)[:16],
                signature_hex=self._key.sign(statement.signed_bytes()).hex(),
            )
            made = ReportSeal(statement=statement, signature=signature)
            return canonical_json(made.model_dump(mode="json"))

        return sign


def verify_report(folder: Path, public_key_hex: str) -> ReportStatement:
    """Check a report's folder against its signature and the study's public key.

    1. the signature file is one; 2. the key is the one that signed; 3. the signature holds over the
    statement; 4. the statement names every file of a report; 5. each has the hash that it names.

    Args:
        folder: where `study.json` and the others lie.
        public_key_hex: 64 hexadecimal digits, from the study lead by another way than the report.

    Raises:
        DataError: naming the first rule that is broken.
    """
    try:
        raw_key = bytes.fromhex(public_key_hex)
        key = Ed25519PublicKey.from_public_bytes(raw_key)
    except ValueError:
        raise DataError("--key: not a public key: 64 hexadecimal digits, from the study") from None
    file = folder / SEAL_FILE
    try:
        seal = ReportSeal.model_validate_json(file.read_bytes())
    except OSError:
        raise DataError(f"{file}: not there: the report is not signed") from None
    except ValidationError:
        raise DataError(f"{file}: not the signature of a report: ask for the report anew") from None
    if seal.signature.key_id != sha256_hex(raw_key)[:16]:
        raise DataError(f"{file}: signed by another key ({seal.signature.key_id}): do not trust it")
    try:
        key.verify(bytes.fromhex(seal.signature.signature_hex), seal.statement.signed_bytes())
    except InvalidSignature:
        raise DataError(f"{file}: the signature does not hold: do not trust the report") from None
    missing = sorted(set(SIGNED_FILES) - set(seal.statement.files))
    if missing:
        raise DataError(f"{file}: does not sign {missing[0]}: do not trust the report")
    for name, expected in seal.statement.files.items():
        if Path(name).name != name:
            raise DataError(f"{file}: names a file that is not in its folder: do not trust it")
        try:
            found = sha256_hex((folder / name).read_bytes())
        except OSError:
            raise DataError(f"{folder / name}: signed, but not there: ask for it again") from None
        if found != expected:
            raise DataError(f"{folder / name}: changed after it was signed: do not trust it")
    return seal.statement
