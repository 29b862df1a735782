"""The one configuration object of a site, and where everything lies in its home directory."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from algorithms.contracts.configuration import parse_configuration, refuse_password_in_query
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import SITE_NAME_PATTERN
from site_agent.network_config import ListenerConfig, PacsConfig
from site_agent.sign_in_config import SignInConfig

CONFIG_FILE = "site.toml"
ENVIRONMENT_PREFIX = "FEDGTV_SITE_"
KEY_BYTES = 32  # of pseudonym.key

Sha256Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PublicKeyHex = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]


class SiteConfig(BaseModel):
    """Settings of one hospital; `site.toml`, overridden by FEDGTV_SITE_* variables.

    Attributes:
        name: how the study knows this hospital.
        study: the study it takes part in.
        role: a source hospital trains the first model; a target hospital adapts it.
        trusted_keys: coordinators' Ed25519 public keys (64 hexadecimal digits) whose packages
            are accepted.
        https_proxy: of the hospital, such as "http://proxy.example.org:3128"; empty means what
            HTTPS_PROXY says, or none. Only a tunnel (CONNECT) is asked of it: what breaks TLS open
            is refused.
        database_url: SQLAlchemy URL; empty means SQLite in the home directory. Its tables are made
            by `init`: give another one there already, as FEDGTV_SITE_DATABASE_URL.
        roi_names: names under which this hospital's contours of the target may come in.
        modalities: only series of these modalities are ingested.
        minimum_group_size: figures about fewer patients than this are never released.
        test_share, validation_share: parts of the patients held out (thesis: 0.2 and 0.1). Without
            validation patients all others are learnt from and the last weights are kept: better
            where a share would be one or two patients.
        seed: for the patient split and training.
        threads: CPU threads for training; 0 means all.
        require_gpu: `doctor` names a GPU that is missing; training takes one wherever there is one.
        max_package_bytes: the files of a package may not be larger together.
        idle_limit_s: who draws nothing and does not move for longer than this is not at work: such
            a gap is not active time.
        max_message_bytes: a message from the coordinator that is larger is refused.
        allowed_bundles: SHA-256 of Flower bundles that may come beside the study's own, as where
            the coordinator's Python packs them differently. Of no bundle is anything run.
        air_gapped: no network reaches the coordinator: `serve` runs no SuperNode, and people carry
            bundles.
        supernode_port, ui_port, operations_port: that `serve` opens on 127.0.0.1 for the site's own
            executor, for the clinical pages (0 for none), and for ``/healthz``, ``/readyz`` and
            ``/metrics``.
        auto_approve: accept verified packages and release permitted messages without a person.
            For demonstrations; a hospital leaves it off and approves by command.
        pacs: how the hospital's PACS is reached, as the table `[pacs]`.
        listener: who may send images here, as the table `[listener]`.
        sign_in: how people sign in to the pages, as the table `[sign_in]`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=SITE_NAME_PATTERN)
    study: str = Field(pattern=SITE_NAME_PATTERN)
    role: Literal["source", "target"] = "target"
    trusted_keys: tuple[PublicKeyHex, ...] = ()
    https_proxy: str = Field(default="", pattern=r"^(https?://[^\s/]+/?)?$")
    database_url: str = ""
    roi_names: tuple[str, ...] = ("GTVp", "GTV", "GTV_Mass")
    modalities: tuple[str, ...] = ("MR", "CT")
    minimum_group_size: int = Field(default=5, ge=2)
    test_share: float = Field(default=0.2, gt=0, lt=1)
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**63)  # databases hold no larger number
    threads: int = Field(default=0, ge=0)
    require_gpu: bool = False
    max_package_bytes: int = Field(default=2 * 2**30, gt=0)
    idle_limit_s: float = Field(default=30, ge=5, le=600)
    max_message_bytes: int = Field(default=64 * 2**20, ge=2**20, le=2**33)
    allowed_bundles: tuple[Sha256Hex, ...] = ()
    air_gapped: bool = False
    supernode_port: int = Field(default=9094, ge=1, le=65535)
    ui_port: int = Field(default=8501, ge=0, le=65535)
    operations_port: int = Field(default=9464, ge=1, le=65535)
    auto_approve: bool = False
    pacs: PacsConfig | None = None
    listener: ListenerConfig | None = None
    sign_in: SignInConfig = SignInConfig()

    @field_validator("database_url")
    @classmethod
    def _is_a_database_url(cls, url: str) -> str:
        try:
            if url:
                make_url(url).get_dialect()
        except (SQLAlchemyError, ValueError):  # its text may hold a password
            raise ValueError(
                "no SQLAlchemy URL of a known database, such as sqlite:////srv/fedgtv/site.db"
            ) from None
        except ImportError:
            pass  # a known database; `open_database` says that its driver is missing
        return refuse_password_in_query(url)


@dataclass(frozen=True)
class SiteHome:
    """The home directory of a site and its configuration: what every room of the agent is given."""

    folder: Path
    config: SiteConfig

    @property
    def database_url(self) -> URL:
        """SQLAlchemy URL of the site database."""
        if self.config.database_url:
            return make_url(self.config.database_url)
        # Built, not written: a path may hold "?" and "#".
        return URL.create("sqlite", database=str(self.folder / "site.db"))

    @property
    def database_copies(self) -> Path:
        """Copies of a database on SQLite from before its upgrades."""
        return self.folder / "database-copies"

    @property
    def cases(self) -> Path:
        """De-identified images and contours, one folder per case."""
        return self.folder / "cases"

    @property
    def packages(self) -> Path:
        """Verified model packages, one folder per package id."""
        return self.folder / "packages"

    @property
    def models(self) -> Path:
        """Weights that came out of rounds, by their hash."""
        return self.folder / "models"

    @property
    def rounds(self) -> Path:
        """Checkpoints and weights, one folder per adaptation round."""
        return self.folder / "rounds"

    @property
    def updates(self) -> Path:
        """Model updates as they may leave, made once; one folder per package id."""
        return self.folder / "updates"

    @property
    def source_package(self) -> Path:
        """The package a source hospital prepared for the coordinator."""
        return self.folder / "source-package"

    @property
    def ledger(self) -> Path:
        """Byte copies of everything that left, one file per ledger entry."""
        return self.folder / "ledger"

    @property
    def keys(self) -> Path:
        """What the site proves itself with, and what the coordinator answered; see `site_keys`."""
        return self.folder / "keys"

    @property
    def spool(self) -> Path:
        """What came over the network and is not yet taken in.

        Identified, so readable to us alone, and never in a backup.
        """
        return self.folder / "spool"

    def has_secret(self, name: str) -> bool:
        """Say whether a secret is there."""
        return (self.folder / "secrets" / name).is_file()

    def secret(self, name: str) -> bytes:
        """Read a secret made by `fedgtv-site init`: "pseudonym.key" or "crosswalk.key".

        Raises:
            DataError: it is missing or damaged. A new one is never advised: what was sealed could
                not be opened with it, and every patient would become another.
        """
        file = self.folder / "secrets" / name
        advice = "copy it back from where you keep the keys"
        if not self.has_secret(name):
            raise DataError(f"{file}: secret is missing: {advice}")
        key = file.read_bytes()
        if not (_is_fernet_key(key) if name == "crosswalk.key" else len(key) >= KEY_BYTES):
            raise DataError(f"{file}: secret is damaged: {advice}")
        return key


def _is_fernet_key(key: bytes) -> bool:
    from cryptography.fernet import Fernet

    try:
        Fernet(key)
    except ValueError:
        return False
    return True


def open_home(folder: Path) -> SiteHome:
    """Read the configuration in `folder`.

    Raises:
        DataError: when there is none, or a key is unknown or wrong.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise DataError(f"{file}: no such configuration: run 'fedgtv-site init --home {folder}'")
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{file}: not in UTF-8: save the file as UTF-8") from None
    config = parse_configuration(
        text,
        os.environ,
        SiteConfig,
        prefix=ENVIRONMENT_PREFIX,
        source=str(file),
    )
    return SiteHome(folder=folder.resolve(), config=config)
