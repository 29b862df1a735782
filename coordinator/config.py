"""The one configuration object of a study's coordinator, and where everything lies in its home."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from sqlalchemy import URL, make_url

from algorithms.contracts.configuration import parse_configuration, refuse_password_in_query
from algorithms.contracts.enrolment import ADDRESS_PATTERN
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import SITE_NAME_PATTERN

CONFIG_FILE = "coordinator.toml"
ENVIRONMENT_PREFIX = "FEDGTV_COORDINATOR_"
LARGEST_REPLY_BYTES = 2**31 + 2**26  # the largest package that sites take, and what is around it


class CoordinatorConfig(BaseModel):
    """Settings of one study; `coordinator.toml`, overridden by FEDGTV_COORDINATOR_* variables.

    Attributes:
        study: name of the study; packages and reports of another study are refused.
        source_site: the hospital that trains the first model.
        target_sites: the hospitals that adapt it.
        air_gapped_sites: those of them that no network reaches: a tick leaves them out, and
            `fedgtv-coordinator bundle` speaks to them.
        address: "host:port" at which the sites reach the reverse proxy.
        listen: "address:port" that the reverse proxy opens, an IPv6 address in brackets.
        superlink_port, operations_port: that `serve` opens on 127.0.0.1 for the SuperLink, and for
            ``/healthz``, ``/readyz`` and ``/metrics``.
        tick_every_s: how often `serve` asks every site where it stands; each answer is an entry of
            that site's ledger.
        database_url: SQLAlchemy URL; empty means SQLite in the home directory.
        message_ttl_s: how long a message to a site lives; a site silent for longer is asked again
            by the next tick.
        largest_part_bytes: a package travels to a site in parts of at most so many bytes; a slow
            link is given smaller ones.
        delivery_stalled_after_s: a package that came no further on its way to a site for so long is
            logged as "delivery_stalled", and goes on as soon as the site does.
        largest_reply_bytes: what a site sends at once, a source package or a model update, may not
            be larger; of a site that sends more nothing is kept. As much disk and twice as much
            memory is taken for it. Replies without files have 4 MiB.
        record_received: keep every byte that sites send, below `received`; for privacy tests.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str = Field(pattern=SITE_NAME_PATTERN)
    source_site: str = Field(pattern=SITE_NAME_PATTERN)
    target_sites: tuple[Annotated[str, Field(pattern=SITE_NAME_PATTERN)], ...] = Field(min_length=1)
    air_gapped_sites: tuple[str, ...] = ()
    address: str = Field(default="localhost:8443", pattern=ADDRESS_PATTERN)
    listen: str = "0.0.0.0:8443"
    superlink_port: int = Field(default=9092, ge=1, le=65535)
    operations_port: int = Field(default=9465, ge=1, le=65535)
    tick_every_s: float = Field(default=120.0, ge=1, le=600)
    database_url: str = ""
    message_ttl_s: float = Field(default=120.0, ge=10, le=300)
    largest_part_bytes: int = Field(default=16 * 2**20, ge=1024, le=32 * 2**20)
    delivery_stalled_after_s: float = Field(default=3600.0, ge=1)
    largest_reply_bytes: int = Field(default=LARGEST_REPLY_BYTES, ge=2**22, le=2**32)
    record_received: bool = False

    @field_validator("database_url")
    @classmethod
    def _hides_its_password(cls, url: str) -> str:
        return refuse_password_in_query(url)

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("a site is named twice")
        if strangers := set(self.air_gapped_sites) - set(self.sites):
            raise ValueError(f"air_gapped_sites: {min(strangers)} is no site of the study")
        return self

    @property
    def sites(self) -> tuple[str, ...]:
        """Every site of the study, the source first."""
        return (self.source_site, *self.target_sites)

    @property
    def connected_sites(self) -> tuple[str, ...]:
        """Every site that is reached over a network."""
        return tuple(site for site in self.sites if site not in self.air_gapped_sites)


@dataclass(frozen=True)
class CoordinatorHome:
    """The home directory of a coordinator and its configuration."""

    folder: Path
    config: CoordinatorConfig

    @property
    def database_url(self) -> URL:
        """SQLAlchemy URL of the study database."""
        if self.config.database_url:
            return make_url(self.config.database_url)
        # Built, not written: a path may hold "?" and "#".
        return URL.create("sqlite", database=str(self.folder / "study.db"))

    @property
    def database_copies(self) -> Path:
        """The study database as it was before each upgrade and rollback."""
        return self.folder / "database-copies"

    @property
    def signing_key(self) -> Path:
        """The study's private key; whoever reads it can sign packages."""
        return self.secrets / "signing.key"

    @property
    def secrets(self) -> Path:
        """Private keys: of the study's signature, its authority, and for bundles to it."""
        return self.folder / "secrets"

    @property
    def tls(self) -> Path:
        """What the reverse proxy reads: certificates, its key, and the revocation list."""
        return self.folder / "tls"

    @property
    def packages(self) -> Path:
        """Signed packages, one folder per package id."""
        return self.folder / "packages"

    @property
    def updates(self) -> Path:
        """Model updates that are not averaged yet, one folder per package id."""
        return self.folder / "updates"

    @property
    def received(self) -> Path:
        """Every byte that sites sent, when `record_received` is on."""
        return self.folder / "received"

    @property
    def flower(self) -> Path:
        """Certificates, state and logs of the Flower transport."""
        return self.folder / "flower"


def open_home(folder: Path) -> CoordinatorHome:
    """Read the configuration in `folder`.

    Raises:
        DataError: when there is none, or a key is unknown or wrong.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise DataError(
            f"{file}: no such configuration: run 'fedgtv-coordinator init --home {folder}'"
        )
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{file}: not in UTF-8: save the file as UTF-8") from None
    config = parse_configuration(
        text,
        os.environ,
        CoordinatorConfig,
        prefix=ENVIRONMENT_PREFIX,
        source=str(file),
    )
    return CoordinatorHome(folder=folder.resolve(), config=config)


def write_config(folder: Path, config: CoordinatorConfig) -> None:
    """Write a new `coordinator.toml`.

    Raises:
        DataError: when there is one already.
    """
    file = folder / CONFIG_FILE
    if file.exists():
        raise DataError(f"{file}: there is a coordinator here already: choose another folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = {"study", "source_site", "target_sites", "air_gapped_sites", "address"}
    values = config.model_dump(mode="json", include={*keys, "record_received"})
    # Strings, lists and booleans are written alike in JSON and TOML.
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in values.items()]
    file.write_text(
        "# fedgtv coordinator. Research use only, not a medical device.\n" + "".join(lines),
        encoding="utf-8",
    )
