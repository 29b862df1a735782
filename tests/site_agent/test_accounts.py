from datetime import datetime, timedelta
from threading import Barrier, Thread

import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from site_agent import accounts, audit_log, sign_ins
from site_agent.accounts import ROLES, authenticate, reauthenticate
from site_agent.database import AccountRow, AuditRow, open_database, transaction
from site_agent.passwords import wait_after
from tests.simulated_site import make_site
from tests.site_agent.people import PASSWORD, QUICK, add

NOW = datetime(2031, 5, 6, 7, 8, 9)
WRONG = "wrong horse battery"


@pytest.fixture
def engine(empty_engine):
    return empty_engine


def try_once(engine: Engine, password: str, now: datetime, username: str = "anna") -> bool:
    try:
        authenticate(engine, username, password, now=now, hasher=QUICK)
    except DataError:
        return False
    return True


def events(engine: Engine) -> list[tuple[str, str, dict]]:
    with Session(engine) as session:
        audit_log.verify(session)
        rows = session.scalars(select(AuditRow).order_by(AuditRow.sequence))
        return [(row.event, row.subject, row.detail) for row in rows]


def test_who_was_added_signs_in_by_name_and_password(engine) -> None:
    added = add(engine, "Anna.Example", roles=["reviewer", "annotator"])
    assert (added.username, added.roles) == ("anna.example", {"annotator", "reviewer"})
    assert authenticate(engine, " ANNA.example", PASSWORD, now=NOW, hasher=QUICK) == added
    assert accounts.find(engine, "anna.example") == added
    assert accounts.listed(engine) == [added]


def test_a_life_of_an_account_on_every_database(each_database, tmp_path) -> None:
    engine = open_database(make_site(tmp_path / "site", "hospital-b").database_url)
    add(engine)
    assert try_once(engine, PASSWORD, NOW)
    assert not try_once(engine, WRONG, NOW)
    token = sign_ins.open_sign_in(engine, "anna", now=NOW)
    accounts.set_roles(engine, "anna", ["it"], actor="test", now=NOW)
    seen = sign_ins.account_of(engine, token, now=NOW, idle_s=60, absolute_s=60)
    assert seen is not None
    assert seen.roles == {"it"}
    accounts.set_disabled(engine, "anna", True, actor="test", now=NOW)
    assert sign_ins.account_of(engine, token, now=NOW, idle_s=60, absolute_s=60) is None
    assert [event for event, _, _ in events(engine)] == [
        "account_added",
        "sign_in_failed",
        "signed_in",
        "roles_changed",
        "account_disabled",
    ]
    engine.dispose()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"username": "anna"}, "there is one already"),
        ({"username": "An na"}, "letters a to z"),
        ({"username": ""}, "letters a to z"),
        ({"username": "x" * 65}, "at most 64"),
        ({"roles": ["doctor"]}, "role 'doctor'.*annotator, reviewer, it, lead"),
        ({"roles": []}, "at least one"),
        ({"password": "short"}, "12 to 1024"),
        ({"password": None}, "either a password or"),
        ({"oidc_subject": "https://id.example|7", "password": PASSWORD}, "either a password or"),
        ({"oidc_subject": "https://id.example"}, r"ISSUER\|SUBJECT"),
        ({"oidc_subject": "|7"}, r"ISSUER\|SUBJECT"),
        ({"display_name": " "}, "display name"),
        ({"display_name": "<b>Anna</b>"}, "display name"),
        ({"person_name": "Example\\Anna"}, "person name"),
        ({"person_name": "x" * 65}, "at most 64|1 to 64"),
    ],
)
def test_what_makes_no_account_says_why_and_leaves_nothing(engine, changes, words) -> None:
    add(engine)
    before = events(engine)
    with pytest.raises(DataError, match=words):
        add(engine, **{"username": "berta", **changes})
    assert [account.username for account in accounts.listed(engine)] == ["anna"]
    assert events(engine) == before


def test_one_identity_belongs_to_one_account(engine) -> None:
    add(engine, oidc_subject="https://id.example|7")
    with pytest.raises(DataError, match="another account has it"):
        add(engine, "berta", oidc_subject="https://id.example|7")
    found = accounts.of_subject(engine, "https://id.example|7")
    assert found is not None
    assert found.username == "anna"
    assert accounts.of_subject(engine, "https://other.example|7") is None


def test_every_refusal_sounds_the_same(engine) -> None:
    add(engine)
    add(engine, "berta")
    add(engine, "carla", oidc_subject="https://id.example|7")
    accounts.set_disabled(engine, "berta", True, actor="test", now=NOW)
    said = set()
    for username, password in (
        ("anna", WRONG),
        ("berta", PASSWORD),
        ("carla", PASSWORD),
        ("nobody", PASSWORD),
        ("", ""),
        ("x" * 10_000, "y" * 10_000),
        ("\0", PASSWORD),
        ("\ud800", PASSWORD),
    ):
        with pytest.raises(DataError) as caught:
            authenticate(engine, username, password, now=NOW, hasher=QUICK)
        said.add(str(caught.value))
    assert said == {accounts.REFUSED}


def test_an_unknown_name_costs_as_much_hashing_as_a_known_one(engine) -> None:
    """Who measures the answers learns no names: each attempt verifies exactly one hash."""

    class Counting(PasswordHasher):
        calls = 0

        def verify(self, hash, password):
            self.calls += 1
            return super().verify(hash, password)

    hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)
    add(engine, hasher=hasher)
    add(engine, "berta", oidc_subject="https://id.example|7")
    for username in ("anna", "berta", "nobody"):
        before = hasher.calls
        with pytest.raises(DataError):
            authenticate(engine, username, WRONG, now=NOW, hasher=hasher)
        assert hasher.calls == before + 1
    for _ in range(5):
        try_once(engine, WRONG, NOW)
    before = hasher.calls
    with pytest.raises(DataError):  # locked: the same
        authenticate(engine, "anna", PASSWORD, now=NOW, hasher=hasher)
    assert hasher.calls == before + 1


def test_five_wrong_passwords_lock_even_the_right_one_out_for_a_while(engine) -> None:
    add(engine)
    for _ in range(4):
        assert not try_once(engine, WRONG, NOW)
    assert try_once(engine, PASSWORD, NOW)  # four are forgiven, and counted no more
    for _ in range(5):
        assert not try_once(engine, WRONG, NOW)
    assert not try_once(engine, PASSWORD, NOW)
    assert not try_once(engine, PASSWORD, NOW + timedelta(seconds=29))
    assert try_once(engine, PASSWORD, NOW + timedelta(seconds=30))
    assert events(engine)[-3:-2] == [("account_locked", "anna", {"seconds": 30})]


@settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.sampled_from([PASSWORD, WRONG]), st.integers(0, 1200)), max_size=14))
def test_locking_follows_a_counter_kept_by_hand(engine, attempts) -> None:
    """An independent model: failures in a row, and the time before which nothing counts."""
    with transaction(engine) as session:
        row = session.get(AccountRow, "anna")
        if row is not None:
            row.failures, row.locked_until = 0, None
    if row is None:
        add(engine)
    now, failures, free_at = NOW, 0, NOW
    for password, pause_s in attempts:
        now += timedelta(seconds=pause_s)
        let_in = try_once(engine, password, now)
        if now < free_at:
            assert not let_in
        elif password == PASSWORD:
            assert let_in
            failures = 0
        else:
            assert not let_in
            failures += 1
            free_at = now + wait_after(failures)


def test_guessing_at_once_is_no_way_around_the_lock(engine) -> None:
    """Twelve guesses are hashed at the same time; only five are answered."""
    add(engine)
    together = Barrier(12)

    class Waiting(PasswordHasher):
        def verify(self, hash, password):
            together.wait(timeout=30)
            return super().verify(hash, password)

    hasher = Waiting(time_cost=1, memory_cost=8, parallelism=1)

    def guess(number: int) -> None:
        with pytest.raises(DataError):
            authenticate(engine, "anna", f"guess number {number}", now=NOW, hasher=hasher)

    threads = [Thread(target=guess, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reasons = [detail.get("reason") for event, _, detail in events(engine) if "failed" in event]
    assert sorted(reasons) == ["locked"] * 7 + ["wrong"] * 5


def test_a_password_set_while_an_old_one_is_checked_counts(engine) -> None:
    add(engine)

    class Slow(PasswordHasher):
        def verify(self, hash, password):
            new = "another horse battery"
            accounts.set_password(engine, "anna", new, actor="it", now=NOW, hasher=QUICK)
            return super().verify(hash, password)

    with pytest.raises(DataError):
        slow = Slow(time_cost=1, memory_cost=8, parallelism=1)
        authenticate(engine, "anna", PASSWORD, now=NOW, hasher=slow)
    assert try_once(engine, "another horse battery", NOW)


def test_a_hash_of_old_parameters_is_made_anew_at_the_next_sign_in(engine) -> None:
    add(engine, hasher=PasswordHasher(time_cost=1, memory_cost=16, parallelism=1))

    def stored() -> str:
        with Session(engine) as session:
            return session.get_one(AccountRow, "anna").password_hash or ""

    old = stored()
    assert not try_once(engine, WRONG, NOW)
    assert stored() == old
    assert try_once(engine, PASSWORD, NOW)
    assert "m=8," in stored()
    new = stored()
    assert try_once(engine, PASSWORD, NOW)
    assert stored() == new


def test_a_signature_asks_for_the_password_and_counts_wrong_ones(engine) -> None:
    add(engine)
    reauthenticate(engine, "anna", PASSWORD, now=NOW, hasher=QUICK)
    for _ in range(5):
        with pytest.raises(DataError, match=r"nothing was signed|try again in 1 min"):
            reauthenticate(engine, "anna", WRONG, now=NOW, hasher=QUICK)
    with pytest.raises(DataError, match="too many wrong passwords: try again in 1 min"):
        reauthenticate(engine, "anna", PASSWORD, now=NOW, hasher=QUICK)
    assert not try_once(engine, PASSWORD, NOW)  # one lock for both doors
    assert "signature_password_failed" in {event for event, _, _ in events(engine)}


def test_a_signature_by_somebody_disabled_or_without_a_password_says_so(engine) -> None:
    add(engine)
    add(engine, "berta", oidc_subject="https://id.example|7")
    accounts.set_disabled(engine, "anna", True, actor="test", now=NOW)
    for username, words in (("anna", "disabled"), ("berta", "no password here")):
        with pytest.raises(DataError, match=words):
            reauthenticate(engine, username, PASSWORD, now=NOW, hasher=QUICK)


def test_neither_passwords_nor_what_was_typed_as_a_name_get_into_the_log(engine) -> None:
    add(engine)
    try_once(engine, WRONG, NOW)
    try_once(engine, PASSWORD, NOW, username="a password in the wrong field")
    accounts.set_password(engine, "anna", "another horse battery", actor="it", now=NOW)
    written = repr(events(engine))
    for secret in (PASSWORD, WRONG, "wrong field", "another horse", "argon2"):
        assert secret not in written
    assert ("sign_in_failed", accounts.UNKNOWN, {"reason": "unknown"}) in events(engine)


def test_a_new_password_ends_sign_ins_and_waiting(engine) -> None:
    add(engine)
    token = sign_ins.open_sign_in(engine, "anna", now=NOW)
    for _ in range(9):
        try_once(engine, WRONG, NOW)
    new = "another horse battery"
    accounts.set_password(engine, "anna", new, actor="it", now=NOW, hasher=QUICK)
    assert sign_ins.account_of(engine, token, now=NOW, idle_s=60, absolute_s=60) is None
    assert not try_once(engine, PASSWORD, NOW)
    assert try_once(engine, new, NOW)
    add(engine, "berta", oidc_subject="https://id.example|7")
    with pytest.raises(DataError, match="hospital's own sign-in"):
        accounts.set_password(engine, "berta", new, actor="it", now=NOW)


def test_changes_that_change_nothing_are_not_told(engine) -> None:
    add(engine, roles=ROLES)
    before = events(engine)
    accounts.set_roles(engine, "anna", reversed(ROLES), actor="it", now=NOW)
    accounts.set_disabled(engine, "anna", False, actor="it", now=NOW)
    assert events(engine) == before


def test_who_is_not_there_cannot_be_changed(engine) -> None:
    for change in (
        lambda: accounts.find(engine, "nobody"),
        lambda: accounts.set_roles(engine, "nobody", ["it"], actor="it", now=NOW),
        lambda: accounts.set_disabled(engine, "nobody", True, actor="it", now=NOW),
        lambda: accounts.set_password(engine, "nobody", PASSWORD, actor="it", now=NOW),
        lambda: accounts.end_sign_ins(engine, "nobody", actor="it", now=NOW),
    ):
        with pytest.raises(DataError, match="there is none: see 'fedgtv-site account list'"):
            change()
