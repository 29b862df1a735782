"""What one hospital says about its results: aggregates over patients, never a patient."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]

# Vendor names come from free-text DICOM tags; only these may be said outside the hospital.
Vendor = Literal["ge", "siemens", "philips", "canon", "hitachi", "united_imaging", "other"]
_VENDOR_MARKS: tuple[tuple[str, Vendor], ...] = (
    ("siemens", "siemens"),
    ("philips", "philips"),
    ("canon", "canon"),
    ("toshiba", "canon"),
    ("hitachi", "hitachi"),
    ("uih", "united_imaging"),
    ("united imaging", "united_imaging"),
    ("ge ", "ge"),
    ("general electric", "ge"),
)


def vendor_of(manufacturer: str) -> Vendor:
    """Name the vendor behind a DICOM Manufacturer tag, "other" when it is none of the known.

    >>> vendor_of("GE MEDICAL SYSTEMS"), vendor_of("Dr Someone's scanner")
    ('ge', 'other')
    """
    text = f"{manufacturer.casefold()} "
    return next((vendor for mark, vendor in _VENDOR_MARKS if text.startswith(mark)), "other")


class _Noun(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Distribution(_Noun):
    """A figure over the `n` patients for which it is defined; None when suppressed (`n` too small).

    Attributes:
        n: patients with a defined value.
        undefined: patients without one (an empty contour has no distance); always shown.
    """

    n: Count
    undefined: Count = 0
    mean: float | None = None
    sd: float | None = None
    median: float | None = None
    q1: float | None = None
    q3: float | None = None


class ArmSummary(_Noun):
    """One way of segmenting the test patients: "direct", "adapted" or "target_trained".

    Attributes:
        failures: patients whose prediction missed the tumour altogether (Dice 0); they count as
            Dice 0 in `dsc`. Where a mask is empty the distances are undefined and counted so.
            None when there are fewer patients than the minimum group size; every distribution then
            has all patients as `n` and does not say which values are undefined.
    """

    arm: str = Field(pattern=r"^[a-z0-9_]{1,32}$")
    patients: Count
    failures: Count | None
    dsc: Distribution
    hd95_mm: Distribution
    assd_mm: Distribution
    asd_predicted_to_reference_mm: Distribution
    nsd_at_1mm: Distribution


class RevisionSummary(_Noun):
    """How much oncologists changed the model's contours (6.3.3).

    Attributes:
        degree_percent: 100 * (1 - Dice(model, revised)).
        bins: patients in 0-5, >5-10, >10-15 and >15 %.
        simulated: True when the reviewer was the demo's simulated annotator.
    """

    patients: Count
    degree_percent: Distribution
    bins: tuple[Count, Count, Count, Count] | None
    active_s: Distribution
    simulated: bool


class AnnotationSummary(_Noun):
    """What the adaptation cost the doctors."""

    strategy: str = Field(pattern=r"^[a-z0-9_]{1,32}$")
    training_patients: Count
    training_slices: Count
    selected_slices: Count
    patients_with_selected_slices: Count
    simulated: bool


class SiteReport(_Noun):
    """Everything a hospital reports about one package: the only result that leaves it.

    Attributes:
        adapted_share: how far the adapted weights went from the source model (0) to the end of
            stage 3 (1).
    """

    study: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    site: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    package_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    model_version: str = Field(pattern=r"^[a-z0-9][a-z0-9.+-]{0,39}$")
    adapted_model_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    code_version: str = Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")
    seed: int
    vendors: tuple[Vendor, ...] = ()
    minimum_group_size: int = Field(ge=1)
    adapted_share: float | None = Field(default=None, ge=0, le=1)
    annotation: AnnotationSummary
    arms: tuple[ArmSummary, ...]
    revision: RevisionSummary | None
