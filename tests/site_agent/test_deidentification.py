"""De-identification: nothing planted survives, references stay intact, the way back is sealed."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID, SecondaryCaptureImageStorage

from algorithms.contracts.errors import DataError
from site_agent.deidentification import (
    deidentify,
    deidentify_volume,
    find_residue,
    mapped_uid,
    original_identity,
    pseudonym,
    seal,
    unseal,
)
from site_agent.dicom_series import read_series
from tests.site_agent import dicom_builder as build

KEY = b"a site's own secret, 32 bytes ok"
SEAL_KEY = Fernet.generate_key()


def dirty_slices() -> list[Dataset]:
    """Plant the identity wherever scanners have been seen to put it."""
    images = build.slices()
    for image in images:
        image.file_meta.SourceApplicationEntityTitle = "Mustermann"
        image.PatientComments = f"{build.PATIENT_NAME}, born 19540317"
        image.StudyDescription = "Annegret's head"
        image.AcquisitionDate = "19540317"
        image.OtherPatientIDs = build.PATIENT_ID
        image.private_block(0x0029, "VENDOR", create=True).add_new(0x01, "LO", "Mustermann")
        image.add_new((0x5000, 0x2500), "LO", "Annegret")  # curve label
        image.add_new((0x6000, 0x0010), "US", 1)
        image.add_new((0x6000, 0x0022), "LO", "Mustermann")  # overlay description
        image.add_new((0x6000, 0x3000), "OB", b"Mustermann")
        nested = Dataset()
        nested.PatientID = build.PATIENT_ID
        nested.ReferencedSOPInstanceUID = f"{build.ROOT}5"
        image.ReferencedImageSequence = pydicom.Sequence([nested])
    return images


def as_bytes(image: Dataset) -> bytes:
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_nothing_planted_survives() -> None:
    planted = (*build.PLANTED, build.FRAME_UID, "VENDOR", "20240102", "STY9", "Alfred")
    for image in dirty_slices():
        assert set(find_residue(as_bytes(image), planted)) == set(planted)
        assert find_residue(as_bytes(deidentify(image, key=KEY)), planted) == []


def test_only_the_allow_list_and_the_statement_of_what_was_done_remain() -> None:
    clean = deidentify(dirty_slices()[0], key=KEY)
    assert not [one.tag for one in clean if one.tag.is_private]
    assert [one.keyword for one in clean if one.tag.group >= 0x5000] == ["PixelData"]
    assert clean.PatientID == clean.PatientName == pseudonym(build.PATIENT_ID, KEY)
    assert not [one.keyword for one in clean if one.VR in ("DA", "TM", "DT") and one.value]
    assert clean.PatientIdentityRemoved == "YES"
    assert [code.CodeValue for code in clean.DeidentificationMethodCodeSequence] == ["113100"]
    assert clean.RecognizableVisualFeatures == "YES"


def test_the_input_is_left_as_it_is() -> None:
    image = dirty_slices()[0]
    before = as_bytes(image)
    deidentify(image, key=KEY)
    assert as_bytes(image) == before


def test_clean_files_are_the_same_volume_under_mapped_uids(tmp_path: Path) -> None:
    images = dirty_slices()
    before = read_series(build.save(images, tmp_path / "before"))
    clean = [deidentify(image, key=KEY) for image in images]
    after = read_series(build.save(clean, tmp_path / "after"))
    expected = deidentify_volume(before, KEY)
    np.testing.assert_array_equal(after.image, before.image)
    assert after.geometry == before.geometry
    assert after.scanner == before.scanner
    for name in (
        "sop_instance_uids",
        "series_instance_uid",
        "study_instance_uid",
        "frame_of_reference_uid",
    ):
        assert getattr(after, name) == getattr(expected, name) != getattr(before, name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "screen capture"),
        ({"PatientID": "  "}, "PatientID"),
        ({"NumberOfFrames": 2}, "single-frame"),
    ],
)
def test_images_that_cannot_be_cleaned_are_refused(change, reason) -> None:
    image = build.slices()[0]
    for keyword, value in change.items():
        setattr(image, keyword, value)
    with pytest.raises(DataError, match=reason):
        deidentify(image, key=KEY)


def test_an_overlay_inside_the_pixels_is_refused() -> None:
    image = build.slices()[0]
    image.add_new((0x6002, 0x0100), "US", 16)
    with pytest.raises(DataError, match="overlay"):
        deidentify(image, key=KEY)


uids = st.lists(st.integers(0, 10**9), min_size=2, max_size=9).map(
    lambda parts: "1.2." + ".".join(map(str, parts))
)


@given(st.sets(uids, min_size=2, max_size=20))
def test_mapped_uids_are_valid_and_distinct(originals: set[str]) -> None:
    mapped = {mapped_uid(uid, KEY) for uid in originals}
    assert len(mapped) == len(originals)
    assert all(UID(uid).is_valid and len(uid) <= 64 for uid in mapped)
    assert mapped.isdisjoint(originals)


def test_substitutes_depend_on_the_key_and_on_nothing_else() -> None:
    other = KEY[::-1]
    assert mapped_uid("1.2.3", KEY) == mapped_uid("1.2.3", KEY) != mapped_uid("1.2.3", other)
    assert pseudonym("1", KEY) == pseudonym("1", KEY) != pseudonym("1", other)
    assert pseudonym("1", KEY)[8:] != pseudonym("1", KEY, prefix="case")[5:]
    assert mapped_uid("", KEY) == ""
    with pytest.raises(ValueError, match="key"):
        mapped_uid("1.2.3", b"short")


def test_the_identity_follows_the_slices_in_z_order() -> None:
    images = build.slices()
    identity = original_identity(images[::-1])
    assert identity.sop_instance_uids == tuple(image.SOPInstanceUID for image in images)
    assert (identity.patient_name, identity.patient_id) == (build.PATIENT_NAME, build.PATIENT_ID)
    assert (identity.study_date, identity.accession_number) == ("20240102", "ACC-5519")
    assert find_residue(repr(identity).encode(), build.PLANTED) == []


def test_images_of_two_patients_have_no_one_identity() -> None:
    images = build.slices()
    images[3].PatientID = "someone else"
    with pytest.raises(DataError, match="differ in PatientID") as refusal:
        original_identity(images)
    assert "someone" not in str(refusal.value)
    with pytest.raises(DataError, match="no images"):
        original_identity([])


def test_a_sealed_identity_opens_with_its_key_alone() -> None:
    identity = original_identity(build.slices())
    sealed = seal(identity, SEAL_KEY)
    assert find_residue(sealed, build.PLANTED) == []
    assert unseal(sealed, SEAL_KEY) == identity
    with pytest.raises(DataError, match="key file"):
        unseal(sealed, Fernet.generate_key())
    with pytest.raises(DataError, match="cannot be opened"):
        unseal(sealed[:-9] + b"AAAAAAAA=", SEAL_KEY)
    with pytest.raises(DataError, match="Fernet key"):
        seal(identity, b"no key")


@given(st.text(min_size=1).filter(str.strip), st.binary(), st.binary())
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_residue_is_found_in_each_encoding(encoding, text, before, after) -> None:
    try:
        data = before + text.encode(encoding) + after
    except UnicodeEncodeError:  # lone surrogates have no encoding
        return
    assert find_residue(data, [text]) == [text]


def test_residue_ignores_case_and_what_is_absent() -> None:
    data = "frau MÜLLER".encode("latin-1")
    assert find_residue(data, ["Müller", "Maier", "", " "]) == ["Müller"]
