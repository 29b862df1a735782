"""The pages are served to this machine only and call nobody."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from algorithms.contracts.errors import DataError
from clinical_ui import launch
from clinical_ui.__main__ import greeting
from site_agent import accounts, demo_account
from site_agent.config import open_home
from site_agent.database import open_database, utc_now
from tests.phantoms import make_home


@pytest.fixture
def flags() -> dict[str, Any]:
    return launch.settings(8600)


def test_the_server_is_closed_to_everybody_else(flags):
    assert (flags["server.address"], flags["server.port"]) == ("127.0.0.1", 8600)
    assert flags["server.allowedHosts"] == ["127.0.0.1"]
    for closed in (
        "browser.gatherUsageStats",
        "server.enableStaticServing",
        "server.enableAgentApi",
        "global.developmentMode",
        "client.showErrorLinks",
    ):
        assert flags[closed] is False
    for guarded in ("server.enableXsrfProtection", "server.enableCORS", "server.headless"):
        assert flags[guarded] is True
    assert (flags["client.showErrorDetails"], flags["client.toolbarMode"]) == ("none", "viewer")
    assert flags["server.fileWatcherType"] == "none"
    assert flags["secrets.files"] == []  # nobody's home directory names a provider


def test_streamlit_knows_every_flag_and_takes_a_value_of_its_kind(flags):
    from streamlit import config

    for name, value in flags.items():
        default = config._config_options_template[name].default_val
        assert default is None or default == "auto" or isinstance(value, type(default)), name


def test_a_proxy_in_front_is_let_through_and_nobody_else():
    flags = launch.settings(8600, "https://gtv.example:8443")
    assert flags["server.address"] == "127.0.0.1"
    assert flags["server.allowedHosts"] == ["127.0.0.1", "gtv.example"]
    assert flags["server.corsAllowedOrigins"] == ["http://127.0.0.1", "https://gtv.example:8443"]


def oidc_home(tmp_path):
    home = make_home(tmp_path)
    with (tmp_path / "site.toml").open("a", encoding="utf-8") as file:
        file.write(
            """
[sign_in]
method = "oidc"
server_metadata_url = "https://id.example/.well-known/openid-configuration"
client_id = "fedgtv"
client_secret_file = "secrets/oidc.secret"
redirect_uri = "https://gtv.example/oauth2callback"
"""
        )
    return open_home(home.folder)


def test_the_provider_is_asked_for_no_more_than_who_it_is(tmp_path):
    assert launch.provider_secrets(make_home(tmp_path / "local")) == {}
    home = oidc_home(tmp_path / "oidc")
    with pytest.raises(DataError, match=r"oidc\.secret: cannot be read"):
        launch.provider_secrets(home)
    (home.folder / "secrets" / "oidc.secret").write_text("s3cret\n", "utf-8")
    first, second = (launch.provider_secrets(home)["auth"] for _ in range(2))
    assert first["redirect_uri"] == "https://gtv.example/oauth2callback"
    assert len(first["cookie_secret"]) >= 43
    assert first["cookie_secret"] != second["cookie_secret"]
    usual, anew = first[launch.PROVIDER], first[launch.PROVIDER_ANEW]
    assert usual["client_kwargs"]["scope"] == anew["client_kwargs"]["scope"] == "openid"
    assert (usual["client_id"], usual["client_secret"]) == ("fedgtv", "s3cret")
    assert anew["client_kwargs"]["prompt"] == "login"
    assert anew["authorize_params"] == {"max_age": 0}


def test_settings_of_the_environment_cannot_open_what_is_closed(tmp_path):
    base = {"PATH": "/bin", "STREAMLIT_SERVER_ENABLE_CORS": "false"}
    environment = launch.environment(tmp_path, base)
    assert environment == {"PATH": "/bin", launch.HOME_VARIABLE: str(tmp_path.resolve())}


def test_the_command_names_home_and_port():
    command = launch.command(Path("site"), 8600)
    assert command == [sys.executable, "-m", "clinical_ui", "--home", "site", "--port", "8600"]


def test_a_foreign_origin_is_refused_without_asking_the_internet(monkeypatch):
    from streamlit import net_util
    from streamlit.web.server.server_util import is_url_from_allowed_origins

    def no_network(*_: object) -> None:
        raise AssertionError("something called out")

    monkeypatch.setattr(net_util, "_external_ip", None)
    monkeypatch.setattr(net_util, "_internal_ip", None)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(net_util, "_make_blocking_http_get", no_network)
    launch.forbid_address_lookup()
    assert not is_url_from_allowed_origins("http://foreign.example")
    assert is_url_from_allowed_origins("http://127.0.0.1:8600")


def test_a_wrong_home_is_one_line(tmp_path):
    result = subprocess.run(
        launch.command(tmp_path / "nowhere"), capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "fedgtv-site init" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_demonstration_is_greeted_with_its_password_every_time(tmp_path):
    site = make_home(tmp_path, auto_approve=True)
    first, second = greeting(site, 8600), greeting(site, 8600)
    assert first == second
    place, account = first.splitlines()
    assert "http://127.0.0.1:8600" in place
    assert "not a medical device" in place
    password = account.rsplit(" ", 1)[1]
    engine = open_database(site.database_url)
    name = demo_account.USERNAME
    assert accounts.authenticate(engine, name, password, now=utc_now()).username == name
    engine.dispose()


def test_a_hospital_without_accounts_is_told_the_command(tmp_path):
    said = greeting(make_home(tmp_path), 8600)
    assert "nobody may sign in yet: fedgtv-site account add USER" in said
    assert "password" not in said
