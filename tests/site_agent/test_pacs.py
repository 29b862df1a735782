"""Against a real archive (Orthanc): both protocols behind one interface."""

import http.server
import logging
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import trustme
from pydicom.uid import RLELossless

from algorithms.contracts.errors import DataError
from evaluation.benchmarks.dicom_writer import study_uids
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.dicomweb import DicomWebPacs, _parts
from site_agent.dimse import DimsePacs
from site_agent.network_config import PacsConfig
from site_agent.pacs import (
    Pacs,
    RefusedError,
    SeriesFound,
    StudyFound,
    StudyQuery,
    fetch,
    fetch_series,
)
from site_agent.site_lock import only_worker
from site_agent.spool import Spool
from site_agent.store_scp import StoreScp
from tests.orthanc import AE_TITLE, Orthanc
from tests.phantoms import make_home, tiny_volume
from tests.ports import free_ports
from tests.site_agent.dicom_builder import PLANTED, slices
from tests.site_agent.test_ingest import write_patient

pytestmark = pytest.mark.journey  # with Orthanc

SECRETS = ("KH-0000", "Nobody", "Aurelia", "Nowhere", "1.2.826.0.1")
RECEIVE_PORT = free_ports(1)[0]
KEY = b"0123456789abcdef"


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Iterator[Orthanc]:
    """Run an archive that holds two patients; it knows us, and a site without a C-MOVE target."""
    folder = tmp_path_factory.mktemp("pacs")
    for number in (1, 2):
        write_patient(folder / "export" / f"P{number}", number)
    known = {"FEDGTV": RECEIVE_PORT, "UNREACHABLE": 1}
    with Orthanc(folder / "orthanc", known) as running:
        running.upload(folder / "export")
        yield running


def dimse(archive: Orthanc, folder: Path, **settings) -> DimsePacs:
    values = {
        "ae_title": AE_TITLE,
        "host": "127.0.0.1",
        "port": archive.dicom_port,
        "receive_port": RECEIVE_PORT,
        **settings,
    }
    return DimsePacs(PacsConfig.model_validate(values), folder)


def dicomweb(archive: Orthanc, folder: Path, **settings) -> DicomWebPacs:
    values = {"protocol": "dicomweb", "url": archive.web_url, **settings}
    return DicomWebPacs(PacsConfig.model_validate(values), folder)


@pytest.fixture(params=["move", "get", "dicomweb"])
def pacs(request, archive, tmp_path) -> Pacs:
    if request.param == "dicomweb":
        return dicomweb(archive, tmp_path)
    return dimse(archive, tmp_path, retrieve=request.param)


@pytest.fixture
def home(tmp_path) -> SiteHome:
    return make_home(tmp_path / "home")


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "spool" / "fetched", KEY)


def mr_of(pacs: Pacs, number: int) -> SeriesFound:
    (found,) = [s for s in pacs.find_series(uids(number).study) if s.modality == "MR"]
    return found


def uids(number: int):
    return study_uids(f"tiny {number} 0", 8)


# -- find ---------------------------------------------------------------------------------------


def test_the_archive_answers(pacs) -> None:
    pacs.echo()


def test_a_patient_is_found_with_studies_series_and_instances(pacs) -> None:
    (study,) = pacs.find_studies(StudyQuery(patient_id="KH-000002"))
    assert study == StudyFound(
        study_uid=uids(2).study,
        patient_id="KH-000002",
        patient_name="Nobody-2^Aurelia",
        study_date="20200304",
        description="MR head and neck, radiotherapy planning",
        modalities="MR\\RTSTRUCT",
    )
    series = {one.modality: one for one in pacs.find_series(study.study_uid)}
    assert set(series) == {"MR", "RTSTRUCT"}
    assert series["MR"] == SeriesFound(
        uids(2).study, uids(2).series, "MR", "T1 tra", "HEADNECK", "8"
    )
    assert pacs.find_instances(series["MR"]) == set(uids(2).sop_instances)


@pytest.mark.parametrize(
    ("query", "patients"),
    [
        (StudyQuery(patient_id="KH-*"), {1, 2}),
        (StudyQuery(patient_id="KH-00000?"), {1, 2}),
        (StudyQuery(patient_id="KH-9"), set()),
        (StudyQuery(accession_number="ACCESSION-1"), {1}),
        (StudyQuery(patient_id="KH-*", study_date="20200301-20200331"), {1, 2}),
        (StudyQuery(patient_id="KH-*", study_date="20210101-"), set()),
        (StudyQuery(patient_id="KH-*", modality="MR"), {1, 2}),
        (StudyQuery(patient_id="KH-*", modality="CT"), set()),
    ],
)
def test_both_protocols_find_the_same(archive, tmp_path, query, patients) -> None:
    for pacs in (dimse(archive, tmp_path), dicomweb(archive, tmp_path)):
        found = pacs.find_studies(query)
        assert {study.study_uid for study in found} == {uids(n).study for n in patients}


def test_what_was_found_says_nothing_when_it_is_printed_or_logged(
    archive, tmp_path, caplog, capsys
) -> None:
    caplog.set_level(logging.DEBUG)
    for pacs in (dimse(archive, tmp_path), dicomweb(archive, tmp_path)):
        found: list[object] = [*pacs.find_studies(StudyQuery(patient_id="KH-000001"))]
        series = mr_of(pacs, 1)
        pacs.retrieve(pacs.ways[0], series, None, lambda content: None)
        print(found, series, StudyQuery(patient_id="KH-000001"))  # noqa: T201
    shown = capsys.readouterr()
    said = shown.out + shown.err + caplog.text
    assert "StudyFound" in said
    assert [secret for secret in SECRETS if secret in said] == []


# -- refusals -----------------------------------------------------------------------------------


def test_a_wrong_called_title_is_refused_by_name(archive, tmp_path) -> None:
    with pytest.raises(DataError, match=r"PACS OTHERNAME refuses.*another AE title.*ae_title"):
        dimse(archive, tmp_path, ae_title="OTHERNAME").echo()


def test_a_stranger_is_refused_and_told_to_have_its_title_registered(archive, tmp_path) -> None:
    stranger = dimse(archive, tmp_path, own_ae_title="STRANGER")
    for ask in (stranger.echo, lambda: stranger.find_studies(StudyQuery(patient_id="KH-1"))):
        with pytest.raises(DataError, match="does not know our AE title STRANGER"):
            ask()


def test_an_archive_that_is_not_there_is_named_with_its_keys(archive, tmp_path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(DataError, match=rf"does not answer at 127.0.0.1, port {port}.*host, port"):
        dimse(archive, tmp_path, port=port).echo()
    with pytest.raises(DataError, match=r"does not answer.*url"):
        dicomweb(archive, tmp_path, url=f"http://127.0.0.1:{port}/rs").echo()
    with pytest.raises(DataError, match=r"HTTP 404.*url"):
        dicomweb(archive, tmp_path, url=archive.web_url + "/elsewhere").echo()


def test_messages_about_a_study_that_is_not_there_quote_nothing(archive, tmp_path, spool) -> None:
    absent = SeriesFound("1.2.826.0.1.7", "1.2.826.0.1.8", "MR", "", "", "")
    for pacs in (dimse(archive, tmp_path), dicomweb(archive, tmp_path)):
        with pytest.raises(DataError) as caught:
            fetch_series(pacs, spool, absent)
        assert spool.series_name("1.2.826.0.1.8") in str(caught.value) or "404" in str(caught.value)
        assert "1.2.826" not in str(caught.value)


# -- fetch --------------------------------------------------------------------------------------


def test_a_fetched_series_is_what_the_archive_stores(pacs, archive, spool) -> None:
    assert fetch_series(pacs, spool, mr_of(pacs, 1)) == 8
    (folder,) = spool.series()
    for uid in uids(1).sop_instances:
        ours = pydicom.dcmread(folder / spool.instance_name(uid))
        theirs = pydicom.dcmread(archive.folder / _stored(archive, uid))
        assert ours == theirs


def _stored(archive: Orthanc, uid: str) -> Path:
    file = archive.folder / f"{uid}.dcm"
    file.write_bytes(archive.file_of(uid))
    return file


def test_only_what_is_missing_is_asked_for_again(pacs, spool) -> None:
    """The images that had arrived are not written anew, and what the archive lost goes."""
    series = mr_of(pacs, 1)
    fetch_series(pacs, spool, series)
    (folder,) = spool.series()
    kept, *lost = sorted(folder.iterdir())[:4]
    for file in lost:
        file.unlink()
    kept.write_bytes(b"as it was")
    (folder / "image-ffffffffffff.dcm").write_bytes(b"no longer in the archive")
    assert fetch_series(pacs, spool, series) == 8
    assert kept.read_bytes() == b"as it was"
    assert all(pydicom.dcmread(file).Modality == "MR" for file in lost)
    assert not (folder / "image-ffffffffffff.dcm").exists()


def test_a_fetched_study_becomes_a_case_with_its_contour(pacs, home) -> None:
    store, said = CaseStore(home), []
    fetch(home, store, pacs, pacs.find_series(uids(1).study), actor="test", say=said.append)
    (case,) = store.cases()
    assert case.has_reference
    np.testing.assert_array_equal(store.volume(case.case_id).image, tiny_volume(10)[0].image)
    assert f"{case.case_id}: 8 instances from {pacs.name}" in said
    assert "1 new case" in said[-1]
    assert [secret for secret in SECRETS if secret in " ".join(said)] == []
    assert [file for file in home.spool.rglob("*") if file.is_file()] == []


def test_fetched_again_it_is_held_already(archive, home) -> None:
    pacs, store, said = dicomweb(archive, home.folder), CaseStore(home), []
    for _ in range(2):
        fetch(home, store, pacs, pacs.find_series(uids(1).study), actor="test", say=said.append)
    assert len(store.cases()) == 1
    assert "1 held already" in said[-1]


def test_a_structure_set_fetched_after_its_images_is_their_reference(archive, home) -> None:
    pacs, store, said = dicomweb(archive, home.folder), CaseStore(home), []
    mr, structure_set = sorted(pacs.find_series(uids(1).study), key=lambda one: one.modality)
    with pytest.raises(DataError, match="1 of the fetched series were refused"):
        fetch(home, store, pacs, [structure_set], actor="test", say=said.append)
    assert "images are not held: send or fetch them with it" in said[-1]
    assert "(structure set): 1 instances" in said[0]
    fetch(home, store, pacs, [mr], actor="test", say=said.append)
    (case,) = store.cases()
    for became in ("contour added", "held already"):
        fetch(home, store, pacs, [structure_set], actor="test", say=said.append)
        assert said[-1].endswith(f": 1 {became} ({case.case_id})")
    assert store.cases()[0].has_reference


def test_of_two_structure_sets_of_a_series_one_is_chosen_in_the_archive(home, tmp_path) -> None:
    write_patient(tmp_path / "export", 1)
    (file,) = (tmp_path / "export").glob("RS.*")
    second = pydicom.dcmread(file)
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.9.1"
    second.SeriesInstanceUID = "1.2.826.0.9"
    second.save_as(tmp_path / "export" / "RS.second.dcm")
    store, said = CaseStore(home), []
    with Orthanc(tmp_path / "orthanc", {}) as archive:
        archive.upload(tmp_path / "export")
        pacs = dicomweb(archive, home.folder)
        found = pacs.find_series(uids(1).study)
        with pytest.raises(DataError, match="1 of the fetched series were refused"):
            fetch(home, store, pacs, found, actor="test", say=said.append)
        assert "choose one with --series-uid" in said[-1]
        assert "remain where they came from" in said[-1]
        chosen = [one for one in found if one.series_uid != "1.2.826.0.9"]
        fetch(home, store, pacs, chosen, actor="test", say=said.append)
    (case,) = store.cases()
    assert case.has_reference
    assert said[-1] == f"{case.case_id}: 1 new case"


def test_while_the_site_works_a_fetched_series_waits_in_the_spool(archive, home) -> None:
    pacs, store = dicomweb(archive, home.folder), CaseStore(home)
    series = [mr_of(pacs, 2)]
    with only_worker(home), pytest.raises(DataError, match="another worker"):
        fetch(home, store, pacs, series, actor="test", say=lambda line: None)
    assert store.cases() == []
    assert len(list(home.spool.rglob("*.dcm"))) == 8
    fetch(home, store, pacs, series, actor="test", say=lambda line: None)
    assert len(store.cases()) == 1


def test_a_series_that_is_refused_is_told_and_takes_no_other_with_it(
    archive, home, tmp_path
) -> None:
    write_patient(tmp_path / "gap", 5)
    middle = sorted(
        (tmp_path / "gap").glob("MR*"), key=lambda file: pydicom.dcmread(file).InstanceNumber
    )[4]
    middle.unlink()
    for file in (tmp_path / "gap").glob("RS*"):
        file.unlink()
    archive.upload(tmp_path / "gap")
    pacs, store, said = dimse(archive, home.folder), CaseStore(home), []
    series = [mr_of(pacs, 5), mr_of(pacs, 1)]
    with pytest.raises(DataError, match="1 of the fetched series were refused"):
        fetch(home, store, pacs, series, actor="test", say=said.append)
    assert len(store.cases()) == 1
    assert any("refused" in line and "misses a slice" in line for line in said)
    assert list(home.spool.rglob("*.dcm")) == []


class StillReceiving(DimsePacs):
    """The archive, to which a scanner sends one more image after each of our transfers."""

    def __init__(self, archive: Orthanc, folder: Path, scanner: list[Path]) -> None:
        super().__init__(dimse(archive, folder)._config, folder)
        self.archive, self.scanner = archive, scanner

    def retrieve(self, way, series, instances, receive) -> None:
        super().retrieve(way, series, instances, receive)
        if self.scanner:
            self.archive.upload(self.scanner.pop())


@pytest.mark.parametrize(("late", "whole"), [(0, True), (1, True), (2, True), (3, False)])
def test_a_series_the_archive_is_still_receiving_is_whole_when_it_no_longer_grows(
    tmp_path, spool, late, whole
) -> None:
    images = slices()
    for number, image in enumerate(images):
        (tmp_path / f"part{number}").mkdir()
        image.save_as(tmp_path / f"part{number}" / "image.dcm", enforce_file_format=True)
    parts = [tmp_path / f"part{number}" for number in range(len(images))]
    with Orthanc(tmp_path / "orthanc", {"FEDGTV": RECEIVE_PORT}) as archive:
        for part in parts[: len(parts) - late]:
            archive.upload(part)
        pacs = StillReceiving(archive, tmp_path, parts[len(parts) - late :])
        (series,) = pacs.find_series(str(images[0].StudyInstanceUID))
        if whole:
            assert fetch_series(pacs, spool, series) == len(images)
        else:
            with pytest.raises(DataError, match="still changes in PACS ORTHANC"):
                fetch_series(pacs, spool, series)


@pytest.mark.parametrize("open_pacs", [dimse, dicomweb])
def test_a_full_disk_of_ours_is_not_blamed_on_the_archive(archive, tmp_path, open_pacs) -> None:
    pacs = open_pacs(archive, tmp_path)
    full = Spool(tmp_path / "spool" / "full", KEY, keep_free_bytes=2**62)
    with pytest.raises(OSError, match="No space left"):
        fetch_series(pacs, full, mr_of(pacs, 1))


# -- C-MOVE and its fallback --------------------------------------------------------------------


def test_where_move_is_refused_get_brings_the_series(archive, tmp_path, spool) -> None:
    """The archive knows the title but cannot reach it: the transfer fails on its side."""
    settings = {"own_ae_title": "UNREACHABLE"}
    pacs = dimse(archive, tmp_path, **settings)
    with pytest.raises(RefusedError, match="C-MOVE: refused with status 0x"):
        pacs.retrieve("move", mr_of(pacs, 1), None, lambda content: None)
    assert fetch_series(pacs, spool, mr_of(pacs, 1)) == 8
    only_move = dimse(archive, tmp_path, retrieve="move", **settings)
    with pytest.raises(DataError, match=r"0 of 8 instances came.*C-MOVE: refused"):
        fetch_series(only_move, Spool(tmp_path / "other" / "one", KEY), mr_of(pacs, 1))


@pytest.mark.parametrize(("title", "came"), [("NOMOVE", 8), ("NOGET", 8), ("NEITHER", 0)])
def test_what_the_archive_forbids_is_done_the_other_way(tmp_path, spool, title, came) -> None:
    """Orthanc aborts the association instead of refusing the service."""
    write_patient(tmp_path / "export", 1)
    allowed = {"AllowFind": True, "AllowMove": title == "NOGET", "AllowGet": title == "NOMOVE"}
    known = {title: {"AET": title, "Host": "127.0.0.1", "Port": RECEIVE_PORT, **allowed}}
    with Orthanc(tmp_path / "orthanc", {}, DicomModalities=known) as archive:
        archive.upload(tmp_path / "export")
        pacs = dimse(archive, tmp_path, own_ae_title=title)
        if came:
            assert fetch_series(pacs, spool, mr_of(pacs, 1)) == came
        else:
            with pytest.raises(DataError, match=r"0 of 8 instances.*C-GET: the connection broke"):
                fetch_series(pacs, spool, mr_of(pacs, 1))


def test_where_our_port_is_taken_get_brings_the_series(archive, tmp_path, spool) -> None:
    class Nobody:
        def received(self, association, content) -> None: ...
        def released(self, association) -> None: ...
        def broken(self, association) -> None: ...

    taken = StoreScp(Nobody(), ae_title="X", host="127.0.0.1", port=RECEIVE_PORT, peers=())
    pacs = dimse(archive, tmp_path)
    with taken:
        with pytest.raises(RefusedError, match=r"cannot be opened.*receive_port"):
            pacs.retrieve("move", mr_of(pacs, 1), None, lambda content: None)
        assert fetch_series(pacs, spool, mr_of(pacs, 1)) == 8


def test_while_we_fetch_nobody_but_the_archive_gets_in(archive, tmp_path, spool) -> None:
    """Another archive of another name, known to nobody here, calls while a C-MOVE is under way."""
    pacs = dimse(archive, tmp_path, retrieve="move")
    intruder = DimsePacs(
        PacsConfig.model_validate(
            {"ae_title": "FEDGTV", "own_ae_title": "INTRUDER", "host": "127.0.0.1"}
            | {"port": RECEIVE_PORT}
        ),
        tmp_path,
    )
    answers: list[str] = []

    def call_in() -> None:
        try:
            intruder.echo()
        except DataError as error:
            answers.append(str(error))

    def receive(content: bytes) -> None:
        if not answers:
            call = threading.Thread(target=call_in)
            call.start()
            call.join()
        spool.keep(content)

    pacs.retrieve("move", mr_of(pacs, 1), None, receive)
    assert "does not know our AE title INTRUDER" in answers[0]
    assert len(list(spool.incoming.rglob("*.dcm"))) == 8


# -- send ---------------------------------------------------------------------------------------


def dimse_get(archive: Orthanc, folder: Path) -> DimsePacs:
    return dimse(archive, folder, retrieve="get")


@pytest.mark.parametrize("open_pacs", [dimse, dimse_get, dicomweb])
def test_what_is_sent_is_stored_as_it_is(tmp_path, open_pacs) -> None:
    files = []
    for image in slices():
        files.append(tmp_path / f"{image.SOPInstanceUID}.dcm")
        image.save_as(files[-1], enforce_file_format=True)
    image.compress(RLELossless, generate_instance_uid=False)
    image.save_as(files[-1], enforce_file_format=True)
    with Orthanc(tmp_path / "orthanc", {"FEDGTV": RECEIVE_PORT}) as archive:
        open_pacs(archive, tmp_path).send(files)
        assert archive.instances() == len(files)
        for file in files:
            stored = pydicom.dcmread(_stored(archive, file.stem))
            assert stored == pydicom.dcmread(file)
            kept = stored.file_meta.TransferSyntaxUID
            assert kept == pydicom.dcmread(file).file_meta.TransferSyntaxUID
        spool = Spool(tmp_path / "spool" / "back", KEY)
        pacs = open_pacs(archive, tmp_path)
        (series,) = pacs.find_series(str(slices()[0].StudyInstanceUID))
        assert fetch_series(pacs, spool, series) == len(files)
        came = pydicom.dcmread(spool.series()[0] / spool.instance_name(files[-1].stem))
        assert came.file_meta.TransferSyntaxUID == RLELossless


@pytest.mark.parametrize("open_pacs", [dimse, dicomweb])
def test_what_cannot_be_sent_is_named_and_counted(archive, tmp_path, open_pacs) -> None:
    (tmp_path / "images").mkdir()
    good, bad = tmp_path / "images" / "good.dcm", tmp_path / "images" / "bad.dcm"
    slices()[0].save_as(good, enforce_file_format=True)
    bad.write_bytes(b"no DICOM")
    with pytest.raises(DataError, match=r"bad\.dcm") as caught:
        open_pacs(archive, tmp_path).send([good, bad])
    assert not any(word in str(caught.value) for word in PLANTED)


# -- HTTP details --------------------------------------------------------------------------------


def test_a_login_is_sent_from_its_file_and_a_wrong_one_is_named(tmp_path) -> None:
    (tmp_path / "password").write_text("richtig\n")
    (tmp_path / "other").write_text("geheim-falsch\n")
    settings = {"AuthenticationEnabled": True, "RegisteredUsers": {"fedgtv": "richtig"}}
    with Orthanc(tmp_path / "orthanc", {}, login=("fedgtv", "richtig"), **settings) as archive:
        dicomweb(archive, tmp_path, user="fedgtv", password_file="password").echo()
        with pytest.raises(DataError, match=r"HTTP 401.*password_file") as caught:
            dicomweb(archive, tmp_path, user="fedgtv", password_file="other").echo()
        assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("cut", range(1, 70, 7))
def test_parts_that_were_cut_off_are_no_parts(cut: int) -> None:
    body = b"".join(
        b"--x y\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n"
        for part in (b"one\r\n", b"\r\n--x other", b"")
    )
    whole = b"preamble\r\n" + body + b"--x y--"
    assert list(_parts(whole, b"x y")) == [b"one\r\n", b"\r\n--x other", b""]
    assert list(_parts(whole[:-cut], b"x y")) == []


def test_no_proxy_is_asked_and_no_redirect_followed(archive, tmp_path, monkeypatch) -> None:
    (dead,) = free_ports(1)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{dead}")
    dicomweb(archive, tmp_path).echo()

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", archive.web_url + "/studies")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.handle_request).start()
        with pytest.raises(DataError, match="HTTP 302"):
            dicomweb(archive, tmp_path, url=f"http://127.0.0.1:{server.server_port}").echo()


def test_https_trusts_the_named_authority_alone(tmp_path) -> None:
    """Orthanc 1.10.1 of Debian ends at the first https request, so a small server stands in."""
    for name in ("right", "wrong"):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / f"{name}.pem")
        if name == "right":
            own = authority.issue_cert("127.0.0.1")

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None: ...

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.configure_cert(context)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever).start()
        url = f"https://127.0.0.1:{server.server_port}/dicom-web"
        try:
            for tls, trusted in (("right", True), ("wrong", False), (None, False)):
                files = None if tls is None else {"ca_file": f"{tls}.pem"}
                values = {"protocol": "dicomweb", "url": url, "tls": files}
                pacs = DicomWebPacs(PacsConfig.model_validate(values), tmp_path)
                if trusted:
                    assert pacs.find_studies(StudyQuery(patient_id="KH-1")) == []
                else:
                    with pytest.raises(DataError, match=r"does not answer.*tls"):
                        pacs.echo()
        finally:
            server.shutdown()


# -- what must be said exactly ------------------------------------------------------------------


@pytest.mark.parametrize("uid", ["", "*", "1.2.*", "1.2?", "1/2", "../x"])
@pytest.mark.parametrize("kind", [DimsePacs, DicomWebPacs])
def test_nothing_and_wildcards_are_no_uid(tmp_path, kind, uid) -> None:
    """To a PACS an empty UID means every study; nothing is asked, so no PACS need answer."""
    config = {
        DimsePacs: {"ae_title": "PACS", "host": "127.0.0.1", "port": 1},
        DicomWebPacs: {"protocol": "dicomweb", "url": "http://127.0.0.1:1"},
    }[kind]
    pacs = kind(PacsConfig(**config), tmp_path)
    with pytest.raises(DataError, match="that is no UID"):
        pacs.find_series(uid)
