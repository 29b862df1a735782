import pytest

from algorithms.contracts.errors import DataError
from site_agent.config import CONFIG_FILE, SiteConfig, open_home
from site_agent.database import open_database
from tests.phantoms import make_home


def test_the_defaults_are_those_of_the_thesis_and_careful() -> None:
    config = SiteConfig(name="hospital-b", study="npc")
    assert (config.test_share, config.validation_share) == (0.2, 0.1)
    assert config.minimum_group_size >= 5
    assert not config.auto_approve
    assert config.trusted_keys == ()
    assert config.role == "target"


def test_everything_lies_below_the_home(tmp_path) -> None:
    home = make_home(tmp_path / "home")
    folders = (home.cases, home.packages, home.rounds, home.source_package, home.ledger)
    assert all(folder.is_relative_to(tmp_path / "home") for folder in folders)
    assert len(set(folders)) == len(folders)
    assert str(home.database_url) == f"sqlite:///{tmp_path / 'home' / 'site.db'}"


def test_another_database_can_be_named(tmp_path) -> None:
    home = make_home(tmp_path, database_url="postgresql://db.hospital.example/fedgtv")
    assert str(home.database_url) == "postgresql://db.hospital.example/fedgtv"


def test_a_database_without_its_driver_says_so(tmp_path) -> None:
    home = make_home(
        tmp_path, database_url="postgresql+pg8000://u:secret@db.hospital.example/fedgtv"
    )
    with pytest.raises(DataError, match=r"database_url.*pg8000.*not installed") as caught:
        open_database(home.database_url)
    assert "secret" not in str(caught.value)


def test_the_environment_overrides_the_file(tmp_path, monkeypatch) -> None:
    make_home(tmp_path, seed=3)
    monkeypatch.setenv("FEDGTV_SITE_SEED", "8")
    assert open_home(tmp_path).config.seed == 8


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('treads = "2"', "did you mean 'threads'"),
        ("minimum_group_size = 1", "minimum_group_size"),
        ("test_share = 1.0", "test_share"),
        ("idle_limit_s = 4.9", "idle_limit_s"),
        ("idle_limit_s = 601", "idle_limit_s"),
        ('trusted_keys = ["zz"]', "trusted_keys"),
        ('database_url = "nonsense"', "key 'database_url': .*no SQLAlchemy URL"),
        ('database_url = "nosuch://db"', "key 'database_url': .*no SQLAlchemy URL"),
        ('database_url = "sqlite://u:secret@h:port/d"', "key 'database_url': .*no SQLAlchemy URL"),
        *(
            (f'database_url = "{kind}:///x?host=h&{key}=secret"', "'database_url': .*~/.pgpass")
            for kind in ("postgresql", "postgresql+psycopg")
            for key in ("password", "PassWord", "sslpassword", "pass%77ord")
        ),
    ],
)
def test_a_wrong_line_is_named_with_its_file(tmp_path, line: str, words: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(f'name = "b"\nstudy = "npc"\n{line}\n', "utf-8")
    with pytest.raises(DataError, match=words) as caught:
        open_home(tmp_path)
    assert str(tmp_path / CONFIG_FILE) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_folder_that_is_no_home_and_a_lost_secret_say_what_to_do(tmp_path) -> None:
    with pytest.raises(DataError, match="fedgtv-site init"):
        open_home(tmp_path)
    home = make_home(tmp_path)
    (tmp_path / "secrets" / "pseudonym.key").unlink()
    with pytest.raises(DataError, match=r"pseudonym\.key: secret is missing: copy it back"):
        home.secret("pseudonym.key")


@pytest.mark.parametrize("name", ["pseudonym.key", "crosswalk.key"])
@pytest.mark.parametrize("left", [0, 1, 31])
def test_a_damaged_secret_is_named_and_no_new_one_advised(tmp_path, name: str, left: int) -> None:
    home = make_home(tmp_path)
    file = tmp_path / "secrets" / name
    file.write_bytes(home.secret(name)[:left])
    with pytest.raises(DataError, match=rf"{name}: secret is damaged: copy it back") as caught:
        home.secret(name)
    assert not {"init", "anew", "generate"} & set(str(caught.value).split())


@pytest.mark.parametrize("name", ["Haus #1", "100% a?b=c&d"])
def test_the_database_lies_in_the_home_whatever_its_path_holds(tmp_path, name: str) -> None:
    home = make_home(tmp_path / name)
    open_database(home.database_url).dispose()
    assert (home.folder / "site.db").is_file()


def test_a_configuration_in_another_encoding_is_an_expected_error(tmp_path) -> None:
    (tmp_path / CONFIG_FILE).write_bytes("# Größe\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        open_home(tmp_path)
