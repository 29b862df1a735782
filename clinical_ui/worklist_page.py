"""The worklist: what to annotate and what to review, who holds it, and what comes next.

One click takes a doctor to the next piece of work. The list reads itself anew every few seconds, so
that what somebody else claims meanwhile shows, and nobody's filter or focus is lost.
"""

from collections.abc import Callable, Sequence

import streamlit as st

from algorithms.contracts.case import Case, Split
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState
from clinical_ui import session, sign_in, wording
from clinical_ui.work_items import (
    ANNOTATION,
    REVIEW,
    Expected,
    Show,
    State,
    WorkItem,
    annotation_work,
    expected,
    matching,
    next_work,
    review_work,
)
from clinical_ui.work_rows import STYLE, legend_html, next_html, question_html, row_html
from site_agent import claims
from site_agent.accounts import Account
from site_agent.case_store import CaseStore
from site_agent.claims import Purpose, WorkKey
from site_agent.database import AnnotationTaskRow, RoundRow, utc_now
from site_agent.worklist import Worklist, read_worklist

REFRESH_S = 15
ROWS = 8
ROLES = {ANNOTATION: "annotator", REVIEW: "reviewer"}
SECTIONS = {ANNOTATION: "Slices to annotate", REVIEW: "Contours to review"}
MAY_RELEASE = ("it", "lead")  # what somebody else holds
ANY_REASON = "any reason"


def show(
    open_annotation: Callable[[], None],
    open_review: Callable[[], None],
    open_blinded: Callable[[], None],
) -> None:
    """Show the page; the functions go to where cases are annotated, reviewed and read blinded."""
    sign_in.require()
    store = session.store()
    st.html(STYLE)
    st.title("Worklist")
    if not store.cases():
        st.info(wording.NO_CASES)
        return
    if store.latest_round() is None:
        source = store.home.config.role == "source"
        st.info(wording.NO_ROUND_AT_SOURCE if source else wording.NO_ROUND)
        return
    _live(open_annotation, open_review, open_blinded)


def waiting_for(store: CaseStore, current: RoundRow) -> int:
    """Return how many slices or cases wait for a doctor in the present state of a round."""
    if current.state == RoundState.AWAITING_REVIEW.value:
        reviewed = {review.case_id for review in store.reviews(current.round_id)}
        return sum(case.case_id not in reviewed for case in store.cases(Split.TEST))
    return len(store.tasks(current.round_id, state="open"))


def budget_line(cases: Sequence[Case], tasks: Sequence[AnnotationTaskRow]) -> str:
    """Say how far the annotation is, and what share of all slices it asks for."""
    asked = [case for case in cases if case.split in (Split.TRAINING, Split.VALIDATION)]
    slices = sum(case.shape_zyx[0] for case in asked)
    patient = {case.case_id: case.patient_id for case in cases}
    chosen = len({patient[task.case_id] for task in tasks})
    done = sum(task.state == "done" for task in tasks)
    share = f", {len(tasks) / slices:.0%} of the {slices} slices" if slices else ""
    return (
        f"{done} of {wording.counted(len(tasks), 'slice')} annotated. The budget: "
        f"{wording.counted(len(tasks), 'slice')}{share} of "
        f"{wording.counted(len({case.patient_id for case in asked}), 'patient')}; the chosen "
        f"slices come from {chosen} of them."
    )


def time_line(time: Expected, pieces: int, *, piece: str) -> str:
    """Say how long what is left will take, and how that is known."""
    if not pieces:
        return ""
    each = f"{time.each_s:.0f} s" if time.each_s < 120 else f"{time.each_s / 60:.0f} min"
    known = f"median of {time.timed} timed here" if time.timed else "assumed until 5 are timed here"
    return f"Left: {wording.about_minutes(time.minutes(pieces))} ({each} a {piece}, {known})."


@st.fragment(run_every=REFRESH_S)
def _live(
    open_annotation: Callable[[], None],
    open_review: Callable[[], None],
    open_blinded: Callable[[], None],
) -> None:
    """Show everything that can change; only this part is drawn anew."""
    account = sign_in.current()
    pages = {ANNOTATION: open_annotation, REVIEW: open_review}
    if (page := session.destination()) is not None:
        pages[page]()
        return
    store = session.store()
    current = store.latest_round()
    if current is None:  # taken away by a restored backup
        return
    listed = read_worklist(store, current, looks=account.username)
    work = {
        ANNOTATION: annotation_work(listed, looks=account.username),
        REVIEW: review_work(listed, looks=account.username),
    }
    state = RoundState(current.state)
    st.markdown(f"**{wording.round_state(state, waiting_for=waiting_for(store, current))}**")
    if _some_simulated(listed):
        st.warning(wording.SIMULATED_NOTICE, icon="⚠")
    if (notice := session.said()) is not None:
        st.error(wording.sentence(notice), icon="⚠")
    reviewing = state in (RoundState.AWAITING_REVIEW, RoundState.REPORTED)
    wanted = REVIEW if reviewing else ANNOTATION
    times = {
        ANNOTATION: expected(listed.slice_s, _kind(listed)),
        REVIEW: expected(listed.review_s, REVIEW),
    }
    _next(listed, account, work, wanted, times, open_blinded)
    _section(listed, account, work, wanted, times)


def _some_simulated(listed: Worklist) -> bool:
    slices = any(wording.is_simulated(task.provenance) for task in listed.tasks)
    return slices or any(review.simulated for review in listed.reviews)


def _kind(listed: Worklist) -> str:
    return listed.tasks[0].kind if listed.tasks else "contour"


def _next(
    listed: Worklist,
    account: Account,
    work: dict[Purpose, list[WorkItem]],
    wanted: Purpose,
    times: dict[Purpose, Expected],
    open_blinded: Callable[[], None],
) -> None:
    """Show what is next for who looks, with the button that opens it."""
    order = [wanted, *(purpose for purpose in work if purpose != wanted)]
    mine = [purpose for purpose in order if ROLES[purpose] in account.roles]
    item = next_work(*(work[purpose] for purpose in mine))
    blinded = bool(listed.blinded) and ROLES[REVIEW] in account.roles
    with st.container(border=True, key="next_work"):
        words, button = st.columns([5, 1], vertical_alignment="center")
        words.html(next_html(item, times, blinded=blinded))
        if item is None and blinded:
            if button.button(
                "Blinded reading", key="open_blinded", type="primary", width="stretch"
            ):
                open_blinded()
        elif item is not None and item.state is State.TO_SIGN:
            button.button(
                "Open to sign",
                key="open_next",
                type="primary",
                width="stretch",
                on_click=_look,
                args=(_key(listed, item), None),
            )
        elif item is not None:
            button.button(
                "Continue" if item.mine else "Open next",
                key="open_next",
                type="primary",
                width="stretch",
                help="Takes the case for you; the clock starts when you press Start there",
                on_click=_take_and_open,
                args=(_key(listed, item), _first_slice(item)),
            )


def _section(
    listed: Worklist,
    account: Account,
    work: dict[Purpose, list[WorkItem]],
    wanted: Purpose,
    times: dict[Purpose, Expected],
) -> None:
    """Show one of the two lists with its progress and filters."""
    progress = st.container()
    choices = st.container(horizontal=True, vertical_alignment="center")
    # The browser sends the words back: they must not hold a number that changes meanwhile.
    session.kept("work_section", wanted)
    section = choices.segmented_control(
        "List",
        list(SECTIONS),
        key="work_section",
        format_func=SECTIONS.__getitem__,
        on_change=session.keep,
        args=("work_section",),
        label_visibility="collapsed",
    )
    purpose = section or wanted
    items = work[purpose]
    if not items:
        progress.info(
            "The slices to annotate are being chosen; they show here by themselves."
            if purpose == ANNOTATION
            else "No patient is set aside for testing the model."
        )
        return
    with progress:
        _progress(listed, items, purpose, times[purpose])
    with choices:
        chosen = _filtered(items, purpose)
    if not chosen:
        st.info("Nothing here matches the filters above.")
        return
    if purpose == ANNOTATION:
        st.html(legend_html({task.role for item in items for task in item.tasks}))
    limit = session.kept("work_rows", ROWS)
    for item in chosen[:limit]:
        _row(listed, account, item, times[purpose])
    if len(chosen) > limit:
        st.button(
            f"Show more ({len(chosen) - limit} not shown)",
            key="more",
            on_click=session.put,
            args=("work_rows", limit + 3 * ROWS),
        )


def _progress(listed: Worklist, items: list[WorkItem], purpose: Purpose, time: Expected) -> None:
    if purpose == ANNOTATION:
        left = sum(len(item.open_tasks) for item in items)
        share = 1 - left / len(listed.tasks)
        words = [budget_line(listed.cases, listed.tasks), time_line(time, left, piece="slice")]
    else:
        seen = [item for item in items if item.state is not State.BLINDED]
        done = sum(item.verdict is not None for item in seen)
        share = done / len(seen) if seen else 0.0
        left = sum(item.state is State.OPEN and item.verdict is None for item in seen)
        with_computer = len(seen) - done - left
        words = [
            f"{done} of {wording.counted(len(seen), 'case')} reviewed." if seen else "",
            time_line(time, left, piece="case") if seen else "",
            f"Not contoured by the computer yet: {with_computer}." if with_computer else "",
            wording.BLINDED_LEFT_OUT if len(seen) < len(items) else "",
        ]
    st.progress(share, text=" ".join(filter(None, words)))


def _filtered(items: list[WorkItem], purpose: Purpose) -> list[WorkItem]:
    """Show the filters; return what passes them."""
    session.kept("work_show", Show.TO_DO)
    show = st.segmented_control(
        "Show",
        list(Show),
        key="work_show",
        format_func=str.capitalize,
        on_change=session.keep,
        args=("work_show",),
        label_visibility="collapsed",
    )
    role = None
    if purpose == ANNOTATION:
        roles = sorted({task.role for item in items for task in item.tasks})
        if session.kept("work_reason", ANY_REASON) not in (ANY_REASON, *roles):
            session.put("work_reason", ANY_REASON)
        choice = st.selectbox(
            "Reason",
            [ANY_REASON, *roles],
            key="work_reason",
            format_func=lambda one: (
                one.capitalize() if one == ANY_REASON else wording.short_reason(one)
            ),
            on_change=session.keep,
            args=("work_reason",),
            label_visibility="collapsed",
            width=170,
        )
        role = None if choice == ANY_REASON else choice
    session.kept("work_text", "")
    wanted = st.text_input(
        "Find a case or patient",
        key="work_text",
        placeholder="Find a pseudonym",
        on_change=session.keep,
        args=("work_text",),
        label_visibility="collapsed",
        width=230,
    )
    return matching(items, show or Show.ALL, role=role, text=wanted)


def _row(listed: Worklist, account: Account, item: WorkItem, time: Expected) -> None:
    """Show one case with its buttons."""
    key = _key(listed, item)
    with st.container(key=f"work_{item.purpose}_{item.case_id}"):
        words, buttons = st.columns([5, 1.45], vertical_alignment="center")
        words.html(row_html(item, time, now=utc_now()))
        with buttons.container(horizontal=True, horizontal_alignment="right"):
            if session.kept("work_asked", None) == key and item.with_others:
                _confirm(key, item)
            else:
                _buttons(account, key, item)


def _buttons(account: Account, key: WorkKey, item: WorkItem) -> None:
    name = f"{item.purpose}_{item.case_id}"
    to_do = item.state is State.OPEN and ROLES[item.purpose] in account.roles
    if to_do and item.mine:
        _button("Open", f"open_{name}", _take_and_open, key, _first_slice(item))
    elif to_do and item.holder is None:
        _button("Open", f"open_{name}", _take_and_open, key, _first_slice(item))
        _button("Claim", f"claim_{name}", _claim, key)
    elif item.state is State.TO_SIGN:
        _button("Open", f"open_{name}", _look, key, None)
    elif item.state is not State.BLINDED and account.roles & set(ROLES.values()):
        _button("Look", f"look_{name}", _look, key, _first_slice(item))
    if item.mine:
        _button("Release", f"release_{name}", _release, key)
    elif item.with_others and account.roles & set(MAY_RELEASE):
        _button("Release …", f"ask_{name}", session.put, "work_asked", key)


def _confirm(key: WorkKey, item: WorkItem) -> None:
    """Ask before somebody's claim is taken away."""
    name = f"{item.purpose}_{item.case_id}"
    st.html(question_html(item))
    _button("Yes, release", f"force_{name}", _release_from, key)
    _button("No", f"leave_{name}", session.put, "work_asked", None)


def _button(label: str, key: str, on_click: Callable[..., None], *arguments: object) -> None:
    st.button(label, key=key, on_click=on_click, args=arguments)


def _key(listed: Worklist, item: WorkItem) -> WorkKey:
    return WorkKey(listed.round.round_id, item.case_id, item.purpose)


def _first_slice(item: WorkItem) -> int | None:
    """Return the slice to open at: the most wanted one; of a review, where the page likes."""
    wanted = item.open_tasks or item.tasks
    return wanted[0].slice_z if wanted else None


# -- what the buttons do: before the list is drawn again --------------------------------------


def _claim(key: WorkKey) -> None:
    _claimed(key)


def _claimed(key: WorkKey) -> bool:
    sign_in.touch()
    try:
        account = sign_in.actor(ROLES[key.purpose])
        claims.claim(session.store(), key, author=account.username)
    except DataError as error:
        session.say(str(error))
        return False
    return True


def _take_and_open(key: WorkKey, slice_z: int | None) -> None:
    if _claimed(key):
        session.open_case(key.case_id, slice_z)
        session.go_to(key.purpose)


def _look(key: WorkKey, slice_z: int | None) -> None:
    sign_in.touch()
    session.open_case(key.case_id, slice_z)
    session.go_to(REVIEW)


def _release(key: WorkKey) -> None:
    sign_in.touch()
    try:
        claims.release(session.store(), key, author=sign_in.actor().username)
    except DataError as error:
        session.say(str(error))


def _release_from(key: WorkKey) -> None:
    sign_in.touch()
    session.put("work_asked", None)
    try:
        account = sign_in.actor(*MAY_RELEASE)  # the button may be older than the role
        claims.release(session.store(), key, author=account.username, force=True)
    except DataError as error:
        session.say(str(error))
