import shutil
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from algorithms.contracts.errors import DataError
from algorithms.contracts.health import Concern
from coordinator.authority import Authority
from coordinator.config import CoordinatorHome
from coordinator.study_keys import write_server_certificate
from coordinator.study_store import StudyStore
from site_agent.config import CONFIG_FILE, SiteHome, open_home
from site_agent.coordinator_check import check_connection, check_keys
from site_agent.site_keys import new_tls_key
from tests.enrolled import enrol_site
from tests.ports import free_ports
from tests.simulated_door import SimulatedDoor
from tests.simulated_site import make_coordinator, make_site
from tests.tunnelling_proxy import TunnellingProxy

NOW = datetime.now(UTC)
A_YEAR = timedelta(days=366)


@dataclass
class Study:
    """A coordinator, and a site that is enrolled with it."""

    coordinator: CoordinatorHome
    site: SiteHome

    def door(self, **settings) -> SimulatedDoor:
        tls = self.coordinator.tls
        return SimulatedDoor(tls / "server.crt", tls / "server.key", **settings)

    def enrol(self, port: int, *, at: datetime = NOW) -> None:
        config = self.coordinator.config.model_copy(update={"address": f"127.0.0.1:{port}"})
        enrol_site(CoordinatorHome(self.coordinator.folder, config), self.site, now=at)

    def through(self, proxy: str) -> SiteHome:
        with (self.site.folder / CONFIG_FILE).open("a") as file:
            file.write(f'https_proxy = "{proxy}"\n')
        return open_home(self.site.folder)


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    coordinator = make_coordinator(tmp_path / "coordinator")
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        write_server_certificate(coordinator, store, ["127.0.0.1"], NOW)
    return Study(coordinator, make_site(tmp_path / "site", "hospital-b", auto_approve=False))


def closed_port() -> int:
    return free_ports(1)[0]


def test_who_is_not_enrolled_is_told_how(study: Study) -> None:
    for check in (check_keys, check_connection):
        said = check(study.site)
        assert isinstance(said, Concern)
        assert "fedgtv-site enrol" in said
    assert not study.site.keys.exists()  # looking makes no keys


def test_who_was_enrolled_and_lost_the_keys_is_not_told_to_begin_anew(study: Study) -> None:
    study.enrol(closed_port())
    shutil.rmtree(study.site.keys)  # as after a restore of a backup without them
    with pytest.raises(DataError, match="copy the folder back"):
        check_keys(study.site)


def test_a_door_that_answers(study: Study) -> None:
    with study.door() as door:
        study.enrol(door.port)
        assert check_connection(study.site).endswith("clocks agree")
    assert check_keys(study.site).startswith("certificate valid for 36")


def test_through_the_hospitals_proxy(study: Study) -> None:
    with study.door() as door, TunnellingProxy() as proxy:
        study.enrol(door.port)
        assert "through the hospital's proxy" in check_connection(study.through(proxy.url))
        assert proxy.asked_for == [f"127.0.0.1:{door.port}"]


def test_a_proxy_that_is_down(study: Study) -> None:
    study.enrol(closed_port())
    with pytest.raises(DataError, match="hospital's proxy does not answer"):
        check_connection(study.through(f"http://127.0.0.1:{closed_port()}"))


def answering(line: bytes) -> tuple[socket.socket, int]:
    """Listen on a port, and answer the first caller with a line."""
    import threading

    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        caller, _ = listening.accept()
        with closing(caller):
            caller.recv(4096)
            caller.sendall(line)

    threading.Thread(target=serve, daemon=True).start()
    return listening, listening.getsockname()[1]


def test_a_proxy_that_allows_no_tunnel(study: Study) -> None:
    study.enrol(closed_port())
    listening, port = answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    with closing(listening), pytest.raises(DataError, match="status 403: have the proxy allow"):
        check_connection(study.through(f"http://127.0.0.1:{port}"))


def test_a_coordinator_that_is_away(study: Study) -> None:
    study.enrol(closed_port())
    with pytest.raises(DataError, match="open the firewall"):
        check_connection(study.site)


def test_something_that_speaks_no_tls(study: Study) -> None:
    listening, port = answering(b"HTTP/1.1 200 OK\r\n\r\n")
    study.enrol(port)
    with closing(listening), pytest.raises(DataError, match="no TLS connection"):
        check_connection(study.site)


@pytest.mark.parametrize("minutes", [10, -10])
def test_a_clock_that_is_ten_minutes_off(study: Study, minutes: int) -> None:
    with study.door(clock_off=timedelta(minutes=minutes)) as door:
        study.enrol(door.port)
        side = "behind" if minutes > 0 else "ahead of"
        with pytest.raises(DataError, match=rf"(599|600|601) s {side} the coordinator's.*NTP"):
            check_connection(study.site)


Files = Callable[[Path], tuple[Path, Path]]


def test_a_door_of_another_authority(study: Study, tmp_path) -> None:
    """As where a firewall opens TLS and shows a certificate of its own."""
    key, pem = Authority.create("firewall", NOW).server_certificate(("127.0.0.1",), NOW)
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "pem").write_bytes(pem)
    with SimulatedDoor(tmp_path / "pem", tmp_path / "key") as door:
        study.enrol(door.port)
        with pytest.raises(DataError, match="not of this study's authority"):
            check_connection(study.site)


def test_a_door_whose_certificate_expired_or_is_for_another_host(study: Study) -> None:
    with StudyStore(study.coordinator.database_url, study.coordinator.config) as store:
        write_server_certificate(study.coordinator, store, ["127.0.0.1"], NOW - A_YEAR)
    with study.door() as door:
        study.enrol(door.port)
        with pytest.raises(DataError, match="expired or not valid yet"):
            check_connection(study.site)


def test_a_certificate_that_is_not_taken(study: Study) -> None:
    with study.door(status=400) as door:
        study.enrol(door.port)
        with pytest.raises(DataError, match="does not take this site's certificate"):
            check_connection(study.site)


def test_another_web_server(study: Study) -> None:
    with study.door(status=404) as door:
        study.enrol(door.port)
        with pytest.raises(DataError, match="no fedgtv coordinator is there"):
            check_connection(study.site)


def test_a_certificate_that_ends_soon_and_one_that_ended(study: Study) -> None:
    study.enrol(closed_port(), at=NOW - A_YEAR + timedelta(days=20))
    said = check_keys(study.site)
    assert isinstance(said, Concern)
    assert "--renew" in said
    expired = make_site(study.site.folder.parent / "c", "hospital-b", auto_approve=False)
    Study(study.coordinator, expired).enrol(closed_port(), at=NOW - A_YEAR)
    with pytest.raises(DataError, match=r"expired \d days ago.*--renew"):
        check_keys(expired)


def test_a_key_that_is_not_the_certificates(study: Study) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    study.enrol(closed_port())
    other = new_tls_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (study.site.keys / "tls.key").write_bytes(other)
    with pytest.raises(DataError, match="do not belong together"):
        check_keys(study.site)
    (study.site.keys / "signing.key").unlink()
    with pytest.raises(DataError, match=r"signing\.key: missing"):
        check_keys(study.site)
