"""How people sign in to the pages (`[sign_in]` of site.toml)."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from site_agent.network_config import is_loopback

CALLBACK_PATH = "/oauth2callback"  # where Streamlit takes an answer of the provider
_OIDC_KEYS = ("server_metadata_url", "client_id", "client_secret_file", "redirect_uri")


def _is_protected(url: str) -> str:
    """Refuse addresses over which names and passwords would travel in the clear."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))):
        raise ValueError("an address that begins with https:// (http:// on this machine only)")
    if parts.username or parts.query or parts.fragment:
        raise ValueError("an address without user name, '?' and '#'")
    return url


ProtectedUrl = Annotated[str, AfterValidator(_is_protected)]


class SignInConfig(BaseModel):
    """Who is let in, and for how long.

    Attributes:
        method: "local" accounts with a password, or "oidc": the hospital's own sign-in.
        idle_timeout_min: whoever did nothing for so long signs in again.
        absolute_timeout_h: everybody signs in again after so long.
        public_url: where a TLS proxy in front shows the pages, such as
            "https://fedgtv.hospital.example"; empty when they are used on this machine only.
        server_metadata_url: the OpenID provider's ".../.well-known/openid-configuration".
        client_id: as the provider knows us.
        client_secret_file: holds the secret it gave us in its first line; relative to the home.
        redirect_uri: the public address of the pages with the path "/oauth2callback".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["local", "oidc"] = "local"
    idle_timeout_min: float = Field(default=30, gt=0, le=24 * 60)
    absolute_timeout_h: float = Field(default=12, gt=0, le=24 * 7)
    public_url: ProtectedUrl | None = None
    server_metadata_url: ProtectedUrl | None = None
    client_id: str | None = Field(default=None, min_length=1)
    client_secret_file: Path | None = None
    redirect_uri: ProtectedUrl | None = None

    @model_validator(mode="after")
    def _knows_its_provider(self) -> Self:
        given = [key for key in _OIDC_KEYS if getattr(self, key) is not None]
        missing = [key for key in _OIDC_KEYS if key not in given]
        if self.method == "local" and given:
            raise ValueError(f'{given[0]} belongs to method = "oidc"')
        if self.method == "oidc" and missing:
            raise ValueError(f'method = "oidc" needs {", ".join(missing)} too')
        if self.redirect_uri and urlsplit(self.redirect_uri).path != CALLBACK_PATH:
            raise ValueError(f"redirect_uri: the address of the pages with {CALLBACK_PATH}")
        if self.public_url and urlsplit(self.public_url).path not in ("", "/"):
            raise ValueError("public_url: an address without a path")
        return self

    @property
    def idle_s(self) -> float:
        """Seconds without work after which a sign-in ends."""
        return self.idle_timeout_min * 60

    @property
    def absolute_s(self) -> float:
        """Seconds after which a sign-in ends in any case."""
        return self.absolute_timeout_h * 3600

    @property
    def origin(self) -> str | None:
        """Scheme and host under which browsers outside this machine see the pages, if they do."""
        url = self.public_url or self.redirect_uri
        if url is None:
            return None
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc}"
