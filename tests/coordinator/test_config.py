from pathlib import Path

import pytest
from pydantic import ValidationError

from algorithms.contracts.errors import DataError
from coordinator.config import CONFIG_FILE, open_home
from coordinator.study_store import StudyStore
from tests.simulated_site import make_coordinator


def test_what_is_written_is_read(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "c", targets=("hospital-b", "hospital-c"))
    assert home.config.sites == ("hospital-a", "hospital-b", "hospital-c")
    assert open_home(tmp_path / "c") == home


def test_air_gapped_sites_are_of_the_study_and_not_connected(tmp_path: Path) -> None:
    targets = ("hospital-b", "hospital-c")
    home = make_coordinator(tmp_path / "c", targets=targets, air_gapped=("hospital-c",))
    assert open_home(tmp_path / "c").config.air_gapped_sites == ("hospital-c",)
    assert home.config.connected_sites == ("hospital-a", "hospital-b")
    with pytest.raises(ValidationError, match="hospital-z is no site of the study"):
        make_coordinator(tmp_path / "d", targets=targets, air_gapped=("hospital-z",))


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "c")
    file = home.folder / CONFIG_FILE
    file.write_text(file.read_text() + "message_ttl = 60\n")
    with pytest.raises(DataError, match="message_ttl_s"):
        open_home(home.folder)


def test_the_environment_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_coordinator(tmp_path / "c")
    monkeypatch.setenv("FEDGTV_COORDINATOR_MESSAGE_TTL_S", "61")
    assert open_home(home.folder).config.message_ttl_s == 61


@pytest.mark.parametrize("name", ['hospital"b', "Hospital B", "../b", "", "b\n"])
def test_a_site_name_that_cannot_be_used_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError, match="target_sites"):
        make_coordinator(tmp_path / "c", targets=("hospital-b", name))
    assert not (tmp_path / "c").exists()


def test_a_home_is_made_once_and_must_exist(tmp_path: Path) -> None:
    make_coordinator(tmp_path / "c")
    with pytest.raises(DataError, match="already"):
        make_coordinator(tmp_path / "c")
    with pytest.raises(DataError, match="init"):
        open_home(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["Haus #1", "100% a?b=c&d"])
def test_the_database_lies_in_the_home_whatever_its_path_holds(tmp_path: Path, name: str) -> None:
    home = make_coordinator(tmp_path / name)
    StudyStore(home.database_url, home.config).close()
    assert (home.folder / "study.db").is_file()


@pytest.mark.parametrize("key", ["password", "PassWord", "sslpassword", "pass%77ord"])
def test_a_password_where_nothing_hides_it_is_refused(tmp_path: Path, key: str) -> None:
    home = make_coordinator(tmp_path / "c")
    file = home.folder / CONFIG_FILE
    file.write_text(file.read_text() + f'database_url = "postgresql:///x?host=h&{key}=secret"\n')
    with pytest.raises(DataError, match=r"'database_url': .*~/.pgpass") as caught:
        open_home(home.folder)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["", "host", "host:", "https://host:1", "a b:1", "host:1/x"])
def test_an_address_that_no_site_could_reach_is_refused(tmp_path: Path, address: str) -> None:
    home = make_coordinator(tmp_path / "c")
    text = (home.folder / CONFIG_FILE).read_text().replace("localhost:8443", address)
    (home.folder / CONFIG_FILE).write_text(text)
    with pytest.raises(DataError, match="'address'"):
        open_home(home.folder)


def test_a_configuration_in_another_encoding_is_an_expected_error(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_bytes("# Größe\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        open_home(tmp_path)
