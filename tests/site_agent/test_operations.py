import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from site_agent.operations import operations_server
from site_agent.site_lock import only_worker
from tests.phantoms import filled_store, make_home

PATIENTS = 3


@contextmanager
def serving(home):
    with operations_server(home, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path):
    home = make_home(tmp_path / "home")
    filled_store(home, PATIENTS)
    return home


def read(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def figures(text: str) -> dict[tuple[str, str], float]:
    """Read what Prometheus would: its own parser is the oracle."""
    return {
        (sample.name, sample.labels.get("state", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_three_pages(home) -> None:
    with serving(home) as url:
        assert read(f"{url}/healthz") == (200, "ok\n")
        status, body = read(f"{url}/readyz")
        assert status == 200
        assert {check["state"] for check in json.loads(body)} == {"ok"}
        status, body = read(f"{url}/metrics")
        assert status == 200
        found = figures(body)
        cases = {key: n for key, n in found.items() if key[0] == "fedgtv_site_cases"}
        assert sum(cases.values()) == PATIENTS
        assert found["fedgtv_site_worker_running", ""] == 0
        assert found["fedgtv_site_free_bytes", ""] > 0
        with only_worker(home):
            assert figures(read(f"{url}/metrics")[1])["fedgtv_site_worker_running", ""] == 1


def test_a_site_that_cannot_work_is_not_ready_but_answers(home) -> None:
    (home.folder / "secrets" / "pseudonym.key").unlink()
    with serving(home) as url:
        assert read(f"{url}/healthz")[0] == 200
        status, body = read(f"{url}/readyz")
        assert status == 503
        assert {c["name"] for c in json.loads(body) if c["state"] == "failed"} == {"secrets"}


def test_nothing_else_is_served(home) -> None:
    with serving(home) as url:
        assert read(f"{url}/cases")[0] == 404
        request = urllib.request.Request(f"{url}/metrics", data=b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(request, timeout=20)
        head = urllib.request.Request(f"{url}/healthz", method="HEAD")
        with urllib.request.urlopen(head, timeout=20) as answer:
            assert answer.read() == b""
