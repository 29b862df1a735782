import json
import socket
import sys

import pytest

from algorithms.contracts.errors import DataError
from algorithms.contracts.health import Check, CheckState
from supervision.serving import check_first, check_ports, lines


def doctor(*checks: tuple[str, str, str]) -> list[str]:
    """Return a command that prints checks as a doctor does, and ends with its exit code."""
    told = json.dumps([{"name": n, "state": s, "line": line} for n, s, line in checks])
    code = int(any(state == "failed" for _, state, _ in checks))
    return [sys.executable, "-c", f"import sys; print({told!r}); sys.exit({code})"]


def test_warnings_are_handed_on_and_all_that_is_well_is_not() -> None:
    told = check_first(doctor(("disk", "warning", "low"), ("keys", "ok", "there")), later=())
    assert told == [Check("disk", CheckState.WARNING, "low")]
    assert lines(told) == ["! disk: low"]


def test_any_other_failed_check_stops_with_its_line() -> None:
    with pytest.raises(DataError, match="disk: it is full: make room"):
        check_first(doctor(("disk", "failed", "it is full: make room")), later=("pacs",))


def test_what_may_come_later_is_said_and_stops_nothing() -> None:
    told = check_first(doctor(("pacs", "failed", "no answer")), later=("pacs",))
    assert lines(told) == ["✕ pacs: no answer"]


def test_a_doctor_that_dies_is_not_taken_for_a_healthy_one() -> None:
    with pytest.raises(DataError, match="no answer"):
        check_first([sys.executable, "-c", "raise SystemExit(3)"], later=())


def test_a_port_that_is_taken_is_named_by_its_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(DataError, match=rf"site.toml: key 'ui_port': port {port}.*another"):
            check_ports("site.toml", {"ui_port": ("127.0.0.1", port)})
    check_ports("site.toml", {"ui_port": ("127.0.0.1", port)})


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(DataError, match="listen"):
        check_ports("coordinator.toml", {"listen": ("192.0.2.1", 8443)})
