"""Accounts, for hospital IT: who may use the pages, and as what."""

from typing import Any

import streamlit as st

from algorithms.contracts.errors import DataError
from clinical_ui import session, sign_in, wording
from site_agent import accounts
from site_agent.accounts import ROLES, Account
from site_agent.database import utc_now

_FORM = "account"
TABLE_HEIGHT_PX = 560  # then it scrolls


def show() -> None:
    """Show the page."""
    me = sign_in.require("it")
    st.title("Accounts")
    known = accounts.listed(session.store().engine)
    table, forms = st.columns([3, 2], gap="large")
    with table:
        height = min(TABLE_HEIGHT_PX, 38 + 35 * len(known))
        st.dataframe(account_rows(known), hide_index=True, height=height, key="accounts")
        if said := session.said():
            st.success(said)
    with forms:
        change, add = st.tabs(["Change an account", "Add an account"])
    with change:
        _change(me, [account for account in known if account.username != me.username])
    with add:
        _add(me)


def account_rows(known: list[Account]) -> list[dict[str, Any]]:
    """Return the accounts as a table."""
    now = utc_now()
    rows = []
    for account in known:
        waits = account.locked_until is not None and account.locked_until > now
        state = "✓ active"
        if account.disabled:
            state = "✕ disabled"
        elif waits:
            state = "◷ waits after wrong passwords"
        rows.append(
            {
                "User name": account.username,
                "Name": account.display_name,
                "Roles": wording.role_names(account.roles),
                "Signs in with": "password" if account.oidc_subject is None else "hospital's own",
                "State": state,
            }
        )
    return rows


def _change(me: Account, others: list[Account]) -> None:
    """Change another account; one's own is changed by a colleague, or by command."""
    if not others:
        st.info("There is no other account. Your own is changed by command: fedgtv-site account.")
        return
    by_name = {account.username: account for account in others}
    chosen = by_name[st.selectbox("Account", list(by_name))]
    key = session.field_key(f"{_FORM}_{chosen.username}")  # new, and empty, after each change
    with st.form(f"change_{key}"):
        roles = _roles(sorted(chosen.roles, key=ROLES.index), key=f"roles_{key}")
        open_ = st.checkbox("May sign in", value=not chosen.disabled)
        password = None
        if chosen.oidc_subject is None:
            password = st.text_input(
                "New password (empty keeps the old one)",
                type="password",
                autocomplete="new-password",
                key=f"password_{key}",
            )
        if st.form_submit_button("Save", type="primary"):
            _apply(me, chosen, roles, disabled=not open_, password=password or None)


def _apply(
    me: Account, chosen: Account, roles: list[str], *, disabled: bool, password: str | None
) -> None:
    engine, now = session.store().engine, utc_now()
    sign_in.touch()
    try:
        if password is not None:
            accounts.set_password(engine, chosen.username, password, actor=me.username, now=now)
        accounts.set_roles(engine, chosen.username, roles, actor=me.username, now=now)
        accounts.set_disabled(engine, chosen.username, disabled, actor=me.username, now=now)
    except DataError as error:
        st.error(wording.sentence(str(error)))
    else:
        session.empty_field(f"{_FORM}_{chosen.username}")
        session.say(f"{chosen.username}: saved.")
        st.rerun()


def _add(me: Account) -> None:
    with_provider = sign_in.uses_provider()
    key = session.field_key(_FORM)
    with st.form(f"add_{key}"):
        username = _text("User name", key=key)
        name = _text("Name, as colleagues know it", key=key)
        person = _text("Name, as DICOM writes it (Family^Given)", key=key)
        roles = _roles([], key=f"roles_{key}")
        if with_provider:
            secret = st.text_input("Identity at the provider (ISSUER|SUBJECT)", key=f"id_{key}")
        else:
            secret = st.text_input(
                "Password", type="password", autocomplete="new-password", key=f"password_{key}"
            )
        if not st.form_submit_button("Add", type="primary"):
            return
    sign_in.touch()
    try:
        added = accounts.create(
            session.store().engine,
            username,
            display_name=name,
            person_name=person,
            roles=roles,
            password=None if with_provider else secret,
            oidc_subject=secret if with_provider else None,
            actor=me.username,
            now=utc_now(),
        )
    except DataError as error:
        st.error(wording.sentence(str(error)))
    else:
        session.empty_field(_FORM)
        session.say(f"{added.username}: added.")
        st.rerun()


def _text(label: str, *, key: str) -> str:
    return st.text_input(
        label, max_chars=accounts.NAME_LENGTH, autocomplete="off", key=f"{label}_{key}"
    )


def _roles(chosen: list[str], *, key: str) -> list[str]:
    return st.multiselect(
        "Roles", ROLES, default=chosen, format_func=wording.ROLES.__getitem__, key=key
    )
