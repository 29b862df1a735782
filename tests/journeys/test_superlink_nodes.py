"""A real SuperLink lets in whom the study certified, and nobody else any more."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.cli import SITE_EXECUTOR
from coordinator.config import CoordinatorHome
from coordinator.enrolment import revoke
from coordinator.flower_transport import FlowerTransport
from coordinator.loopback_deployment import LoopbackDeployment
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal
from coordinator.superlink_nodes import register_sites
from coordinator.superlink_state import forget_runs
from site_agent.config import SiteHome
from site_agent.enrolment import Asking
from tests.enrolled import NOW, enrol_site
from tests.simulated_site import (
    make_coordinator,
    make_site,
    make_study,
    prepare_source_package,
    sign_study_plan,
)

pytestmark = pytest.mark.journey


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackDeployment]:
    with LoopbackDeployment(tmp_path_factory.mktemp("superlink")) as deployment:
        yield deployment


def certified(folder: Path, *names: str) -> tuple[CoordinatorHome, dict[str, SiteHome]]:
    home = make_coordinator(folder / "c", targets=names)
    sites = {name: make_site(folder / name, name) for name in names}
    for site in sites.values():
        enrol_site(home, site)
    return home, sites


def test_the_superlink_follows_what_was_certified(superlink, tmp_path) -> None:
    home, sites = certified(tmp_path, "hospital-b", "hospital-c", "hospital-d")
    among = home.config.sites  # of which hospital-a was never enrolled

    def register() -> list[tuple[str, str]]:
        with StudyStore(home.database_url, home.config) as store:
            return sorted(register_sites(superlink.client, store, among))

    assert register() == [(name, "registered") for name in sorted(sites)]
    assert register() == []

    among = tuple(name for name in among if name != "hospital-d")
    assert register() == [("hospital-d", "unregistered")]  # air-gapped from now on

    later = NOW + timedelta(seconds=1)
    enrol_site(home, sites["hospital-b"], asking=Asking.RENEWAL, now=later)
    assert register() == []  # the node's key stays
    later += timedelta(seconds=1)
    enrol_site(home, sites["hospital-b"], asking=Asking.NEW_KEYS, now=later)
    assert register() == [("hospital-b", "registered"), ("hospital-b", "unregistered")]

    with StudyStore(home.database_url, home.config) as store:
        revoke(home, store, "hospital-c", later)
    assert register() == [("hospital-c", "unregistered")]
    assert register() == []

    # With the keys from before it is certified again, but a SuperLink takes no key twice.
    (sites["hospital-c"].keys / "enrolment.json").unlink()
    enrol_site(home, sites["hospital-c"], now=later + timedelta(seconds=1))
    assert register() == [("hospital-c", "node_key_spent")]
    enrol_site(home, sites["hospital-c"], asking=Asking.NEW_KEYS, now=later + timedelta(seconds=2))
    assert register() == [("hospital-c", "registered")]


def test_a_superlink_without_its_old_runs_goes_on_with_its_sites(tmp_path) -> None:
    """What `serve` does before it starts one, with Flower's own tables."""
    coordinator, homes = make_study(tmp_path, "hospital-b")
    with FlowerTransport(coordinator, homes, site_executor=SITE_EXECUTOR) as transport:
        prepare_source_package(homes["hospital-a"])
        assert transport.tick(Goal.DELIVERED, patience_s=120).package_id is not None
        deployment = transport._deployment
        known = deployment.online()
        assert len(known) == 2
        deployment.superlink.terminate()
        deployment.superlink.wait(60)
        state = deployment.folder / "state.db"
        forget_runs(state)
        with closing(sqlite3.connect(state)) as opened:
            assert opened.execute("SELECT count(*) FROM run").fetchone() == (0,)
            assert opened.execute("SELECT count(*) FROM node").fetchone() == (2,)
        deployment.start_superlink()
        deployment.wait_for("not every SuperNode came back", lambda: deployment.online() == known)
        sign_study_plan(coordinator)
        assert transport.tick(Goal.APPROVED, patience_s=120).agreed
