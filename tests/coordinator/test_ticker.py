import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from algorithms.contracts.errors import ProtocolError
from coordinator import ticker
from coordinator.config import CoordinatorHome
from coordinator.reverse_proxy import access_log, process_id
from coordinator.study_keys import write_server_certificate
from coordinator.study_store import StudyStore
from coordinator.ticker import MOST_LOG_BYTES, Ticker
from tests.enrolled import NOW
from tests.simulated_site import make_coordinator

LIMIT_S = 60
# Writes down which signals came, and goes by the name of nginx.
NGINX = """\
trap 'echo HUP >> {signals}' HUP
trap 'echo USR1 >> {signals}' USR1
echo $$ > {folder}/nginx.pid
while true; do sleep 0.05; done
"""


@pytest.fixture
def home(tmp_path) -> CoordinatorHome:
    home = make_coordinator(tmp_path / "c")
    with StudyStore(home.database_url, home.config) as store:
        write_server_certificate(home, store, [], NOW)
    return home


@pytest.fixture
def signals(home) -> Iterator[Path]:
    """Run what is taken for nginx; return the file of the signals it got."""
    folder = home.folder / "nginx"
    folder.mkdir()
    shell = shutil.copy(shutil.which("sh") or "", folder / "nginx")
    file = folder / "signals"
    file.touch()
    child = subprocess.Popen(
        [shell, "-c", NGINX.format(signals=file, folder=folder)],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # ignored below nohup
    )
    wait(lambda: process_id(home) == child.pid)
    yield file
    child.kill()
    child.wait()


def wait(ready) -> None:
    end = time.monotonic() + LIMIT_S
    while not ready():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_the_proxy_is_told_once_and_again_after_each_change(home, signals) -> None:
    ticker = Ticker(home)
    ticker.update_proxy()
    wait(lambda: signals.read_text() == "HUP\n")
    ticker.update_proxy()
    for name in ("revoked.pem", "server.crt"):
        before = signals.read_text()
        file = home.tls / name
        shutil.copy(file, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)
        ticker.update_proxy()
        wait(lambda before=before: signals.read_text() == before + "HUP\n")


def test_a_long_log_is_put_aside(home, signals) -> None:
    log = access_log(home)
    log.write_bytes(bytes(MOST_LOG_BYTES))
    Ticker(home).update_proxy()
    assert log.exists()
    log.write_bytes(bytes(MOST_LOG_BYTES + 1))
    Ticker(home).update_proxy()
    assert not log.exists()  # until nginx, told so, opens it anew
    assert log.with_name("access.log.1").stat().st_size == MOST_LOG_BYTES + 1
    wait(lambda: "USR1\n" in signals.read_text())


def test_nobody_gets_a_signal_that_was_for_an_nginx_that_ended(home) -> None:
    folder = home.folder / "nginx"
    folder.mkdir()
    assert process_id(home) is None
    (folder / "nginx.pid").write_text(f"{os.getpid()}\n")  # its number is another's now
    assert process_id(home) is None
    (folder / "nginx.pid").write_text("")
    assert process_id(home) is None
    Ticker(home).update_proxy()


def test_with_a_new_certificate_everything_starts_again(home, signals) -> None:
    (home.folder / "run").mkdir()
    ticker = Ticker(home)
    ticker.update_supervisor()
    with StudyStore(home.database_url, home.config) as store:
        write_server_certificate(home, store, [], NOW)
    ticker.update_supervisor()  # nothing is served: nobody to tell
    assert signals.read_text() == ""
    shutil.copy(home.folder / "nginx" / "nginx.pid", home.folder / "run" / "supervisord.pid")
    with StudyStore(home.database_url, home.config) as store:
        write_server_certificate(home, store, [], NOW)
    ticker.update_supervisor()
    wait(lambda: signals.read_text() == "HUP\n")


def test_a_superlink_that_is_away_is_named(home) -> None:
    with pytest.raises(ProtocolError, match="superlink_unreachable"):
        Ticker(home).tick()


def test_after_a_failure_it_tries_again_soon_and_then_in_its_time(home, monkeypatch) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 5:
            raise KeyboardInterrupt

    def fail(_ticker: Ticker) -> None:
        raise ProtocolError("superlink_unreachable")

    monkeypatch.setattr(Ticker, "tick", fail)
    monkeypatch.setattr(ticker.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        ticker.tick_for_ever(home)
    assert [round(wait) for wait in waits] == [10, 10, 10, 120, 120]
