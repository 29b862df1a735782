"""How the pages are started: on this machine only, and with nothing that calls out."""

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome

HOME_VARIABLE = "FEDGTV_UI_HOME"
TEST_VARIABLE = "FEDGTV_UI_TEST"
ADDRESS = "127.0.0.1"
DEFAULT_PORT = 8501
APP_FILE = Path(__file__).with_name("app.py")
PROVIDER, PROVIDER_ANEW = "hospital", "anew"  # names of the OpenID provider: as usual, and asking

# Named one by one even where they are Streamlit's defaults: a configuration file in somebody's
# home directory must not open what is closed here.
_SETTINGS: dict[str, Any] = {
    "server.address": ADDRESS,
    "server.headless": True,
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.enableStaticServing": False,
    "server.enableAgentApi": False,
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": False,
    "server.baseUrlPath": "",
    "server.trustedUserHeaders": {},  # who somebody is, is never a header's word
    "browser.gatherUsageStats": False,
    "browser.serverAddress": ADDRESS,
    "client.disableDataExport": True,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.toolbarMode": "viewer",
    "global.developmentMode": False,
    "logger.level": "warning",
    "logger.hideWelcomeMessage": True,
    "secrets.files": [],  # only what `provider_secrets` says
    "theme.base": "light",
    "theme.primaryColor": "#1f6f8b",
    "theme.backgroundColor": "#ffffff",
    "theme.secondaryBackgroundColor": "#f1f5f7",
    "theme.textColor": "#1d2b33",
}


def command(home: Path, port: int = DEFAULT_PORT) -> list[str]:
    """Return the command that serves the pages of the site in `home`, for a child process."""
    return [sys.executable, "-m", "clinical_ui", "--home", str(home), "--port", str(port)]


def settings(port: int, origin: str | None = None) -> dict[str, Any]:
    """Return Streamlit's settings for serving the pages at `port`.

    The server itself always listens on this machine only; `origin` is where a TLS proxy in front
    of it shows the pages.
    """
    hosts, origins = [ADDRESS], [f"http://{ADDRESS}"]
    if origin is not None:
        hosts.append(urlsplit(origin).hostname or "")
        origins.append(origin)
    return {
        **_SETTINGS,
        "server.port": port,
        "server.allowedHosts": hosts,  # a foreign page cannot reach in by renaming its host
        "server.corsAllowedOrigins": origins,
        "client.allowedOrigins": origins,  # no hosting service may frame the pages
    }


def environment(home: Path, base_env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the pages: `base_env`, the site's home, no Streamlit settings."""
    kept = {name: value for name, value in base_env.items() if not name.startswith("STREAMLIT_")}
    return {**kept, HOME_VARIABLE: str(home.resolve())}


def provider_secrets(home: SiteHome) -> dict[str, Any]:
    """Return what `st.login` needs to know of the hospital's OpenID provider; {} without one.

    Twice the same provider: the second time it must ask who is there, whoever is signed in. The
    cookie that carries its answer is signed with a key of this process.

    Raises:
        DataError: the client's secret cannot be read.
    """
    config = home.config.sign_in
    if config.method != "oidc" or config.client_secret_file is None:
        return {}
    file = home.folder / config.client_secret_file
    try:
        client_secret = file.read_text("utf-8").splitlines()[0].strip()
    except (OSError, UnicodeDecodeError, IndexError):
        raise DataError(
            f"{file}: cannot be read: write the client secret that the OpenID provider gave out "
            "into its first line"
        ) from None
    client = {
        "client_id": config.client_id,
        "client_secret": client_secret,
        "server_metadata_url": config.server_metadata_url,
    }
    scope = "openid"  # who it is; the account here knows the rest
    ask = {"scope": scope, "prompt": "login"}
    return {
        "auth": {
            "redirect_uri": config.redirect_uri,
            "cookie_secret": secrets.token_urlsafe(32),
            PROVIDER: {**client, "client_kwargs": {"scope": scope, "prompt": "select_account"}},
            PROVIDER_ANEW: {**client, "client_kwargs": ask, "authorize_params": {"max_age": 0}},
        }
    }


def serve(home: SiteHome, port: int) -> None:
    """Serve the pages until somebody stops the process. The environment must be set before.

    Raises:
        DataError: the OpenID client's secret cannot be read.
    """
    secret = provider_secrets(home)
    # After the environment: Streamlit reads it on import.
    from starlette.middleware import Middleware
    from streamlit import App

    from clinical_ui.response_headers import ResponseHeaders

    forbid_address_lookup()
    origin = home.config.sign_in.origin
    encrypted = (origin or "").startswith("https:")
    app = App(
        APP_FILE, secrets=secret, middleware=[Middleware(ResponseHeaders, encrypted=encrypted)]
    )
    app.run(config=settings(port, origin))


def forbid_address_lookup() -> None:
    """Keep Streamlit from asking the internet for this machine's address.

    For a connection from a foreign origin Streamlit 1.67 compares with its external address, which
    it gets from checkip.amazonaws.com, whatever the settings. It remembers the answer: this one.
    """
    from streamlit import net_util

    net_util._external_ip = ADDRESS
    net_util._internal_ip = ADDRESS


def is_tested() -> bool:
    """Say whether the viewer may be looked at by a browser test, read-only."""
    return os.environ.get(TEST_VARIABLE) == "1"
