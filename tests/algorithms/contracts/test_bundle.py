from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from algorithms.contracts.bundle import (
    BundleHeader,
    BundleRefused,
    CarriedMessage,
    Direction,
    check_expiry,
    check_order,
)
from tests.algorithms.test_sealed_bundle import NAME, NOW, header

ONE, OTHER = "11" * 32, "22" * 32


def refused(sequence: int, sha256: str, taken_in: dict[int, str]) -> str | None:
    try:
        check_order(sequence, sha256, taken_in)
    except BundleRefused as refusal:
        return refusal.rule
    return None


@pytest.mark.parametrize(
    ("sequence", "sha256", "taken_in", "rule"),
    [
        (1, ONE, {}, None),
        (7, ONE, {}, None),  # those before it got lost
        (2, ONE, {1: OTHER}, None),
        (1, ONE, {1: ONE}, None),  # a kill may have come: who keeps more says whether it did
        (1, ONE, {1: OTHER}, "replayed"),
        (1, ONE, {1: ONE, 3: OTHER}, "replayed"),
        (1, ONE, {1: OTHER, 3: OTHER}, "replayed"),
        (2, ONE, {1: OTHER, 3: OTHER}, "stale"),
    ],
)
def test_what_comes_twice_or_late_is_refused(sequence, sha256, taken_in, rule) -> None:
    assert refused(sequence, sha256, taken_in) == rule


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([ONE, OTHER])), max_size=30))
def test_numbers_taken_in_only_rise_and_each_has_one_bundle(arrivals) -> None:
    taken_in: dict[int, str] = {}
    for sequence, sha256 in arrivals:
        if refused(sequence, sha256, taken_in) is None:
            assert taken_in.get(sequence, sha256) == sha256
            assert sequence >= max(taken_in, default=0)
            taken_in[sequence] = sha256


def test_a_bundle_is_valid_up_to_its_end() -> None:
    check_expiry(header(), NOW + timedelta(days=30))
    with pytest.raises(BundleRefused, match=r"^stale.*2031-06-05"):
        check_expiry(header(), NOW + timedelta(days=30, seconds=1))


def test_the_hospital_is_named_whichever_way_it_goes() -> None:
    back = {"direction": Direction.TO_COORDINATOR, "sender": "hospital-c", "receiver": "x"}
    assert header().site == header(**back, answers_sha256=ONE).site == "hospital-c"


@pytest.mark.parametrize(
    "change",
    [
        {"answers_sha256": ONE},
        {"direction": Direction.TO_COORDINATOR},
        {"sequence": 0},
        {"receiver": "Hospital C"},
        {"created_at": NOW.replace(tzinfo=None)},
        {"note": "of a patient"},
        {"format": 2},
    ],
)
def test_a_header_says_what_it_must_and_no_more(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        header(**change)


def test_a_header_comes_back_from_its_bytes() -> None:
    assert BundleHeader.model_validate_json(header().to_bytes()) == header()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"error": "ReleaseHeld", "objects": ((NAME, 1),)},
        {"error": "could not read /srv/patient"},
        {"objects": ((NAME, -1),)},
        {"objects": (("../x", 1),)},
        {"type": "status", "error": "DataError"},
    ],
)
def test_a_message_is_content_or_the_name_of_an_error(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CarriedMessage.model_validate({"type": "query.status", "asked": NAME, **fields})
