"""The contours that can be shown on a case, how they look, and where they are worth looking at."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from algorithms.contracts.volume import MaskArray
from clinical_ui.slice_picture import Colour


class Layer(StrEnum):
    """A contour on a case; the values are its purpose in the case store."""

    DIRECT = "direct"
    ADAPTED = "adapted"
    REVIEWED = "reviewed"
    REFERENCE = "reference"
    ANNOTATION = "annotation"  # of one slice, an annotation task


@dataclass(frozen=True)
class LayerStyle:
    """How a contour looks: told apart by line and symbol as well as by colour.

    Attributes:
        symbol: a character beside the name.
        dash_px: lengths drawn and left out, by turns; empty for a solid line.
        line: the line in words.
    """

    name: str
    symbol: str
    colour: Colour
    dash_px: tuple[int, ...]
    line: str


# Colours after Okabe and Ito, brightened for a dark picture. In order of drawing.
STYLES = {
    Layer.DIRECT: LayerStyle("AI direct", "○", (110, 200, 255), (4, 9), "blue, dotted"),
    Layer.ADAPTED: LayerStyle("AI adapted", "●", (255, 224, 70), (), "yellow, solid"),
    Layer.REFERENCE: LayerStyle(
        "Reference", "◆", (40, 220, 140), (24, 8, 4, 8), "green, dash-dotted"
    ),
    Layer.REVIEWED: LayerStyle("Reviewed", "▲", (255, 92, 80), (14, 10), "red, dashed"),
    Layer.ANNOTATION: LayerStyle("Annotation", "■", (255, 150, 225), (34, 10), "pink, long dashes"),
}
SHOWN_AT_FIRST = frozenset({Layer.ADAPTED, Layer.REVIEWED, Layer.ANNOTATION})


def largest_slice(mask: MaskArray) -> int | None:
    """Return the index of the slice with the most voxels of `[z, y, x]`; None when empty."""
    per_slice = mask.sum(axis=(1, 2))
    return int(per_slice.argmax()) if per_slice.any() else None


def most_changed_slice(model: MaskArray, revised: MaskArray) -> int | None:
    """Return the index of the slice with the most voxels that differ; None when none does."""
    return largest_slice(np.logical_xor(model, revised))


def widest_slice(masks: Mapping[Layer, MaskArray]) -> int | None:
    """Return the slice on which a case's contour is largest; the most final contour decides."""
    for layer in (Layer.REVIEWED, Layer.ADAPTED, Layer.DIRECT, Layer.REFERENCE):
        if layer in masks and (found := largest_slice(masks[layer])) is not None:
            return found
    return None


def first_slice(masks: Mapping[Layer, MaskArray], slices: int) -> int:
    """Return the slice to open a case at: that of its largest contour, else the middle.

    A reference contour does not count: where it is hidden, it must not show the way either.
    """
    leading = dict(masks)
    leading.pop(Layer.REFERENCE, None)
    found = widest_slice(leading)
    return found if found is not None else slices // 2
