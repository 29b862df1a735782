"""The federation plan: what the target hospitals do with one package, and what may leave them.

The study lead signs it and every hospital signs that it agrees; nothing is trained on and no result
leaves without both. The `StudyPlan` of `model_package` is another thing: what the study lead asks
of the source hospital, before there is a package.
"""

import json
from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.model_package import Manifest, RoiName, Signature
from algorithms.contracts.site_report import SiteReport

# What a manifest says of the package itself, and not of what is done with it.
_NO_PARAMETERS = {
    "schema_version",
    "study",
    "model_version",
    "parent_version",
    "source_training_slices",
    "source_validation",
    "licence",
    "intended_use",
    "files",
}
REPORT_FIELDS = tuple(SiteReport.model_fields)


class _Noun(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CohortRule(_Noun):
    """Which patients a hospital takes part with.

    Attributes:
        modality: of their images.
        roi_names: targets that the study knows, as TG-263 names them.
        minimum_patients: a hospital with fewer does not begin.
        minimum_group_size: no figure about fewer patients leaves, whatever smaller number the
            hospital has set for itself.
    """

    modality: str = Field(pattern=r"^[A-Z]{2,4}$")
    roi_names: tuple[RoiName, ...] = Field(min_length=1)
    minimum_patients: int = Field(ge=1, le=10**6)
    minimum_group_size: int = Field(ge=2, le=10**6)


class PermittedOutputs(_Noun):
    """What may leave a hospital beside what needs no plan: statuses, receipts and approvals.

    Attributes:
        messages: kinds of messages with results.
        site_report_fields: fields of a `SiteReport` that may say something.
    """

    messages: tuple[Literal["site_report", "model_update"], ...] = ("site_report",)
    site_report_fields: tuple[str, ...] = REPORT_FIELDS

    @model_validator(mode="after")
    def _names_what_there_is(self) -> Self:
        if unknown := sorted(set(self.site_report_fields) - set(REPORT_FIELDS)):
            raise ValueError(f"a site report has no field '{unknown[0]}'")
        return self


class ModelUpdateTerms(_Noun):
    """How an adapted model is made safe to leave.

    Attributes:
        clip_norm: longer updates are shortened to this L2 norm.
        noise_multiplier: standard deviation of the Gaussian noise over `clip_norm`; 0 adds none.
        delta: of (epsilon, delta) differential privacy.
    """

    clip_norm: float = Field(gt=0)
    noise_multiplier: float = Field(ge=0)
    delta: float = Field(gt=0, lt=1)


class FederationPlan(_Noun):
    """What target hospitals do with one package, every parameter of it.

    Attributes:
        plan_number: higher than that of every plan before it; an older plan never comes back.
        package_id: SHA-256 of the package's manifest, which names the hash of every weight.
        code_version: of fedgtv; a site of another release refuses the plan.
        parameters: every method parameter of the manifest, see `method_parameters`.
        model_updates: None where no adapted model may leave.
        valid_from, expires_at: with a time zone.
        nonce: no two plans are the same bytes.
    """

    kind: Literal["federation_plan"] = "federation_plan"
    schema_version: Literal[1] = 1
    study: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    plan_number: int = Field(ge=1, le=10**9)
    package_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    model_version: str = Field(pattern=r"^[a-z0-9][a-z0-9.+-]{0,39}$")
    code_version: str = Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")
    parameters: dict[str, JsonValue]
    cohort: CohortRule
    permitted_outputs: PermittedOutputs = PermittedOutputs()
    model_updates: ModelUpdateTerms | None = None
    valid_from: AwareDatetime
    expires_at: AwareDatetime
    nonce: str = Field(pattern=r"^[0-9a-f]{32}$")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.expires_at <= self.valid_from:
            raise ValueError("a plan expires after it becomes valid")
        if ("model_update" in self.permitted_outputs.messages) != (self.model_updates is not None):
            raise ValueError(
                "'model_update' among permitted_outputs.messages and the terms in model_updates "
                "go together"
            )
        return self

    @property
    def annotation_budget(self) -> float:
        """Share of a site's training slices that doctors are asked for."""
        return float(str(self.parameters["adaptation.annotation_budget"]))

    def signed_bytes(self) -> bytes:
        """Return the canonical JSON that the study lead signs."""
        return canonical_json(self.model_dump(mode="json"))

    def time_rule(self, now: AwareDatetime) -> str | None:
        """Name the rule that a plan breaks at `now` (with a time zone); None while it is valid."""
        if now >= self.expires_at:
            return "plan_expired"
        return "plan_too_early" if now < self.valid_from else None

    def package_rule(self, manifest: bytes) -> str | None:
        """Name the rule by which a plan does not fit its package; None where it does.

        `manifest` is the package's, as it was signed.
        """
        said = Manifest.model_validate_json(manifest)
        package = (said.study, said.model_version, method_parameters(manifest))
        # Compared as JSON: to Python, 1 and true are equal.
        if canonical_json((self.study, self.model_version, self.parameters)) != canonical_json(
            package
        ):
            return "wrong_parameters"
        fits = self.cohort.modality == said.modality and said.roi_name in self.cohort.roi_names
        return None if fits else "wrong_cohort"


class SignedPlan(_Noun):
    """A plan as it travels: the very text that the study lead signed, and the signature."""

    plan: Annotated[str, Field(max_length=2**20)]
    signature: Signature

    @property
    def plan_sha256(self) -> str:
        """Name the plan: SHA-256 of the text, 64 hexadecimal digits."""
        return sha256_hex(self.plan.encode())

    def read(self) -> FederationPlan:
        """Read the text; the signature is not looked at.

        Raises:
            pydantic.ValidationError: it is not a plan of this version.
        """
        return FederationPlan.model_validate_json(self.plan)


def method_parameters(manifest: bytes) -> dict[str, JsonValue]:
    """List every method parameter of a manifest under flat names.

    The manifest is read as it was written: what a later version would add by default is not said to
    be in it.

    >>> method_parameters(b'{"study": "s", "seed": 1, "adaptation": {"stage1": {"decay": "step"}}}')
    {'adaptation.stage1.decay': 'step', 'seed': 1}
    """
    fields = {k: v for k, v in json.loads(manifest).items() if k not in _NO_PARAMETERS}
    return dict(sorted(flat_fields(fields).items()))


def flat_fields(value: dict[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """Write tables within tables as "section.name"; an empty one is kept as it is."""
    found: dict[str, JsonValue] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            found |= flat_fields(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = item
    return found


def same_release(plan_version: str, installed: str) -> bool:
    """Say whether two versions of fedgtv compute the same: equal but for the third number.

    >>> same_release("0.1.0", "0.1.4"), same_release("0.1.0", "0.2.0")
    (True, False)
    """
    return plan_version.split(".")[:2] == installed.split(".")[:2]


def fields_said(report: SiteReport) -> set[str]:
    """Name the fields in which a report says anything."""
    return {name for name in REPORT_FIELDS if getattr(report, name) not in (None, ())}


def planned_part(report: SiteReport, fields: Collection[str]) -> SiteReport:
    """Leave out of a report what is not among the fields, where it can be without."""
    unsaid = {
        name: field.default
        for name, field in SiteReport.model_fields.items()
        if name not in fields and not field.is_required()
    }
    return report.model_copy(update=unsaid)
