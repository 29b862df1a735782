"""A report from files: the same bytes anywhere, signed, and refused when anything was changed."""

import hashlib
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import SiteReportMessage
from evaluation import cli
from evaluation.benchmarks.simulated_reports import SITES, simulate_study
from evaluation.report_files import read_site_reports, write_study_report
from evaluation.report_pdf import render_pdf
from evaluation.report_seal import SEAL_FILE, SIGNED_FILES, ReportSigner, verify_report
from tests.command_here import command_here
from tests.evaluation.report_builders import report
from tests.simulated_site import STUDY, tiny_package

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    """Write the reports of the simulated hospitals, one of which never reported."""
    folder = tmp_path_factory.mktemp("summaries")
    for hospital in simulate_study(np.random.default_rng(6)):
        if hospital.name != "east":
            file = folder / f"{hospital.name}.json"
            file.write_text(hospital.report().model_dump_json(), "utf-8")
    (folder / "ignored.txt").write_text("no report")
    return folder


@pytest.fixture
def key(tmp_path):
    file = tmp_path / "signing.key"
    file.write_text(KEY.private_bytes_raw().hex())
    return file


def run_apart(*arguments, seed):
    command = [
        sys.executable,
        "-c",
        "from evaluation.cli import main; main()",
        *map(str, arguments),
    ]
    environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def digests(folder):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


def test_the_same_summaries_give_the_same_bytes_in_any_process_and_order(summaries, key, tmp_path):
    expected = [option for site in SITES for option in ("--expect", site)]
    first = run_apart(
        "report", summaries, "--output", tmp_path / "a", "--key", key, *expected, seed="1"
    )
    assert first.returncode == 0, first.stderr
    backwards = sorted(summaries.glob("*.json"), reverse=True)
    second = run_apart(
        "report", *backwards, "--output", tmp_path / "b", "--key", key, *expected, seed="2"
    )
    assert second.returncode == 0, second.stderr
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert set(digests(tmp_path / "a")) == {*SIGNED_FILES, SEAL_FILE}
    page = (tmp_path / "a" / "study.html").read_text("utf-8")
    assert "east: no report on this package has arrived" in page
    assert "made from 4 hospital reports" in page


def test_a_signed_report_is_verified_by_the_public_key(summaries, key, tmp_path):
    write_study_report([summaries], tmp_path / "out", key=key)
    done = command_here(cli.main, "verify-report", tmp_path / "out", "--key", PUBLIC)
    assert done.returncode == 0, done.stderr
    assert "study.csv, study.html, study.json are as they were signed" in " ".join(
        done.stdout.split()
    )


def test_the_signature_is_one_that_any_ed25519_checks(summaries, key, tmp_path):
    write_study_report([summaries], tmp_path, key=key)
    seal = json.loads((tmp_path / SEAL_FILE).read_bytes())
    statement = json.dumps(seal["statement"], sort_keys=True, separators=(",", ":")).encode()
    KEY.public_key().verify(bytes.fromhex(seal["signature"]["signature_hex"]), statement)
    assert seal["statement"]["files"] == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in SIGNED_FILES
    }


def _flip(folder, name):
    body = bytearray((folder / name).read_bytes())
    body[len(body) // 2] ^= 1
    (folder / name).write_bytes(bytes(body))


def _edit_seal(folder, edit):
    seal = json.loads((folder / SEAL_FILE).read_bytes())
    edit(seal)
    (folder / SEAL_FILE).write_text(json.dumps(seal))


def _resign(folder, files):
    seal = ReportSigner(KEY).seal("other-study")(files)
    (folder / SEAL_FILE).write_bytes(seal)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: _flip(f, "study.csv"), "study.csv: changed after it was signed"),
        (lambda f: _flip(f, "study.html"), "study.html: changed after it was signed"),
        (lambda f: (f / "study.json").unlink(), "study.json: signed, but not there"),
        (lambda f: (f / SEAL_FILE).unlink(), "the report is not signed"),
        (lambda f: (f / SEAL_FILE).write_text("{}"), "not the signature of a report"),
        (
            lambda f: _edit_seal(f, lambda s: s["statement"].update(study="other")),
            "the signature does not hold",
        ),
        (
            lambda f: _edit_seal(f, lambda s: s["statement"]["files"].pop("study.csv")),
            "the signature does not hold",
        ),
        (
            lambda f: _edit_seal(f, lambda s: s["signature"].update(key_id="0" * 16)),
            "signed by another key",
        ),
        (lambda f: _resign(f, {"study.json": b""}), "does not sign"),
        (
            lambda f: _resign(f, dict.fromkeys(SIGNED_FILES, b"")),
            "changed after it was signed",
        ),
    ],
)
def test_a_changed_report_is_refused(summaries, key, tmp_path, spoil, told):
    folder = tmp_path / "out"
    write_study_report([summaries], folder, key=key)
    verify_report(folder, PUBLIC)
    spoil(folder)
    with pytest.raises(DataError, match=told):
        verify_report(folder, PUBLIC)


def test_a_signature_never_reaches_out_of_its_folder(summaries, key, tmp_path):
    folder = tmp_path / "out"
    write_study_report([summaries], folder, key=key)
    (tmp_path / "secret").write_bytes(b"")
    contents = {name: (folder / name).read_bytes() for name in SIGNED_FILES}
    _resign(folder, contents | {"../secret": b""})
    with pytest.raises(DataError, match="not in its folder"):
        verify_report(folder, PUBLIC)


def test_another_study_key_is_refused(summaries, key, tmp_path):
    write_study_report([summaries], tmp_path, key=key)
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    with pytest.raises(DataError, match="signed by another key"):
        verify_report(tmp_path, other)
    with pytest.raises(DataError, match="not a public key"):
        verify_report(tmp_path, "abc")


def test_an_unsigned_report_takes_an_earlier_signature_away(summaries, key, tmp_path):
    write_study_report([summaries], tmp_path / "out", key=key)
    write_study_report([summaries], tmp_path / "out")
    assert not (tmp_path / "out" / SEAL_FILE).exists()


def test_reports_are_read_bare_or_as_the_message_in_which_they_left(tmp_path):
    one, two = report("north", adapted=[0.7, 0.8]), report("south", adapted=[0.6, 0.9])
    (tmp_path / "a.json").write_text(one.model_dump_json())
    (tmp_path / "b.json").write_text(SiteReportMessage(report=two).model_dump_json())
    assert read_site_reports([tmp_path]) == [one, two]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("[1]", "not a hospital's report of this version"),
        ('{"patient": "Doe^John"}', "not a hospital's report of this version"),
        (None, "cannot be read"),
    ],
)
def test_another_file_is_refused_in_one_line_without_its_content(tmp_path, body, told):
    file = tmp_path / "x.json"
    if body is not None:
        file.write_text(body)
    done = command_here(cli.main, "report", file, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert told in done.stderr
    assert "Doe" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_packages_folder_gives_the_lineage(tmp_path):
    manifest, _ = tiny_package()
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest.signed_bytes())
    made = report("north", adapted=[0.7, 0.8], package_id=manifest.package_id, study=STUDY)
    (tmp_path / "north.json").write_text(made.model_dump_json())
    write_study_report([tmp_path / "north.json"], tmp_path / "out", packages=[folder])
    page = (tmp_path / "out" / "study.html").read_text("utf-8")
    assert "unet2d, 2 base channels, 2 levels" in page
    assert "no signature lay beside it" in page
    with pytest.raises(DataError, match="no report is about it"):
        other = report("north", adapted=[0.7, 0.8])
        (tmp_path / "north.json").write_text(other.model_dump_json())
        write_study_report([tmp_path / "north.json"], tmp_path / "out", packages=[folder])


def test_the_pdf_is_the_same_once_more_and_fetches_nothing(summaries, tmp_path):
    pytest.importorskip("weasyprint")
    write_study_report([summaries], tmp_path, pdf=True)
    printed = (tmp_path / "study.pdf").read_bytes()
    assert printed.startswith(b"%PDF-")
    assert render_pdf((tmp_path / "study.html").read_text("utf-8")) == printed
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        text = Path(__file__).as_uri()
        style = f'<link rel="stylesheet" href="http://127.0.0.1:{port}/a.css">'
        spied = f'{style}<p>a</p><img src="http://127.0.0.1:{port}/b.png">'
        linked = f'<a rel="attachment" href="{text}">b</a>'
        assert render_pdf(spied).startswith(b"%PDF-")
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
        assert b"EmbeddedFile" not in render_pdf(linked)
