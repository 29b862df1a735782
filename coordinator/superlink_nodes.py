"""Keeps the SuperNodes that a SuperLink lets in equal to what the study certified.

It asks the SuperLink's Control API on the loopback interface, as `flwr supernode` does: that
command does not tell which key belongs to which node.
"""

import os
from collections.abc import Collection

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from algorithms.contracts.errors import ProtocolError
from coordinator.study_store import StudyStore
from coordinator.superlink_client import SuperLinkClient

UNREGISTERED = "unregistered"


def register_sites(
    client: SuperLinkClient, store: StudyStore, sites: Collection[str]
) -> list[tuple[str, str]]:
    """Register the newest valid key of each of these sites, and unregister every other node.

    Returns:
        What was done: pairs of site, and "registered", "unregistered" or, for a key that the
        SuperLink let out once and never lets in again, "node_key_spent".

    Raises:
        ProtocolError: the SuperLink cannot be reached.
    """
    valid = {site: key for site in sites if (key := store.site_key(site)) is not None}
    wanted = {_wire_form(key.node_public_key): site for site, key in valid.items()}
    done = []
    control = ControlHttpClient.from_server_address(
        server_address=f"127.0.0.1:{client.port}",
        insecure=False,
        root_certificates=str(client.ca_certificate),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="fedgtv-coordinator")],
    )
    try:
        nodes = control.ListNodes(ListNodesRequest()).nodes_info
        known = {(node.public_key, node.name) for node in nodes if node.status != UNREGISTERED}
        for node in nodes:
            is_wanted = wanted.get(node.public_key) == node.name
            if node.status != UNREGISTERED and not is_wanted:
                control.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
                done.append((node.name, "unregistered"))
        spent = {node.public_key for node in nodes}
        for public_key, site in wanted.items():
            if (public_key, site) in known:
                continue
            if public_key in spent:
                done.append((site, "node_key_spent"))
                continue
            control.RegisterNode(RegisterNodeRequest(public_key=public_key, name=site))
            done.append((site, "registered"))
    except httpx.HTTPError as error:
        raise ProtocolError("superlink_unreachable") from error
    finally:
        control.close()
    return done


def _wire_form(node_public_key: str) -> bytes:
    """Return a key's OpenSSH line as Flower has it."""
    key = load_ssh_public_key(node_public_key.encode("ascii"))
    if not isinstance(key, ec.EllipticCurvePublicKey):  # enrolment lets in no other
        raise ProtocolError("wrong_node_key")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
