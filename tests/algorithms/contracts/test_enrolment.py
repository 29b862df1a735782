import doctest
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts import enrolment
from algorithms.contracts.enrolment import Enrolment, days_left, fingerprint, same_fingerprint

ANSWER = {
    "study": "npc",
    "site": "hospital-b",
    "certificate_pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "ca_certificate_pem": "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n",
    "coordinator_address": "study.example.org:443",
    "coordinator_signing_key_hex": "1" * 64,
    "coordinator_encryption_key_hex": "2" * 64,
    "request_sha256": "3" * 64,
    "issued_at": "2031-05-06T07:08:09Z",
    "signature_hex": "4" * 128,
}
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(enrolment).failed == 0


@given(hashes, st.sampled_from([" ", "", "-", ":", "\t", "  "]), st.booleans())
def test_a_fingerprint_may_be_typed_with_any_spaces_and_case(
    sha256: str, between: str, upper: bool
) -> None:
    typed = fingerprint(sha256).replace(" ", between)
    assert same_fingerprint(typed.upper() if upper else typed, sha256)


@given(hashes, st.integers(0, 63), st.integers(0, 63))
def test_one_wrong_digit_or_a_part_is_not_the_fingerprint(
    sha256: str, place: int, length: int
) -> None:
    wrong = "0" if sha256[place] != "0" else "1"
    assert not same_fingerprint(sha256[:place] + wrong + sha256[place + 1 :], sha256)
    assert not same_fingerprint(sha256[:length], sha256)


def test_the_hash_is_of_every_field_but_the_signature_and_survives_a_file() -> None:
    answer = Enrolment.model_validate(ANSWER)
    assert Enrolment.model_validate_json(answer.model_dump_json()).sha256 == answer.sha256
    changes = {
        "study": "other",
        "site": "hospital-c",
        "certificate_pem": ANSWER["ca_certificate_pem"],
        "ca_certificate_pem": ANSWER["certificate_pem"],
        "coordinator_address": "evil.example.org:443",
        "coordinator_signing_key_hex": "9" * 64,
        "coordinator_encryption_key_hex": "9" * 64,
        "request_sha256": "9" * 64,
        "issued_at": "2031-05-06T07:08:10Z",
    }
    assert changes.keys() == Enrolment.model_fields.keys() - {"signature_hex"}
    for field, value in changes.items():
        assert Enrolment.model_validate(ANSWER | {field: value}).sha256 != answer.sha256
    assert Enrolment.model_validate(ANSWER | {"signature_hex": "5" * 128}).sha256 == answer.sha256


@pytest.mark.parametrize(
    "change",
    [
        {"site": "Hospital B"},
        {"certificate_pem": "text"},
        {"certificate_pem": "-----BEGIN CERTIFICATE-----\n" + "A" * 9000},
        {"coordinator_address": "https://study.example.org/"},
        {"coordinator_signing_key_hex": "1" * 63},
        {"issued_at": "2031-05-06T07:08:09"},
        {"note": "free text"},
    ],
)
def test_what_is_no_answer_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Enrolment.model_validate(ANSWER | change)


def test_days_left_are_whole_ones_and_negative_from_the_end_on() -> None:
    end = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert days_left(end, end - timedelta(days=2, hours=12)) == 2
    assert days_left(end, end) == 0
    assert days_left(end, end + timedelta(seconds=1)) == -1
