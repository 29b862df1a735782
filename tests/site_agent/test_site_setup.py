import shutil
import stat
import tomllib

import pytest
from cryptography.fernet import Fernet

from algorithms.contracts.errors import DataError
from site_agent.case_store import CaseStore
from site_agent.config import open_home
from site_agent.site_setup import initialise
from tests.phantoms import filled_store, make_home

KEY = "0123456789abcdef" * 4


def make(folder, **changes) -> None:
    fields = {"name": "hospital-b", "study": "npc", "role": "target", "trusted_keys": [KEY]}
    initialise(folder, **(fields | changes))


def test_a_new_home_is_ready_for_use(tmp_path) -> None:
    make(tmp_path / "home", role="source")
    home = open_home(tmp_path / "home")
    assert (home.config.name, home.config.study, home.config.role) == (
        "hospital-b",
        "npc",
        "source",
    )
    assert home.config.trusted_keys == (KEY,)
    assert not home.config.auto_approve
    assert CaseStore(home).cases() == []


def test_secrets_are_drawn_anew_and_only_their_owner_reads_them(tmp_path) -> None:
    homes = [tmp_path / name for name in ("a", "b")]
    for home in homes:
        make(home)
    for name in ("pseudonym.key", "crosswalk.key"):
        one, other = (open_home(home).secret(name) for home in homes)
        assert one != other
        assert len(one) >= 32
        assert stat.S_IMODE((homes[0] / "secrets" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((homes[0] / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE(homes[0].stat().st_mode) == 0o700
    Fernet(open_home(homes[0]).secret("crosswalk.key"))


def test_an_existing_home_is_never_overwritten(tmp_path) -> None:
    make(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
    with pytest.raises(DataError, match=r"site\.toml: exists already"):
        make(tmp_path, name="another")
    assert all(file.read_bytes() == content for file, content in before.items())


def test_a_home_whose_making_was_killed_is_finished(tmp_path) -> None:
    make(tmp_path)
    text = (tmp_path / "site.toml").read_text("utf-8")
    pseudonyms = (tmp_path / "secrets" / "pseudonym.key").read_bytes()
    # Killed after the first secret: the second is half written, and nothing else is there.
    (tmp_path / "site.toml").unlink()
    (tmp_path / "site.db").unlink()
    (tmp_path / "secrets" / "crosswalk.key").rename(tmp_path / "secrets" / "crosswalk.key.part")
    make(tmp_path)
    assert (tmp_path / "site.toml").read_text("utf-8") == text
    home = open_home(tmp_path)
    assert home.secret("pseudonym.key") == pseudonyms
    Fernet(home.secret("crosswalk.key"))
    assert CaseStore(home).cases() == []
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize("lost", ["pseudonym.key", "crosswalk.key"])
@pytest.mark.parametrize("also_lost", ["site.db", "cases"])
def test_no_key_is_drawn_where_cases_were_made_with_another(tmp_path, lost, also_lost) -> None:
    filled_store(make_home(tmp_path), 1).engine.dispose()
    (tmp_path / "site.toml").unlink()
    gone = tmp_path / also_lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    key = (tmp_path / "secrets" / lost).rename(tmp_path / lost)
    with pytest.raises(DataError, match=f"{lost}: missing, but there are cases.*copy it back"):
        make(tmp_path)
    assert not (tmp_path / "secrets" / lost).exists()
    key.rename(tmp_path / "secrets" / lost)
    make(tmp_path)  # the configuration alone was lost


def test_the_configuration_is_what_comes_last(tmp_path) -> None:
    (tmp_path / "site.db").mkdir(parents=True)  # no database can be made here
    with pytest.raises(Exception, match="unable to open database"):
        make(tmp_path)
    assert (tmp_path / "secrets" / "crosswalk.key").is_file()
    assert not (tmp_path / "site.toml").exists()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"name": "Hospital B"}, "name"),
        ({"study": "npc/../x"}, "study"),
        ({"role": "both"}, "role"),
        ({"trusted_keys": ["not a key"]}, "trusted_keys"),
        ({"trusted_keys": [KEY[:-1]]}, "trusted_keys"),
    ],
)
def test_a_wrong_value_is_named_and_leaves_no_home(tmp_path, change, key) -> None:
    with pytest.raises(DataError, match=f"key '{key}") as caught:
        make(tmp_path / "home", **change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "home" / "site.toml").exists()


@pytest.mark.parametrize("key", ["name", "study"])
@pytest.mark.parametrize(
    ("value", "looks_like"),
    [("site-20240115", "date"), ("patient-0123456789ab", "pseudonym")],
)
def test_a_name_that_the_door_would_stop_is_refused(tmp_path, key, value, looks_like) -> None:
    with pytest.raises(DataError, match=f"key '{key}': looks like a {looks_like}"):
        make(tmp_path / "home", **{key: value})
    assert not (tmp_path / "home").exists()


def test_a_database_is_made_here_and_nowhere_else(tmp_path) -> None:
    make(tmp_path)
    (tmp_path / "site.db").unlink()
    with pytest.raises(DataError, match=r"site\.db: the site's database is missing"):
        CaseStore(open_home(tmp_path))
    assert not (tmp_path / "site.db").exists()


def test_another_database_is_made_where_the_environment_says(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FEDGTV_SITE_DATABASE_URL", f"sqlite:///{tmp_path / 'other.db'}")
    make(tmp_path / "home")
    assert CaseStore(open_home(tmp_path / "home")).cases() == []
    assert not (tmp_path / "home" / "site.db").exists()


def test_quotes_in_a_value_stay_inside_it(tmp_path) -> None:
    with pytest.raises(DataError):
        make(tmp_path, name='x"\nauto_approve = true\nstudy = "y')
    make(tmp_path)
    assert "auto_approve" not in tomllib.loads((tmp_path / "site.toml").read_text("utf-8"))
