"""A case: its slices with the contours of the model, the reviewer and the reference."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import streamlit as st
from PIL import Image

from algorithms.contracts.case import Case, Split
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.volume import MaskArray
from clinical_ui import session, sign_in, wording
from clinical_ui.case_layers import (
    SHOWN_AT_FIRST,
    STYLES,
    Layer,
    LayerStyle,
    first_slice,
    most_changed_slice,
    widest_slice,
)
from clinical_ui.session import LoadedVolume
from clinical_ui.slice_picture import Outline, RgbArray, View, radiological_view, render_slice
from site_agent.case_store import CaseStore
from site_agent.database import AnnotationTaskRow, ReviewRow

_SPLITS = {
    Split.TRAINING: "training",
    Split.VALIDATION: "validation",
    Split.TEST: "test",
    Split.UNASSIGNED: "not in the study yet",
}


@dataclass(frozen=True, eq=False)
class OpenCase:
    """Everything the page shows of a case besides its image.

    Attributes:
        contours: of the whole case, by layer; those that exist and can be read.
        unreadable: layers whose file is missing or damaged.
        tasks: annotation tasks by slice.
        drawn: masks `[y, x]` of finished tasks by slice.
        shown_at_first: layers that are switched on until somebody switches them off.
    """

    case: Case
    contours: Mapping[Layer, Contour]
    unreadable: frozenset[Layer]
    tasks: Mapping[int, AnnotationTaskRow]
    drawn: Mapping[int, MaskArray]
    review: ReviewRow | None
    shown_at_first: frozenset[Layer]

    @property
    def slices(self) -> int:
        """Number of slices."""
        return self.case.shape_zyx[0]

    @property
    def masks(self) -> dict[Layer, MaskArray]:
        """Masks `[z, y, x]` of the contours."""
        return {layer: contour.mask.voxels for layer, contour in self.contours.items()}

    def slice_masks(self, slice_z: int) -> dict[Layer, MaskArray]:
        """Return the masks `[y, x]` of one slice, in order of drawing."""
        found = {layer: mask[slice_z] for layer, mask in self.masks.items()}
        if slice_z in self.drawn:
            found[Layer.ANNOTATION] = self.drawn[slice_z]
        return {layer: found[layer] for layer in STYLES if layer in found}

    @property
    def simulated(self) -> bool:
        """Say whether something shown here was made by the demo's stand-in."""
        made = [contour.provenance is Provenance.SIMULATED for contour in self.contours.values()]
        made += [wording.is_simulated(task.provenance) for task in self.tasks.values()]
        return any(made)


def show() -> None:
    """Show the page."""
    sign_in.require("annotator", "reviewer")
    store = session.store()
    cases = {case.case_id: case for case in store.cases()}
    if not cases:
        st.title("Case")
        st.info(wording.NO_CASES)
        return
    title, choice = st.columns([1, 11], vertical_alignment="top")
    title.title("Case")
    shown = cases[session.case_shown(list(cases))]
    choice.selectbox(
        "Case",
        list(cases),
        key=session.CASE_CHOICE,
        format_func=lambda case_id: f"{case_id}  ({_SPLITS[cases[case_id].split]})",
        on_change=session.case_chosen,
        label_visibility="collapsed",
    )
    opened = read_case(store, shown)
    try:
        loaded = session.load_volume(shown.case_id)
    except (OSError, ValueError):
        st.warning(wording.NO_IMAGE, icon="⚠")
        _facts(opened, None)
        return
    _viewer(opened, loaded)


def read_case(store: CaseStore, case: Case) -> OpenCase:
    """Read the contours, tasks and review of a case; what cannot be read is named, not raised."""
    current = store.latest_round()
    round_id = current.round_id if current is not None else ""
    contours, unreadable = {}, set()
    for layer in (Layer.DIRECT, Layer.ADAPTED, Layer.REFERENCE, Layer.REVIEWED):
        of_round = "" if layer is Layer.REFERENCE else round_id
        try:
            found = store.contour(case.case_id, purpose=layer.value, round_id=of_round)
        except (OSError, ValueError):
            unreadable.add(layer)
            continue
        if found is not None:
            contours[layer] = found
    tasks = {t.slice_z: t for t in store.tasks(round_id) if t.case_id == case.case_id}
    drawn = {}
    for slice_z, task in tasks.items():
        if task.state == "done":
            try:
                drawn[slice_z] = store.task_mask(task)
            except (OSError, ValueError):
                unreadable.add(Layer.ANNOTATION)
    reviews = (r for r in store.reviews(round_id) if r.case_id == case.case_id)
    # A source hospital works with its reference contours; elsewhere they are held back.
    source = store.home.config.role == "source"
    return OpenCase(
        case=case,
        contours=contours,
        unreadable=frozenset(unreadable),
        tasks=tasks,
        drawn=drawn,
        review=next(reviews, None),
        shown_at_first=SHOWN_AT_FIRST | ({Layer.REFERENCE} if source else set()),
    )


@st.fragment
def _viewer(opened: OpenCase, loaded: LoadedVolume) -> None:
    """Show picture and controls; moving through slices redraws only this part."""
    case_id = opened.case.case_id
    view = radiological_view(loaded.volume.geometry)
    slice_z = session.slice_shown(
        case_id, opened.slices, lambda: first_slice(opened.masks, opened.slices)
    )
    at_hand = [*opened.contours, *([Layer.ANNOTATION] if slice_z in opened.drawn else [])]
    switched_on = session.layers_shown(at_hand, opened.shown_at_first)
    picture, side = st.columns([3, 2], gap="medium")
    with side:
        _slice_controls(opened, slice_z, switched_on)
        if opened.simulated:
            st.warning(wording.SIMULATED_NOTICE, icon="⚠")
        _layer_controls(opened, slice_z, at_hand, switched_on)
        _facts(opened, view)
    masks = {k: v for k, v in opened.slice_masks(slice_z).items() if k in switched_on}
    outlines = [
        Outline(mask, STYLES[layer].colour, STYLES[layer].dash_px) for layer, mask in masks.items()
    ]
    pixels = render_slice(loaded.volume, slice_z, outlines, window=loaded.window)
    drawn = [layer for layer, mask in masks.items() if mask.any()]
    with picture:
        st.html(picture_html(pixels, view, describe(opened, view, slice_z, drawn)))
        low, high = loaded.window
        st.caption(
            f"Slice {wording.slice_number(slice_z, opened.slices)}, {view.plane}, "
            f"{wording.spacing(opened.case.spacing_zyx_mm)}. Grey values {low:.0f} to {high:.0f} "
            "(1st to 99th percentile)."
        )


def _slice_controls(opened: OpenCase, slice_z: int, switched_on: frozenset[Layer]) -> None:
    case_id, slices = opened.case.case_id, opened.slices
    if slices > 1:
        st.slider(
            f"Slice {wording.slice_number(slice_z, slices)}",
            1,
            slices,
            key=session.SLICE_SLIDER,
            on_change=session.slider_moved,
            args=(case_id,),
        )
    masks = opened.masks
    model, revised = masks.get(Layer.ADAPTED), masks.get(Layer.REVIEWED)
    changed = (
        most_changed_slice(model, revised) if model is not None and revised is not None else None
    )
    largest = widest_slice({layer: m for layer, m in masks.items() if layer in switched_on})
    jumps = (
        ("◀ Prev", slice_z - 1 if slice_z > 0 else None, "Previous slice"),
        ("Next ▶", slice_z + 1 if slice_z + 1 < slices else None, "Next slice"),
        ("Largest contour", largest, "The slice on which the shown contour is largest"),
        ("Largest change", changed, "The slice on which the reviewer changed the model's most"),
    )
    for column, (label, target, hint) in zip(
        st.columns([4, 4, 7, 7], gap="xsmall"), jumps, strict=True
    ):
        column.button(
            label,
            help=hint,
            disabled=target is None,
            on_click=session.open_case,
            args=(case_id, target),
            width="stretch",
        )
    _task_line(opened, slice_z)


def _task_line(opened: OpenCase, slice_z: int) -> None:
    task = opened.tasks.get(slice_z)
    if task is None:
        return
    why = f"Selected slice, rank {task.rank + 1} ({wording.reason(task.role)})."
    if task.state == "open":
        st.info(f"{why} Still to annotate. {wording.NO_DRAWING_YET}")
        return
    by = wording.author(task.author, simulated=wording.is_simulated(task.provenance))
    empty = slice_z in opened.drawn and not opened.drawn[slice_z].any()
    st.info(f"{why} Contoured by {by}{': no tumour on this slice' if empty else ''}.")


def _layer_controls(
    opened: OpenCase, slice_z: int, at_hand: list[Layer], switched_on: frozenset[Layer]
) -> None:
    """Show a checkbox, a line sample and the volume for every contour there can be."""
    rows = st.container(gap=None)
    for layer, style in STYLES.items():
        name, sample, amount = rows.columns([6, 2, 4], vertical_alignment="center")
        name.checkbox(
            f"{style.symbol} {style.name}",
            key=session.layer_key(layer),
            on_change=session.layer_switched,
            args=(layer,),
            disabled=layer not in at_hand,
            help=wording.REFERENCE_HINT if layer is Layer.REFERENCE else style.line,
        )
        sample.html(line_sample(style))
        # A hidden reference does not tell its size either.
        hidden = layer is Layer.REFERENCE and layer in at_hand and layer not in switched_on
        text = "hidden" if hidden else _amount(opened, layer, slice_z)
        amount.html(f'<span class="fedgtv-amount">{text}</span>')


def _amount(opened: OpenCase, layer: Layer, slice_z: int) -> str:
    if layer in opened.unreadable:
        return "cannot be read: ask IT"
    if layer is Layer.ANNOTATION:
        return "on this slice" if slice_z in opened.drawn else "none"
    contour = opened.contours.get(layer)
    return wording.millilitres(contour.mask.volume_ml if contour is not None else None)


def _facts(opened: OpenCase, view: View | None) -> None:
    case, review = opened.case, opened.review
    scanner = " ".join(part for part in (case.manufacturer, case.scanner_model) if part)
    rows = {
        "Patient": case.patient_id,
        "Image": ", ".join(p for p in (case.modality, view.plane if view else "") if p),
        "Scanner": scanner or "not recorded",
        "Voxels": wording.spacing(case.spacing_zyx_mm),
        "Used for": _SPLITS[case.split],
        "Review": "not reviewed"
        if review is None
        else f"{review.verdict} by {wording.author(review.author, simulated=review.simulated)}",
        "Revision degree": "none yet"
        if review is None
        else wording.degree(review.revision_degree_percent),
    }
    cells = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(text)}</td></tr>"
        for name, text in rows.items()
    )
    st.html(f'<table class="fedgtv-facts">{cells}</table>')


def describe(opened: OpenCase, view: View, slice_z: int, drawn: list[Layer]) -> str:
    """Say what the picture shows, for those who do not see it."""
    lines = ", ".join(f"{STYLES[layer].name} ({STYLES[layer].line})" for layer in drawn)
    return (
        f"{view.plane} slice {wording.slice_number(slice_z, opened.slices)} of "
        f"{opened.case.case_id}; contours: {lines or 'none on this slice'}"
    )


def picture_html(pixels: RgbArray, view: View, text: str) -> str:
    """Return the picture with patient directions at its edges.

    The pixels are part of the page: they travel over the session's own connection, and nothing
    about a patient lies under an address that somebody else could ask for.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    data = base64.b64encode(buffer.getvalue()).decode()
    left, right, top, bottom = view.edges
    places = (
        (left, "left:8px;top:50%"),
        (right, "right:8px;top:50%"),
        (top, "top:8px;left:50%"),
        (bottom, "bottom:8px;left:50%"),
    )
    labels = "".join(f'<span style="{place}">{letters}</span>' for letters, place in places)
    return (
        f'<div class="fedgtv-picture"><img src="data:image/png;base64,{data}" '
        f'alt="{escape(text)}">{labels}</div>'
    )


def line_sample(style: LayerStyle) -> str:
    """Return a short piece of a contour's line on black, as the picture shows it."""
    red, green, blue = style.colour
    dashes = ",".join(str(length) for length in style.dash_px)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="72" height="14">'
        '<rect width="72" height="14" rx="3" fill="#111"/>'
        f'<line x1="5" y1="7" x2="67" y2="7" stroke="rgb({red},{green},{blue})" '
        f'stroke-width="3" stroke-dasharray="{dashes}"/></svg>'
    )
    data = base64.b64encode(svg.encode()).decode()
    return f'<img class="fedgtv-line" src="data:image/svg+xml;base64,{data}" alt="{style.line}">'
