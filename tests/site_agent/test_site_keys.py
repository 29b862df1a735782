import ssl
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.supernode import fleet_http_connection

from algorithms.contracts.errors import DataError, ProtocolError
from coordinator.config import CoordinatorHome
from site_agent import supernode
from site_agent.config import SiteHome
from site_agent.database import open_database
from site_agent.package_store import store_package
from site_agent.site_keys import SiteKeys, certificate_not_after, tls_context, trusted_keys
from tests.enrolled import NOW, enrol_site
from tests.simulated_site import LEAD_PUBLIC, make_coordinator, make_site


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorHome:
    return make_coordinator(tmp_path / "coordinator")


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "hospital-b", "hospital-b")


def test_keys_are_made_once_for_their_owner_alone_and_sign(site: SiteHome) -> None:
    keys = SiteKeys.open(site)
    again = SiteKeys.open(site)
    assert again.signing_public_key_hex == keys.signing_public_key_hex
    assert again.encryption_public_key_hex == keys.encryption_public_key_hex
    assert again.node_public_key == keys.node_public_key == (site.keys / "node.pub").read_text()
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys.signing_public_key_hex))
    public.verify(bytes.fromhex(keys.sign(b"plan")), b"plan")
    assert stat.S_IMODE(site.keys.stat().st_mode) == 0o700
    for name in ("signing.key", "encryption.key", "node.key"):
        assert stat.S_IMODE((site.keys / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["signing.key", "encryption.key", "node.key"])
def test_who_is_known_by_a_key_gets_no_other_in_its_place(
    coordinator: CoordinatorHome, site: SiteHome, name: str
) -> None:
    (site.keys / name).unlink(missing_ok=True)
    enrol_site(coordinator, site)
    (site.keys / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: missing: copy it back"):
        SiteKeys.open(site)
    (site.keys / name).write_bytes(b"\xff")
    with pytest.raises(DataError, match=rf"{name}: damaged"):
        SiteKeys.open(site)


def test_the_coordinators_key_counts_from_the_enrolment_on(
    coordinator: CoordinatorHome, site: SiteHome
) -> None:
    assert trusted_keys(site) == (LEAD_PUBLIC,)
    answer = enrol_site(coordinator, site)
    assert trusted_keys(site) == (LEAD_PUBLIC, answer.coordinator_signing_key_hex)
    assert certificate_not_after(site) == NOW + timedelta(days=365)
    (site.keys / "enrolment.json").write_text("{}")
    for read in (trusted_keys, certificate_not_after, tls_context):
        with pytest.raises(DataError, match=r"enrolment\.json: damaged"):
            read(site)


def test_without_an_enrolment_there_is_no_connection(site: SiteHome) -> None:
    assert certificate_not_after(site) is None
    for refuse in (lambda: tls_context(site), lambda: supernode.start(site, 1)):
        with pytest.raises(DataError, match="run 'fedgtv-site enrol'"):
            refuse()


def test_the_context_trusts_the_study_alone_and_checks_the_host(
    coordinator: CoordinatorHome, site: SiteHome
) -> None:
    enrol_site(coordinator, site)
    context = tls_context(site)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert len(context.get_ca_certs()) == 1
    (site.keys / "tls.key").write_bytes((site.keys / "node.key").read_bytes())
    with pytest.raises(DataError, match="do not belong together"):
        tls_context(site)


def test_flowers_client_gets_the_context_in_place_of_its_own(
    coordinator: CoordinatorHome, site: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = fleet_http_connection.FleetHttpClient
    monkeypatch.setattr(fleet_http_connection, "FleetHttpClient", stock)  # put back in the end
    enrol_site(coordinator, site)
    context = tls_context(site)
    supernode.show_certificate(context)
    made = fleet_http_connection.FleetHttpClient.from_server_address(
        "127.0.0.1:1", False, b"what Flower would trust", interceptors=[]
    )
    with made as client:
        assert isinstance(client, stock)
        assert client._client._transport._pool._ssl_context is context


def test_a_package_of_the_enrolled_coordinator_is_accepted_without_configured_keys(
    coordinator: CoordinatorHome, site: SiteHome
) -> None:
    from coordinator.package_publisher import publish
    from tests.simulated_site import tiny_package

    manifest, files = tiny_package()
    folder = coordinator.packages / publish(coordinator, manifest, files)
    engine = open_database(site.database_url)
    signature = (folder / "signature.json").read_bytes()
    content = ((folder / "manifest.json").read_bytes(), signature, files)
    with pytest.raises(ProtocolError, match="does not trust"):
        store_package(site, engine, *content)
    enrol_site(coordinator, site)
    assert store_package(site, engine, *content) == manifest.package_id
