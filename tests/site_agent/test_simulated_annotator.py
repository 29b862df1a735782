import numpy as np
import pytest

from algorithms.contracts.case import Split
from algorithms.contracts.contour import NOT_ANNOTATED, Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Mask
from site_agent.case_store import REVIEWED, CaseStore, SliceChoice
from site_agent.database import PackageRow, transaction, utc_now
from site_agent.simulated_annotator import AUTHOR, annotate_open_tasks, review_cases
from tests.phantoms import filled_store, make_home, tiny_case

PACKAGE_ID = "ab" * 32


@pytest.fixture
def store(tmp_path) -> CaseStore:
    """Open a store with three cases and a round."""
    store = filled_store(make_home(tmp_path), 3)
    store.assign_splits({case.patient_id: Split.TEST for case in store.cases()})
    with transaction(store.engine) as session:
        session.add(
            PackageRow(
                package_id=PACKAGE_ID,
                model_version="1.0.0",
                signed_by="0" * 16,
                state="approved",
                received_at=utc_now(),
            )
        )
    store.start_round(PACKAGE_ID, seed=0)
    return store


def round_id(store: CaseStore) -> str:
    latest = store.latest_round()
    assert latest is not None
    return latest.round_id


def predict(store: CaseStore, seed: int, voxels: np.ndarray) -> None:
    contour = Contour("GTVp", Mask(voxels, tiny_case(seed).volume.geometry), Provenance.AUTOMATIC)
    store.save_contour(
        tiny_case(seed).case_id,
        contour,
        purpose="adapted",
        round_id=round_id(store),
        author="model",
    )


def test_open_tasks_are_answered_from_the_reference_and_only_once(store) -> None:
    choices = [
        SliceChoice(tiny_case(i).case_id, z, "chosen", 0.0) for i in range(2) for z in (0, 4)
    ]
    store.open_tasks(round_id(store), choices, actor="test")
    assert annotate_open_tasks(store) == 4
    assert annotate_open_tasks(store) == 0
    for task in store.tasks(round_id(store)):
        (truth,) = (c for i in range(2) for c in [tiny_case(i)] if c.case_id == task.case_id)
        np.testing.assert_array_equal(
            store.task_mask(task), truth.contours[0].mask.voxels[task.slice_z]
        )
        assert (task.author, task.provenance, task.active_s) == (
            AUTHOR,
            "simulated_annotator",
            None,
        )


def test_where_scribbles_are_asked_for_they_are_drawn_on_both_sides_of_the_contour(store) -> None:
    choices = [SliceChoice(tiny_case(0).case_id, z, "chosen", 0.0) for z in (0, 4)]
    store.open_tasks(round_id(store), choices, actor="test", kind="scribble")
    assert annotate_open_tasks(store) == 2
    truth = tiny_case(0).contours[0].mask.voxels
    assert not truth[0].any()
    for task in store.tasks(round_id(store)):
        label, mask = store.task_label(task), truth[task.slice_z]
        assert (label[mask] != 0).all()
        assert (label[~mask] != 1).all()
        assert (label == 1).any() == mask.any()
        assert (label == 0).any()
        assert (label == NOT_ANNOTATED).any()
        assert task.provenance == "simulated_annotator"


def test_predictions_are_revised_to_the_reference_and_measured(store) -> None:
    """Half of the reference predicted: Dice 2/3, so a third had to be revised."""
    reference = tiny_case(0).contours[0].mask.voxels
    half = reference.copy()
    half.ravel()[np.flatnonzero(reference)[::2]] = False
    predict(store, 0, half)
    predict(store, 1, tiny_case(1).contours[0].mask.voxels)
    assert review_cases(store) == 2  # the third was not segmented
    assert review_cases(store) == 0
    first, second = store.reviews(round_id(store))
    share = half.sum() / reference.sum()
    expected = 100 * (1 - 2 * share / (1 + share))
    assert first.revision_degree_percent == pytest.approx(expected)
    assert (first.verdict, second.verdict) == ("revised", "accepted")
    assert second.revision_degree_percent == 0
    for review in (first, second):
        assert (review.author, review.simulated, review.active_s) == (AUTHOR, True, None)
    revised = store.contour(first.case_id, purpose=REVIEWED, round_id=round_id(store))
    assert revised is not None
    np.testing.assert_array_equal(revised.mask.voxels, reference)
    assert revised.provenance is Provenance.SIMULATED


def test_without_a_round_or_a_reference_it_says_what_to_do(store, tmp_path) -> None:
    with pytest.raises(DataError, match="fedgtv-site work"):
        annotate_open_tasks(CaseStore(make_home(tmp_path / "empty")))
    store.add_cases([tiny_case(9, has_reference=False)], actor="test")
    choice = SliceChoice(tiny_case(9).case_id, 0, "chosen", 0.0)
    store.open_tasks(round_id(store), [choice], actor="test")
    with pytest.raises(DataError, match=r"no reference contour.*annotate it"):
        annotate_open_tasks(store)
