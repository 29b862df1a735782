from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from algorithms.contracts.case import Split
from algorithms.contracts.errors import DataError
from site_agent.case_store import CaseStore
from site_agent.patient_split import assign_patients, split_patients
from tests.phantoms import make_home, tiny_case


def patients(count: int) -> list[str]:
    return [f"patient-{i:03d}" for i in range(count)]


def split(count: int, seed: int = 0, test: float = 0.2, validation: float = 0.1):
    return split_patients(patients(count), seed=seed, test_share=test, validation_share=validation)


@given(
    count=st.integers(3, 80),
    seed=st.integers(0, 500),
    test=st.floats(0.05, 0.5),
    validation=st.floats(0.0, 0.3),
)
def test_every_patient_has_one_part_of_about_its_share(count, seed, test, validation) -> None:
    try:
        parts = split(count, seed, test, validation)
    except DataError:
        assume(False)
    assert sorted(parts) == patients(count)
    sizes = Counter(parts.values())
    assert sizes[Split.TRAINING] > 0
    assert sizes[Split.TEST] > 0
    assert abs(sizes[Split.TEST] - count * test) <= 1
    assert abs(sizes[Split.VALIDATION] - count * validation) <= 1


def test_a_site_may_do_without_validation_patients() -> None:
    assert Counter(split(7, test=1 / 3, validation=0.0).values()) == {
        Split.TRAINING: 4,
        Split.TEST: 3,
    }


def test_the_thesis_splits_7_1_2() -> None:
    sizes = Counter(split(100).values())
    assert sizes == {Split.TRAINING: 70, Split.VALIDATION: 10, Split.TEST: 20}


@given(count=st.integers(3, 60), test=st.floats(0.1, 0.6))
def test_consecutive_seeds_test_on_everybody_before_anybody_twice(count, test) -> None:
    try:
        tested = [
            {p for p, part in split(count, seed, test).items() if part is Split.TEST}
            for seed in range(count)
        ]
    except DataError:
        assume(False)
    whole_windows, rest = divmod(count, len(tested[0]))
    times = Counter(patient for window in tested[:whole_windows] for patient in window)
    assert set(times.values()) == {1}
    assert len(set().union(*tested[: whole_windows + bool(rest)])) == count


def test_the_order_in_which_patients_are_named_does_not_matter() -> None:
    shares = {"seed": 3, "test_share": 0.2, "validation_share": 0.1}
    assert split_patients(patients(20), **shares) == split_patients(patients(20)[::-1], **shares)


def test_another_seed_splits_otherwise_and_the_same_one_alike() -> None:
    assert split(30, seed=1) == split(30, seed=1) != split(30, seed=2)


@pytest.mark.parametrize(
    ("count", "test", "words"), [(0, 0.2, "0 patients"), (2, 0.2, "2 patients"), (4, 0.9, "none")]
)
def test_too_few_patients_are_refused_with_what_to_do(count, test, words) -> None:
    with pytest.raises(DataError, match=words) as caught:
        split(count, test=test)
    assert "ingest at least 3" in str(caught.value) or "lower test_share" in str(caught.value)


# -- which modality ---------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path) -> CaseStore:
    """Make a site of four patients with MR and CT each, and one more with CT alone."""
    store = CaseStore(make_home(tmp_path))
    mr = [tiny_case(number) for number in range(4)]
    ct = [
        replace(
            case, case_id=f"{case.case_id[:-2]}c{i}", volume=replace(case.volume, modality="CT")
        )
        for i, case in enumerate([*mr, tiny_case(9)])
    ]
    store.add_cases([*mr, *ct], actor="test")
    return store


def test_only_cases_of_the_model_s_modality_take_part(mixed) -> None:
    assign_patients(mixed, "MR")
    taking_part = [case for case in mixed.cases() if case.split is not Split.UNASSIGNED]
    assert len(taking_part) == 4
    assert {case.modality for case in taking_part} == {"MR"}
    before = mixed.cases()
    assign_patients(mixed, "MR")
    assert mixed.cases() == before


def test_a_site_without_the_model_s_modality_says_so(mixed) -> None:
    with pytest.raises(DataError, match=r"for PT, and no case here is: ingest PT"):
        assign_patients(mixed, "PT")
    assign_patients(mixed, "MR")
    with pytest.raises(DataError, match=r"for CT, but this site takes part with MR"):
        assign_patients(mixed, "CT")
