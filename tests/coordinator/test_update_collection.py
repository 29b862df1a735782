"""Updates of honest and of hostile hospitals, and the average of those that count: no Flower."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, load_file
from typer.testing import CliRunner

from algorithms.contracts.errors import DataError
from algorithms.contracts.federation_plan import ModelUpdateTerms
from algorithms.contracts.messages import UPDATE_FILE, RoundState, SiteStatus
from algorithms.contracts.model_package import MODEL_FILE, REFERENCE_POINTS_FILE, Manifest
from algorithms.federated_averaging import Tensors
from coordinator import plans
from coordinator.cli import app
from coordinator.config import CoordinatorHome
from coordinator.model_averaging import in_words, plan_averaging, publish_average
from coordinator.package_publisher import open_package, publish
from coordinator.plan_records import PlanRecords
from coordinator.sites import Answer, Conversation, Question, Silence, Sites
from coordinator.study_store import StudyStore
from coordinator.study_workflow import SiteEvent, SiteProgress
from coordinator.update_collection import UpdateRecords, collect_updates, update_file
from tests.simulated_site import make_coordinator, tiny_report
from tests.simulated_update import (
    FILES,
    MANIFEST,
    PACKAGE,
    TERMS,
    WEIGHTS,
    bytes_of,
    tiny_offer,
    tiny_update,
)

TARGETS = ("hospital-b", "hospital-c", "hospital-d")
PATIENTS = dict(zip(TARGETS, (8, 30, 12), strict=True))


@dataclass
class Hospital:
    """A hospital whose report is here; `offer` is what it answers in place of the truth."""

    name: str
    update: Tensors
    offer: Answer | Silence | None = None
    ready: bool = True


class UpdatingSites(Sites):
    """Hospitals that have an update by the plan."""

    def __init__(self, plan_sha256: str) -> None:
        self.plan = plan_sha256
        self.hospitals = {
            name: Hospital(name, tiny_update(seed)) for seed, name in enumerate(TARGETS)
        }
        self.asked: list[tuple[Question, str]] = []

    def online(self) -> tuple[str, ...]:
        return TARGETS

    def converse(self, conversations: Mapping[str, Conversation]) -> None:
        for name, conversation in conversations.items():
            request = next(conversation)
            assert request.package_id == PACKAGE
            self.asked.append((request.question, name))
            with contextlib.suppress(StopIteration):
                conversation.send(self.hospitals[name].offer or self.honest(name))

    def honest(self, name: str, content: bytes | None = None, **changes: Any) -> Answer:
        content = content if content is not None else bytes_of(dict(self.hospitals[name].update))
        fields = {"training_patients": PATIENTS[name], "plan_sha256": self.plan} | changes
        offer = tiny_offer(content, site=changes.pop("site", name), **_without_site(fields))
        return Answer(offer.model_dump_json().encode(), {UPDATE_FILE: content})

    def statuses(self) -> dict[str, SiteStatus]:
        return {
            one.name: SiteStatus(
                site=one.name,
                code_version="0.1.0",
                source_package_ready=False,
                packages_held=(PACKAGE,),
                current_package=PACKAGE,
                round_state=RoundState.REPORTED,
                open_annotation_tasks=0,
                report_ready=True,
                plan_held=self.plan,
                plan_approved=self.plan,
                model_update_ready=one.ready,
            )
            for one in self.hospitals.values()
        }


def _without_site(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != "site"}


def _sign(home: CoordinatorHome, store: StudyStore, terms: ModelUpdateTerms | None) -> str:
    now = datetime.now(UTC).replace(tzinfo=None)
    draft = plans.draft_plan(
        home,
        store,
        valid_days=9,
        minimum_patients=1,
        minimum_group_size=5,
        model_updates=terms,
        now=now,
    )
    return plans.sign_plan(home, store, draft, now=now).plan_sha256


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    home = make_coordinator(tmp_path / "c", targets=TARGETS)
    publish(home, MANIFEST, FILES)
    with StudyStore(home.database_url, home.config) as store:
        store.add_package(MANIFEST, from_site="hospital-a")
        for site in TARGETS:
            store.apply(site, PACKAGE, SiteEvent.RECEIPT_ACCEPTED)
            report = tiny_report(site, PACKAGE)
            annotation = report.annotation.model_copy(update={"training_patients": PATIENTS[site]})
            store.add_report(report.model_copy(update={"annotation": annotation}))
    return home


@pytest.fixture
def store(home: CoordinatorHome) -> StudyStore:
    return StudyStore(home.database_url, home.config)


@pytest.fixture
def sites(home: CoordinatorHome, store: StudyStore) -> UpdatingSites:
    return UpdatingSites(_sign(home, store, TERMS))


def _tick(home: CoordinatorHome, store: StudyStore, sites: UpdatingSites) -> set[str]:
    collect_updates(home, store, sites, sites.statuses())
    return {row.site for row in UpdateRecords(store).all(PACKAGE)}


def test_updates_are_fetched_once(
    home: CoordinatorHome, store: StudyStore, sites: UpdatingSites
) -> None:
    sites.hospitals["hospital-d"].ready = False
    assert _tick(home, store, sites) == {"hospital-b", "hospital-c"}
    assert _tick(home, store, sites) == {"hospital-b", "hospital-c"}
    sites.hospitals["hospital-d"].ready = True
    assert _tick(home, store, sites) == set(TARGETS)
    assert sites.asked == [(Question.MODEL_UPDATE, site) for site in TARGETS]
    for site in TARGETS:
        content = bytes_of(dict(sites.hospitals[site].update))
        assert update_file(home, site, PACKAGE).read_bytes() == content


def test_nobody_is_asked_for_what_the_plan_does_not_have(
    home: CoordinatorHome, store: StudyStore, sites: UpdatingSites
) -> None:
    sites.plan = _sign(home, store, None)
    assert _tick(home, store, sites) == set()
    sites.plan = _sign(home, store, TERMS)
    assert _tick(home, store, sites) == set(TARGETS)


def test_who_works_by_another_plan_is_not_asked(
    home: CoordinatorHome, store: StudyStore, sites: UpdatingSites
) -> None:
    _sign(home, store, TERMS)
    assert _tick(home, store, sites) == set()
    assert sites.asked == []


def _nan(sites: UpdatingSites) -> Answer:
    update = tiny_update(1)
    next(iter(update.values())).flat[0] = np.nan
    return sites.honest("hospital-c", bytes_of(update))


def _another_shape(sites: UpdatingSites) -> Answer:
    update = tiny_update(1)
    name = next(iter(update))
    return sites.honest("hospital-c", bytes_of(update | {name: update[name][:1]}))


POISONED = {
    "bad_weights": _nan,
    "wrong_network": _another_shape,
    "update_too_long": lambda s: s.honest("hospital-c", bytes_of(tiny_update(1, norm=1e4))),
    "not_safetensors": lambda s: s.honest("hospital-c", b"\x80\x04 a pickle"),
    "wrong_plan": lambda s: s.honest("hospital-c", plan_sha256="0" * 64),
    "wrong_package": lambda s: s.honest("hospital-c", package_id="ab" * 32),
    "wrong_site": lambda s: s.honest("hospital-c", site="hospital-d"),
    "wrong_terms": lambda s: s.honest("hospital-c", clip_norm=100.0),
    "wrong_epsilon": lambda s: s.honest("hospital-c", epsilon=0.1),
    "wrong_patients": lambda s: s.honest("hospital-c", training_patients=10**9),
    "wrong_hash": lambda s: Answer(s.honest("hospital-c").message, {UPDATE_FILE: b"other"}),
    "not_a_ModelUpdateOffer": lambda _: Answer(b'{"kind": "model_update", "epsilon": NaN}'),
    "ReleaseHeld": lambda _: Silence("ReleaseHeld"),
}


@pytest.mark.parametrize("rule", POISONED)
def test_a_poisoned_update_is_refused_by_name_and_the_study_goes_on(
    home: CoordinatorHome, store: StudyStore, sites: UpdatingSites, rule: str
) -> None:
    sites.hospitals["hospital-c"].offer = POISONED[rule](sites)
    assert _tick(home, store, sites) == {"hospital-b", "hospital-d"}
    assert {record.site: record.last_failure for record in store.sites()}["hospital-c"] == rule
    assert not update_file(home, "hospital-c", PACKAGE).exists()
    assert set(store.progress(PACKAGE).values()) == {SiteProgress.REPORTED}
    sites.hospitals["hospital-c"].offer = None
    assert _tick(home, store, sites) == set(TARGETS)  # asked again, and honest now


def test_an_update_counts_only_beside_a_report(
    home: CoordinatorHome, store: StudyStore, sites: UpdatingSites, tmp_path: Path
) -> None:
    other = make_coordinator(tmp_path / "other", targets=TARGETS)
    publish(other, MANIFEST, FILES)
    with StudyStore(other.database_url, other.config) as without:
        without.add_package(MANIFEST, from_site="hospital-a")
        sites.plan = _sign(other, without, TERMS)
        assert _tick(other, without, sites) == set()


def test_the_average_is_the_next_package(
    home: CoordinatorHome, store: StudyStore, sites: UpdatingSites
) -> None:
    sites.hospitals["hospital-d"].ready = False
    _tick(home, store, sites)
    averaging = plan_averaging(home, store)
    assert averaging.missing == ("hospital-d",)
    assert in_words(averaging) == [
        "hospital-b: 8 training patients, weight 21%, no privacy promised",
        "hospital-c: 30 training patients, weight 79%, no privacy promised",
        "hospital-d: no update here",
    ]
    following = publish_average(home, store, averaging, "1.1.0")
    assert store.current_package() == following
    assert set(store.progress(following).values()) == {SiteProgress.PENDING}
    package = open_package(home, following)
    manifest = Manifest.model_validate_json(package.manifest)
    assert (manifest.model_version, manifest.parent_version) == ("1.1.0", "1.0.0")
    assert manifest.adaptation == MANIFEST.adaptation
    assert manifest.source_validation.test_patients == 0  # nobody measured it
    assert manifest.files[REFERENCE_POINTS_FILE] == MANIFEST.files[REFERENCE_POINTS_FILE]
    made, before = load_file(package.folder / MODEL_FILE), load(WEIGHTS)
    assert made.keys() == before.keys()
    for name, weights in before.items():
        if weights.dtype == np.float32:
            first, second = (sites.hospitals[site].update[name] for site in TARGETS[:2])
            weights = weights + (8 * first.astype(float) + 30 * second) / 38
        np.testing.assert_allclose(made[name], weights, rtol=1e-5, atol=1e-7)
    assert not list(home.updates.rglob("*.safetensors"))
    rows = UpdateRecords(store).all(PACKAGE)
    assert {row.averaged_into for row in rows} == {following}


def test_one_hospital_alone_is_no_average(
    home: CoordinatorHome, store: StudyStore, sites: UpdatingSites
) -> None:
    for site in ("hospital-c", "hospital-d"):
        sites.hospitals[site].ready = False
    _tick(home, store, sites)
    with pytest.raises(DataError, match="hospital-c, hospital-d there is none"):
        plan_averaging(home, store)
    assert update_file(home, "hospital-b", PACKAGE).is_file()


@pytest.mark.parametrize("version", ["1.0.0", "", "Version 2"])
def test_a_version_is_new_and_a_version(
    home: CoordinatorHome, store: StudyStore, sites: UpdatingSites, version: str
) -> None:
    _tick(home, store, sites)
    with pytest.raises(DataError, match="--model-version"):
        publish_average(home, store, plan_averaging(home, store), version)
    assert store.current_package() == PACKAGE


def test_an_update_that_was_changed_on_disk_is_not_averaged(
    home: CoordinatorHome, store: StudyStore, sites: UpdatingSites
) -> None:
    _tick(home, store, sites)
    update_file(home, "hospital-c", PACKAGE).write_bytes(bytes_of(tiny_update(9)))
    with pytest.raises(DataError, match="gone or changed"):
        publish_average(home, store, plan_averaging(home, store), "1.1.0")


def test_a_kill_between_the_steps_is_made_good_by_the_same_command(
    home: CoordinatorHome, store: StudyStore, sites: UpdatingSites, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tick(home, store, sites)
    for step in ("coordinator.model_averaging.UpdateRecords.mark_averaged", None):
        with monkeypatch.context() as patch:
            if step is not None:
                patch.setattr(step, _killed)
            else:
                patch.setattr(StudyStore, "add_package", _killed)
            with pytest.raises(KeyboardInterrupt):
                publish_average(home, store, plan_averaging(home, store), "1.1.0")
        assert store.current_package() == PACKAGE
    with monkeypatch.context() as patch:
        patch.setattr("coordinator.update_collection.shutil.rmtree", _killed)
        with pytest.raises(KeyboardInterrupt):
            publish_average(home, store, plan_averaging(home, store), "1.1.0")
    assert store.current_package() != PACKAGE
    assert list(home.updates.rglob("*.safetensors"))
    sites.asked.clear()
    collect_updates(home, store, sites, sites.statuses())
    assert sites.asked == []
    assert not list(home.updates.rglob("*.safetensors"))  # the next tick finishes it
    assert len(list(home.packages.iterdir())) == 2


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_average_by_command(
    home: CoordinatorHome, store: StudyStore, sites: UpdatingSites, tmp_path: Path
) -> None:
    _tick(home, store, sites)
    command = ["average", "--home", str(home.folder), "--model-version", "1.1.0"]
    runner = CliRunner()
    refused = runner.invoke(app, command, input="n\n")
    assert refused.exit_code == 1
    assert store.current_package() == PACKAGE
    done = runner.invoke(app, [*command, "--yes"])
    assert done.exit_code == 0, done.output
    assert "hospital-c: 30 training patients, weight 60%" in done.output
    following = store.current_package()
    assert following is not None
    assert following != PACKAGE
    assert following in done.output
    draft = ["plan", "draft", "--home", str(home.folder), "--output", str(tmp_path / "p.json")]
    done = runner.invoke(app, [*draft, "--update-clip-norm", "2", "--update-noise", "0.5"])
    assert done.exit_code == 0, done.output
    plan = plans.read_draft(tmp_path / "p.json")
    assert plan.model_updates == ModelUpdateTerms(clip_norm=2, noise_multiplier=0.5, delta=1e-5)
    assert plan.package_id == following
    assert "minimum_group_size" not in done.output
    few = runner.invoke(app, [*draft, "--minimum-group-size", "3"])
    assert few.exit_code == 0
    assert "minimum_group_size 3: figures about so few can be solved for single" in few.output
    assert runner.invoke(app, draft).exit_code == 0
    wrong = runner.invoke(app, [*draft, "--update-clip-norm", "0"])
    assert isinstance(wrong.exception, DataError)
    assert PlanRecords(store).current(following) is None
