"""The pages are served to this machine only and call nobody."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clinical_ui import launch


@pytest.fixture
def flags() -> dict[str, str]:
    _, _, *arguments = launch.streamlit_arguments(8600)
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments)


def test_the_server_is_closed_to_everybody_else(flags):
    assert flags["server.address"] == "127.0.0.1"
    assert flags["server.port"] == "8600"
    for closed in (
        "browser.gatherUsageStats",
        "server.enableStaticServing",
        "server.enableAgentApi",
        "global.developmentMode",
        "client.showErrorLinks",
    ):
        assert flags[closed] == "false"
    for guarded in ("server.enableXsrfProtection", "server.enableCORS", "server.headless"):
        assert flags[guarded] == "true"
    assert (flags["client.showErrorDetails"], flags["client.toolbarMode"]) == ("none", "viewer")
    assert flags["server.fileWatcherType"] == "none"


def test_streamlit_knows_every_flag(flags):
    from streamlit import config

    assert set(flags) <= set(config._config_options_template)


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
