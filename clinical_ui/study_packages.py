"""Model packages: the one in use, and what waits to be approved, with what verification said."""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.model_package import Manifest
from clinical_ui import study_wording, wording
from clinical_ui.study_action import ask_and_do
from clinical_ui.study_actor import hospital_it
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.database import PackageRow
from site_agent.package_store import approve, verify_stored

STATES = {"stored": "waits for approval", "approved": "approved", "retired": "retired"}


def show(store: CaseStore, held: Sequence[PackageRow], used: str | None) -> None:
    """Show the package that is `used`, those that wait, and those that were used before."""
    st.header("Model package")
    if not held:
        st.info("No model package has arrived.")
        return
    package = next((one for one in held if one.package_id == used), None)
    if package is not None:
        st.markdown(f"Model version **{package.model_version}**, {STATES[package.state]}")
        st.caption(
            f"`{package.package_id}`, signed with key {package.signed_by}, received "
            f"{wording.moment(package.received_at)}."
        )
    for waits in held:
        if waits.state == "stored":
            _waiting(store, waits)
    others = [one for one in held if one is not package and one.state != "stored"]
    if others:
        st.caption("Others held: " + ", ".join(_line(one) for one in others) + ".")


def alarm(held: Sequence[PackageRow]) -> str | None:
    """Say that packages wait for approval; None when none does."""
    waiting = [package.model_version for package in held if package.state == "stored"]
    if not waiting:
        return None
    return f"A model package waits for hospital IT to approve it: version {', '.join(waiting)}."


def facts(manifest: Manifest) -> list[dict[str, str]]:
    """Return what a person should know before approving a package."""
    told = manifest.source_validation
    return [
        {"About": about, "Says": says}
        for about, says in {
            "Version": manifest.model_version
            + (f", follows {manifest.parent_version}" if manifest.parent_version else ""),
            "Draws": f"{manifest.roi_name} on {manifest.modality}",
            "Network": f"{manifest.network.name}, {manifest.network.levels} levels, "
            f"{manifest.network.base_channels} channels",
            "At its source": f"Dice {study_wording.percent(told.test_dsc)}, "
            f"{told.test_patients} test patients",
            "Asks for": f"{manifest.adaptation.annotation_budget:.0%} of the slices",
            "Licence": manifest.licence,
            "Intended use": manifest.intended_use,
        }.items()
    ]


def _line(package: PackageRow) -> str:
    return f"{package.model_version} ({STATES[package.state]})"


def _waiting(store: CaseStore, package: PackageRow) -> None:
    st.markdown(f"Model version **{package.model_version}** waits for approval")
    manifest, refused = _verified(store.home, str(store.home.folder), package.package_id)
    if manifest is None:
        st.error(f"Verification failed: {refused}")
        return
    st.markdown("✓ Verified: signature, every file, weights and reference points.")
    st.caption(
        f"Signed with key {package.signed_by}, received {wording.moment(package.received_at)}."
    )
    st.table(facts(manifest), hide_index=True, hide_header=True)
    if hospital_it() is None:
        st.caption("Hospital IT approves it.")
        return
    ask_and_do(
        f"Approve version {package.model_version} …",
        f"This site will work with version **{package.model_version}**. A package that was "
        "approved before is retired.",
        "Yes, approve it",
        partial(_approve, store, package.package_id, package.model_version),
        key=f"approve_{package.package_id[:16]}",
        strong=True,
    )


def _approve(store: CaseStore, package_id: str, version: str, actor: str) -> str:
    verify_stored(store.home, package_id)  # what is approved is what is there now
    approve(store.engine, package_id, actor=actor)
    return f"Version {version} is approved."


@st.cache_resource(show_spinner="Verifying the package", ttl=300, max_entries=8)
def _verified(_home: SiteHome, folder: str, package_id: str) -> tuple[Manifest | None, str]:
    """Verify a package now and then, not at every click; `_home` is no part of the key."""
    try:
        return verify_stored(_home, package_id), ""
    except (DataError, ProtocolError) as error:
        return None, str(error)
