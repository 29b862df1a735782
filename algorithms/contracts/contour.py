"""Contours as they are kept: a region, its TG-263 name and who drew it."""

from dataclasses import dataclass
from enum import StrEnum

from algorithms.contracts.volume import Mask

NOT_ANNOTATED = 255  # of a scribble, beside the classes: nobody drew here


class Provenance(StrEnum):
    """Who made a contour."""

    REFERENCE = "reference"  # came in with the images; held back from training at target sites
    AUTOMATIC = "automatic"  # a model
    SEMIAUTOMATIC = "semiautomatic"  # a person correcting a model, or a model led by clicks
    MANUAL = "manual"  # a person
    SIMULATED = "simulated_annotator"  # the demo's stand-in for a person; never a clinical result


@dataclass(frozen=True, eq=False)
class Contour:
    """One region of interest on one case.

    Attributes:
        roi_name: TG-263 name, at most 16 characters, such as "GTVp".
        mask: the region.
        provenance: who made it.
    """

    roi_name: str
    mask: Mask
    provenance: Provenance
