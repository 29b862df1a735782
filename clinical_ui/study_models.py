"""The models this site's doctors taught: what the gate said, which is in use, and the way back."""

from functools import partial

import streamlit as st

from algorithms.contracts.errors import DataError, ProtocolError
from clinical_ui import study_wording, wording
from clinical_ui.study_action import ask_and_do
from clinical_ui.study_actor import hospital_it
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.database import AuditRow, SiteModelRow
from site_agent.model_store import (
    Comparison,
    activate,
    active_model,
    history,
    is_whole,
    model_before,
    models,
    roll_back,
)
from site_agent.package_store import read_manifest

HISTORY_ROWS = 20


def show(store: CaseStore) -> None:
    """Show the models, their comparison, and, to hospital IT, the buttons that change them."""
    home, engine = store.home, store.engine
    rows, active = models(engine), active_model(engine)
    in_use = study_wording.OWN_MODEL if active is None else f"model `{active.sha256[:16]}`"
    st.markdown(f"New patients are segmented by **{in_use}**.")
    if not rows:
        st.info("No round has ended in a model yet. A model comes here once a round was learnt.")
        return
    margins = {row.sha256: margin_of(store, row) for row in rows}
    st.header("Models of this site")
    lines = [model_row(r, active, margins[r.sha256], whole=_whole(home, r)) for r in rows[::-1]]
    st.table(lines, hide_index=True)
    st.caption(
        "Dice is the mean over the validation patients. A model comes into use by itself when it "
        "is not worse than what was in use by more than the margin of the package."
    )
    if hospital_it() is not None:
        _buttons(store, rows, active, margins)
    else:
        st.caption("Hospital IT can bring a model into use, and go back.")
    st.header("What was done")
    st.table([history_row(entry) for entry in history(engine)[:HISTORY_ROWS]], hide_index=True)


def model_row(
    row: SiteModelRow, active: SiteModelRow | None, margin: float | None, *, whole: bool
) -> dict[str, str]:
    """Return the line of a model in the table; `margin` None is not known."""
    in_use = active is not None and active.sha256 == row.sha256
    state = "● in use" if in_use else "○ not in use"
    return {
        "Model": row.sha256[:16],
        "State": state if whole else "✕ weights lost or damaged",
        "Offered": wording.moment(row.offered_at),
        "Patients": str(row.validation_patients),
        "Dice": study_wording.percent(row.candidate_dsc),
        "Was in use": study_wording.percent(row.incumbent_dsc),
        "Margin": "not known" if margin is None else f"{100 * margin:.1f} points",
        "What the gate said": gate(row, margin),
    }


def gate(row: SiteModelRow, margin: float | None) -> str:
    """Say what the comparison came to; without the margin, who is better."""
    compared = Comparison(
        row.validation_patients, row.candidate_dsc, row.incumbent_dsc, margin or 0.0
    )
    known = None not in (row.candidate_dsc, row.incumbent_dsc)
    if margin is None and known and not compared.passes:
        return "Worse than what was in use; its package, which names the margin, cannot be read."
    return study_wording.gate(compared)


def margin_of(store: CaseStore, row: SiteModelRow) -> float | None:
    """Return how much worse a model may be, a fraction; None where its package is unreadable."""
    try:
        manifest = read_manifest(store.home, store.round(row.round_id).package_id)
    except (DataError, ProtocolError):
        return None
    return manifest.adaptation.promotion_margin


def history_row(entry: AuditRow) -> dict[str, str]:
    """Return one line of what was done with models."""
    return {
        "Time": wording.moment(entry.at),
        "Who": wording.verbatim(entry.actor),
        "Model": entry.subject.removeprefix("model-"),
        "What": study_wording.model_event(entry.event, entry.detail),
    }


def _buttons(
    store: CaseStore,
    rows: list[SiteModelRow],
    active: SiteModelRow | None,
    margins: dict[str, float | None],
) -> None:
    home = store.home
    others = [r for r in rows[::-1] if active is None or r.sha256 != active.sha256]
    others = [row for row in others if _whole(home, row)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if others:
            chosen = st.selectbox(
                "Model to bring into use",
                others,
                format_func=lambda row: (
                    f"{row.sha256[:16]}, Dice {study_wording.percent(row.candidate_dsc)}"
                ),
                key="model_choice",
                width=340,
            )
            ask_and_do(
                "Bring into use …",
                f"Model `{chosen.sha256[:16]}` will segment new patients.\n\nThe gate: "
                f"{gate(chosen, margins[chosen.sha256])}",
                f"Yes, use {chosen.sha256[:16]}",
                partial(_activate, store, chosen.sha256),
                key=f"activate_{chosen.sha256[:16]}",
            )
        if active is not None:
            before = model_before(home, store.engine)
            to = study_wording.OWN_MODEL if before is None else f"model `{before.sha256[:16]}`"
            ask_and_do(
                "Go back …",
                f"Model `{active.sha256[:16]}` is taken out of use. New patients will be segmented "
                f"by {to}.",
                "Yes, go back",
                partial(_roll_back, store, active.sha256),
                key=f"rollback_{active.sha256[:16]}",
            )


def _activate(store: CaseStore, sha256: str, actor: str) -> str:
    row = activate(store.home, store.engine, sha256, actor=actor)
    return f"Model {row.sha256[:16]} is in use."


def _roll_back(store: CaseStore, shown: str, actor: str) -> str:
    active = active_model(store.engine)
    if active is None or active.sha256 != shown:
        raise DataError("another model is in use by now: look again before you go back")
    before = roll_back(store.home, store.engine, actor=actor)
    now = study_wording.OWN_MODEL if before is None else f"model {before.sha256[:16]}"
    return f"{now[0].upper()}{now[1:]} is in use."


def _whole(home: SiteHome, row: SiteModelRow) -> bool:
    """Say whether the weights are there; read anew only when their file was touched."""
    file = home.models / f"{row.sha256}.safetensors"
    found = file.stat() if file.is_file() else None
    touched = (0, 0) if found is None else (found.st_mtime_ns, found.st_size)
    return _whole_then(home, row, str(file), *touched)


@st.cache_resource(show_spinner=False, max_entries=200)
def _whole_then(_home: SiteHome, _row: SiteModelRow, file: str, touched_ns: int, size: int) -> bool:
    return is_whole(_home, _row)
