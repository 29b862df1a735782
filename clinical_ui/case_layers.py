"""The contours that can be shown on a case, how they look, and where they are worth looking at."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from algorithms.contracts.volume import MaskArray

Colour = tuple[int, int, int]  # RGB, 0 to 255


class Layer(StrEnum):
    """A contour on a case; the values are its purpose in the case store."""

    DIRECT = "direct"
    ADAPTED = "adapted"
    REVIEWED = "reviewed"
    REFERENCE = "reference"
    ANNOTATION = "annotation"  # of one slice, an annotation task
    INSIDE = "scribble_inside"  # the same, where scribbles are asked for
    OUTSIDE = "scribble_outside"


@dataclass(frozen=True)
class LayerStyle:
    """How a contour looks: told apart by its line as well as by colour.

    Attributes:
        dash_px: lengths drawn and left out, by turns; empty for a solid line.
        band: it is a scribble: a translucent band without a line, striped by `dash_px`.
    """

    name: str
    colour: Colour
    dash_px: tuple[int, ...]
    band: bool = False


# Colours after Okabe and Ito, brightened for a dark picture. In order of drawing.
STYLES = {
    Layer.DIRECT: LayerStyle("AI direct", (110, 200, 255), (4, 9)),
    Layer.ADAPTED: LayerStyle("AI adapted", (255, 224, 70), ()),
    Layer.REFERENCE: LayerStyle("Reference", (40, 220, 140), (24, 8, 4, 8)),
    Layer.REVIEWED: LayerStyle("Reviewed", (255, 92, 80), (14, 10)),
    Layer.ANNOTATION: LayerStyle("Saved slices", (255, 150, 225), (34, 10)),
    Layer.INSIDE: LayerStyle("Saved, inside", (46, 230, 138), (4, 3), band=True),
    Layer.OUTSIDE: LayerStyle("Saved, outside", (90, 169, 255), (2, 4), band=True),
}
SHOWN_AT_FIRST = frozenset(
    {Layer.ADAPTED, Layer.REVIEWED, Layer.ANNOTATION, Layer.INSIDE, Layer.OUTSIDE}
)


def largest_slice(mask: MaskArray) -> int | None:
    """Return the index of the slice with the most voxels of `[z, y, x]`; None when empty."""
    per_slice = mask.sum(axis=(1, 2))
    return int(per_slice.argmax()) if per_slice.any() else None


def first_slice(masks: Mapping[Layer, MaskArray], slices: int) -> int:
    """Return the slice to open a case at: that of its largest contour, else the middle.

    The most final contour decides. A reference contour does not count: where it is hidden, it must
    not show the way either.
    """
    for layer in (Layer.REVIEWED, Layer.ADAPTED, Layer.DIRECT, Layer.ANNOTATION, Layer.INSIDE):
        if layer in masks and (found := largest_slice(masks[layer])) is not None:
            return found
    return slices // 2
