"""The scanner finds what was planted, in every form, and takes what is harmless for harmless."""

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from site_agent.residue import (
    OWN_UID_ROOTS,
    Known,
    known_residue,
    residues,
    scan_folder,
    text_residue,
)

KNOWN = Known(
    names=frozenset({"Mustermann^Annegret", "Müller^Jörg", "Li^Wu"}),
    identifiers=frozenset({"KH-77120934", "A117", "1.2.826.0.1.3680043.10.4711.3", "/srv/ours"}),
    dates=frozenset({"19540317"}),
)
NOTHING = Known()
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "latin-1", "utf-32-le", "utf-32-be")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Mustermann^Annegret", "name"),
        ("seen by MUSTERMANN", "name"),
        ("annegret_mustermann.png", "name"),
        ("Fr. Müller", "name"),
        ("JÖRG", "name"),
        ("Li, Wu", "name"),
        ("wu li", "name"),
        ("kh-77120934", "identifier"),
        ("xKH-77120934x", "identifier"),
        ("report of a117.", "identifier"),
        ("series 1.2.826.0.1.3680043.10.4711.3", "identifier"),
        ("/srv/ours/log.txt", "identifier"),
        ("19540317", "date"),
        ("born 1954-03-17", "date"),
        ("17.03.1954", "date"),
        ("1954/03/17", "date"),
        ("03/17/1954", "date"),
    ],
)
def test_what_is_known_is_found(text: str, rule: str) -> None:
    assert known_residue(text, KNOWN) == rule
    assert rule in residues(text.encode(), KNOWN, ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Li",  # a part of two letters alone is nobody's
        "wu and then li",
        "A1174 and BA117",  # a short identifier inside another word
        "1.2.826.0.1.3680043.10.4711.33",  # another UID that starts the same
        "219540317",
        "mustermannia",
    ],
)
def test_what_only_resembles_it_is_not(text: str) -> None:
    assert known_residue(text, KNOWN) is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("patient-0123456789ab", "pseudonym"),
        ("1.2.840.113619.2.5.1762583153", "dicom_uid"),
        ("2.25.1234567890.1", "dicom_uid"),
        ("1.2.840.10008.5.1.4.1.1.4", "dicom_uid"),
        ("/srv/someone/scans", "path"),
        ("C:\\scans", "path"),
        ("\\\\server\\share", "path"),
        ("20240102", "date"),
        ("2024-01-02", "date"),
        ("v1.12.3", None),
        ("20241402", None),
        ("and/or", None),
        ("ab20240102cd20240102", None),  # a hash
    ],
)
def test_look_alikes(text: str, rule: str | None) -> None:
    assert text_residue(text) == rule
    assert text_residue(f"before {text} after") == rule


ROOTS = ("home", "root", "Users", "mnt", "media", "data", "var", "srv", "opt", "tmp", "export")


@pytest.mark.parametrize("root", ROOTS)
def test_a_path_at_any_usual_root_is_found_amid_noise(root: str) -> None:
    assert residues(amid_noise(f"/{root}/someone/scans".encode()), NOTHING) == ["path"]


def test_our_own_uids_and_those_of_the_standard_are_nobodys() -> None:
    ours = "2.25.31415926535897932384626433832795028.1 1.2.840.10008.5.1.4.1.1.4"
    assert text_residue(ours, uid_roots=OWN_UID_ROOTS) is None
    assert text_residue(f"{ours} 1.3.12.2.1107", uid_roots=OWN_UID_ROOTS) == "dicom_uid"
    assert residues(ours.encode(), NOTHING) == []
    assert residues(ours.encode(), NOTHING, uid_roots=()) == ["dicom_uid"]


def test_only_the_rules_asked_for_are_applied() -> None:
    text = "patient-0123456789ab of 20240102 in /srv/someone"
    assert text_residue(text, ("date",)) == "date"
    assert text_residue(text, ()) is None
    assert residues(text.encode(), NOTHING) == ["date", "path", "pseudonym"]


def test_words_of_a_schema_are_nobodys() -> None:
    known = Known(names=frozenset({"Random^Forest"}))
    assert known_residue("strategy random", known) == "name"
    assert known_residue("strategy random", known, own_words={"Random"}) is None
    assert known_residue("random forest", known, own_words={"Random", "Forest"}) == "name"


IN_TEXT = [
    ("Annegret", "name"),
    ("MÜLLER", "name"),
    ("KH-77120934", "identifier"),
    ("1954-03-17", "date"),
]
LOOKING_SO = [("1.2.840.113619.2.5.1762583153", "dicom_uid"), ("/srv/someone/scans", "path")]


def amid_noise(data: bytes) -> bytes:
    noise = np.random.default_rng(4).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    return noise[:2000] + b"\0\x01" + data + b"\0\0\x01" + noise[2000:]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("text", "rule"), IN_TEXT)
def test_what_is_known_is_found_in_binary_data(encoding: str, text: str, rule: str) -> None:
    if text.isascii() or "32" not in encoding:
        assert residues(amid_noise(text.encode(encoding)), KNOWN) == [rule]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize(("text", "rule"), LOOKING_SO)
def test_look_alikes_are_found_in_binary_data(encoding: str, text: str, rule: str) -> None:
    assert residues(amid_noise(text.encode(encoding)), KNOWN) == [rule]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(("text", "rule"), [*IN_TEXT, *LOOKING_SO])
def test_in_text_files(encoding: str, text: str, rule: str) -> None:
    assert residues(f"Grüße: {text}\n".encode(encoding), KNOWN) == [rule]


def test_random_weights_break_no_rule() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float16, np.int16):
        weights = (100 * rng.normal(size=1_000_000)).astype(dtype).tobytes()
        assert residues(weights, KNOWN) == []


def test_inside_zip_and_gzip() -> None:
    text = b"seen: Annegret M., 1.3.12.2.1107.5.2"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", text)
    for packed in (stream.getvalue(), gzip.compress(text)):
        assert residues(packed, KNOWN) == ["dicom_uid", "name"]
        assert residues(packed[:40], KNOWN) == []  # cut off: nothing can be unpacked
    saved = io.BytesIO()
    np.savez_compressed(saved, who=np.array(["Mustermann"]))
    assert residues(saved.getvalue(), KNOWN) == ["name"]


def test_a_folder_is_scanned_with_the_names_in_it(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "a.txt").write_text("nothing, on 2024-01-02")
    (tmp_path / "KH-77120934").mkdir()
    (tmp_path / "clean" / "b.bin").write_bytes(b"\0\x011.3.12.2.1107.5.2\0")
    assert scan_folder(tmp_path, KNOWN) == {
        "KH-77120934": ["identifier"],
        "clean/b.bin": ["dicom_uid"],
    }


@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from(sorted(KNOWN.identifiers)))
def test_a_long_identifier_is_found_in_any_surrounding(before, after, identifier) -> None:
    text = f"{before} {identifier} {after}"
    assert known_residue(text, KNOWN) is not None


def test_what_is_known_is_not_told() -> None:
    assert "Mustermann" not in repr(KNOWN)
    assert "77120934" not in f"{KNOWN}"
