"""Updates are made once, by the terms of the plan, and leave through the door or not at all."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy.stats import kstest, norm
from sqlalchemy import Engine
from typer.testing import CliRunner

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.federation_plan import CohortRule, ModelUpdateTerms
from algorithms.contracts.messages import UPDATE_FILE, ModelUpdateOffer, RoundState
from algorithms.federated_averaging import gaussian_epsilon, l2_norm
from site_agent import egress
from site_agent.backup import backup
from site_agent.cli import app
from site_agent.client_app import site_status
from site_agent.config import SiteHome
from site_agent.database import open_database
from site_agent.model_update import (
    Promise,
    is_update_ready,
    offer_update,
    prepare_update,
    promise_in_words,
    promise_so_far,
    system_normal,
)
from site_agent.plan_store import approved_plan
from tests.simulated_site import AT, approve_plan_for, make_site
from tests.simulated_update import (
    PACKAGE,
    TERMS,
    WEIGHTS,
    adapt,
    bytes_of,
    permit,
    tiny_offer,
    tiny_update,
)

NOISED = ModelUpdateTerms(clip_norm=1.0, noise_multiplier=0.5, delta=1e-5)


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "site", "hospital-b")


@pytest.fixture
def engine(home: SiteHome) -> Engine:
    return open_database(home.database_url)


def _prepared(home: SiteHome, engine: Engine, terms: ModelUpdateTerms = TERMS) -> bytes:
    plan = permit(home, engine, terms)
    prepare_update(home, engine, plan)
    return offer_update(home, engine, plan)[1]


def test_without_noise_it_is_the_clipped_difference(home: SiteHome, engine: Engine) -> None:
    changed = adapt(home, engine, norm=3.0)
    update = load(_prepared(home, engine))
    assert l2_norm(update) == pytest.approx(1.0, rel=1e-5)
    for name, one in changed.items():
        np.testing.assert_allclose(update[name], one / 3, atol=1e-6)
    assert not any(name.endswith("num_batches_tracked") for name in update)


def test_with_noise_it_is_made_once(home: SiteHome, engine: Engine) -> None:
    changed = adapt(home, engine, norm=1e-3)
    first = _prepared(home, engine, NOISED)
    noise = np.concatenate([(load(first)[n] - changed[n]).ravel() for n in sorted(changed)])
    assert noise.std() == pytest.approx(0.5, rel=4 / math.sqrt(2 * len(noise)))
    assert _prepared(home, engine, NOISED) == first  # under a plan that was renewed, too
    again = NOISED.model_copy(update={"delta": 1e-6})
    assert _prepared(home, engine, again) == first
    assert _prepared(home, engine, TERMS) != first
    assert _prepared(home, engine, NOISED) == first  # and back


def test_nothing_is_made_before_the_report_or_without_terms(home: SiteHome, engine: Engine) -> None:
    plan = permit(home, engine)
    prepare_update(home, engine, plan)
    assert not is_update_ready(home, engine, PACKAGE, now=AT)
    with pytest.raises(DataError, match="no model update is ready"):
        offer_update(home, engine, plan)
    adapt(home, engine)
    prepare_update(home, engine, approve_plan_for(home, engine, PACKAGE))
    assert not home.updates.exists()
    assert not is_update_ready(home, engine, PACKAGE, now=AT)
    prepare_update(home, engine, permit(home, engine))
    assert is_update_ready(home, engine, PACKAGE, now=AT)


def test_what_a_kill_or_a_hand_left_half_does_not_count(home: SiteHome, engine: Engine) -> None:
    adapt(home, engine)
    _prepared(home, engine)
    (file,) = home.updates.rglob(UPDATE_FILE)
    file.write_bytes(file.read_bytes()[:-1])
    assert not is_update_ready(home, engine, PACKAGE, now=AT)
    _prepared(home, engine)
    assert is_update_ready(home, engine, PACKAGE, now=AT)
    file.with_name("update.json").unlink()
    assert not is_update_ready(home, engine, PACKAGE, now=AT)


@pytest.mark.parametrize("damage", ["gone", "changed", "nan"])
def test_adapted_weights_that_are_no_weights_make_no_update(
    home: SiteHome, engine: Engine, damage: str
) -> None:
    if damage == "nan":
        adapt(home, engine, number=math.nan)
        broken = "not finite"
    else:
        adapt(home, engine)
        (file,) = home.models.iterdir()
        file.unlink() if damage == "gone" else file.write_bytes(b"other")
        broken = "missing or damaged"
    with pytest.raises(DataError, match=broken):
        _prepared(home, engine)


def _offer(home: SiteHome, engine: Engine, content: bytes, **changes: Any) -> ModelUpdateOffer:
    signed = approved_plan(engine, PACKAGE)
    assert signed is not None
    return tiny_offer(content, **({"plan_sha256": signed.plan_sha256} | changes))


def _refusal(home: SiteHome, engine: Engine, message: Any, files: dict[str, bytes]) -> str:
    with pytest.raises(egress.ReleaseRefused) as refused:
        egress.release(home, engine, message, files=files, now=AT)
    newest = egress.list_entries(engine)[-1]
    assert (newest.state, newest.detail) == ("refused", {"rule": refused.value.rule})
    return refused.value.rule


def test_an_update_by_the_plan_leaves_with_its_terms_in_the_ledger(
    home: SiteHome, engine: Engine
) -> None:
    adapt(home, engine)
    plan = permit(home, engine, NOISED)
    prepare_update(home, engine, plan)
    offer, content = offer_update(home, engine, plan)
    egress.release(home, engine, offer, files={UPDATE_FILE: content}, now=AT)
    entry = egress.list_entries(engine)[-1]
    epsilon = gaussian_epsilon(0.5, 1e-5)
    assert entry.detail["model_update"] == {**NOISED.model_dump(), "epsilon": epsilon}
    assert (home.ledger / "files" / sha256_hex(content)).read_bytes() == content
    assert egress.verify_ledger(home, engine) == 1


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"plan_sha256": "0" * 64}, "wrong_terms"),
        ({"clip_norm": 2.0}, "wrong_terms"),
        ({"noise_multiplier": 0.5}, "wrong_terms"),
        ({"delta": 1e-3}, "wrong_terms"),
        ({"epsilon": 0.1}, "wrong_terms"),  # a promise that nothing keeps
        ({"training_patients": 4}, "minimum_group_size"),
        ({"package_id": "ab" * 32}, "no_plan"),
    ],
)
def test_an_update_that_says_something_else_stays(
    home: SiteHome, engine: Engine, changes: dict[str, Any], rule: str
) -> None:
    adapt(home, engine)
    permit(home, engine)
    content = bytes_of(tiny_update())
    message = _offer(home, engine, content, **changes)
    assert _refusal(home, engine, message, {UPDATE_FILE: content}) == rule


def test_the_plans_minimum_counts_where_it_is_larger(home: SiteHome, engine: Engine) -> None:
    adapt(home, engine)
    cohort = CohortRule(
        modality="MR", roi_names=("GTVp",), minimum_patients=1, minimum_group_size=9
    )
    permit(home, engine, cohort=cohort)
    content = bytes_of(tiny_update())
    offer = _offer(home, engine, content)
    assert _refusal(home, engine, offer, {UPDATE_FILE: content}) == "minimum_group_size"


def _poisoned() -> bytes:
    update = tiny_update()
    next(iter(update.values())).flat[0] = np.nan
    return bytes_of(update)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (bytes_of(tiny_update(norm=1.01)), "update_too_long"),
        (_poisoned(), "bad_weights"),
        (bytes_of({"note": np.zeros(3, np.float32)}), "wrong_network"),
        (save(tiny_update(), metadata={"note": "Mustermann"}), "not_safetensors"),
        (b"%PDF-1.7 a letter", "not_safetensors"),
        (WEIGHTS, "wrong_network"),  # the adapted weights themselves
    ],
)
def test_what_is_no_clipped_update_stays(
    home: SiteHome, engine: Engine, content: bytes, rule: str
) -> None:
    adapt(home, engine)
    permit(home, engine)
    offer = _offer(home, engine, content)
    assert _refusal(home, engine, offer, {UPDATE_FILE: content}) == rule


def test_files_are_those_that_the_message_names(home: SiteHome, engine: Engine) -> None:
    adapt(home, engine)
    permit(home, engine)
    content, other = bytes_of(tiny_update(1)), bytes_of(tiny_update(2))
    offer = _offer(home, engine, content)
    assert _refusal(home, engine, offer, {}) == "missing_file"
    assert _refusal(home, engine, offer, {UPDATE_FILE: other}) == "unnamed_file"
    both = {UPDATE_FILE: content, "images.npy": b"x"}
    assert _refusal(home, engine, offer, both) == "unnamed_file"


def test_a_person_holds_it(tmp_path: Path) -> None:
    home = make_site(tmp_path / "site", "hospital-b", auto_approve=False)
    engine = open_database(home.database_url)
    adapt(home, engine)
    plan = permit(home, engine, NOISED)
    prepare_update(home, engine, plan)
    offer, content = offer_update(home, engine, plan)
    files = {UPDATE_FILE: content}
    with pytest.raises(egress.ReleaseHeld):
        egress.release(home, engine, offer, files=files, now=AT)
    held = egress.list_entries(engine)[-1]
    assert held.detail["model_update"]["epsilon"] == offer.epsilon
    egress.approve_release(engine, held.sequence, actor="it", now=AT)
    egress.release(home, engine, offer, files=files, now=AT)
    assert [e.state for e in egress.list_entries(engine)] == ["held", "approved", "released"]
    assert promise_so_far(egress.list_entries(engine)).updates == 1


def test_who_asks_without_a_plan_for_it_is_in_the_ledger(home: SiteHome, engine: Engine) -> None:
    adapt(home, engine)
    for approve, rule in ((False, "no_plan"), (True, "output_not_in_plan")):
        if approve:
            approve_plan_for(home, engine, PACKAGE)
        with pytest.raises(egress.ReleaseRefused):
            egress.permit_update(home, engine, PACKAGE, now=AT)
        newest = egress.list_entries(engine)[-1]
        assert (newest.kind, newest.state) == ("model_update", "refused")
        assert newest.detail == {"rule": rule}


def test_promises_add_up_and_one_update_counts_once(home: SiteHome, engine: Engine) -> None:
    adapt(home, engine)
    assert promise_so_far(egress.list_entries(engine)) == Promise(0, None, None)
    for terms in (NOISED, NOISED, NOISED.model_copy(update={"clip_norm": 2.0})):
        plan = permit(home, engine, terms)
        prepare_update(home, engine, plan)
        offer, content = offer_update(home, engine, plan)
        egress.release(home, engine, offer, files={UPDATE_FILE: content}, now=AT)
    promise = promise_so_far(egress.list_entries(engine))
    assert promise.updates == 2
    assert promise.epsilon == pytest.approx(gaussian_epsilon(0.5, 1e-5, releases=2))
    assert "e^" in promise_in_words(promise)
    plan = permit(home, engine, TERMS)
    prepare_update(home, engine, plan)
    offer, content = offer_update(home, engine, plan)
    assert offer.epsilon is None
    egress.release(home, engine, offer, files={UPDATE_FILE: content}, now=AT)
    bare = promise_so_far(egress.list_entries(engine))
    assert bare == Promise(3, None, None)
    assert "no privacy is promised" in promise_in_words(bare)


def test_words_say_when_a_promise_is_worth_little() -> None:
    assert "protects little" in promise_in_words(Promise(1, 40.0, 1e-5))
    assert "protects little" not in promise_in_words(Promise(1, 1.0, 1e-5))


def test_noise_of_the_system_is_normal_and_never_the_same() -> None:
    drawn = system_normal((40, 50, 20))
    assert drawn.shape == (40, 50, 20)
    assert np.isfinite(drawn).all()
    assert kstest(drawn.ravel(), norm.cdf).pvalue > 1e-6
    assert not np.array_equal(drawn, system_normal((40, 50, 20)))
    assert system_normal(()).shape == ()


def test_a_status_says_whether_there_is_one(home: SiteHome, engine: Engine) -> None:
    adapt(home, engine)
    assert site_status(home, engine).round_state is RoundState.REPORTED
    assert not site_status(home, engine).model_update_ready
    _prepared(home, engine)
    assert site_status(home, engine).model_update_ready


def test_people_read_what_an_update_promises(home: SiteHome, engine: Engine) -> None:
    adapt(home, engine)
    runner, at = CliRunner(), ["--home", str(home.folder)]
    assert "model update" not in runner.invoke(app, ["ledger", "list", *at]).output
    noised = ModelUpdateTerms(clip_norm=1.0, noise_multiplier=4.0, delta=1e-5)
    plan = permit(home, engine, noised)
    promised = f"one model update: epsilon {gaussian_epsilon(4.0, 1e-5):.3g} at delta 1e-05"
    shown = runner.invoke(app, ["plan", "show", *at, str(plan.plan_number)])
    assert promised in shown.output
    prepare_update(home, engine, plan)
    offer, content = offer_update(home, engine, plan)
    egress.release(home, engine, offer, files={UPDATE_FILE: content}, now=AT)
    assert promised in runner.invoke(app, ["ledger", "list", *at]).output
    shown = runner.invoke(app, ["ledger", "show", *at, "1"])
    assert json.loads(shown.stdout)["kind"] == "model_update"
    assert promised in shown.stderr


def test_a_backup_holds_it_or_it_would_be_noised_anew(
    home: SiteHome, engine: Engine, tmp_path: Path
) -> None:
    adapt(home, engine)
    _prepared(home, engine, NOISED)
    kept = {f"home/{f.relative_to(home.folder)}" for f in home.updates.rglob("*") if f.is_file()}
    assert len(kept) == 2
    manifest = backup(home, tmp_path / "site.tar", with_secrets=False, now=AT)
    assert kept <= set(manifest.files)
