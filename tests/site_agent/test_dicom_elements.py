"""The fast way into a file against pydicom's own, element by element."""

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from algorithms.contracts.errors import DataError
from site_agent import dicom_elements
from site_agent.dicom_elements import numbers, plain_text, read_dataset, read_head, whole_number
from tests.site_agent import dicom_builder as build


def rich(undefined_length: bool) -> Dataset:
    """Make an image with sequences in sequences, private elements and text beyond ASCII."""
    [image] = build.slices((1, 10, 12))
    image.SpecificCharacterSet = "ISO_IR 192"
    image.PatientName = "Müller^Jörg"
    image.ProcedureCodeSequence = Sequence([_nested(3, undefined_length), Dataset()])
    image["ProcedureCodeSequence"].is_undefined_length = undefined_length
    block = image.private_block(0x0029, "ACME", create=True)
    block.add_new(0x01, "OB", bytes(range(256)) * 400)
    block.add_new(0x02, "SQ", Sequence([_nested(1, undefined_length)]))
    return image


def _nested(depth: int, undefined_length: bool) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodeMeaning = str(depth), "Größe"
    item.is_undefined_length_sequence_item = undefined_length
    if depth:
        item.PurposeOfReferenceCodeSequence = Sequence([_nested(depth - 1, undefined_length)])
        item["PurposeOfReferenceCodeSequence"].is_undefined_length = undefined_length
    return item


@pytest.mark.parametrize("undefined_length", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
    ],
)
def test_a_file_reads_as_pydicom_reads_it(
    tmp_path: Path, syntax: str, undefined_length: bool
) -> None:
    image = rich(undefined_length)
    if syntax == RLELossless:
        image.compress(syntax, generate_instance_uid=False)
    image.file_meta.TransferSyntaxUID = syntax
    image.save_as(tmp_path / "a", enforce_file_format=True)
    ours, theirs = read_dataset(tmp_path / "a"), pydicom.dcmread(tmp_path / "a")
    assert list(ours.keys()) == list(theirs.keys())
    for element in theirs:
        assert ours[element.tag] == element, element.tag
    assert ours.file_meta == theirs.file_meta
    assert ours.original_encoding == theirs.original_encoding
    np.testing.assert_array_equal(ours.pixel_array, theirs.pixel_array)


@pytest.mark.parametrize("undefined_length", [False, True])
def test_usual_files_are_walked_without_pydicom(
    tmp_path: Path, undefined_length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rich(undefined_length).save_as(tmp_path / "a", enforce_file_format=True)
    monkeypatch.setattr(dicom_elements.pydicom, "dcmread", None)
    assert read_dataset(tmp_path / "a").PatientName == "Müller^Jörg"
    assert read_dataset(tmp_path / "a").ProcedureCodeSequence[0].CodeMeaning == "Größe"


def test_real_files_read_as_pydicom_reads_them(data_packs: Path) -> None:
    files = [f for f in sorted((data_packs / "dicom").rglob("*")) if f.is_file()]
    compared = 0
    for file in files[:: max(1, len(files) // 120)]:
        try:
            theirs = pydicom.dcmread(file)
        except pydicom.errors.InvalidDicomError:
            with pytest.raises(DataError):
                read_dataset(file)
            continue
        if "SOPClassUID" not in theirs:
            continue
        ours = read_dataset(file)
        assert ours == theirs, file
        compared += 1
    assert compared > 60


@given(st.data())
def test_a_cut_anywhere_is_refused_or_loses_nothing_but_whole_elements(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("cut") / "a"
    build.slices((1, 10, 12))[0].save_as(file, enforce_file_format=True)
    whole, content = read_dataset(file), file.read_bytes()
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = read_dataset(file)
    except DataError as error:
        assert "\n" not in str(error)
        assert not [word for word in build.PLANTED if word.lower() in str(error).lower()]
    else:
        assert all(found[tag] == whole[tag] for tag in found.keys())  # noqa: SIM118


def test_a_length_beyond_the_file_is_refused(tmp_path: Path) -> None:
    build.slices((1, 10, 12))[0].save_as(tmp_path / "a", enforce_file_format=True)
    content = (tmp_path / "a").read_bytes()
    at = content.index(struct.pack("<HH", 0x7FE0, 0x0010)) + 8
    for length in (0xFFFFFFFE, 0x7FFFFFFF, len(content)):
        (tmp_path / "a").write_bytes(content[:at] + struct.pack("<L", length) + content[at + 4 :])
        with pytest.raises(DataError, match="truncated"):
            read_dataset(tmp_path / "a")


def test_the_head_holds_what_was_asked_for_or_nothing(tmp_path: Path) -> None:
    image = rich(undefined_length=False)
    image.save_as(tmp_path / "a", enforce_file_format=True)
    wanted = ("SOPClassUID", "SeriesInstanceUID", "Rows", "Columns")
    head = read_head(tmp_path / "a", wanted)
    assert head is not None
    assert {element.keyword for element in head} == set(wanted)
    assert all(head[keyword] == image[keyword] for keyword in wanted)
    # the private element of 100 kB lies before these
    assert read_head(tmp_path / "a", ("SOPClassUID", "PixelData")) is None
    image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    image.save_as(tmp_path / "b", enforce_file_format=True)
    assert read_head(tmp_path / "b", wanted) is None


@given(st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=6))
def test_numbers_are_those_of_pydicom(values: list[float]) -> None:
    dataset = Dataset()
    dataset.ImagePositionPatient = [f"{value:.6g}" for value in values]
    found = numbers(dataset, "ImagePositionPatient")
    raw = _as_raw(dataset)
    assert found == numbers(raw, "ImagePositionPatient")
    np.testing.assert_allclose(found, values, rtol=1e-5)


def _as_raw(dataset: Dataset) -> Dataset:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filereader import read_dataset as parse
    from pydicom.filewriter import write_dataset

    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset)
    stream.seek(0)
    return parse(stream, is_implicit_VR=False, is_little_endian=True)


def test_absent_and_empty_values() -> None:
    dataset = Dataset()
    dataset.Rows, dataset.Modality, dataset.PixelSpacing = 7, "MR", None
    dataset.Columns = None
    for one in (dataset, _as_raw(dataset)):
        assert (whole_number(one, "Rows"), whole_number(one, "Columns", 5)) == (7, 5)
        assert whole_number(one, "BitsStored", 12) == 12
        assert (plain_text(one, "Modality"), plain_text(one, "SOPInstanceUID")) == ("MR", "")
    with pytest.raises(KeyError):
        numbers(Dataset(), "PixelSpacing")
    with pytest.raises((TypeError, ValueError)):
        numbers(dataset, "PixelSpacing")
