"""A case: look at it, review the model's contour against the clock, and sign what came of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

import streamlit as st
from sqlalchemy.orm import Session

from algorithms.contracts.case import Case
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.volume import MaskArray
from clinical_ui import launch, session, sign_in, signing_dialog, wording
from clinical_ui.case_layers import SHOWN_AT_FIRST, STYLES, Layer, first_slice
from clinical_ui.case_viewer import contour_layers, show_case, show_notice
from clinical_ui.desk import NO_EPOCH, Desk
from clinical_ui.orientation import radiological_view
from clinical_ui.saved_slices import saved_slices
from clinical_ui.session import LoadedVolume
from clinical_ui.viewer import VerdictForm, ViewerData
from clinical_ui.work_buttons import is_mine, offer_to_begin_anew, work_buttons
from site_agent import accounts, claims
from site_agent.accounts import Account
from site_agent.blinding import blinded_cases
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.click_store import mask_sha256
from site_agent.database import AnnotationTaskRow, ClaimRow, ReviewRow
from site_agent.signing import SignatureState, Standing, signature_state

ROLE = "reviewer"


@dataclass(frozen=True, eq=False)
class OpenCase:
    """Everything the page shows of a case besides its image.

    Attributes:
        round_id: of the latest round; "" where there is none.
        contours: of the whole case, by layer; those that exist and can be read.
        unreadable: layers whose file is missing or damaged.
        tasks: annotation tasks by slice.
        drawn: what is saved of its tasks, by layer.
        is_dicom: it came as DICOM, so that its contour can go back to the PACS.
        hidden: layers that are off until somebody switches them on.
    """

    case: Case
    round_id: str
    contours: Mapping[Layer, Contour]
    unreadable: frozenset[Layer]
    tasks: Mapping[int, AnnotationTaskRow]
    drawn: Mapping[Layer, MaskArray]
    review: ReviewRow | None
    signature: SignatureState
    is_dicom: bool
    hidden: frozenset[Layer]

    @property
    def masks(self) -> dict[Layer, MaskArray]:
        """Masks `[z, y, x]` of the contours, in order of drawing."""
        found = {layer: contour.mask.voxels for layer, contour in self.contours.items()}
        found |= self.drawn
        return {layer: found[layer] for layer in STYLES if layer in found}

    @property
    def to_review(self) -> bool:
        """Say whether the model has contoured it in this round."""
        return Layer.ADAPTED in self.contours

    @property
    def simulated(self) -> bool:
        """Say whether something shown here was made by the demo's stand-in."""
        made = [contour.provenance is Provenance.SIMULATED for contour in self.contours.values()]
        made += [wording.is_simulated(task.provenance) for task in self.tasks.values()]
        return any(made)


def show(open_blinded: Callable[[], None]) -> None:
    """Show the page; `open_blinded` goes to the page of blinded readings."""
    account = sign_in.require("annotator", ROLE)
    store = session.store()
    cases = {case.case_id: case for case in store.cases()}
    if not cases:
        st.title("Review")
        st.info(wording.NO_CASES)
        return
    head, chooser, state, buttons = st.columns([2, 5, 6, 6], vertical_alignment="center")
    head.title("Review")
    case = cases[session.case_shown(list(cases))]
    chooser.selectbox(
        "Case",
        list(cases),
        key=session.CASE_CHOICE,
        format_func=lambda case_id: f"{case_id}  ({wording.SPLITS[cases[case_id].split]})",
        on_change=session.case_chosen,
        label_visibility="collapsed",
    )
    with Session(store.engine) as reading:
        blinded = case.case_id in blinded_cases(reading, account.username)
    if blinded:  # nothing of it is read, so that nothing of it can show
        st.info(wording.BLINDED)
        if st.button("Blinded reading", type="primary"):
            open_blinded()
        return
    opened = read_case(store, case)
    key = WorkKey(opened.round_id, case.case_id, "review")
    holder = claims.holders(store, opened.round_id).get((case.case_id, key.purpose))
    start = opened.contours.get(Layer.REVIEWED) or opened.contours.get(Layer.ADAPTED)
    try:
        desk = session.desk(
            key, account.username, lambda: Desk(store, key, account.username, start=start)
        )
    except (OSError, ValueError):
        offer_to_begin_anew(store, key, holder, account, role=ROLE, start=start)
        return
    names = accounts.display_names(store.engine)
    begun = desk.draft is not None
    # Always there: what comes and goes above the viewer would have it mounted anew, and what can
    # be undone would be lost.
    notes = st.container()
    with notes:
        loaded = session.load_volume(case.case_id)
    if loaded is None and is_mine(holder, account):
        state.markdown(wording.YOURS_WITHOUT_IMAGE)
    else:
        state.markdown(state_line(opened, holder, account, names, begun=begun))
    plane = radiological_view(store.geometry(case.case_id)).plane
    with buttons:
        facts = facts_html(opened, plane, names)
        _buttons(store, opened, desk, holder, account, facts, can_be_shown=loaded is not None)
    with notes:
        show_notice()
        if opened.unreadable:
            lost = (style.name for layer, style in STYLES.items() if layer in opened.unreadable)
            st.warning(wording.unreadable(lost), icon="⚠")
        if loaded is None:
            st.warning(wording.NO_IMAGE, icon="⚠")
            return
    revising = is_mine(holder, account) and desk.draft is not None and opened.to_review
    show_case(
        loaded,
        desk,
        viewer_data(opened, loaded, revising=revising),
        role=ROLE,
        key="review",
    )


def read_case(store: CaseStore, case: Case) -> OpenCase:
    """Read the contours, tasks and review of a case; what cannot be read is named, not raised."""
    current = store.latest_round()
    round_id = current.round_id if current is not None else ""
    contours, unreadable = {}, set()
    # A source hospital works with its reference contours. Elsewhere they are held back: what is
    # not sent to the browser cannot lead anybody's judgement.
    source = store.home.config.role == "source"
    held_back = set() if source else {Layer.REFERENCE}
    for layer in (Layer.DIRECT, Layer.ADAPTED, Layer.REFERENCE, Layer.REVIEWED):
        if layer in held_back:
            continue
        of_round = "" if layer is Layer.REFERENCE else round_id
        try:
            found = store.contour(case.case_id, purpose=layer.value, round_id=of_round)
        except (OSError, ValueError):
            unreadable.add(layer)
            continue
        if found is not None:
            contours[layer] = found
    tasks = {t.slice_z: t for t in store.tasks(round_id) if t.case_id == case.case_id}
    drawn, lost = saved_slices(store, tasks.values())
    if lost:
        unreadable.add(Layer.ANNOTATION)
    review = next((r for r in store.reviews(round_id) if r.case_id == case.case_id), None)
    if review is not None and review.verdict == "rejected":  # what an earlier review said is void
        contours.pop(Layer.REVIEWED, None)
    shown = SHOWN_AT_FIRST | ({Layer.REFERENCE} if source else set())
    return OpenCase(
        case=case,
        round_id=round_id,
        contours=contours,
        unreadable=frozenset(unreadable),
        tasks=tasks,
        drawn=drawn,
        review=review,
        signature=signature_state(store, round_id, case.case_id),
        is_dicom=store.identity_sealed(case.case_id) is not None,
        hidden=frozenset(Layer) - shown,
    )


def viewer_data(opened: OpenCase, loaded: LoadedVolume, *, revising: bool) -> ViewerData:
    """Return what the viewer shows of a case, apart from what the desk knows of the work."""
    masks = opened.masks
    asked = session.slice_to_open(opened.case.case_id)
    first = asked if asked is not None else first_slice(masks, opened.case.shape_zyx[0])
    if revising:  # it is what is being drawn
        masks.pop(Layer.REVIEWED, None)
    return ViewerData(
        volume=loaded.token,
        epoch=NO_EPOCH,
        revision=0,
        mode="contour" if revising else "view",
        title=opened.case.case_id,
        target=None,
        slice=first,
        window=loaded.window,
        layers=contour_layers(masks, hidden=opened.hidden),
        compare=Layer.ADAPTED.value if opened.to_review else None,
        prompts="3d" if revising else None,
        verdict=VerdictForm(wording.REJECTIONS, wording.SCORES) if revising else None,
        testing=launch.is_tested(),
    )


def state_line(
    opened: OpenCase,
    holder: ClaimRow | None,
    account: Account,
    names: Mapping[str, str],
    *,
    begun: bool,
) -> str:
    """Say in one line how a case stands, in Markdown.

    Args:
        opened: the case.
        holder: who holds it.
        account: who is signed in.
        names: what people are called, by user name.
        begun: there is a draft of one's own.
    """
    if holder is not None:
        if not is_mine(holder, account):
            return wording.works_on_it(holder.author, names)
        if begun:
            return "● Yours: the clock runs while you work in the viewer."
        return "● Yours: start the revision when you are ready; the clock starts with it."
    review = opened.review
    if review is None and Layer.ADAPTED in opened.unreadable:
        return "✕ The model's contour cannot be read."
    if review is None:
        return "○ To review." if opened.to_review else wording.NOT_SEGMENTED
    by = wording.author(review.author, names, simulated=review.simulated)
    said = f"{wording.verdict(review.verdict)} by {wording.verbatim(by)}"
    if review.verdict == "rejected":
        void = wording.SIGNED_BEFORE if opened.signature.signature is not None else ""
        return f"{said}: {wording.rejection(review.reason)}. {void}".rstrip()
    degree = wording.degree(review.revision_degree_percent)
    return f"{said}, {degree}. {wording.signature(opened.signature, is_dicom=opened.is_dicom)}"


def _buttons(
    store: CaseStore,
    opened: OpenCase,
    desk: Desk,
    holder: ClaimRow | None,
    account: Account,
    facts: str,
    *,
    can_be_shown: bool,
) -> None:
    with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        if ROLE in account.roles and opened.to_review:
            if holder is None and _may_sign(opened, account):
                signed = opened.signature.standing is Standing.SIGNED
                if st.button("Signature" if signed else "Sign", type="primary", key="sign"):
                    digest = mask_sha256(opened.contours[Layer.REVIEWED].mask.voxels)
                    signing_dialog.show(store, opened.round_id, opened.case.case_id, digest)
            first = opened.review is None
            work_buttons(
                desk,
                holder,
                account,
                role=ROLE,
                start="Start revision" if first else "Revise again",
                anew="This goes back to the contour that you started from.",
                kind="primary" if first else "secondary",
                can_be_shown=can_be_shown,
            )
        with st.popover("About"):
            st.html(facts)
            if opened.simulated:
                st.warning(wording.SIMULATED_NOTICE, icon="⚠")


def _may_sign(opened: OpenCase, account: Account) -> bool:
    review = opened.review
    return (
        review is not None
        and not review.simulated
        and review.author == account.username
        and Layer.REVIEWED in opened.contours
    )


def facts_html(opened: OpenCase, plane: str, names: Mapping[str, str]) -> str:
    """Return what is known of a case as a table."""
    case, review = opened.case, opened.review
    scanner = " ".join(part for part in (case.manufacturer, case.scanner_model) if part)
    rows = {
        "Patient": case.patient_id,
        "Image": f"{case.modality}, {plane}",
        "Scanner": scanner or "not recorded",
        "Voxels": wording.spacing(case.spacing_zyx_mm),
        "Used for": wording.SPLITS[case.split],
        **{
            STYLES[layer].name: wording.millilitres(contour.mask.volume_ml)
            for layer, contour in opened.contours.items()
            if layer not in opened.hidden
        },
        "Review": "not reviewed"
        if review is None
        else f"{review.verdict} by "
        f"{wording.author(review.author, names, simulated=review.simulated)}",
        "Revision degree": "none yet"
        if review is None
        else wording.degree(review.revision_degree_percent),
        "Active time": wording.duration(None if review is None else review.active_s),
        "Signature": wording.signature(opened.signature, is_dicom=opened.is_dicom),
    }
    cells = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(text)}</td></tr>"
        for name, text in rows.items()
    )
    return f'<table class="fedgtv-facts">{cells}</table>'
