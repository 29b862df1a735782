"""Annotate: the slices of a case that the model asks for, by clicks, scribbles and brush."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from algorithms.contracts.volume import MaskArray
from clinical_ui import launch, session, sign_in, wording
from clinical_ui.case_layers import Layer
from clinical_ui.case_viewer import contour_layers, show_case, show_notice
from clinical_ui.desk import NO_EPOCH, Desk
from clinical_ui.saved_slices import saved_slices
from clinical_ui.session import LoadedVolume
from clinical_ui.viewer import Mode, SelectedSlice, ViewerData
from clinical_ui.work_buttons import is_mine, offer_to_begin_anew, work_buttons
from site_agent import accounts, claims
from site_agent.accounts import Account
from site_agent.claims import WorkKey
from site_agent.database import AnnotationTaskRow, ClaimRow

ROLE = "annotator"


def show(open_worklist: Callable[[], None]) -> None:
    """Show the page; `open_worklist` goes to the worklist."""
    account = sign_in.require(ROLE)
    store = session.store()
    current = store.latest_round()
    by_case = defaultdict(list)
    for task in store.tasks(current.round_id) if current is not None else []:
        by_case[task.case_id].append(task)
    if current is None or not by_case:
        st.title("Annotate")
        st.info(wording.NOTHING_TO_ANNOTATE)
        return
    head, chooser, state, buttons = st.columns([2, 5, 6, 5], vertical_alignment="center")
    head.title("Annotate")
    case_id = session.case_shown(list(by_case))
    chooser.selectbox(
        "Case",
        list(by_case),
        key=session.CASE_CHOICE,
        format_func=lambda one: case_line(one, by_case[one]),
        on_change=session.case_chosen,
        label_visibility="collapsed",
    )
    tasks = sorted(by_case[case_id], key=lambda task: task.slice_z)
    key = WorkKey(current.round_id, case_id, "annotation")
    holder = claims.holders(store, current.round_id).get((case_id, key.purpose))
    try:
        desk = session.desk(key, account.username, lambda: Desk(store, key, account.username))
    except (OSError, ValueError):
        offer_to_begin_anew(store, key, holder, account, role=ROLE)
        return
    names = accounts.display_names(store.engine)
    begun = desk.draft is not None
    # Always there: what comes and goes above the viewer would have it mounted anew, and what can
    # be undone would be lost.
    notes = st.container()
    with notes:
        loaded = session.load_volume(case_id)
    if loaded is None and is_mine(holder, account):
        state.markdown(wording.YOURS_WITHOUT_IMAGE)
    else:
        state.markdown(state_line(tasks, holder, account, names, begun=begun))
    with buttons:
        _buttons(desk, tasks, holder, account, open_worklist, can_be_shown=loaded is not None)
    with notes:
        show_notice()
        saved, unreadable = saved_slices(store, tasks)
        if unreadable:
            st.warning(wording.unreadable(unreadable), icon="⚠")
        if loaded is None:
            st.warning(wording.NO_IMAGE, icon="⚠")
            return
    working = desk.draft is not None and is_mine(holder, account)
    mode: Mode = "view"
    if working and any(task.state == "open" for task in tasks):
        mode = "scribble" if any(task.kind == "scribble" for task in tasks) else "contour"
    data = viewer_data(loaded, tasks, saved, mode, session.slice_to_open(case_id))
    show_case(loaded, desk, data, role=ROLE, key="annotation")


def viewer_data(
    loaded: LoadedVolume,
    tasks: Sequence[AnnotationTaskRow],
    saved: Mapping[Layer, MaskArray],
    mode: Mode,
    first_z: int | None,
) -> ViewerData:
    """Return what the viewer shows of a case, apart from what the desk knows of the work."""
    waiting = [task.slice_z for task in tasks if task.state == "open"]
    return ViewerData(
        volume=loaded.token,
        epoch=NO_EPOCH,
        revision=0,
        mode=mode,
        title=tasks[0].case_id,
        target=None,
        slice=first_z if first_z is not None else (waiting or [tasks[0].slice_z])[0],
        window=loaded.window,
        editable_z=waiting,
        selected=[
            SelectedSlice(task.slice_z, task.state == "done", slice_label(task)) for task in tasks
        ],
        layers=contour_layers(saved),
        prompts="2d" if mode == "contour" else None,
        testing=launch.is_tested(),
    )


def slice_label(task: AnnotationTaskRow) -> str:
    """Say why a slice was chosen, in a few words."""
    return f"rank {task.rank + 1}, {wording.short_reason(task.role)}"


def case_line(case_id: str, tasks: Sequence[AnnotationTaskRow]) -> str:
    """Name a case with how far it is."""
    done = sum(task.state == "done" for task in tasks)
    return f"{case_id}  ({done} of {len(tasks)} slices done)"


def state_line(
    tasks: Sequence[AnnotationTaskRow],
    holder: ClaimRow | None,
    account: Account,
    names: Mapping[str, str],
    *,
    begun: bool,
) -> str:
    """Say what can be done with a case just now, in Markdown.

    Args:
        tasks: the slices of the case.
        holder: who holds it.
        account: who is signed in.
        names: what people are called, by user name.
        begun: there is a draft of one's own.
    """
    if all(task.state == "done" for task in tasks):
        by = {
            wording.author(task.author, names, simulated=wording.is_simulated(task.provenance))
            for task in tasks
        }
        return f"✓ All slices are done, by {wording.verbatim(', '.join(sorted(by)))}."
    if holder is None:
        return "○ Free; what you drew is kept." if begun else "○ Free: start to draw on it."
    if not is_mine(holder, account):
        return wording.works_on_it(holder.author, names)
    if not begun:
        return "● Yours: start when you are ready; the clock starts with it."
    return "● Yours: only the slices asked for can be drawn on."


def _buttons(
    desk: Desk,
    tasks: Sequence[AnnotationTaskRow],
    holder: ClaimRow | None,
    account: Account,
    open_worklist: Callable[[], None],
    *,
    can_be_shown: bool,
) -> None:
    with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        if all(task.state == "done" for task in tasks):
            if st.button("Worklist", type="primary"):
                open_worklist()
            return
        work_buttons(
            desk,
            holder,
            account,
            role=ROLE,
            start="Start",
            anew="Slices that are saved stay as they are.",
            can_be_shown=can_be_shown,
        )
