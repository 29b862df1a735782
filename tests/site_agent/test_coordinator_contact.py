import json
import os
import threading
import time

import pytest

from algorithms.contracts.errors import DataError
from site_agent.config import open_home
from site_agent.coordinator_contact import (
    SILENCE_LIMIT_S,
    examine_contact,
    last_asked_at,
    note_asked,
)
from site_agent.operations import operations_server
from site_agent.site_setup import initialise
from tests.coordinator.test_operations import read
from tests.enrolled import enrol_site
from tests.simulated_site import STUDY, make_coordinator, make_site


def test_a_site_that_is_not_enrolled_is_well_without_being_asked(tmp_path) -> None:
    assert "not enrolled" in examine_contact(make_site(tmp_path / "b", "hospital-b"))


def test_an_enrolled_site_is_well_as_long_as_it_is_asked(tmp_path) -> None:
    home = make_site(tmp_path / "b", "hospital-b")
    enrol_site(make_coordinator(tmp_path / "c"), home)
    assert last_asked_at(home) is None
    with pytest.raises(DataError, match=r"never asked.*doctor"):
        examine_contact(home)
    note_asked(home)
    assert examine_contact(home).startswith("asked ")
    past = time.time() - SILENCE_LIMIT_S - 120
    os.utime(home.folder / "run" / "asked", (past, past))
    with pytest.raises(DataError, match=r"for 62 minutes.*supernode.log"):
        examine_contact(home)


def test_the_monitoring_reads_it(tmp_path) -> None:
    names = {"name": "hospital-b", "study": STUDY, "role": "target"}
    initialise(tmp_path / "b", trusted_keys=(), **names)
    home = open_home(tmp_path / "b")
    enrol_site(make_coordinator(tmp_path / "c"), home)
    with operations_server(home, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        code, body = read(f"{url}/readyz")
        assert (code, json.loads(body)[-1]["name"]) == (503, "contact")
        assert "last_asked" not in read(f"{url}/metrics")[1]
        note_asked(home)
        assert read(f"{url}/readyz")[0] == 200
        assert "fedgtv_site_last_asked_seconds 0." in read(f"{url}/metrics")[1]
        server.shutdown()
        thread.join()
