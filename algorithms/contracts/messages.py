"""Everything that can cross between a hospital and the coordinator, field by field.

Whatever leaves a hospital is one of the classes in `LEAVING`, passed to
`site_agent.egress.release`. No message has a field that could carry free text, a path, an
identifier of a patient or an array; the weights of an approved package travel beside
`SourcePackageOffer` as named files whose hashes the manifest holds, and a model update beside
`ModelUpdateOffer`.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from algorithms.contracts.canonical_json import canonical_json
from algorithms.contracts.model_package import FileEntry, Manifest
from algorithms.contracts.site_report import Count, SiteReport

SiteName = str
SITE_NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,39}$"
PACKAGE_ID_PATTERN = r"^[0-9a-f]{64}$"


PackageId = Annotated[str, Field(pattern=PACKAGE_ID_PATTERN)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Rule = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]

UPDATE_FILE: Literal["update.safetensors"] = "update.safetensors"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RoundState(StrEnum):
    """How far a site is with one package."""

    NONE = "none"
    RECEIVED = "received"
    AWAITING_ANNOTATION = "awaiting_annotation"
    TRAINING = "training"
    AWAITING_REVIEW = "awaiting_review"
    REPORTED = "reported"  # the site report is ready and released
    FAILED = "failed"


class SiteStatus(_Message):
    """Where a site stands: enough to decide what to send or fetch next.

    Attributes:
        plan_held: SHA-256 of the newest federation plan here, whatever people said about it.
        plan_approved: SHA-256 of the one that this site signed and works by.
        model_update_ready: an update by the terms of that plan can be asked for.
    """

    kind: Literal["site_status"] = "site_status"
    site: SiteName = Field(pattern=SITE_NAME_PATTERN)
    code_version: str = Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")
    source_package_ready: bool
    packages_held: tuple[PackageId, ...]  # verified
    current_package: str | None = Field(default=None, pattern=PACKAGE_ID_PATTERN)
    round_state: RoundState
    open_annotation_tasks: Count
    report_ready: bool
    plan_held: Sha256 | None = None
    plan_approved: Sha256 | None = None
    model_update_ready: bool = False


class PackageReceipt(_Message):
    """A site's answer to a part of a package: stored as a whole, refused by a rule, or how far.

    Attributes:
        bytes_held: how much of the package's stream is here; 0 once it is stored or refused.
    """

    kind: Literal["package_receipt"] = "package_receipt"
    site: SiteName = Field(pattern=SITE_NAME_PATTERN)
    package_id: str = Field(pattern=PACKAGE_ID_PATTERN)
    accepted: bool
    refused_by_rule: str | None = Field(default=None, pattern=r"^[a-z_]{1,40}$")
    bytes_held: int = Field(default=0, ge=0, le=2**53)


class SourcePackageOffer(_Message):
    """The source hospital's unsigned package: this manifest, and its files as bytes beside it."""

    kind: Literal["source_package_offer"] = "source_package_offer"
    site: SiteName = Field(pattern=SITE_NAME_PATTERN)
    manifest: Manifest


class SiteReportMessage(_Message):
    """A site's aggregate results for one package."""

    kind: Literal["site_report"] = "site_report"
    report: SiteReport


class ModelUpdateOffer(_Message):
    """What a hospital's training changed in the package's weights; the tensors are beside it.

    Attributes:
        plan_sha256: of the plan by which it may leave.
        training_patients: as the site report says; the update counts so much in the average.
        clip_norm, noise_multiplier, delta: the terms of the plan.
        epsilon: what this release alone promises at `delta`, see
            `algorithms.federated_averaging.gaussian_epsilon`; None promises nothing.
        files: the one file beside this message.
    """

    kind: Literal["model_update"] = "model_update"
    site: SiteName = Field(pattern=SITE_NAME_PATTERN)
    package_id: PackageId
    plan_sha256: Sha256
    training_patients: Count = Field(ge=1)
    clip_norm: float = Field(gt=0)
    noise_multiplier: float = Field(ge=0)
    delta: float = Field(gt=0, lt=1)
    epsilon: float | None = Field(default=None, ge=0)
    files: dict[Literal["update.safetensors"], FileEntry] = Field(min_length=1)


class PlanReceipt(_Message):
    """A site's answer to a federation plan: kept for a person to read, or refused by a rule.

    Attributes:
        received_sha256: of the bytes that came, signature and all.
    """

    kind: Literal["plan_receipt"] = "plan_receipt"
    site: SiteName = Field(pattern=SITE_NAME_PATTERN)
    received_sha256: Sha256
    accepted: bool
    refused_by_rule: Rule | None = None


class PlanApproval(_Message):
    """A hospital's signature under a federation plan.

    Attributes:
        approved_at_unix_s: seconds since 1970, UTC.
        public_key_hex: of the hospital's Ed25519 signing key.
        signature_hex: over `signed_bytes`.
    """

    kind: Literal["plan_approval"] = "plan_approval"
    site: SiteName = Field(pattern=SITE_NAME_PATTERN)
    study: str = Field(pattern=SITE_NAME_PATTERN)
    plan_sha256: Sha256
    approved_at_unix_s: int = Field(ge=0, lt=2**40)
    public_key_hex: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature_hex: str = Field(pattern=r"^[0-9a-f]{128}$")

    def signed_bytes(self) -> bytes:
        """Return the canonical JSON of everything but the signature."""
        return canonical_json(self.model_dump(mode="json", exclude={"signature_hex"}))


LeavingMessage = (
    SiteStatus
    | PackageReceipt
    | PlanReceipt
    | PlanApproval
    | SourcePackageOffer
    | SiteReportMessage
    | ModelUpdateOffer
)
LEAVING: tuple[type[BaseModel], ...] = (
    SiteStatus,
    PackageReceipt,
    PlanReceipt,
    PlanApproval,
    SourcePackageOffer,
    SiteReportMessage,
    ModelUpdateOffer,
)
