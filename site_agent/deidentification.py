"""Take the patient out of the images, and keep the way back sealed inside the hospital.

De-identification is by allow-list: what `KEPT` does not name is gone, so a tag nobody thought of
cannot leak (stricter than the Basic Profile of DICOM PS3.15 Annex E). Patients and UIDs get keyed
substitutes: the same key gives the same substitute, so references between objects stay intact, and
without the key nobody can test a guess. Faces are *not* removed from head images (option 113102 is
not done) and pixels with text burned in are refused, not cleaned.

The way back is `OriginalIdentity`, which an exported RTSTRUCT needs; it is stored only through
`seal`, under a key kept apart from the database.
"""

import hashlib
import hmac
import json
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

from cryptography.fernet import Fernet, InvalidToken
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian

from algorithms.contracts.canonical_json import canonical_json
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Volume
from site_agent.dicom_elements import plain_text, tag_of
from site_agent.dicom_series import order_along_normal
from site_agent.residue import find_residue as find_residue  # the scanner lives there

MINIMUM_KEY_BYTES = 16

KEPT = (
    # what kind of object, which kind of scanner
    "SOPClassUID", "ImageType", "Modality", "Manufacturer", "ManufacturerModelName",
    "MagneticFieldStrength", "BodyPartExamined", "BurnedInAnnotation",
    # acquisition
    "ScanningSequence", "SequenceVariant", "MRAcquisitionType", "RepetitionTime", "EchoTime",
    "InversionTime", "EchoTrainLength", "FlipAngle", "NumberOfAverages", "ImagingFrequency",
    "PixelBandwidth", "KVP", "Units", "DecayCorrection", "InstanceNumber",
    # place in the patient
    "PatientPosition", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness",
    "SpacingBetweenSlices", "SliceLocation", "PixelSpacing", "PositionReferenceIndicator",
    # pixels
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "RescaleIntercept",
    "RescaleSlope", "WindowCenter", "WindowWidth", "LossyImageCompression",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod", "PixelData",
)  # fmt: skip
MAPPED_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_EMPTIED = (  # required to be present (type 2), but without a value
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "SeriesNumber",
)  # fmt: skip
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kinds below it


@dataclass(frozen=True)
class OriginalIdentity:
    """Whose images these are: what an object needs to be filed in the hospital's PACS.

    Attributes:
        sop_instance_uids: one per slice in z order, like `Volume.sop_instance_uids`.
        sop_class_uid: of the images.
        frame_numbers: of the slices, counted from 1, where they are frames of enhanced images.
        study_date: DICOM DA; `study_time`: DICOM TM; "" where the images do not say.
    """

    patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    sop_class_uid: str
    sop_instance_uids: tuple[str, ...]
    study_date: str = ""
    study_time: str = ""
    study_id: str = ""
    accession_number: str = ""
    frame_numbers: tuple[int, ...] = ()

    def __repr__(self) -> str:
        """Say nothing about the patient, so that a stray log line cannot either."""
        return f"OriginalIdentity(<sealed>, {len(self.sop_instance_uids)} images)"


def pseudonym(identifier: str, key: bytes, prefix: str = "patient") -> str:
    """Name a patient (or, with another prefix, a case) by a keyed hash.

    pseudonym = prefix + "-" + first 12 hexadecimal digits of HMAC-SHA256(key, prefix ":" id)

    >>> pseudonym("0815", b"0123456789abcdef") == pseudonym(" 0815 ", b"0123456789abcdef")
    True

    Raises:
        DataError: `identifier` is blank, so that all such patients would become one.
    """
    refuse_nameless(identifier)
    return f"{prefix}-{_keyed_hash(f'{prefix}:{identifier.strip()}', key).hex()[:12]}"


def refuse_nameless(identifier: str) -> None:
    """Refuse a blank identifier.

    Raises:
        DataError: it is.
    """
    if not identifier.strip():
        raise DataError("the images carry no PatientID: set one on export, one per patient")


def mapped_uid(uid: str, key: bytes) -> str:
    """Replace a UID by a keyed one below the root for UUIDs, 2.25 (PS3.5 B.2); "" stays "".

    >>> mapped_uid("1.2.3", b"0123456789abcdef")[:5]
    '2.25.'
    """
    if not uid:
        return ""
    digest = _keyed_hash(f"uid:{uid}", key)
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def deidentify(dataset: Dataset, *, key: bytes) -> Dataset:
    """Return a new image that holds only the allow-list `KEPT` and keyed substitutes.

    Args:
        dataset: one image; left as it is.
        key: the site's secret for substitutes, at least 16 bytes.

    Raises:
        DataError: no image, no PatientID, or the pixels may show the patient's name.
    """
    refuse_unfit(dataset)
    patient = pseudonym(str(dataset.get("PatientID", "") or ""), key)
    clean = Dataset()
    for keyword in KEPT:
        if keyword in dataset:
            clean[keyword] = dataset[keyword]
    for keyword in MAPPED_UIDS:
        if keyword in dataset:
            setattr(clean, keyword, mapped_uid(str(dataset[keyword].value), key))
    for keyword in _EMPTIED:
        setattr(clean, keyword, "")
    clean.PatientName = clean.PatientID = patient
    _state_method(clean)
    clean.file_meta = _file_meta(dataset, clean)
    return clean


def deidentify_volume(volume: Volume, key: bytes) -> Volume:
    """Return the volume with keyed UIDs; the grey values and the grid stay."""
    return replace(
        volume,
        frame_of_reference_uid=mapped_uid(volume.frame_of_reference_uid, key),
        series_instance_uid=mapped_uid(volume.series_instance_uid, key),
        study_instance_uid=mapped_uid(volume.study_instance_uid, key),
        sop_instance_uids=tuple(mapped_uid(uid, key) for uid in volume.sop_instance_uids),
    )


def original_identity(datasets: Sequence[Dataset]) -> OriginalIdentity:
    """Collect whose images these are from the headers of one series, in any order.

    Raises:
        DataError: there are no images, or they are of several patients, studies or series.
    """
    if not datasets:
        raise DataError("no images: give the headers of one series")
    ordered = [datasets[i] for i in order_along_normal(datasets)]

    def shared(keyword: str) -> str:
        different = {_stored(one, keyword): one for one in ordered}  # decoding each costs time
        values = {str(one.get(keyword, "") or "").strip() for one in different.values()}
        if len(values) > 1:
            raise DataError(f"the images of one series differ in {keyword}: export them again")
        return values.pop()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes malformed values in its warnings
        return OriginalIdentity(
            patient_id=shared("PatientID"),
            patient_name=shared("PatientName"),
            patient_birth_date=shared("PatientBirthDate"),
            patient_sex=shared("PatientSex"),
            study_instance_uid=shared("StudyInstanceUID"),
            series_instance_uid=shared("SeriesInstanceUID"),
            frame_of_reference_uid=shared("FrameOfReferenceUID"),
            sop_class_uid=shared("SOPClassUID"),
            sop_instance_uids=tuple(plain_text(one, "SOPInstanceUID") for one in ordered),
            study_date=shared("StudyDate"),
            study_time=shared("StudyTime"),
            study_id=shared("StudyID"),
            accession_number=shared("AccessionNumber"),
            frame_numbers=_frame_numbers(ordered),
        )


def _stored(header: Dataset, keyword: str) -> tuple[bytes | str, str]:
    """Return what tells one stored value from another: its bytes, and how they are read."""
    element = header.get_item(tag_of(keyword))
    value = None if element is None else element.value
    return (value if isinstance(value, bytes) else str(value)), str(header.original_character_set)


def _frame_numbers(headers: Sequence[Dataset]) -> tuple[int, ...]:
    """Return which frame of its file each slice is; nothing where slices are whole files."""
    before = [header.get("ConcatenationFrameOffsetNumber", None) for header in headers]
    return () if None in before else tuple(int(number) + 1 for number in before)


def seal(identity: OriginalIdentity, key: bytes) -> bytes:
    """Encrypt an identity for storage (Fernet: AES-128-CBC with HMAC-SHA256; JSON inside).

    Args:
        identity: what to hide.
        key: from `cryptography.fernet.Fernet.generate_key`, stored apart from what it seals.
    """
    return _fernet(key).encrypt(canonical_json(asdict(identity)))


def unseal(sealed: bytes, key: bytes) -> OriginalIdentity:
    """Decrypt what `seal` made.

    Raises:
        DataError: wrong key, changed bytes, or an entry of another version.
    """
    try:
        found = json.loads(_fernet(key).decrypt(sealed))
    except InvalidToken as error:
        raise DataError(
            "a sealed identity cannot be opened: use the key file it was sealed with"
        ) from error
    found.setdefault("frame_numbers", [])  # sealed before enhanced images were read
    if set(found) != {field.name for field in fields(OriginalIdentity)}:
        raise DataError("a sealed identity has other fields: import the series again")
    for several in ("sop_instance_uids", "frame_numbers"):
        found[several] = tuple(found[several])
    return OriginalIdentity(**found)


def _keyed_hash(text: str, key: bytes) -> bytes:
    if len(key) < MINIMUM_KEY_BYTES:
        raise ValueError(f"the key has {len(key)} bytes; at least {MINIMUM_KEY_BYTES} are needed")
    return hmac.new(key, text.encode("utf-8"), hashlib.sha256).digest()


def _fernet(key: bytes) -> Fernet:
    try:
        return Fernet(key)
    except ValueError as error:
        raise DataError("no Fernet key: copy it back from where you keep the keys") from error


def refuse_unfit(dataset: Dataset) -> None:
    """Refuse what is no single image and what may show text that no tag rule can remove."""
    if any(keyword not in dataset for keyword in ("Rows", "SOPClassUID", "SOPInstanceUID")):
        raise DataError("only images are de-identified: give image files")
    if int(dataset.get("NumberOfFrames", None) or 1) > 1:
        raise DataError("only single-frame images are de-identified: export classic images")
    burned_in = plain_text(dataset, "BurnedInAnnotation").upper()
    captured = plain_text(dataset, "SOPClassUID").startswith(_SECONDARY_CAPTURE)
    if burned_in == "YES" or (captured and burned_in != "NO"):
        raise DataError(
            "the image may have patient data burned into its pixels (BurnedInAnnotation, or a "
            "screen capture that does not deny it): use the original acquisition"
        )
    tags = map(int, dataset.keys())
    overlays = {tag for tag in tags if 0x60000000 <= tag < 0x60200000}
    for tag in overlays:
        if tag & 0xFFFF == 0x0100 and (tag & ~0xFFFF | 0x3000) not in overlays:
            raise DataError(
                "the image has an overlay inside its pixel bits: export it without overlays"
            )


def _state_method(clean: Dataset) -> None:
    """Record what was done and what was not (PS3.15 E.1.1, PS3.16 CID 7050)."""
    clean.PatientIdentityRemoved = "YES"
    clean.LongitudinalTemporalInformationModified = "REMOVED"
    clean.RecognizableVisualFeatures = "YES"  # a head: 113102 is not done
    clean.DeidentificationMethod = [
        "Tag allow-list, keyed UIDs, dates removed",
        "Recognizable visual features not cleaned",
    ]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    clean.DeidentificationMethodCodeSequence = DicomSequence([code])


def _file_meta(dataset: Dataset, clean: Dataset) -> FileMetaDataset:
    """Start the file header anew: the old one names the sending application of the hospital."""
    old = getattr(dataset, "file_meta", Dataset())
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = old.get("TransferSyntaxUID", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID = clean.SOPClassUID
    meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    return meta
