"""Certificates and node keys for a deployment on the loopback interface, made on this machine."""

from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from coordinator.authority import Authority, new_key, write_public, write_secret


def write_server_certificate(folder: Path) -> None:
    """Write `ca.crt`, `server.pem` and `server.key` for 127.0.0.1; the CA's key is never stored."""
    now = datetime.now(UTC)
    authority = Authority.create("on loopback", now)
    key, certificate = authority.server_certificate(("localhost", "127.0.0.1"), now)
    write_public(folder / "ca.crt", authority.certificate_pem)
    write_public(folder / "server.pem", certificate)
    write_secret(folder / "server.key", key)


def write_node_key(folder: Path) -> None:
    """Write `node.key` and `node.pub`, by which the SuperLink knows a SuperNode, unless there."""
    if (folder / "node.key").is_file() and (folder / "node.pub").is_file():
        return
    key = new_key()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_secret(folder / "node.key", pem)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_public(folder / "node.pub", public)
