"""Settings of the hospital's network: its PACS (`[pacs]`) and our listener (`[listener]`).

Paths in these tables may be relative: then they are below the site's home. A secret is never a
value here, always the name of a file that holds it.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, IPvAnyNetwork, model_validator

AE_TITLE_LENGTH = 16  # PS3.5 6.2, VR AE


def _is_ae_title(title: str) -> str:
    """Hold to PS3.5 6.2: printable ASCII without backslash, blanks at the ends mean nothing."""
    title = title.strip(" ")
    printable = all(" " <= letter <= "~" and letter != "\\" for letter in title)
    if not printable or not 1 <= len(title) <= AE_TITLE_LENGTH:
        raise ValueError(
            f"an AE title has 1 to {AE_TITLE_LENGTH} printable ASCII characters, no backslash"
        )
    return title


AeTitle = Annotated[str, AfterValidator(_is_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]


def is_loopback(host: str) -> bool:
    """Say whether `host` is this machine itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsConfig(_Table):
    """How a connection is encrypted; TLS 1.2 or newer, the other side's certificate is checked.

    Attributes:
        ca_file: PEM certificates of the authorities that are trusted; nobody else's are.
        certificate_file, key_file: our own, in PEM; needed wherever others connect to us.
        key_password_file: holds the password of `key_file` in its first line.
    """

    ca_file: Path
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password_file: Path | None = None

    @model_validator(mode="after")
    def _has_a_key_with_its_certificate(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        return self


class Peer(_Table):
    """Who may send to us: both its name and where it calls from must be right.

    Attributes:
        ae_title: its calling AE title.
        address: its IP address, or a network such as "10.20.0.0/24".
    """

    ae_title: AeTitle
    address: IPvAnyNetwork

    def is_at(self, ae_title: str, address: str) -> bool:
        """Say whether a caller of this name and address is this peer."""
        where = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(where, ipaddress.IPv6Address) and where.ipv4_mapped is not None:
            where = where.ipv4_mapped
        return ae_title.strip() == self.ae_title and where in self.address


class PacsConfig(_Table):
    """How this site reaches the hospital's PACS.

    Attributes:
        protocol: DIMSE (the classic DICOM network) or DICOMweb.
        ae_title, host, port: the PACS, for DIMSE.
        own_ae_title: how the PACS knows us.
        receive_host, receive_port: where we take what a C-MOVE sends; the PACS must have
            `own_ae_title` registered with them. Open during a fetch only.
        retrieve: "auto" tries C-MOVE, and C-GET for what C-MOVE does not bring.
        senders: who sends on a C-MOVE; empty means the PACS itself, from the address of `host`.
        url: base of the DICOMweb services, such as "https://pacs.hospital.example/dicom-web".
        user, password_file: HTTP basic authentication; `token_file`: a bearer token instead.
        timeout_s: for a connection or an answer.
        transfer_timeout_s: for the next sign of life of a transfer.
        tls: encrypts DIMSE both ways, and names authorities and our certificate for https.
    """

    protocol: Literal["dimse", "dicomweb"] = "dimse"
    ae_title: AeTitle | None = None
    host: str = ""
    port: Port = 104
    own_ae_title: AeTitle = "FEDGTV"
    receive_host: str = "127.0.0.1"
    receive_port: Port = 11113
    retrieve: Literal["auto", "move", "get"] = "auto"
    senders: tuple[Peer, ...] = ()
    url: str = ""
    user: str = ""
    password_file: Path | None = None
    token_file: Path | None = None
    timeout_s: float = Field(default=30.0, gt=0)
    transfer_timeout_s: float = Field(default=300.0, gt=0)
    tls: TlsConfig | None = None

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.protocol == "dimse" and (self.ae_title is None or not self.host):
            raise ValueError("DIMSE needs the keys ae_title and host")
        if self.protocol == "dicomweb":
            _check_url(self.url)
        if bool(self.user) != (self.password_file is not None):
            raise ValueError("user and password_file go together")
        if self.user and self.token_file is not None:
            raise ValueError("give either user and password_file or token_file")
        return self

    @property
    def name(self) -> str:
        """What messages call the PACS."""
        return f"PACS {self.ae_title or urlsplit(self.url).hostname}"


def _check_url(url: str) -> None:
    """Let neither patient data nor a password pass in the clear (its text is not quoted)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("DICOMweb needs the key url, such as https://pacs.example/dicom-web")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("url must begin with https://, except on this machine itself")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("url holds more than a place: use user and password_file for the login")


class Rule(_Table):
    """Which series are taken in: all that is stated must fit; case does not matter.

    Attributes:
        modality: such as "MR".
        description: a pattern of the series description, such as "*t1*tra*"; ``*`` is any text,
            ``?`` one letter, ``[ab]`` either.
        body_part: a pattern of the body part examined.
    """

    modality: str = "*"
    description: str = "*"
    body_part: str = "*"


class ListenerConfig(_Table):
    """The listener that others send to (`fedgtv-site listen`).

    Attributes:
        ae_title: ours; an association to any other is refused.
        host, port: where it listens.
        peers: who may send; nobody else is let in.
        rules: a series that fits one of them is taken in.
        quiet_s: a series is whole when nothing of it came for so long.
        delete_unmatched_after_h: what no rule takes is deleted then.
        delete_refused_after_h: what was refused is deleted then.
        keep_free_mb: nothing is accepted when the disk has less space.
        tls: encrypts; senders then need a certificate of one of its authorities.
    """

    ae_title: AeTitle = "FEDGTV_IN"
    host: str = "127.0.0.1"
    port: Port = 11112
    peers: tuple[Peer, ...] = Field(min_length=1)
    rules: tuple[Rule, ...] = Field(min_length=1)
    quiet_s: float = Field(default=60.0, gt=0)
    delete_unmatched_after_h: float = Field(default=24.0, gt=0)
    delete_refused_after_h: float = Field(default=168.0, gt=0)
    keep_free_mb: int = Field(default=1024, ge=0)
    tls: TlsConfig | None = None

    @model_validator(mode="after")
    def _has_a_certificate_to_show(self) -> Self:
        if self.tls is not None and self.tls.certificate_file is None:
            raise ValueError("tls of a listener needs certificate_file and key_file")
        return self
