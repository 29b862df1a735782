import re

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.errors import DataError
from site_agent import passwords
from site_agent.passwords import hash_password, is_right, renewed, wait_after
from tests.site_agent.people import PASSWORD, QUICK

long_enough = st.text(st.characters(exclude_categories=["Cs"]), min_size=24, max_size=64)


@given(long_enough)
def test_a_password_is_right_and_any_other_is_not(password: str) -> None:
    hashed = hash_password(password, username="anna", hasher=QUICK)
    assert is_right(password, hashed, hasher=QUICK)
    assert not is_right(password + "x", hashed, hasher=QUICK)
    assert not is_right("", hashed, hasher=QUICK)
    assert not is_right(password, None, hasher=QUICK)
    assert password not in hashed


def test_hashes_are_argon2id_as_strong_as_rfc_9106_asks_and_salted() -> None:
    first = hash_password(PASSWORD, username="anna")
    parameters = extract_parameters(first)
    assert parameters.type is Type.ID
    assert parameters.memory_cost >= 64 * 1024  # KiB; RFC 9106, section 4, second choice
    assert (parameters.time_cost, parameters.parallelism) == (3, 4)
    assert first != hash_password(PASSWORD, username="anna")


@pytest.mark.parametrize("password", ["", "elevenchars", "x" * 1025])
def test_too_short_and_too_long_are_refused_with_the_limits(password: str) -> None:
    with pytest.raises(DataError, match="12 to 1024 characters"):
        hash_password(password, username="anna", hasher=QUICK)


def test_twelve_of_anything_will_do_but_the_user_name() -> None:
    hash_password("            ", username="anna", hasher=QUICK)
    with pytest.raises(DataError, match="user name"):
        hash_password("Anna.Example", username="anna.example", hasher=QUICK)


def test_an_accent_is_the_same_letter_from_every_keyboard() -> None:
    composed, decomposed = "Müllerstraße 12", "Mu\u0308llerstraße 12"
    assert composed != decomposed
    assert is_right(decomposed, hash_password(composed, username="a", hasher=QUICK), hasher=QUICK)


def test_a_password_longer_than_any_is_refused_without_hashing_it() -> None:
    class Counting(PasswordHasher):
        seen = 0

        def verify(self, hash, password):
            self.seen = max(self.seen, len(password))
            return super().verify(hash, password)

    hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)
    assert not is_right("x" * 10**6, hasher.hash("x" * 10**6), hasher=hasher)
    assert hasher.seen <= passwords.MAX_LENGTH


def test_a_hash_is_renewed_when_the_parameters_changed_and_then_no_more() -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=16, parallelism=1)
    old = hash_password(PASSWORD, username="anna", hasher=weak)
    new = renewed(PASSWORD, old, hasher=QUICK)
    assert new is not None
    assert extract_parameters(new).memory_cost == QUICK.memory_cost
    assert is_right(PASSWORD, new, hasher=QUICK)
    assert renewed(PASSWORD, new, hasher=QUICK) is None


def test_a_damaged_hash_is_nobodys_password() -> None:
    assert not is_right(PASSWORD, "$argon2id$nonsense", hasher=QUICK)


@given(st.integers(0, 10**9))
def test_waiting_never_gets_shorter_and_has_an_end(failures: int) -> None:
    assert wait_after(failures) <= wait_after(failures + 1) <= passwords.LONGEST_WAIT
    assert (wait_after(failures).total_seconds() > 0) == (failures >= 5)


def test_drawn_passwords_differ_and_are_good_enough() -> None:
    drawn = {passwords.drawn_password() for _ in range(50)}
    assert len(drawn) == 50
    assert all(re.fullmatch(r"([0-9a-f]{4}-){4}[0-9a-f]{4}", password) for password in drawn)
    hash_password(drawn.pop(), username="demo", hasher=QUICK)
