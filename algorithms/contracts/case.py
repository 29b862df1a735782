"""A case: one de-identified image series of one patient inside one hospital."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from algorithms.contracts.subgroups import TStage


class Split(StrEnum):
    """What a site uses a patient for; decided once, by patient, from a seed."""

    UNASSIGNED = "unassigned"  # not part of a study yet: new patients are only segmented
    TRAINING = "training"
    VALIDATION = "validation"
    TEST = "test"


class Case(BaseModel):
    """What the site may say about a case inside the hospital, after de-identification.

    Attributes:
        case_id: pseudonym of the series, "case-" and 12 hexadecimal digits.
        patient_id: pseudonym of the patient, "patient-" and 12 hexadecimal digits.
        has_reference: a reference contour came in with the images.
        t_stage: as the hospital gave it; None: nobody did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case_id: str
    patient_id: str
    modality: str
    manufacturer: str
    scanner_model: str
    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    split: Split
    has_reference: bool
    t_stage: TStage | None = None
