"""TLS for the hospital's network: contexts for calling the PACS and for being called."""

import ssl
from pathlib import Path

from algorithms.contracts.errors import DataError
from site_agent.network_config import TlsConfig


def client_context(tls: TlsConfig, home: Path) -> ssl.SSLContext:
    """Make the context for calling: the host's certificate and name are checked.

    Raises:
        DataError: a file is missing or is no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, tls, home)
    return context


def server_context(tls: TlsConfig, home: Path) -> ssl.SSLContext:
    """Make the context for being called: whoever calls must show a trusted certificate.

    Raises:
        DataError: a file is missing or is no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    _load(context, tls, home)
    return context


def first_line(file: Path) -> str:
    """Read a secret that stands in the first line of a file.

    Raises:
        DataError: there is no such file, it is empty, or not in UTF-8.
    """
    if not file.is_file():
        raise DataError(f"{file}: secret is missing: write it into that file, mode 0600")
    try:
        text = file.read_text("utf-8-sig")  # some editors begin with a byte order mark
    except UnicodeDecodeError:  # its text quotes the secret
        raise DataError(f"{file}: not in UTF-8: save the file as UTF-8") from None
    line = text.partition("\n")[0].strip()
    if not line:
        raise DataError(f"{file}: the first line is empty: write the secret there")
    return line


def _load(context: ssl.SSLContext, tls: TlsConfig, home: Path) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authorities = home / tls.ca_file
    try:
        context.load_verify_locations(cafile=authorities)
    except OSError:  # which ssl.SSLError is one of
        raise DataError(f"{authorities}: no readable PEM certificates: correct ca_file") from None
    if tls.certificate_file is None or tls.key_file is None:
        return
    password = tls.key_password_file and first_line(home / tls.key_password_file)
    certificate = home / tls.certificate_file
    try:
        # Without a password a locked key would ask at the terminal, which a service has not.
        context.load_cert_chain(certificate, home / tls.key_file, password=password or "")
    except OSError:
        raise DataError(
            f"{certificate}: certificate and key cannot be read or do not belong together: "
            "correct certificate_file, key_file and key_password_file"
        ) from None
