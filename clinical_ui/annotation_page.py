"""Annotate: the slices of a case that the model asks for, by clicks, scribbles and brush."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray
from clinical_ui import launch, session, sign_in, wording
from clinical_ui.case_layers import Layer
from clinical_ui.case_viewer import contour_layers, show_case
from clinical_ui.desk import NO_EPOCH, Desk
from clinical_ui.saved_slices import saved_slices
from clinical_ui.session import LoadedVolume
from clinical_ui.viewer import Mode, SelectedSlice, ViewerData
from site_agent import claims
from site_agent.accounts import Account
from site_agent.case_store import CaseStore
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
        st.error(wording.NO_DRAFT, icon="⚠")
        return
    state.markdown(state_line(tasks, holder, account, begun=desk.draft is not None))
    with buttons:
        _buttons(store, desk, tasks, holder, account, open_worklist)
    # Always there: what comes and goes above the viewer would have it mounted anew, and what can
    # be undone would be lost.
    with st.container():
        if (notice := session.said()) is not None:
            st.error(wording.sentence(notice), icon="⚠")
        saved, unreadable = saved_slices(store, tasks)
        if unreadable:
            st.warning(wording.unreadable(unreadable), icon="⚠")
        try:
            loaded = session.load_volume(case_id)
        except (OSError, ValueError):
            st.warning(wording.NO_IMAGE, icon="⚠")
            return
    working = desk.draft is not None and holder is not None and holder.author == account.username
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
    tasks: Sequence[AnnotationTaskRow], holder: ClaimRow | None, account: Account, *, begun: bool
) -> str:
    """Say what can be done with a case just now; `begun`: there is a draft of one's own."""
    if all(task.state == "done" for task in tasks):
        by = {
            wording.author(task.author, simulated=wording.is_simulated(task.provenance))
            for task in tasks
        }
        return f"✓ All slices are done, by {', '.join(sorted(by))}."
    if holder is None:
        return "○ Free; what you drew is kept." if begun else "○ Free: start to draw on it."
    if holder.author != account.username:
        return f"◆ {holder.author} works on it. You can look."
    if not begun:
        return "● Yours: start when you are ready; the clock starts with it."
    return "● Yours: only the slices asked for can be drawn on."


def _buttons(
    store: CaseStore,
    desk: Desk,
    tasks: Sequence[AnnotationTaskRow],
    holder: ClaimRow | None,
    account: Account,
    open_worklist: Callable[[], None],
) -> None:
    mine = holder is not None and holder.author == account.username
    with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        if all(task.state == "done" for task in tasks):
            if st.button("Worklist", type="primary"):
                open_worklist()
            return
        if not mine or desk.draft is None:
            st.button(
                "Start" if desk.draft is None else "Go on",
                type="primary",
                disabled=holder is not None and not mine,
                on_click=_try,
                args=(desk.begin,),
                help="Claims the case and starts the clock; what you drew before is still there",
            )
        if mine and desk.draft is not None:
            with st.popover("Begin anew"):
                st.write("Slices that are saved stay as they are.")
                st.button(wording.THROW_AWAY, on_click=_try, args=(desk.discard,))
        if mine:
            st.button(
                "Release",
                on_click=_try,
                args=(lambda: claims.release(store, desk.key, author=account.username),),
                help="Lets others take the case; what you drew stays as your draft",
            )


def _try(act: Callable[[], None]) -> None:
    """Do what a button says; what cannot be done is said on the page."""
    try:
        sign_in.actor(ROLE)
        act()
    except DataError as error:
        session.say(str(error))
