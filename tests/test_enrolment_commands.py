"""Enrolment by the commands of both parties, as hospital IT and the study lead give them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from algorithms.contracts.errors import DataError, ProtocolError
from coordinator.cli import app as coordinator_app
from coordinator.config import open_home as open_coordinator
from coordinator.enrolment_cli import certificate_cell, server_warning
from coordinator.study_keys import write_server_certificate
from coordinator.study_store import StudyStore
from site_agent.cli import app as site_app
from site_agent.config import open_home
from site_agent.enrolment_cli import certificate_line
from tests.enrolled import enrol_site
from tests.simulated_site import make_coordinator, make_site

YEAR = timedelta(days=365)


def run(app: typer.Typer, *words: str | Path) -> str:
    """Run a command in this process and return its last line; expected errors are raised."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None:
        raise result.exception
    return result.output.strip().splitlines()[-1]


def test_two_telephone_calls_and_a_hospital_is_in(tmp_path: Path) -> None:
    study, site = tmp_path / "study", tmp_path / "b"
    ask, answer = tmp_path / "ask.json", tmp_path / "answer.json"
    make_coordinator(study)
    make_site(site, "hospital-b")
    at_site, at_study = ("--home", site), ("--home", study)
    read_out = run(site_app, "enrol", *at_site, "--output", ask)
    with pytest.raises(DataError, match="--fingerprint"):
        run(coordinator_app, "enrol", ask, *at_study, "--output", answer)
    assert not answer.exists()
    typed = ("--fingerprint", read_out.replace(" ", "").upper())
    answered = run(coordinator_app, "enrol", ask, *at_study, "--output", answer, *typed)
    line = run(site_app, "enrol", *at_site, "--answer", answer, "--fingerprint", answered)
    assert "days left" in line
    # A renewal is signed by the one and answered by the other, both known by now.
    run(site_app, "enrol", *at_site, "--renew", "--output", ask)
    run(coordinator_app, "enrol", ask, *at_study, "--output", answer)
    run(site_app, "enrol", *at_site, "--answer", answer)
    assert "2 certificates revoked" in run(coordinator_app, "revoke", "hospital-b", *at_study)
    run(site_app, "enrol", *at_site, "--renew", "--output", ask)
    with pytest.raises(ProtocolError, match="unknown_key"):
        run(coordinator_app, "enrol", ask, *at_study, "--output", answer)


def test_keys_that_take_the_place_of_others_are_told_to_the_study_lead(tmp_path: Path) -> None:
    study, site = tmp_path / "study", tmp_path / "b"
    enrol_site(make_coordinator(study), make_site(site, "hospital-b"))
    ask = tmp_path / "ask.json"
    read_out = run(site_app, "enrol", "--home", site, "--new-keys", "--output", ask)
    words = ["enrol", ask, "--home", study, "--output", tmp_path / "answer", "--fingerprint"]
    result = CliRunner().invoke(coordinator_app, [*map(str, words), read_out])
    assert result.output.startswith("hospital-b was enrolled with other keys, which count no more")


def test_the_door_is_written_by_two_commands(tmp_path: Path) -> None:
    make_coordinator(tmp_path / "c")
    at = ("--home", tmp_path / "c")
    assert "valid until" in run(coordinator_app, "certificate", *at, "--host", "192.0.2.7")
    line = run(coordinator_app, "reverse-proxy", *at, "--superlink-port", "9092")
    assert line.endswith("nginx -c " + str(tmp_path / "c" / "nginx" / "nginx.conf"))


@pytest.mark.parametrize("words", [(), ("--renew",), ("--renew", "--new-keys", "--output", "x")])
def test_a_command_that_asks_for_nothing_or_too_much_is_refused(tmp_path, words) -> None:
    make_site(tmp_path / "b", "hospital-b")
    with pytest.raises(DataError, match="give --"):
        run(site_app, "enrol", "--home", tmp_path / "b", *words)


@pytest.mark.parametrize(
    ("age_days", "warns", "words"),
    [(0, False, "days left"), (330, False, "days left"), (337, True, "left"), (364, True, "left")],
)
def test_a_site_is_warned_below_thirty_days(tmp_path, age_days, warns, words) -> None:
    coordinator, site = make_coordinator(tmp_path / "c"), make_site(tmp_path / "b", "hospital-b")
    assert certificate_line(site) == "none: not enrolled"
    enrol_site(coordinator, site, now=datetime.now(UTC) - timedelta(days=age_days))
    line = certificate_line(open_home(site.folder))
    assert words in line
    assert line.startswith("WARNING") == warns
    assert ("enrol --renew" in line) == warns


def test_the_study_lead_is_warned_about_every_certificate(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert certificate_cell(None, revoked=False) == "-"
    assert certificate_cell(now + YEAR, revoked=True) == "revoked"
    assert certificate_cell(now + timedelta(days=31), revoked=False) == "30 days"
    assert certificate_cell(now + timedelta(days=30), revoked=False) == "29 days (RENEW)"
    assert certificate_cell(now - timedelta(days=1), revoked=False) == "EXPIRED"
    home = make_coordinator(tmp_path / "c")
    assert server_warning(home) is None
    with StudyStore(home.database_url, home.config) as store:
        write_server_certificate(home, store, [], now)
        assert server_warning(home) is None
        write_server_certificate(home, store, [], now - timedelta(days=340))
    warning = server_warning(open_coordinator(home.folder))
    assert warning is not None
    assert "server.crt: 24 days left" in warning
