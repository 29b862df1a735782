"""What is known of a study beside its figures: whose models were tested, and what every site sent.

The coordinator's store knows it, or a package's folder; a report from site summaries alone does
without, and says so.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    Manifest,
    Signature,
)


class _Noun(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelLineage(_Noun):
    """Where a tested model came from.

    Attributes:
        package_id: SHA-256 of the manifest's bytes.
        manifest: as the package says of itself.
        signed_by: first digits of the hash of the key that signed it; None where it lies unsigned.
        from_site: the hospital that trained it, where it is known.
    """

    package_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    manifest: Manifest
    signed_by: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")
    from_site: str | None = None


class SiteTraffic(_Noun):
    """How much one site sent to the coordinator, by the coordinator's own count.

    Attributes:
        role: "source" or "target".
        bytes_from_site: everything that came, statuses included.
        bytes_to_site: everything that went, packages included.
        packages_offered: models that it offered to the study.
        reports: reports that were kept.
    """

    site: str
    role: str
    bytes_from_site: int = Field(ge=0)
    bytes_to_site: int = Field(ge=0)
    packages_offered: int = Field(ge=0)
    reports: int = Field(ge=0)


class StudyRecord(_Noun):
    """Both, as far as known; in order of package and of site."""

    lineage: tuple[ModelLineage, ...] = ()
    traffic: tuple[SiteTraffic, ...] = ()


def read_lineage(folder: Path, *, from_site: str | None = None) -> ModelLineage:
    """Read the manifest of a package's folder, and who signed it; the weights are not read.

    Whether the signature holds is for `fedgtv-site package verify`, which knows the trusted keys.

    Raises:
        DataError: when there is no manifest, or it or the signature is none.
    """
    file = folder / MANIFEST_FILE
    try:
        written = file.read_bytes()
        manifest = Manifest.model_validate_json(written)
        sealed = folder / SIGNATURE_FILE
        signature = Signature.model_validate_json(sealed.read_bytes()) if sealed.is_file() else None
    except OSError:
        raise DataError(f"{file}: cannot be read: give the folder of a package") from None
    except ValidationError:
        raise DataError(f"{folder}: not a package of this version: give another folder") from None
    return ModelLineage(
        package_id=sha256_hex(written),
        manifest=manifest,
        signed_by=signature.key_id if signature else None,
        from_site=from_site,
    )
