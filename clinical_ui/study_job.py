"""What the computer does now, live; and how the round goes on when nothing waits for people."""

from functools import partial

import streamlit as st

from algorithms.contracts.messages import RoundState
from clinical_ui import study_wording, wording
from clinical_ui.study_action import carry_out
from clinical_ui.study_actor import hospital_it
from site_agent import start_worker
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.database import utc_now
from site_agent.live_progress import LiveProgress, read_progress
from site_agent.site_lock import is_working

EVERY_S = 1.5


def show(store: CaseStore, next_step: str | None) -> None:
    """Show the job that runs, or what the computer would do next."""
    home = store.home
    if is_running(home):
        # Only while a job runs is there anything to look at again and again.
        st.fragment(partial(_live, store, _where(store)), run_every=EVERY_S)()
        return
    stopped = read_progress(home)
    if stopped is not None:
        st.warning(
            f"{stopped_line(stopped)} It goes on where it stopped with "
            f"`{study_wording.CONTINUE_COMMAND}`.",
            icon="⚠",
        )
    if (failed := start_worker.failure(home)) is not None:
        st.error(f"The computer could not go on: {failed}")
    if next_step is None and stopped is None:
        return
    if stopped is None:
        st.info(f"{next_step} This starts with `{study_wording.CONTINUE_COMMAND}`.")
    if hospital_it() is not None:
        st.button(
            "Continue the round", key="continue", type="primary", on_click=partial(_continue, home)
        )


def is_running(home: SiteHome) -> bool:
    """Say whether a worker runs, or starts."""
    return is_working(home) or start_worker.is_starting(home)


def what_next(
    state: RoundState, *, waiting: int, other_package: bool, new_cases: int
) -> str | None:
    """Say what the computer would do next; None while the next word is a person's.

    Args:
        state: of the round.
        waiting: how many slices or cases wait for a doctor.
        other_package: the approved package is another one than that of the round.
        new_cases: cases that the computer has not looked at.
    """
    by_itself = (RoundState.RECEIVED, RoundState.TRAINING, RoundState.FAILED)
    with_doctors = (RoundState.AWAITING_ANNOTATION, RoundState.AWAITING_REVIEW)
    if state in by_itself or (state in with_doctors and not waiting):
        return study_wording.continues(state)
    if other_package:
        return study_wording.continues(
            RoundState.NONE if state is RoundState.NONE else RoundState.REPORTED
        )
    if new_cases and state in (RoundState.AWAITING_REVIEW, RoundState.REPORTED):
        return (
            f"The computer has {wording.counted(new_cases, 'case')} left to measure, and to "
            "segment where the patient is new."
        )
    return None


def bar_line(progress: LiveProgress) -> str:
    """Say how far the running step is."""
    parts = [study_wording.step(progress.what)]
    if progress.total:
        left = progress.remaining_s(utc_now())
        parts.append(f"{progress.done} of {progress.total}")
        parts.append("time left is not known yet" if left != left else _left(left))
    if progress.loss >= 0:
        parts.append(f"loss {progress.loss:.3f}")
    return " · ".join(parts)


def stopped_line(progress: LiveProgress) -> str:
    """Say that a step ended before it was done, and where."""
    where = f" at {progress.done} of {progress.total}" if progress.total else ""
    return (
        f"“{study_wording.step(progress.what)}” stopped{where}; its last sign was at "
        f"{wording.moment(progress.updated_at)}."
    )


def _left(seconds: float) -> str:
    return f"about {study_wording.duration(max(seconds, 1.0))} left"


def _where(store: CaseStore) -> tuple[str, str]:
    current = store.latest_round()
    return ("", "") if current is None else (current.round_id, current.state)


def _live(store: CaseStore, drawn: tuple[str, str]) -> None:
    """Show the bar; where the round is elsewhere than the page was drawn for, draw all of it."""
    if not is_running(store.home) or _where(store) != drawn:
        st.rerun()
    progress = read_progress(store.home)
    if progress is None:
        st.progress(0.0, text="The computer is working.")
        return
    st.progress(progress.share, text=bar_line(progress))
    st.caption(f"At work {study_wording.since(progress.started_at, utc_now())}.")


def _continue(home: SiteHome) -> None:
    def start(_actor: str) -> str:
        start_worker.start_worker(home)
        return "The computer goes on; this page shows how far it is."

    carry_out(start)
