import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from site_agent import accounts, audit_log, sign_ins
from site_agent.database import AuditRow, SignInRow, transaction
from site_agent.sign_ins import is_fresh_login, take_identity
from tests.site_agent.people import add

NOW = datetime(2031, 5, 6, 7, 8, 9)
IDLE_S, ABSOLUTE_S = 1800.0, 43200.0
ISSUER = "https://id.example"


@pytest.fixture
def engine(empty_engine):
    add(empty_engine)
    add(empty_engine, "berta", oidc_subject=f"{ISSUER}|7")
    return empty_engine


def who(engine: Engine, token: str, now: datetime) -> str | None:
    limits = {"idle_s": IDLE_S, "absolute_s": ABSOLUTE_S}
    account = sign_ins.account_of(engine, token, now=now, **limits)
    left = sign_ins.seconds_left(engine, token, now=now, **limits)
    assert (left > 0) == (account is not None)
    return None if account is None else account.username


def touch(engine: Engine, token: str, now: datetime) -> None:
    sign_ins.touch(engine, token, now=now, idle_s=IDLE_S, absolute_s=ABSOLUTE_S)


def seen_at(engine: Engine) -> datetime:
    with Session(engine) as session:
        return session.scalars(select(SignInRow.last_seen_at)).one()


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_a_token_is_random_and_only_its_hash_is_kept(engine) -> None:
    tokens = {sign_ins.open_sign_in(engine, "anna", now=NOW) for _ in range(20)}
    assert len(tokens) == 20
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in tokens)  # 256 bits
    with Session(engine) as session:
        kept = set(session.scalars(select(SignInRow.token_sha256)))
        log = repr([vars(row) for row in session.scalars(select(AuditRow))])
        audit_log.verify(session)
    assert not any(token in repr(kept) + log for token in tokens)
    assert all(who(engine, token, NOW) == "anna" for token in tokens)
    assert not any(who(engine, digest, NOW) for digest in kept)  # a stolen database signs nobody in


@pytest.mark.parametrize("token", ["", "x", "A" * 43, "\ud800" * 3, "é" * 10_000])
def test_what_is_no_token_is_nobody(engine, token) -> None:
    assert who(engine, token, NOW) is None
    touch(engine, token, NOW)
    sign_ins.end(engine, token, now=NOW)


def test_doing_nothing_ends_it(engine) -> None:
    token = sign_ins.open_sign_in(engine, "anna", now=NOW)
    assert who(engine, token, after(IDLE_S - 1)) == "anna"
    assert who(engine, token, after(IDLE_S)) is None
    touch(engine, token, after(IDLE_S))  # comes too late
    assert who(engine, token, after(IDLE_S + 1)) is None


def test_working_puts_it_off_but_not_for_ever(engine) -> None:
    token = sign_ins.open_sign_in(engine, "anna", now=NOW)
    for minute in range(int(ABSOLUTE_S // 60)):
        if minute % 20 == 0:
            touch(engine, token, after(60 * minute))
            assert who(engine, token, after(60 * minute + 59)) == "anna"
    assert who(engine, token, after(ABSOLUTE_S)) is None


def test_working_is_written_down_once_a_minute_at_most(engine) -> None:
    token = sign_ins.open_sign_in(engine, "anna", now=NOW)
    touch(engine, token, after(59))
    assert seen_at(engine) == NOW
    touch(engine, token, after(60))
    assert seen_at(engine) == after(60)
    touch(engine, token, after(119))
    assert seen_at(engine) == after(60)


@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.integers(60, 3000), max_size=30))
def test_it_lasts_as_long_as_a_model_says(engine, pauses) -> None:
    token = sign_ins.open_sign_in(engine, "anna", now=NOW)
    seconds, alive = 0, True
    for pause in pauses:
        seconds += pause
        alive = alive and pause < IDLE_S and seconds < ABSOLUTE_S
        assert who(engine, token, after(seconds)) == ("anna" if alive else None)
        touch(engine, token, after(seconds))


def test_signing_out_ends_that_browser_alone_and_for_good(engine) -> None:
    one, other = (sign_ins.open_sign_in(engine, "anna", now=NOW) for _ in range(2))
    sign_ins.end(engine, one, now=after(5))
    sign_ins.end(engine, one, now=after(6))  # twice is once
    touch(engine, one, after(120))
    assert (who(engine, one, after(121)), who(engine, other, after(121))) == (None, "anna")
    with Session(engine) as session:
        told = session.scalars(select(AuditRow).where(AuditRow.event == "signed_out")).all()
    assert [row.subject for row in told] == ["anna"]


def test_signing_in_ends_what_the_browser_had_before(engine) -> None:
    planted = sign_ins.open_sign_in(engine, "anna", now=NOW)
    token = sign_ins.open_sign_in(engine, "berta", now=NOW, replaces=planted)
    assert (who(engine, planted, NOW), who(engine, token, NOW)) == (None, "berta")
    sign_ins.open_sign_in(engine, "anna", now=NOW, replaces="never heard of")


def test_disabling_and_signing_out_everywhere_end_all(engine) -> None:
    tokens = [sign_ins.open_sign_in(engine, "anna", now=NOW) for _ in range(3)]
    mine = sign_ins.open_sign_in(engine, "berta", now=NOW)
    assert accounts.end_sign_ins(engine, "anna", actor="it", now=NOW) == 3
    assert [who(engine, token, NOW) for token in [*tokens, mine]] == [None, None, None, "berta"]
    token = sign_ins.open_sign_in(engine, "anna", now=NOW)
    accounts.set_disabled(engine, "anna", True, actor="it", now=NOW)
    accounts.set_disabled(engine, "anna", False, actor="it", now=NOW)
    assert who(engine, token, NOW) is None  # it does not come back
    accounts.set_disabled(engine, "anna", True, actor="it", now=NOW)
    for username in ("anna", "nobody"):
        with pytest.raises(DataError, match="cannot sign in"):
            sign_ins.open_sign_in(engine, username, now=NOW)


def test_old_rows_go(engine) -> None:
    old = sign_ins.open_sign_in(engine, "anna", now=NOW)
    with transaction(engine) as session:
        session.execute(update(SignInRow).values(signed_in_at=NOW - timedelta(days=31)))
    token = sign_ins.open_sign_in(engine, "anna", now=NOW)
    with Session(engine) as session:
        assert len(session.scalars(select(SignInRow)).all()) == 1
    assert (who(engine, old, NOW), who(engine, token, NOW)) == (None, "anna")


# -- what an OpenID provider says -------------------------------------------------------------


def claims(at: datetime = NOW, **changes) -> dict:
    issued = at.replace(tzinfo=UTC).timestamp()
    return {"iss": ISSUER, "sub": "7", "iat": issued, "nonce": f"n{issued}", **changes}


def test_an_identity_is_taken_once(engine) -> None:
    account = take_identity(engine, claims(), now=NOW)
    assert account is not None
    assert account.username == "berta"
    assert take_identity(engine, claims(), now=after(1)) is None
    again = take_identity(engine, claims(nonce="another"), now=after(2))
    assert again is not None


@pytest.mark.parametrize("seconds", [-301, 301, -(10**6), 10**6])
def test_an_old_identity_is_none(engine, seconds) -> None:
    assert take_identity(engine, claims(), now=after(seconds)) is None


@pytest.mark.parametrize("seconds", [-299, 0, 299])
def test_clocks_may_differ_by_some_minutes(engine, seconds) -> None:
    assert take_identity(engine, claims(), now=after(seconds)) is not None


@pytest.mark.parametrize("issued", [None, "now", True, 1e300, -1e300, float("inf")])
def test_an_identity_without_a_time_is_none(engine, issued) -> None:
    assert take_identity(engine, claims(iat=issued), now=NOW) is None


@pytest.mark.parametrize("changes", [{"sub": "8"}, {"iss": "https://other.example"}, {"sub": ""}])
def test_an_identity_without_an_account_is_told_whom_to_ask(engine, changes) -> None:
    with pytest.raises(DataError, match="Ask hospital IT") as caught:
        take_identity(engine, claims(**changes), now=NOW)
    wanted = claims(**changes)
    assert f"--oidc-subject '{wanted['iss']}|{wanted['sub']}'" in str(caught.value)
    with Session(engine) as session:
        row = session.scalars(select(AuditRow).order_by(AuditRow.sequence.desc())).first()
    assert row is not None
    assert (row.event, row.subject) == ("sign_in_failed", accounts.UNKNOWN)


def test_a_disabled_account_is_not_let_in_by_the_provider(engine) -> None:
    accounts.set_disabled(engine, "berta", True, actor="it", now=NOW)
    with pytest.raises(DataError, match="Ask hospital IT"):
        take_identity(engine, claims(), now=NOW)


@pytest.mark.parametrize("skew_s", [-3600, 0, 3600])
@pytest.mark.parametrize(("login_s", "fresh"), [(4, True), (9, True), (13, False), (3600, False)])
def test_a_login_is_fresh_by_the_providers_own_clock(skew_s, login_s, fresh) -> None:
    """Asked at 0, told at 10 s: a login up to 10 s before (2 s for rounding) came after asking."""
    told = after(10 + skew_s)
    said = claims(told, auth_time=claims(told)["iat"] - login_s)
    assert is_fresh_login(said, asked_at=NOW, now=after(10)) is fresh


def test_without_auth_time_no_login_is_fresh() -> None:
    assert not is_fresh_login(claims(after(10)), asked_at=NOW, now=after(10))
