import doctest
import json
import math
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import update

from algorithms.contracts.case import Split
from algorithms.contracts.model_package import REFERENCE_POINTS_FILE
from algorithms.features import latent_features
from evaluation.control_chart import FEWEST, robust_chart
from site_agent import drift
from site_agent.adaptation_round import open_round
from site_agent.database import CaseRow, ReviewRow, transaction, utc_now
from site_agent.drift import distance_drift, measure_distances, reviews_in_order
from site_agent.erasure import erase
from site_agent.learning_data import prepare
from site_agent.live_progress import read_progress
from site_agent.package_store import approve, store_package
from tests.clinical_ui.study_site import PUBLIC, signature_of
from tests.phantoms import STUDY, filled_store, make_home, tiny_case
from tests.simulated_site import tiny_package


@pytest.fixture
def site(tmp_path):
    """A site with five cases and an approved package, whose untrained model sees something."""
    home = make_home(tmp_path / "home", trusted_key=PUBLIC)
    store = filled_store(home, 5)
    manifest, files = tiny_package(study=STUDY)
    content = manifest.signed_bytes()
    package_id = store_package(home, store.engine, content, signature_of(content), files)
    approve(store.engine, package_id, actor="test")
    patients = [case.patient_id for case in store.cases()]
    store.assign_splits(dict.fromkeys(patients[:4], Split.TRAINING))
    return store, open_round(store, store.start_round(package_id, seed=0)), package_id


def test_examples_hold() -> None:
    result = doctest.testmod(drift)
    assert result.attempted == 1
    assert not result.failed


def test_the_distance_is_that_of_the_selection(site) -> None:
    """Against a plain loop over slices and reference points."""
    store, current, package_id = site
    assert measure_distances(current) == 5
    points = np.load(current.package / REFERENCE_POINTS_FILE, allow_pickle=False)
    recipe = current.manifest.preprocessing
    for measured in distance_drift(store, package_id).cases:
        (ready,) = prepare(store, [store.case(measured.case_id)], recipe)
        features = latent_features(
            current.source_network(), ready.slices, patch_yx=recipe.patch_yx
        ).astype(np.float64)
        nearest = [
            min(float(((feature - point) ** 2).sum()) for point in points)
            for feature in features
            if feature.any()
        ]
        assert measured.slices == len(features)
        assert measured.slices_with_target == len(nearest)
        expected = float(np.median(nearest)) if nearest else math.nan
        assert measured.distance == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert read_progress(store.home) is None


def test_a_case_is_measured_once_and_a_damaged_file_again(site) -> None:
    store, current, package_id = site
    measure_distances(current)
    before = distance_drift(store, package_id)
    assert measure_distances(current) == 0
    case_id = before.cases[2].case_id
    next((store.home.cases / case_id).glob("distance-*.json")).write_text("{")
    assert distance_drift(store, package_id).waiting == 1
    assert measure_distances(current) == 1
    assert repr(distance_drift(store, package_id)) == repr(before)


def test_new_cases_are_judged_by_those_of_the_study(site) -> None:
    store, current, package_id = site
    store.add_cases([tiny_case(50 + n) for n in range(6)], actor="test")
    patients = {case.patient_id for case in store.cases(Split.UNASSIGNED)}
    store.assign_splits(dict.fromkeys(sorted(patients)[:5], Split.TEST))
    assert distance_drift(store, package_id).waiting == 11
    day = utc_now()
    for number, case in enumerate(reversed(store.cases())):
        file = store.home.cases / case.case_id / f"distance-{package_id[:16]}.json"
        value = 40.0 if case.split is Split.UNASSIGNED else 1.0 + 0.1 * (number % 3)
        file.write_text(json.dumps({"distances": [None, value, value]}))
        with transaction(store.engine) as session:
            came = day + timedelta(days=number)
            rows = update(CaseRow).where(CaseRow.case_id == case.case_id)
            session.execute(rows.values(ingested_at=came))
    found = distance_drift(store, package_id)
    assert [case.ingested_at for case in found.cases] == sorted(c.ingested_at for c in found.cases)
    assert found.cases[0].case_id == store.cases()[-1].case_id  # in order of intake, not of name
    own = [case.distance for case in found.cases if not case.later]
    assert len(own) == 9 >= FEWEST
    assert found.chart == robust_chart(own)
    assert [case.distance for case in found.alarms] == [40.0, 40.0]
    assert {case.slices_with_target for case in found.cases} == {2}


def test_cases_of_another_modality_wait_for_nobody(site) -> None:
    store, current, package_id = site
    measure_distances(current)
    store.add_cases([tiny_case(90)], actor="test")
    with transaction(store.engine) as session:
        case_id = tiny_case(90).case_id
        session.execute(update(CaseRow).where(CaseRow.case_id == case_id).values(modality="CT"))
    assert distance_drift(store, package_id).waiting == 0
    assert measure_distances(current) == 0


def test_another_package_measures_for_itself(site) -> None:
    store, current, package_id = site
    measure_distances(current)
    assert len(distance_drift(store, package_id).cases) == 5
    assert distance_drift(store, "0" * 64).cases == ()


def test_erasing_a_patient_erases_the_distances(site) -> None:
    store, current, package_id = site
    measure_distances(current)
    gone = store.cases()[0]
    erase(store.home, store, [gone.patient_id], actor="test")
    left = distance_drift(store, package_id)
    assert gone.case_id not in {case.case_id for case in left.cases}
    assert len(left.cases) == 4
    assert not (store.home.cases / gone.case_id).exists()


def test_reviews_come_in_order_of_time(site) -> None:
    store, current, _ = site
    now = utc_now()
    with transaction(store.engine) as session:
        for minute, case in zip((3, 1, 2), store.cases(), strict=False):
            session.add(
                ReviewRow(
                    round_id=current.round_id,
                    case_id=case.case_id,
                    verdict="revised",
                    revision_degree_percent=float(minute),
                    active_s=None,
                    wall_s=None,
                    author="dr_a",
                    simulated=False,
                    reviewed_at=now + timedelta(minutes=minute),
                    likert=None,
                )
            )
    assert [review.degree_percent for review in reviews_in_order(store)] == [1.0, 2.0, 3.0]
