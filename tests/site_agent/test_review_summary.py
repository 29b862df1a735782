import math
from collections import defaultdict
from statistics import fmean, stdev

import numpy as np
import pytest

from evaluation.revision import revision_bin
from site_agent.database import ContourSaveRow, PackageRow, ReviewRow, transaction, utc_now
from site_agent.review_summary import summarise_reviews
from site_agent.round_counts import RoundCounts, count_round
from tests.clinical_ui.synthetic_site import make_site
from tests.phantoms import filled_store, make_home, tiny_case


@pytest.fixture
def store(tmp_path):
    """Six cases of five patients: the first patient has two."""
    store = filled_store(make_home(tmp_path / "home"), 5)
    second = tiny_case(77)
    first = store.cases()[0].patient_id
    store.add_cases([type(second)(**vars(second) | {"patient_id": first})], actor="test")
    package = PackageRow(
        package_id="p" * 64,
        model_version="1",
        signed_by="k",
        state="approved",
        received_at=utc_now(),
    )
    with transaction(store.engine) as session:
        session.add(package)
    return store


def add_review(store, round_id, case_id, degree, author, *, active_s=None, verdict="revised"):
    with transaction(store.engine) as session:
        session.add(
            ReviewRow(
                round_id=round_id,
                case_id=case_id,
                verdict=verdict,
                revision_degree_percent=degree,
                active_s=active_s,
                wall_s=None if active_s is None else 2 * active_s,
                author=author,
                simulated=author == "simulated annotator",
                reviewed_at=utc_now(),
                likert=None,
            )
        )


def add_save(store, round_id, case_id, slices):
    with transaction(store.engine) as session:
        session.add(
            ContourSaveRow(
                round_id=round_id,
                case_id=case_id,
                purpose="review",
                task_id=None,
                author="dr_a",
                start_file=None,
                file="x",
                mask_sha256="0" * 64,
                sittings={},
                active_s=1.0,
                model_wait_s=0.0,
                wall_s=1.0,
                revision_degree_percent=1.0,
                slice_degrees_percent=slices,
                added_path_length_mm=None,
                saved_at=utc_now(),
            )
        )


def test_a_patient_with_two_cases_counts_once(store) -> None:
    round_id = store.start_round("p" * 64, seed=0).round_id
    two = store.cases()[:2]
    assert two[0].patient_id == two[1].patient_id
    add_review(store, round_id, two[0].case_id, 4.0, "dr_a", active_s=60.0)
    add_review(store, round_id, two[1].case_id, 10.0, "dr_a", active_s=120.0)
    everybody, dr_a = summarise_reviews(store, round_id)
    assert (everybody.author, dr_a.author) == (None, "dr_a")
    assert everybody.overview == dr_a.overview
    assert dr_a.overview.patients == 1
    assert dr_a.overview.mean_percent == 7.0
    assert math.isnan(dr_a.overview.sd_percent)
    assert dr_a.overview.bins == (0, 1, 0, 0)
    assert dr_a.overview.active.median_s == 90.0
    assert dr_a.overview.wall.median_s == 180.0


def test_reviewers_and_all_against_plain_arithmetic(store) -> None:
    round_id = store.start_round("p" * 64, seed=0).round_id
    rng = np.random.default_rng(2)
    said = defaultdict(list)
    for number, case in enumerate(store.cases()[1:]):  # one case of everybody
        degree, author = float(rng.uniform(0, 30)), f"dr_{'ab'[number % 2]}"
        said[author].append(degree)
        add_review(store, round_id, case.case_id, degree, author)
    everybody, *each = summarise_reviews(store, round_id)
    assert [summary.author for summary in each] == ["dr_a", "dr_b"]
    said[None] = said["dr_a"] + said["dr_b"]
    for summary in (everybody, *each):
        degrees = said[summary.author]
        assert summary.overview.mean_percent == pytest.approx(fmean(degrees))
        assert summary.overview.sd_percent == pytest.approx(stdev(degrees))
        counted = [sum(revision_bin(d) == b for d in degrees) for b in range(4)]
        assert list(summary.overview.bins) == counted
        assert summary.overview.active.patients == 0


def test_slices_are_those_of_the_last_save(store) -> None:
    round_id = store.start_round("p" * 64, seed=0).round_id
    case_id = store.cases()[2].case_id
    add_review(store, round_id, case_id, 12.0, "dr_a")
    add_save(store, round_id, case_id, {"3": 50.0})
    add_save(store, round_id, case_id, {"3": 2.0, "4": 7.0, "5": 60.0})
    overview = summarise_reviews(store, round_id)[0].overview
    assert overview.slices == 3
    assert overview.slice_bins == (1, 1, 0, 1)


def test_verdicts_rounds_and_the_demos_stand_in(store) -> None:
    one, other = (store.start_round("p" * 64, seed=seed).round_id for seed in (0, 1))
    a, b, c, *_ = (case.case_id for case in store.cases()[2:])
    add_review(store, one, a, 0.0, "simulated annotator", verdict="accepted")
    add_review(store, one, b, 100.0, "dr_a", verdict="rejected")
    add_review(store, other, a, 20.0, "dr_a")
    everybody, dr_a, stand_in = summarise_reviews(store, one)
    assert (everybody.accepted, everybody.revised, everybody.rejected) == (1, 0, 1)
    assert (dr_a.simulated, stand_in.simulated, everybody.simulated) == (False, True, False)
    assert dr_a.overview.bins == (0, 0, 0, 1)
    in_all = summarise_reviews(store)[0]
    assert (in_all.overview.patients, in_all.revised) == (3, 1)
    assert summarise_reviews(store, "0" * 16) == []


# -- how far a round is ---------------------------------------------------------------------------


def test_a_round_is_counted(tmp_path) -> None:
    annotating = make_site(tmp_path / "annotating", reviewed=False)
    assert count_round(annotating, annotating.latest_round().round_id) == RoundCounts(
        slices_asked=4, cases_asked=3, slices_annotated=2, test_cases=2
    )
    reviewing = make_site(tmp_path / "reviewing")
    assert count_round(reviewing, reviewing.latest_round().round_id) == RoundCounts(
        slices_asked=4,
        cases_asked=3,
        slices_annotated=4,
        test_cases=2,
        test_segmented=2,
        test_reviewed=1,
    )
