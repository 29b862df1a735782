"""The groups of patients that a study compares: the same words and the same edges everywhere.

A group is one word of a public list, so that naming it says nothing about a hospital. "" is "not
known": such a patient is in no group of that attribute, and counts among all.
"""

import math
from typing import Literal, get_args

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
TStage = Literal["T1", "T2", "T3", "T4", "Tx"]
T_STAGES: tuple[TStage, ...] = get_args(TStage)
VOLUME_EDGES_ML = (10.0, 30.0)

Attribute = Literal["t_stage", "volume", "scanner"]
SUBGROUPS: dict[Attribute, tuple[str, ...]] = {
    "t_stage": ("T1+2", "T3+4"),
    "volume": ("below 10 ml", "10 to 30 ml", "above 30 ml"),
    "scanner": get_args(Vendor),
}
"""Attribute -> its groups in order. Where few patients are left, the first attributes are told."""

ORDERED: frozenset[Attribute] = frozenset({"t_stage", "volume"})  # from less to more
ATTRIBUTE_LABELS: dict[Attribute, str] = {
    "t_stage": "T stage",
    "volume": "Volume of the reference contour",
    "scanner": "Maker of the scanner",
}


def vendor_of(manufacturer: str) -> Vendor:
    """Name the vendor behind a DICOM Manufacturer tag, "other" when it is none of the known.

    >>> vendor_of("GE MEDICAL SYSTEMS"), vendor_of("Dr Someone's scanner")
    ('ge', 'other')
    """
    text = f"{manufacturer.casefold()} "
    return next((vendor for mark, vendor in _VENDOR_MARKS if text.startswith(mark)), "other")


def t_stage_group(t_stage: str) -> str:
    """Return the group of a T stage as in the thesis, or "" when it is unknown.

    >>> [t_stage_group(stage) for stage in ("T2", "3", "t4a", "Tx", "")]
    ['T1+2', 'T3+4', 'T3+4', '', '']
    """
    stage = t_stage.strip().upper().removeprefix("T")[:1]
    early, late = SUBGROUPS["t_stage"]
    return early if stage in ("1", "2") else late if stage in ("3", "4") else ""


def volume_group(volume_ml: float) -> str:
    """Return the group of a tumour volume; either edge is in the middle one, NaN is unknown.

    >>> [volume_group(ml) for ml in (9.9, 10.0, 30.0, 30.1, float("nan"))]
    ['below 10 ml', '10 to 30 ml', '10 to 30 ml', 'above 30 ml', '']
    """
    if math.isnan(volume_ml):
        return ""
    low, high = VOLUME_EDGES_ML
    small, middle, large = SUBGROUPS["volume"]
    return small if volume_ml < low else middle if volume_ml <= high else large
