"""The order of a blinded reading: fair, repeatable with the key, and unreadable without."""

from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.errors import DataError
from site_agent.blinded_allocation import (
    Allocation,
    balanced_order,
    crossed_order,
    generator,
    open_allocation,
    seal_allocation,
)
from site_agent.blinded_reading import ARMS

KEY = Fernet.generate_key()
arm_sets = st.sampled_from([ARMS, ARMS[:2], ARMS[1:]])


def cases(count: int) -> list[str]:
    return [f"case-{n}" for n in range(count)]


@given(st.integers(1, 40), arm_sets, st.integers(0, 2**32))
def test_each_case_once_and_the_arms_in_balance(count, arms, seed) -> None:
    order = balanced_order(cases(count), arms, np.random.default_rng(seed))
    assert sorted(case for case, _ in order) == sorted(cases(count))
    shares = Counter(arm for _, arm in order)
    assert max(shares.values()) - min(shares[arm] for arm in arms) <= 1


@given(st.integers(2, 12), arm_sets, st.integers(0, 2**32))
def test_every_case_with_every_arm_and_never_twice_in_a_row(count, arms, seed) -> None:
    order = crossed_order(cases(count), arms, np.random.default_rng(seed))
    assert sorted(order) == sorted((case, arm) for case in cases(count) for arm in arms)
    assert all(a[0] != b[0] for a, b in pairwise(order))


def test_one_case_alone_cannot_be_crossed() -> None:
    with pytest.raises(DataError, match="twice in a row"):
        crossed_order(cases(1), ARMS, np.random.default_rng(0))


def chi_square(counts: Counter, outcomes: list) -> float:
    expected = sum(counts.values()) / len(outcomes)
    return sum((counts[one] - expected) ** 2 / expected for one in outcomes)


def test_all_orders_of_a_small_reading_are_equally_likely() -> None:
    """Two cases, two arms: 8 crossed orders, and 4 balanced ones (2 places x 2 arms)."""
    rng = np.random.default_rng(5)
    pairs = [(case, arm) for case in cases(2) for arm in ARMS[:2]]
    valid = [
        order for order in permutations(pairs) if all(a[0] != b[0] for a, b in pairwise(order))
    ]
    assert len(valid) == 8
    crossed = Counter(tuple(crossed_order(cases(2), ARMS[:2], rng)) for _ in range(4000))
    assert set(crossed) == set(valid)
    assert chi_square(crossed, valid) < 24.3  # 7 degrees of freedom, p = 0.001
    balanced = Counter(tuple(balanced_order(cases(2), ARMS[:2], rng)) for _ in range(4000))
    assert len(balanced) == 4
    assert chi_square(balanced, list(balanced)) < 16.3  # 3 degrees of freedom


def test_the_arm_left_over_is_random() -> None:
    rng = np.random.default_rng(6)
    only = Counter(balanced_order(cases(1), ARMS, rng)[0][1] for _ in range(3000))
    assert chi_square(only, list(ARMS)) < 13.8  # 2 degrees of freedom


def drawn(key: bytes, reading: str, seed: int) -> list[int]:
    return generator(key, reading, seed).permutation(50).tolist()


def test_the_order_follows_from_key_name_and_seed_and_from_no_two_of_them() -> None:
    """The seed and the name stand in the database: they alone must not tell the order."""
    assert drawn(KEY, "r1", 7) == drawn(KEY, "r1", 7)
    others = [drawn(Fernet.generate_key(), "r1", 7), drawn(KEY, "r2", 7), drawn(KEY, "r1", 8)]
    others.append(np.random.default_rng(7).permutation(50).tolist())
    assert drawn(KEY, "r1", 7) not in others


def allocation(arm: str = "adapted", **changed) -> Allocation:
    return Allocation(
        **{
            "reading": "r1",
            "place": 3,
            "case_id": "case-0",
            "arm": arm,
            "contour_id": 12,
            "mask_sha256": "0" * 64,
            **changed,
        }
    )


@given(st.sampled_from(ARMS), st.integers(0, 500), st.integers(1, 2**62))
def test_a_seal_opens_to_what_was_sealed_and_has_one_length(arm, place, contour_id) -> None:
    one = allocation(arm, place=place, contour_id=contour_id)
    sealed = seal_allocation(one, KEY)
    assert open_allocation(sealed, KEY, reading="r1", place=place) == one
    assert len(sealed) == len(seal_allocation(allocation(), KEY))
    assert arm.encode() not in sealed
    assert arm not in repr(one)


def test_the_longest_allocation_fits_its_seal() -> None:
    longest = allocation(
        "reference", reading="r" * 32, place=10**6, case_id="case-" + "f" * 12, contour_id=2**63
    )
    assert seal_allocation(longest, KEY)


@pytest.mark.parametrize(
    ("key", "reading", "place", "words"),
    [
        (Fernet.generate_key(), "r1", 3, r"crosswalk\.key"),
        (KEY, "r1", 4, "exchanged"),
        (KEY, "r2", 3, "exchanged"),
    ],
    ids=["another key", "another place", "another reading"],  # a key drawn anew is no name
)
def test_a_seal_of_another_place_or_key_is_refused(key, reading, place, words) -> None:
    sealed = seal_allocation(allocation(), KEY)
    with pytest.raises(DataError, match=words):
        open_allocation(sealed, key, reading=reading, place=place)
