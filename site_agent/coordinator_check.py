"""Calls the coordinator's door as the SuperNode will, and says which part of the way does not work.

One request for `/healthz`: no patient, no message, and nothing but the study's own authority is
trusted. The answer also tells what time it is there.
"""

import http.client
import os
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from algorithms.contracts.enrolment import WARN_BELOW_DAYS, Enrolment, days_left
from algorithms.contracts.errors import DataError
from algorithms.contracts.health import Concern
from site_agent.config import SiteHome
from site_agent.database import AuditRow, open_database
from site_agent.enrolment import ENROLLED
from site_agent.site_keys import (
    SiteKeys,
    certificate_not_after,
    read_enrolment,
    tls_context,
)

TIMEOUT_S = 15.0
LARGEST_CLOCK_DIFFERENCE_S = 60.0
RENEW = "run 'fedgtv-site enrol --renew' and send the request to the coordinator"
NOT_ENROLLED = "not enrolled yet: run 'fedgtv-site enrol' and send the request to the coordinator"


def check_keys(home: SiteHome) -> str:
    """Look at the site's keys and its certificate; nothing is made.

    Raises:
        DataError: a key is lost, damaged or not the certificate's, or the certificate expired.
    """
    not_after = certificate_not_after(home)
    if not_after is None:
        if _was_enrolled(home):
            raise DataError(
                f"{home.keys}: this site was enrolled, but its keys are not here: copy the folder "
                "back from where you keep it, or run 'fedgtv-site enrol --new-keys'"
            )
        return Concern(NOT_ENROLLED)
    SiteKeys.open(home)
    tls_context(home)
    left = days_left(not_after, datetime.now(UTC))
    if left < 0:
        raise DataError(f"{home.keys}: the certificate expired {-left} days ago: {RENEW}")
    said = f"certificate valid for {left} days"
    return Concern(f"{said}: {RENEW}") if left < WARN_BELOW_DAYS else said


def _was_enrolled(home: SiteHome) -> bool:
    engine = open_database(home.database_url)
    try:
        with Session(engine) as session:
            return session.scalar(select(exists().where(AuditRow.event == ENROLLED))) is True
    finally:
        engine.dispose()


def check_connection(home: SiteHome) -> str:
    """Call the coordinator, through the hospital's proxy where there is one, and compare clocks.

    Raises:
        DataError: naming the part of the way that does not work, or clocks that differ.
    """
    enrolment = read_enrolment(home)
    if enrolment is None:
        return Concern(NOT_ENROLLED)
    if home.config.air_gapped:
        return "air-gapped: people carry bundles"
    before = datetime.now(UTC)
    theirs = _ask_for_time(home, enrolment)
    difference_s = (theirs - (before + (datetime.now(UTC) - before) / 2)).total_seconds()
    if abs(difference_s) > LARGEST_CLOCK_DIFFERENCE_S:
        side = "behind" if difference_s > 0 else "ahead of"
        raise DataError(
            f"this machine's clock is {abs(difference_s):.0f} s {side} the coordinator's: set it "
            "by the hospital's time server (NTP); messages would be refused as too old"
        )
    through = " through the hospital's proxy" if proxy_of(home) else ""
    return f"{enrolment.coordinator_address} answers{through}; clocks agree"


def proxy_of(home: SiteHome) -> str:
    """Return the proxy's URL, or "" for none: as configured, else what the environment says."""
    return (
        home.config.https_proxy
        or os.environ.get("https_proxy", "")
        or os.environ.get("HTTPS_PROXY", "")
    )


def _ask_for_time(home: SiteHome, enrolment: Enrolment) -> datetime:
    address = urlsplit(f"//{enrolment.coordinator_address}")
    host, port = address.hostname or "", address.port or 443
    proxy = proxy_of(home)
    raw = _reach_proxy(proxy, host, port) if proxy else _reach(host, port)
    try:
        context = tls_context(home)
        with _speak_tls(context, raw, host, enrolment.coordinator_address) as stream:
            return _read_time(stream, host, enrolment.coordinator_address)
    finally:
        raw.close()


def _reach(host: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=TIMEOUT_S)
    except socket.gaierror:
        raise DataError(
            f"{host}: no such host: have the hospital's DNS resolve it, or set https_proxy in "
            "site.toml where only a proxy reaches the internet"
        ) from None
    except OSError as error:
        raise DataError(
            f"{host}, port {port}: cannot be reached ({_why(error)}): open the firewall for "
            "outbound TCP to it, or set https_proxy in site.toml; then ask the coordinator whether "
            "it runs"
        ) from None


def _reach_proxy(proxy: str, host: str, port: int) -> socket.socket:
    """Open a tunnel (HTTP CONNECT) through the hospital's proxy."""
    parts = urlsplit(proxy)
    where = f"https_proxy {parts.hostname}, port {parts.port or 80}"
    try:
        raw = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=TIMEOUT_S)
    except OSError as error:
        raise DataError(
            f"{where}: the hospital's proxy does not answer ({_why(error)}): correct https_proxy "
            "in site.toml, or have the proxy looked at"
        ) from None
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        raw.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("ascii"))
        response = http.client.HTTPResponse(raw, method="CONNECT")
        response.begin()
    except (OSError, http.client.HTTPException):
        raw.close()
        raise DataError(
            f"{where}: did not open a tunnel: correct https_proxy in site.toml, or have the proxy "
            "looked at"
        ) from None
    if response.status != HTTPStatus.OK:
        raw.close()
        raise DataError(
            f"{where}: refuses a tunnel to {target} with status {response.status}: have the proxy "
            "allow CONNECT to it"
        )
    return raw


def _speak_tls(
    context: ssl.SSLContext, raw: socket.socket, host: str, address: str
) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(raw, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in (9, 10):  # X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED
            raise DataError(
                f"{address}: the coordinator's certificate is expired or not valid yet: compare "
                "this machine's clock, then have the coordinator run 'fedgtv-coordinator "
                "certificate'"
            ) from None
        if error.verify_code == 62:  # X509_V_ERR_HOSTNAME_MISMATCH
            raise DataError(
                f"{address}: the certificate there is for another host: have the coordinator run "
                "'fedgtv-coordinator certificate' with this name"
            ) from None
        raise DataError(
            f"{address}: the certificate there is not of this study's authority: a firewall that "
            "opens TLS stands between (exempt this address from inspection), or the coordinator "
            "has a new authority ('fedgtv-site enrol --new-keys')"
        ) from None
    except OSError as error:
        raise DataError(
            f"{address}: no TLS connection ({_why(error)}): compare the address with the "
            "coordinator's, and have the firewall let TLS 1.3 pass"
        ) from None


def _read_time(stream: ssl.SSLSocket, host: str, address: str) -> datetime:
    try:
        stream.sendall(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("ascii"))
        response = http.client.HTTPResponse(stream)
        response.begin()
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{address}: broke off ({type(error).__name__}): ask the coordinator whether it runs"
        ) from None
    if response.status == HTTPStatus.BAD_REQUEST:
        raise DataError(
            f"{address}: does not take this site's certificate, which expired, was revoked or is "
            f"of another study: {RENEW}; if it knows other keys of this site, or revoked these, "
            "ask why, then run 'fedgtv-site enrol --new-keys'"
        )
    date = response.getheader("Date")
    if response.status != HTTPStatus.OK or date is None:
        raise DataError(
            f"{address}: answered with status {response.status}: no fedgtv coordinator is there, "
            "or its proxy is set up otherwise"
        )
    return parsedate_to_datetime(date)


def _why(error: OSError) -> str:
    """Name an error without its text, which may hold more than it should."""
    return error.strerror or type(error).__name__
