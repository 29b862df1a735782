"""What left the hospital, was held or refused; hospital IT reads a message, and lets it leave."""

import html
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from algorithms.contracts.errors import DataError, ProtocolError
from clinical_ui import wording
from clinical_ui.study_action import ask_and_do, carry_out
from clinical_ui.study_actor import hospital_it
from site_agent.case_store import CaseStore
from site_agent.database import LedgerRow, utc_now
from site_agent.egress import KEPT, approve_release, list_entries, read_message, verify_ledger


def show(store: CaseStore) -> None:
    """Show the ledger, and to hospital IT the messages in it."""
    st.header("What left this hospital")
    entries = list_entries(store.engine)
    if not entries:
        st.info("Nothing has left this hospital.")
        return
    st.caption(
        f"Entries in the ledger: {len(entries)}, newest first. Images, contours and pseudonyms "
        "never leave."
    )
    may = hospital_it() is not None
    table, message = st.columns([3, 2], gap="large") if may else (st.container(), None)
    with table:
        height = min(320, 38 + 35 * len(entries))
        st.dataframe(ledger_rows(entries), hide_index=True, height=height, key="ledger")
        if may:
            st.button(
                "Check that nothing was changed",
                key="verify_ledger",
                on_click=partial(_verify, store),
            )
        else:
            st.caption("Hospital IT reads the messages here, and lets those leave that wait.")
    if message is not None:
        with message:
            _read(store, entries)


def alarm(store: CaseStore) -> str | None:
    """Say that messages wait for approval; None when none does."""
    waiting = waits(list_entries(store.engine))
    if not waiting:
        return None
    number = len(waiting)
    said = "1 message waits" if number == 1 else f"{number} messages wait"
    return f"{said} for hospital IT to let it leave: see What left."


def waits(entries: Sequence[LedgerRow]) -> list[LedgerRow]:
    """Return the held messages that nobody has approved, oldest first."""
    approved = {entry.detail["approves"] for entry in entries if entry.state == "approved"}
    return [e for e in entries if e.state == "held" and e.sequence not in approved]


def ledger_rows(entries: Sequence[LedgerRow]) -> list[dict[str, Any]]:
    """Return the ledger as a table, newest first."""
    waiting = {entry.sequence for entry in waits(entries)}
    return [
        {
            "No.": entry.sequence,
            "Time": wording.moment(entry.at),
            "What": wording.ledger_kind(entry.kind),
            "Size": wording.size(entry.size_bytes),
            "State": "✓ was held, then approved"
            if entry.state == "held" and entry.sequence not in waiting
            else state(entry),
        }
        for entry in reversed(entries)
    ]


def state(entry: LedgerRow) -> str:
    """Say what became of a message, and of a refused one by which rule."""
    said = wording.ledger_state(entry.state)
    rule = str(entry.detail.get("rule", "")).replace("_", " ")
    return f"{said} ({rule})" if entry.state == "refused" and rule else said


def message_element(content: bytes, sequence: int) -> str:
    """Return a message as text that can be scrolled by keyboard."""
    text = html.escape(json.dumps(json.loads(content), indent=2, ensure_ascii=False))
    label = f"Message of entry {sequence}"
    return (
        f'<pre class="fedgtv-message" tabindex="0" role="region" aria-label="{label}">{text}</pre>'
    )


def _read(store: CaseStore, entries: Sequence[LedgerRow]) -> None:
    waiting = waits(entries)
    others = [e for e in reversed(entries) if e.state in KEPT and e not in waiting]
    readable = [*waiting, *others]
    if not readable:
        return
    chosen = st.selectbox(
        "Read a message",
        readable,
        format_func=lambda e: (
            f"No. {e.sequence}: {wording.ledger_kind(e.kind)}" + (" (waits)" * (e in waiting))
        ),
        key="message_choice",
    )
    try:
        content = read_message(store.home, store.engine, chosen.sequence)
    except (DataError, ProtocolError) as error:
        st.error(str(error))
        return
    st.html(message_element(content, chosen.sequence))
    if chosen in waiting:
        ask_and_do(
            f"Let no. {chosen.sequence} leave …",
            "The coordinator gets exactly what is shown here when it asks next. It cannot be taken "
            "back.",
            f"Yes, let no. {chosen.sequence} leave",
            partial(_approve, store, chosen.sequence),
            key=f"release_{chosen.sequence}",
            strong=True,
        )


def _approve(store: CaseStore, sequence: int, actor: str) -> str:
    read_message(store.home, store.engine, sequence)  # its copy is still what was read
    approve_release(store.engine, sequence, actor=actor, now=utc_now())
    return f"Entry {sequence} may leave; the coordinator gets it when it asks next."


def _verify(store: CaseStore) -> None:
    def verify(_actor: str) -> str:
        return f"{verify_ledger(store.home, store.engine)} entries, unbroken."

    carry_out(verify)
