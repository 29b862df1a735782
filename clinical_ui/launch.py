"""How the pages are started: on this machine only, and with nothing that calls out."""

import sys
from collections.abc import Mapping
from pathlib import Path

HOME_VARIABLE = "FEDGTV_UI_HOME"
ADDRESS = "127.0.0.1"
DEFAULT_PORT = 8501
APP_FILE = Path(__file__).with_name("app.py")

# Named one by one even where they are Streamlit's defaults: a configuration file in somebody's
# home directory must not open what is closed here.
_FLAGS = {
    "server.address": ADDRESS,
    "server.allowedHosts": ADDRESS,  # a foreign page cannot reach in by renaming its host
    "server.headless": "true",
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "server.enableStaticServing": "false",
    "server.enableAgentApi": "false",
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": "false",
    "server.baseUrlPath": "",
    "browser.gatherUsageStats": "false",
    "browser.serverAddress": ADDRESS,
    "client.allowedOrigins": f"http://{ADDRESS}",  # no hosting service may frame the pages
    "client.disableDataExport": "true",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "client.toolbarMode": "viewer",
    "global.developmentMode": "false",
    "logger.level": "warning",
    "logger.hideWelcomeMessage": "true",
    "theme.base": "light",
    "theme.primaryColor": "#1f6f8b",
    "theme.backgroundColor": "#ffffff",
    "theme.secondaryBackgroundColor": "#f1f5f7",
    "theme.textColor": "#1d2b33",
}


def command(home: Path, port: int = DEFAULT_PORT) -> list[str]:
    """Return the command that serves the pages of the site in `home`, for a child process."""
    return [sys.executable, "-m", "clinical_ui", "--home", str(home), "--port", str(port)]


def streamlit_arguments(port: int) -> list[str]:
    """Return the arguments of the program `streamlit` for serving the pages at `port`."""
    flags = {**_FLAGS, "server.port": str(port)}
    return ["run", str(APP_FILE), *(f"--{name}={value}" for name, value in flags.items())]


def environment(home: Path, base_env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the pages: `base_env`, the site's home, no Streamlit settings."""
    kept = {name: value for name, value in base_env.items() if not name.startswith("STREAMLIT_")}
    return {**kept, HOME_VARIABLE: str(home.resolve())}


def forbid_address_lookup() -> None:
    """Keep Streamlit from asking the internet for this machine's address.

    For a connection from a foreign origin Streamlit 1.67 compares with its external address, which
    it gets from checkip.amazonaws.com, whatever the settings. It remembers the answer: this one.
    """
    from streamlit import net_util

    net_util._external_ip = ADDRESS
    net_util._internal_ip = ADDRESS
