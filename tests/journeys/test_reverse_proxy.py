"""The one door in: real nginx before a real SuperLink, and a real SuperNode that comes through it.

One deployment for the whole file: hospital-b is enrolled and comes through its hospital's web
proxy, hospital-c is enrolled and then revoked.
"""

import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from algorithms.contracts.errors import ProtocolError
from coordinator.authority import Authority
from coordinator.config import CoordinatorHome
from coordinator.config import open_home as open_coordinator
from coordinator.enrolment import revoke
from coordinator.reverse_proxy import MOST_AT_ONCE, write_configuration
from coordinator.study_keys import write_server_certificate
from coordinator.study_store import StudyStore
from site_agent.config import SiteHome, open_home
from site_agent.enrolment import Asking
from site_agent.site_keys import tls_context
from tests.coordinator.test_authority import client
from tests.debian_packages import absent
from tests.enrolled import NOW, enrol_site
from tests.ports import free_ports
from tests.simulated_site import make_coordinator, make_site
from tests.tunnelling_proxy import TunnellingProxy

pytestmark = [pytest.mark.journey, pytest.mark.xdist_group("reverse proxy")]

BIN = Path(sys.executable).parent
PULL = "/v1/fleet/pull-messages"
CONTROL = "/v1/control/list-runs"
LIMIT_S = 90


@dataclass
class Deployment:
    """What runs, and how to speak to it."""

    coordinator: CoordinatorHome
    sites: dict[str, SiteHome]
    superlink_port: int
    door_port: int
    proxy: TunnellingProxy
    start: Callable[..., subprocess.Popen[bytes]]
    reload: Callable[[], None]

    def status(
        self, path: str, context: ssl.SSLContext, *, port: int = 0, body: bytes = b""
    ) -> int:
        """Return the HTTP status of a POST, its path as it stands here."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port or self.door_port, context=context, timeout=30
        )
        try:
            connection.request("POST", path, body, headers={"content-type": "application/protobuf"})
            return connection.getresponse().status
        finally:
            connection.close()

    @property
    def anonymous(self) -> ssl.SSLContext:
        """What trusts the study and shows no certificate."""
        return ssl.create_default_context(cafile=self.coordinator.tls / "ca.crt")

    def online(self) -> list[int]:
        """Return the ids of the SuperNodes that are connected."""
        listed = json.loads(_flwr(self.coordinator, "supernode", "list", "study"))
        return [int(node["node-id"]) for node in listed["nodes"] if node["status"] == "online"]

    def connect(self, name: str) -> subprocess.Popen[bytes]:
        """Register the SuperNode of a site, start it, and wait until it is connected."""
        site = self.sites[name]
        public = str(site.keys / "node.pub")
        registered = _flwr(
            self.coordinator, "supernode", "register", public, "study", "--name", name
        )
        node_id = int(json.loads(registered)["node-id"])
        (port,) = free_ports(1)
        module = ("-m", "site_agent.supernode", "--home", site.folder, "--port", port)
        node = self.start(site.folder / "flower", "supernode.log", sys.executable, *module)
        _wait(lambda: node.poll() is not None or node_id in self.online())
        assert node.poll() is None, (site.folder / "flower" / "supernode.log").read_text()
        return node


def _environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return kept | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(folder / "flwr-home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
    }


def _flwr(coordinator: CoordinatorHome, *words: str) -> str:
    folder = coordinator.flower
    done = subprocess.run(
        [BIN / "flwr", *words, "--format", "json"],
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    )
    return done.stdout[done.stdout.index("{") :]


def _wait(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not ready():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        absent("nginx", "nginx")
    folder = tmp_path_factory.mktemp("door")
    superlink_port, door_port = free_ports(2)
    targets = ("hospital-b", "hospital-c")
    home = make_coordinator(folder / "coordinator", targets=targets)
    file = home.folder / "coordinator.toml"
    file.write_text(file.read_text().replace("localhost:8443", f"127.0.0.1:{door_port}"))
    home = open_coordinator(home.folder)
    with StudyStore(home.database_url, home.config) as store:
        write_server_certificate(home, store, [], NOW)
    with ExitStack() as stack:
        proxy = stack.enter_context(TunnellingProxy())

        def start(cwd: Path, log: str, *command: object) -> subprocess.Popen[bytes]:
            cwd.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context((cwd / log).open("wb"))
            child = subprocess.Popen(
                [str(word) for word in command],
                cwd=cwd,
                env=_environment(cwd),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_end, child)
            return child

        sites = {}
        for name in targets:
            make_site(folder / name, name)
            with (folder / name / "site.toml").open("a") as config:
                config.write(f'https_proxy = "{proxy.url}"\n')
            sites[name] = open_home(folder / name)
            enrol_site(home, sites[name])
        configuration = write_configuration(
            home, listen=f"127.0.0.1:{door_port}", superlink_port=superlink_port
        )
        door = start(home.folder, "nginx.log", nginx, "-c", configuration, "-g", "daemon off;")
        start(
            home.flower,
            "superlink.log",
            *(sys.executable, "-P", "-m", "coordinator.superlink"),
            *("--largest-reply-bytes", home.config.largest_reply_bytes),
            *("--host", "127.0.0.1", "--port", superlink_port),
            *("--ssl-certfile", home.tls / "server.crt", "--ssl-keyfile", home.tls / "server.key"),
            *("--ssl-ca-certfile", home.tls / "ca.crt", "--enable-supernode-auth"),
            *("--database", "state.db", "--disable-runtime-dependency-installation"),
        )
        made = Deployment(
            home,
            sites,
            superlink_port,
            door_port,
            proxy,
            start,
            lambda: door.send_signal(signal.SIGHUP),
        )
        _connection(home, superlink_port)
        good = tls_context(sites["hospital-b"])
        _wait(lambda: _answers(made, good))
        yield made


def _answers(made: Deployment, context: ssl.SSLContext) -> bool:
    try:
        return made.status(PULL, context) not in (502, 504)
    except OSError:
        return False


def _connection(home: CoordinatorHome, port: int) -> None:
    folder = home.flower / "flwr-home"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(
        f'[superlink.study]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{home.tls / "ca.crt"}"\n'
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def test_who_shows_a_certificate_of_the_study_reaches_the_fleet_api(deployment) -> None:
    # 401: nginx let it through, and the SuperLink misses the node's own signature.
    assert deployment.status(PULL, tls_context(deployment.sites["hospital-b"])) == 401


def test_without_and_with_a_foreign_or_expired_certificate_nobody_passes(
    deployment, tmp_path
) -> None:
    ca = deployment.coordinator.tls / "ca.crt"
    ours = Authority.open_or_create(
        deployment.coordinator.secrets / "ca.key", ca, name="npc", now=NOW
    )
    foreign = client(Authority.create(deployment.coordinator.config.study, NOW), tmp_path / "f")
    foreign.context.load_verify_locations(cafile=ca)
    expired = client(ours, tmp_path / "e", now=NOW - timedelta(days=366))
    young = client(ours, tmp_path / "y", now=NOW - timedelta(days=364))
    assert deployment.status(PULL, deployment.anonymous) == 403
    assert deployment.status(PULL, foreign.context) == 400
    assert deployment.status(PULL, expired.context) == 400
    assert deployment.status(PULL, young.context) == 401  # nothing but the date is wrong above


@pytest.mark.parametrize(
    "path",
    [
        CONTROL,
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/health",
        "/",
        "/v1/fleet/",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/..%2fcontrol%2flist-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/%252e%252e%252fcontrol%252flist-runs",
        "/v1/fleet//../../v1/control/list-runs",
        "/v1/fleet/..;/control/list-runs",
        "//v1/control/list-runs",
    ],
)
def test_control_and_runtime_are_not_there_even_with_a_certificate(deployment, path) -> None:
    assert deployment.status(path, tls_context(deployment.sites["hospital-b"])) in (400, 404)


def test_on_loopback_the_control_api_answers_anybody_which_is_why_there_is_a_door(
    deployment,
) -> None:
    port = deployment.superlink_port
    assert deployment.status(CONTROL, deployment.anonymous, port=port) == 200


def test_a_body_that_no_message_needs_is_refused_and_health_needs_no_certificate(
    deployment,
) -> None:
    context = tls_context(deployment.sites["hospital-b"])
    assert deployment.status(PULL, context, body=b"x" * (16 << 20)) == 401
    with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):  # before all is sent
        assert deployment.status(PULL, context, body=b"x" * ((16 << 20) + 1)) == 413
    assert deployment.status("/healthz", deployment.anonymous) == 200


def test_a_hospital_has_so_many_requests_at_once_and_keeps_nobody_else_out(deployment) -> None:
    """Whose bodies never end: they would wait in the SuperLink's memory."""
    greedy, other = (tls_context(deployment.sites[name]) for name in ("hospital-b", "hospital-c"))
    with ExitStack() as stack:
        for _ in range(MOST_AT_ONCE):
            begun = http.client.HTTPSConnection(
                "127.0.0.1", deployment.door_port, context=greedy, timeout=30
            )
            stack.callback(begun.close)
            begun.putrequest("POST", PULL)
            begun.putheader("content-length", "1000")
            begun.endheaders()
        _wait(lambda: deployment.status(PULL, greedy) == 503)
        assert deployment.status(PULL, other) == 401
    _wait(lambda: deployment.status(PULL, greedy) == 401)


def test_a_supernode_comes_through_the_hospitals_proxy_with_its_certificate(deployment) -> None:
    node = deployment.connect("hospital-b")
    assert set(deployment.proxy.asked_for) == {f"127.0.0.1:{deployment.door_port}"}
    assert b"/v1/fleet" not in deployment.proxy.passed  # the proxy saw TLS and nothing else
    _end(node)


def test_a_stock_supernode_does_not_get_in(deployment, tmp_path) -> None:
    site = deployment.sites["hospital-b"]
    (port,) = free_ports(1)
    node = deployment.start(
        tmp_path / "stock",
        "supernode.log",
        *(BIN / "flower-supernode", "--superlink", f"127.0.0.1:{deployment.door_port}"),
        *("--root-certificates", site.keys / "ca.crt", "--host", "127.0.0.1", "--port", port),
        *("--auth-supernode-private-key", site.keys / "node.key", "--isolation", "process"),
    )
    log = deployment.coordinator.folder / "nginx" / "access.log"
    _wait(lambda: '"POST /v1/fleet/activate-node HTTP/1.1" 403' in log.read_text())
    assert deployment.online() == []
    _end(node)


def test_a_revoked_hospital_is_shut_out_and_the_others_are_not(deployment) -> None:
    context = tls_context(deployment.sites["hospital-c"])
    assert deployment.status(PULL, context) == 401
    node = deployment.connect("hospital-c")
    home = deployment.coordinator
    with StudyStore(home.database_url, home.config) as store:
        revoke(home, store, "hospital-c", NOW)
    deployment.reload()
    _wait(lambda: deployment.status(PULL, context) == 400)
    _wait(lambda: node.poll() is not None)  # it does not live on, looking well
    assert node.returncode != 0
    assert deployment.status(PULL, tls_context(deployment.sites["hospital-b"])) == 401
    with pytest.raises(ProtocolError, match="unknown_key"):  # no renewal brings it back
        enrol_site(home, deployment.sites["hospital-c"], asking=Asking.RENEWAL)


def test_a_renewed_certificate_passes(deployment) -> None:
    site = deployment.sites["hospital-b"]
    before = (site.keys / "tls.key").read_bytes()
    enrol_site(deployment.coordinator, site, asking=Asking.RENEWAL, now=NOW + timedelta(seconds=1))
    assert (site.keys / "tls.key").read_bytes() != before
    assert deployment.status(PULL, tls_context(site)) == 401
