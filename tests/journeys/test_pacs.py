"""Orthanc as the hospital's archive, our commands as hospital IT types them."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import trustme

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Mask
from site_agent.case_store import REVIEWED, CaseStore
from site_agent.config import CONFIG_FILE, SiteHome, open_home
from site_agent.deidentification import pseudonym
from site_agent.dicom_series import read_series
from site_agent.pacs import fetch, open_pacs
from tests.orthanc import AE_TITLE, Orthanc
from tests.phantoms import make_home
from tests.ports import free_ports
from tests.site_agent.dicom_builder import PLANTED, SERIES_UID, STUDY_UID, save, slices

pytestmark = pytest.mark.journey

COMMAND = Path(sys.executable).with_name("fedgtv-site")
SECRETS = (*PLANTED, STUDY_UID)
SLICES = 120


def wait_until(happened: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def write_settings(folder: Path, text: str) -> SiteHome:
    with (folder / CONFIG_FILE).open("a", encoding="utf-8") as file:
        file.write(text)
    return open_home(folder)


def dimse_settings(archive: Orthanc, receive_port: int, retrieve: str) -> str:
    return (
        f'[pacs]\nae_title = "{AE_TITLE}"\nhost = "127.0.0.1"\nport = {archive.dicom_port}\n'
        f'receive_port = {receive_port}\nretrieve = "{retrieve}"\n'
    )


def large_series(folder: Path) -> Path:
    """Write a series that takes a while to transfer: 120 slices of 128 kB."""
    return save(slices((SLICES, 256, 256)), folder)


def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)


# -- an archive that dies ----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["auto", "get", "dicomweb"])
def test_an_archive_that_dies_leaves_no_half_case_and_the_same_call_goes_on(tmp_path, way) -> None:
    export = large_series(tmp_path / "export")
    (receive_port,) = free_ports(1)
    with Orthanc(tmp_path / "orthanc", {"FEDGTV": receive_port}) as archive:
        archive.upload(export)
        settings = dimse_settings(archive, receive_port, way)
        if way == "dicomweb":
            settings = f'[pacs]\nprotocol = "dicomweb"\nurl = "{archive.web_url}"\n'
        make_home(tmp_path / "home")
        home = write_settings(tmp_path / "home", settings)
        store, pacs = CaseStore(home), open_pacs(home)
        series = pacs.find_series(STUDY_UID)

        def arrived() -> set[tuple[str, int]]:
            return {(f.name, f.stat().st_mtime_ns) for f in home.spool.rglob("image-*.dcm")}

        def kill_in_mid_transfer() -> None:
            wait_until(lambda: len(arrived()) >= 5)
            archive.kill()

        killer = threading.Thread(target=kill_in_mid_transfer)
        killer.start()
        with pytest.raises(DataError) as caught:
            fetch(home, store, pacs, series, actor="test", say=lambda line: None)
        killer.join()
        before = arrived()
        assert 5 <= len(before) < SLICES
        assert store.cases() == []
        assert not home.cases.exists()
        assert not any(secret in str(caught.value) for secret in SECRETS)

        with pytest.raises(DataError, match="does not answer"):
            fetch(home, store, pacs, series, actor="test", say=lambda line: None)
        assert arrived() == before

        archive.start()
        seen: list[set[tuple[str, int]]] = []
        fetch(home, store, pacs, series, actor="test", say=lambda line: seen.append(arrived()))
    assert before < seen[0]  # what had come was not sent again
    assert len(seen[0]) == SLICES
    (case,) = store.cases()
    np.testing.assert_array_equal(store.volume(case.case_id).image, read_series(export).image)
    assert arrived() == set()


# -- the commands -------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path) -> Iterator[tuple[SiteHome, Orthanc]]:
    """Run an archive with one patient, and make a site that is connected to it both ways."""
    receive_port, listen_port = free_ports(2)
    known = {"FEDGTV": receive_port, "FEDGTV_IN": listen_port}
    with Orthanc(tmp_path / "orthanc", known) as archive:
        archive.upload(save(slices(), tmp_path / "export"))
        make_home(tmp_path / "home")
        settings = dimse_settings(archive, receive_port, "auto") + (
            f"[listener]\nport = {listen_port}\nquiet_s = 0.5\nkeep_free_mb = 0\n"
            f'[[listener.peers]]\nae_title = "{AE_TITLE}"\naddress = "127.0.0.1"\n'
            '[[listener.rules]]\nmodality = "MR"\n'
        )
        yield write_settings(tmp_path / "home", settings), archive


def test_a_person_echoes_finds_fetches_and_sends(site, tmp_path) -> None:
    home, archive = site
    case_id = pseudonym(SERIES_UID, home.secret("pseudonym.key"), prefix="case")
    at_home = ("--home", home.folder)

    echoed = run("pacs", "echo", *at_home)
    assert (echoed.returncode, echoed.stdout) == (0, f"PACS {AE_TITLE}: answers\n")
    found = run("pacs", "find", *at_home, "--patient-id", "KH-7712*")
    assert found.returncode == 0
    assert STUDY_UID in found.stdout
    assert "Mustermann" in found.stdout  # the screen of the person who asked
    listed = run("pacs", "find", *at_home, "--study-uid", STUDY_UID)
    assert SERIES_UID in listed.stdout
    for _ in range(2):
        fetched = run("pacs", "fetch", *at_home, "--study-uid", STUDY_UID)
        assert fetched.returncode == 0, fetched.stderr
    assert f"{case_id}: 6 instances from PACS {AE_TITLE}" in fetched.stdout
    assert "1 held already" in fetched.stdout
    assert case_id in run("cases", *at_home).stdout

    store = CaseStore(home)
    geometry = store.geometry(case_id)
    contour = Contour("GTVp", Mask(np.ones(geometry.shape_zyx, bool), geometry), Provenance.MANUAL)
    store.save_contour(case_id, contour, purpose=REVIEWED, author="dr")
    wrote = run("export-rtstruct", *at_home, case_id, "--output", tmp_path / "rs.dcm")
    assert wrote.returncode == 0, wrote.stderr
    sent = run("pacs", "send", *at_home, tmp_path / "rs.dcm")
    assert (sent.returncode, sent.stdout) == (0, f"PACS {AE_TITLE}: 1 objects stored\n")
    assert archive.instances() == 7

    everything = (echoed, fetched, wrote, sent)
    assert not any(s in done.stdout + done.stderr for done in everything for s in SECRETS)
    kept = b"".join(f.read_bytes() for f in home.folder.rglob("*") if f.is_file())
    assert not any(secret.encode() in kept for secret in SECRETS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("find",), "say what to find"),
        (("find", "--study-date", "2020-03-04"), "YYYYMMDD"),
        (("find", "--study-uid", STUDY_UID, "--patient-id", "1"), "give it alone"),
        (("fetch", "--study-uid", ""), "that is no UID"),
        (("fetch", "--study-uid", "1.2.3.99"), "lists no series of modality"),
        (("fetch", "--study-uid", STUDY_UID, "--series-uid", "1.9"), "1 of the series asked for"),
        (("send", "absent.dcm"), "no such file"),
        (("send", "pyproject.toml"), "did not pass the export gate"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(site, arguments, words) -> None:
    home, _ = site
    ended = run("pacs", *arguments, "--home", home.folder)
    assert ended.returncode == 2
    assert re.fullmatch(rf"error: [^\n]*{re.escape(words)}[^\n]*\n", ended.stderr)
    assert not any(secret in ended.stderr for secret in SECRETS)


@contextlib.contextmanager
def listening(home: SiteHome, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the listener as a service does, until it is stopped."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [COMMAND, "listen", "--home", home.folder], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: "listening" in log.read_text() or process.poll() is not None)
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_the_archive_sends_to_the_listener_becomes_a_case(site, tmp_path) -> None:
    home, archive = site
    case_id = pseudonym(SERIES_UID, home.secret("pseudonym.key"), prefix="case")
    log = tmp_path / "listen.log"
    with listening(home, log) as process:
        archive.send("FEDGTV_IN", tmp_path / "export")
        wait_until(lambda: "new case" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    said = log.read_text()
    assert f"{case_id}: 6 objects: 1 new case" in said
    assert not any(secret in said for secret in SECRETS)
    assert [case.case_id for case in CaseStore(home).cases()] == [case_id]
    assert [file for file in home.spool.rglob("*") if file.is_file()] == []


def test_a_listener_that_is_killed_goes_on_with_its_spool(site, tmp_path) -> None:
    """The site is busy, so the series waits; the listener is killed; the next one takes it in."""
    home, archive = site
    (home.folder / CONFIG_FILE).write_text(
        (home.folder / CONFIG_FILE).read_text().replace("quiet_s = 0.5", "quiet_s = 3600")
    )
    with listening(home, tmp_path / "first.log"):
        archive.send("FEDGTV_IN", tmp_path / "export")
        wait_until(lambda: not list(home.spool.rglob(".open-*")))
    assert len(list(home.spool.rglob("image-*.dcm"))) == 6
    assert CaseStore(home).cases() == []
    (home.folder / CONFIG_FILE).write_text(
        (home.folder / CONFIG_FILE).read_text().replace("quiet_s = 3600", "quiet_s = 0.5")
    )
    with listening(home, tmp_path / "second.log"):
        wait_until(lambda: "new case" in (tmp_path / "second.log").read_text())
    assert len(CaseStore(home).cases()) == 1


# -- TLS ----------------------------------------------------------------------------------------


def test_with_tls_both_ways_a_series_is_moved_and_a_plain_caller_is_not_let_in(tmp_path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("archive", "site"):
        certificate = authority.issue_cert("127.0.0.1", common_name="127.0.0.1")
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    (receive_port,) = free_ports(1)
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(tmp_path / "archive.pem"),
        "DicomTlsPrivateKey": str(tmp_path / "archive.key"),
        "DicomTlsTrustedCertificates": str(tmp_path / "ca.pem"),
        "DicomModalities": {
            "FEDGTV": {
                "AET": "FEDGTV",
                "Host": "127.0.0.1",
                "Port": receive_port,
                "UseDicomTls": True,
            }
        },
    }
    with Orthanc(tmp_path / "orthanc", {}, **settings) as archive:
        archive.upload(save(slices(), tmp_path / "export"))
        plain = dimse_settings(archive, receive_port, "move").replace(
            "[pacs]\n", "[pacs]\ntimeout_s = 5\ntransfer_timeout_s = 20\n"
        )
        tls = (
            f'[pacs.tls]\nca_file = "{tmp_path}/ca.pem"\n'
            f'certificate_file = "{tmp_path}/site.pem"\nkey_file = "{tmp_path}/site.key"\n'
        )
        make_home(tmp_path / "plain")
        with pytest.raises(DataError, match=r"does not answer.*tls"):
            open_pacs(write_settings(tmp_path / "plain", plain)).echo()
        make_home(tmp_path / "home")
        home = write_settings(tmp_path / "home", plain + tls)
        pacs = open_pacs(home)
        pacs.echo()
        got: list[bytes] = []
        (series,) = pacs.find_series(STUDY_UID)
        pacs.retrieve("move", series, None, got.append)
    assert len(got) == 6
    assert all(content[128:132] == b"DICM" for content in got)
    assert pydicom.dcmread(next((tmp_path / "export").iterdir())).Modality == "MR"
