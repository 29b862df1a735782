import stat

import pytest

from site_agent import accounts, demo_account, sign_ins
from site_agent.accounts import authenticate
from site_agent.config import open_home
from site_agent.database import open_database, utc_now
from tests.phantoms import make_home
from tests.site_agent.people import add

NOW = utc_now()


@pytest.fixture
def demo(tmp_path):
    home = make_home(tmp_path / "home", auto_approve=True)
    engine = open_database(home.database_url)
    yield home, engine
    engine.dispose()


def test_a_demonstration_gets_one_account_with_a_password_that_stays(demo) -> None:
    home, engine = demo
    password = demo_account.prepare(home, engine, now=NOW)
    assert password is not None
    account = authenticate(engine, demo_account.USERNAME, password, now=NOW)
    assert account.roles == set(accounts.ROLES)
    token = sign_ins.open_sign_in(engine, account.username, now=NOW)
    assert demo_account.prepare(home, engine, now=NOW) == password
    still = sign_ins.account_of(engine, token, now=NOW, idle_s=60, absolute_s=60)
    assert still == account  # starting the pages again signs nobody out
    file = home.folder / "secrets" / demo_account.PASSWORD_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_lost_password_is_drawn_anew(demo) -> None:
    home, engine = demo
    first = demo_account.prepare(home, engine, now=NOW)
    (home.folder / "secrets" / demo_account.PASSWORD_FILE).unlink()
    second = demo_account.prepare(home, engine, now=NOW)
    assert second not in (None, first)
    authenticate(engine, demo_account.USERNAME, second or "", now=NOW)


def test_where_people_were_added_there_is_no_demo_account(demo) -> None:
    home, engine = demo
    add(engine)
    assert demo_account.prepare(home, engine, now=NOW) is None
    assert [account.username for account in accounts.listed(engine)] == ["anna"]


def test_no_other_site_gets_one_and_a_former_demonstration_loses_it(demo, monkeypatch) -> None:
    home, engine = demo
    demo_account.prepare(home, engine, now=NOW)
    token = sign_ins.open_sign_in(engine, demo_account.USERNAME, now=NOW)
    monkeypatch.setenv("FEDGTV_SITE_AUTO_APPROVE", "false")
    hospital = open_home(home.folder)
    assert demo_account.prepare(hospital, engine, now=NOW) is None
    assert accounts.find(engine, demo_account.USERNAME).disabled
    assert sign_ins.account_of(engine, token, now=NOW, idle_s=60, absolute_s=60) is None
    # Nor does it come back by itself when somebody tries a demonstration again.
    assert demo_account.prepare(home, engine, now=NOW) is None


def test_a_hospital_begins_with_nobody(tmp_path) -> None:
    home = make_home(tmp_path / "home")
    engine = open_database(home.database_url)
    assert demo_account.prepare(home, engine, now=NOW) is None
    assert accounts.listed(engine) == []
    assert not (home.folder / "secrets" / demo_account.PASSWORD_FILE).exists()
    engine.dispose()
