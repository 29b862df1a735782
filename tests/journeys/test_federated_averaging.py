"""Two rounds of a study whose hospitals let clipped and noised updates go, with real training.

Three hospitals adapt the source's model; a person releases what one of them sends. The next model
is the mean that the test computes itself from what lies at the sites.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.federation_plan import ModelUpdateTerms, SignedPlan
from algorithms.contracts.messages import UPDATE_FILE, ModelUpdateOffer, RoundState
from algorithms.contracts.model_package import MODEL_FILE, REFERENCE_POINTS_FILE
from algorithms.federated_averaging import gaussian_epsilon
from coordinator import plans
from coordinator.config import CoordinatorConfig, CoordinatorHome, write_config
from coordinator.config import open_home as open_coordinator_home
from coordinator.embedded_transport import EmbeddedTransport
from coordinator.model_averaging import plan_averaging, publish_average
from coordinator.package_publisher import create_key, open_package, public_key_hex
from coordinator.server_app import FlowerSites
from coordinator.sites import Question, Silence
from coordinator.study_store import StudyStore, create_database
from coordinator.study_workflow import Goal, SiteProgress
from coordinator.update_collection import UpdateRecords
from site_agent import egress
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.database import utc_now
from site_agent.model_update import promise_so_far
from site_agent.package_store import active_package, approve
from site_agent.plan_store import approve_plan, plans_held
from site_agent.simulated_annotator import annotate_open_tasks, review_cases
from site_agent.source_package import train_source
from site_agent.worker import work
from tests.phantoms import STUDY, filled_store, make_home, tiny_plan
from tests.site_agent.tiny_road import SHARES

pytestmark = pytest.mark.journey

SITE_APP = "site_agent.client_app:app"
TARGETS = {"hospital-b": 6, "hospital-c": 7, "hospital-d": 8}  # patients
BY_HAND = "hospital-c"
TERMS = ModelUpdateTerms(clip_norm=0.5, noise_multiplier=0.02, delta=1e-5)


@dataclass(frozen=True)
class Federation:
    """A coordinator, and the homes and stores of its target hospitals."""

    coordinator: CoordinatorHome
    stores: dict[str, CaseStore]
    transport: EmbeddedTransport

    def home(self, site: str) -> SiteHome:
        return self.stores[site].home

    def sign_plan(self, terms: ModelUpdateTerms | None) -> SignedPlan:
        now = datetime.now(UTC).replace(tzinfo=None)
        with StudyStore(self.coordinator.database_url, self.coordinator.config) as store:
            draft = plans.draft_plan(
                self.coordinator,
                store,
                valid_days=30,
                minimum_patients=2,
                minimum_group_size=2,
                model_updates=terms,
                now=now,
            )
            return plans.sign_plan(self.coordinator, store, draft, now=now)

    def agree(self, terms: ModelUpdateTerms | None) -> SignedPlan:
        """Sign a plan; those with `auto_approve` sign it too, and a person does at the other."""
        plan = self.sign_plan(terms)
        self.transport.tick()
        engine = self.stores[BY_HAND].engine
        number = plans_held(engine)[-1].plan_number
        approve_plan(self.home(BY_HAND), engine, number, actor="Dr Anna Example", now=utc_now())
        assert self.transport.tick(Goal.APPROVED, patience_s=10).agreed
        return plan

    def do_the_work(self) -> None:
        for store in self.stores.values():
            while work(store.home, store) is not RoundState.REPORTED:
                annotate_open_tasks(store)
                review_cases(store)

    def release_by_hand(self) -> None:
        engine = self.stores[BY_HAND].engine
        entries = egress.list_entries(engine)
        done = {entry.detail["approves"] for entry in entries if entry.state == "approved"}
        for entry in entries:
            if entry.state == "held" and entry.sequence not in done:
                egress.approve_release(engine, entry.sequence, actor="it", now=utc_now())

    def updates(self) -> dict[str, ModelUpdateOffer]:
        with StudyStore(self.coordinator.database_url, self.coordinator.config) as store:
            rows = UpdateRecords(store).all(store.current_package())
            return {row.site: ModelUpdateOffer.model_validate(row.offer) for row in rows}


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    # Drawn by chance, the noise now and then leaves one patient's figure as it was, and the door
    # refuses the second report: "few_figures_changed".
    noise = np.random.default_rng(0).standard_normal
    monkeypatch.setattr("site_agent.model_update.system_normal", noise)
    write_config(
        tmp_path / "coordinator",
        CoordinatorConfig(study=STUDY, source_site="hospital-a", target_sites=tuple(TARGETS)),
    )
    coordinator = open_coordinator_home(tmp_path / "coordinator")
    create_database(coordinator.database_url)
    create_key(coordinator.signing_key)
    key = public_key_hex(coordinator)
    automatic = {"auto_approve": True}
    source = make_home(tmp_path / "hospital-a", "hospital-a", "source", key, **SHARES | automatic)
    train_source(source, filled_store(source, 8), tiny_plan(target_trained=False))
    stores = {}
    for place, (site, patients) in enumerate(TARGETS.items(), start=1):
        settings = SHARES if site == BY_HAND else SHARES | automatic
        home = make_home(tmp_path / site, site, "target", key, **settings)
        stores[site] = filled_store(home, patients, first_seed=100 * place, contrast=40.0)
    homes = {"hospital-a": source.folder} | {s: store.home.folder for s, store in stores.items()}
    with EmbeddedTransport(coordinator, homes, site_app=SITE_APP) as transport:
        assert transport.tick(Goal.DELIVERED, patience_s=10).package_id is not None
        engine = stores[BY_HAND].engine
        package_id = transport.tick().package_id
        approve(engine, package_id, actor="it")
        yield Federation(coordinator, stores, transport)


def _kept_update(home: SiteHome, package_id: str) -> dict[str, np.ndarray]:
    (file,) = (home.updates / package_id).rglob(UPDATE_FILE)
    return load_file(file)


def test_updates_leave_by_the_plan_and_become_the_next_model(federation: Federation) -> None:
    first = federation.transport.tick().package_id
    assert first is not None

    # 1. The plan in force lets no update leave: whoever asks for one gets a name and no more.
    federation.agree(None)
    federation.do_the_work()
    sites = FlowerSites(federation.transport._grid, federation.coordinator)
    answers = sites.ask(Question.MODEL_UPDATE, TARGETS, package_id=first)
    assert set(answers.values()) == {Silence("ReleaseRefused")}
    for store in federation.stores.values():
        refused = egress.list_entries(store.engine)[-1]
        assert (refused.kind, refused.state) == ("model_update", "refused")
        assert refused.detail == {"rule": "output_not_in_plan"}
        assert not store.home.updates.exists()
    federation.transport.tick()
    federation.release_by_hand()
    assert {record.progress for record in federation.transport.tick().sites[1:]} == {
        SiteProgress.REPORTED
    }

    # 2. A second plan does; a person at one hospital holds its update, and lets it go.
    plan = federation.agree(TERMS)
    federation.do_the_work()
    federation.transport.tick()
    assert set(federation.updates()) == set(TARGETS) - {BY_HAND}
    federation.release_by_hand()
    federation.transport.tick()
    offers = federation.updates()
    assert set(offers) == set(TARGETS)
    assert {offer.plan_sha256 for offer in offers.values()} == {plan.plan_sha256}

    # 3. The average is the weighted mean of what lies at the sites.
    with StudyStore(federation.coordinator.database_url, federation.coordinator.config) as store:
        averaging = plan_averaging(federation.coordinator, store)
        assert averaging.missing == ()
        second = publish_average(federation.coordinator, store, averaging, "1.1.0")
    parent = open_package(federation.coordinator, first).folder
    base, made = (
        load_file(parent / MODEL_FILE),
        load_file(open_package(federation.coordinator, second).folder / MODEL_FILE),
    )
    counts = {
        site: len({c.patient_id for c in store.cases() if c.split in ("training", "validation")})
        for site, store in federation.stores.items()
    }
    assert counts == {site: offer.training_patients for site, offer in offers.items()}
    assert len(set(counts.values())) > 1, "equal weights would hide a wrong weighting"
    kept = {site: _kept_update(federation.home(site), first) for site in TARGETS}
    for name, weights in base.items():
        expected = weights
        if weights.dtype == np.float32:
            mean = sum(counts[s] * kept[s][name].astype(float) for s in TARGETS)
            expected = weights + mean / sum(counts.values())
            if name.endswith("running_var"):
                expected = np.maximum(expected, 0.1 * weights)
            assert not np.array_equal(made[name], weights)
        np.testing.assert_allclose(made[name], expected, rtol=1e-6, atol=1e-7)
    points = (parent / REFERENCE_POINTS_FILE).read_bytes()
    assert (
        open_package(federation.coordinator, second)
        .folder.joinpath(REFERENCE_POINTS_FILE)
        .read_bytes()
        == points
    )

    # 4. The coordinator has no single update any more, and the sites have every byte that left.
    files = [f for f in federation.coordinator.folder.rglob("*") if f.is_file()]
    left = {offer.files[UPDATE_FILE].sha256 for offer in offers.values()}
    assert not left & {sha256_hex(file.read_bytes()) for file in files}
    for site, store in federation.stores.items():
        digest = offers[site].files[UPDATE_FILE].sha256
        copy = store.home.ledger / "files" / digest
        assert load(copy.read_bytes()).keys() == kept[site].keys()
        assert egress.verify_ledger(store.home, store.engine) > 0

    # 5. The next package goes out, and a round with it works and gives another update.
    assert federation.transport.tick(Goal.DELIVERED, patience_s=20).package_id == second
    approve(federation.stores[BY_HAND].engine, second, actor="it")
    federation.agree(TERMS)
    for store in federation.stores.values():
        package = active_package(store.engine)
        assert package is not None
        assert package.package_id == second
    federation.do_the_work()
    federation.transport.tick()
    federation.transport.tick()
    assert set(federation.updates()) == set(TARGETS) - {BY_HAND}
    twice = promise_so_far(egress.list_entries(federation.stores["hospital-b"].engine))
    once = promise_so_far(egress.list_entries(federation.stores[BY_HAND].engine))
    assert (once.updates, twice.updates) == (1, 2)
    assert once.epsilon == pytest.approx(gaussian_epsilon(0.02, 1e-5))
    assert twice.epsilon == pytest.approx(gaussian_epsilon(0.02, 1e-5, releases=2))
