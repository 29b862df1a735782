"""What a page tells the viewer: plain JSON values, masks as run lengths in text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from clinical_ui.case_layers import STYLES, Layer

Mode = Literal["view", "contour", "scribble"]
IDLE_LIMIT_S = 30.0


@dataclass(frozen=True)
class ViewerLayer:
    """A contour shown beside the one that is drawn.

    Attributes:
        key: names the layer to the browser, which remembers whether it is switched on.
        colour: RGB, 0 to 255.
        dash: lengths in px drawn and left out, by turns; empty for a solid line.
        band: a scribble: a band without a line, striped by its dash.
        mask: run lengths of the whole volume, as `site_agent.run_lengths` writes them.
    """

    key: str
    name: str
    colour: tuple[int, int, int]
    dash: tuple[int, ...]
    shown: bool
    mask: str
    band: bool = False

    @classmethod
    def of(cls, layer: Layer, mask: str, *, shown: bool = True) -> "ViewerLayer":
        """Return a layer in the style that it has on every page."""
        style = STYLES[layer]
        return cls(layer.value, style.name, style.colour, style.dash_px, shown, mask, style.band)


@dataclass(frozen=True)
class SelectedSlice:
    """A slice that was asked for: its index, whether it is saved, and why in a few words."""

    z: int
    done: bool = False
    label: str = ""


@dataclass(frozen=True)
class VerdictForm:
    """What a review may end in, beside the contour: pairs of a value and the words for it."""

    reasons: Sequence[tuple[str, str]]
    scores: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ViewerData:
    """What the viewer shows and may do.

    Attributes:
        volume: token of the image, as it was mounted.
        epoch: 16 hex digits of the draft; the browser keeps what it drew while it stays the same.
        revision: of the draft, counted up by the server.
        mode: "view" can change nothing.
        title: a few words above the tools; no name of a patient.
        target, outside: run lengths to start from; None for empty masks.
        slice: index of the slice to open at.
        window: grey values shown black and white at first.
        editable_z: only these slices may be drawn on; None for all.
        selected: the slices asked for.
        layers: contours to show beside it, from below to above.
        compare: key of the layer that changes are measured against.
        prompts: "2d" or "3d": which clicks the model answers; None for no clicks.
        answer: of the model, to the message with this sitting and sequence.
        stored, refused: what became of the last message.
        fresh: take `target` even though the epoch is known, as after discarding a draft.
        idle_limit_s: gaps between signs of life that are longer are not active time.
        earlier_active_s: active time of earlier sittings, for the display.
        verdict: of a review: how it may end; None in an annotation.
        volumes_shown: write the volume of each contour beside its name; not in a blinded reading.
        testing: let browser tests look at the state.
    """

    volume: str
    epoch: str
    revision: int
    mode: Mode
    title: str
    target: str | None
    slice: int
    window: tuple[float, float]
    outside: str | None = None
    editable_z: Sequence[int] | None = None
    selected: Sequence[SelectedSlice] = ()
    layers: Sequence[ViewerLayer] = ()
    compare: str | None = None
    prompts: Literal["2d", "3d"] | None = None
    answer: Mapping[str, Any] | None = None
    stored: Mapping[str, Any] | None = None
    refused: Mapping[str, Any] | None = None
    fresh: bool = False
    idle_limit_s: float = IDLE_LIMIT_S
    earlier_active_s: float = 0.0
    verdict: VerdictForm | None = None
    volumes_shown: bool = True
    testing: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values under the names that the browser knows."""
        return asdict(self)
