import re
import shutil
import subprocess
from pathlib import Path

import pytest

from algorithms.contracts.errors import DataError
from coordinator.config import CoordinatorHome
from coordinator.reverse_proxy import write_configuration
from coordinator.study_keys import not_valid_after, write_server_certificate
from coordinator.study_store import StudyStore
from tests.debian_packages import absent
from tests.enrolled import NOW
from tests.simulated_site import make_coordinator


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    home = make_coordinator(tmp_path / "c")
    with StudyStore(home.database_url, home.config) as store:
        write_server_certificate(home, store, ["192.0.2.7"], NOW)
    return home


def test_nginx_reads_what_is_written(home: CoordinatorHome) -> None:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        absent("nginx", "nginx")
    file = write_configuration(home, listen="127.0.0.1:18443", superlink_port=9092)
    done = subprocess.run([nginx, "-t", "-c", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_the_fleet_api_is_passed_on_and_nothing_is_resumed(home: CoordinatorHome) -> None:
    text = write_configuration(home, listen="[::]:443", superlink_port=9092).read_text()
    assert re.findall(r"location (.*) {", text) == ["= /healthz", r"~ ^/v1/fleet/[a-z-]+$", "/"]
    assert text.count("proxy_pass ") == 1
    for line in ("ssl_session_cache off;", "ssl_session_tickets off;", "ssl_verify_depth 1;"):
        assert line in text
    assert "listen [::]:443 ssl;" in text


@pytest.mark.parametrize("listen", ["", "443", "host:443", "0.0.0.0:0", "0.0.0.0:1;x", "1.1.1.1:²"])
def test_where_nobody_can_listen_is_refused(home: CoordinatorHome, listen: str) -> None:
    with pytest.raises(DataError, match="no address and port"):
        write_configuration(home, listen=listen, superlink_port=9092)


def test_what_is_missing_or_unreadable_for_nginx_is_said(tmp_path: Path) -> None:
    bare = make_coordinator(tmp_path / "bare")
    with pytest.raises(DataError, match="fedgtv-coordinator certificate"):
        write_configuration(bare, listen="0.0.0.0:443", superlink_port=9092)
    with pytest.raises(DataError, match="no port"):
        write_configuration(bare, listen="0.0.0.0:443", superlink_port=70000)
    odd = make_coordinator(tmp_path / "with space")
    with StudyStore(odd.database_url, odd.config) as store:
        write_server_certificate(odd, store, [], NOW)
    with pytest.raises(DataError, match="plainer"):
        write_configuration(odd, listen="0.0.0.0:443", superlink_port=9092)


def test_a_damaged_certificate_is_said(home: CoordinatorHome) -> None:
    assert not_valid_after(home.tls / "none.crt") is None
    (home.tls / "server.crt").write_bytes(b"?")
    with pytest.raises(DataError, match="fedgtv-coordinator certificate"):
        not_valid_after(home.tls / "server.crt")
