"""The rules an object must keep to leave for the PACS, and what every kind of object shares.

The export gate trusts nothing that made the object: it looks at the bytes that would be sent, with
pydicom's raw elements and arithmetic of its own, and never with the writer's or reader's code.
Refusals name the rule and quote nothing of the patient.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from enum import StrEnum
from typing import NoReturn

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import FloatArray, Geometry, MaskArray
from site_agent.deidentification import OriginalIdentity
from site_agent.rtstruct import AI_SUFFIX, NAME_LENGTH, RESEARCH_USE, ReviewSignature

SAME_PLACE_MM = 0.01
LEAST_DICE = 0.99

_DS_BYTES = 16
_UNDEFINED_LENGTH = 0xFFFFFFFF
_DECIMAL = re.compile(rb" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *")
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_UID_LENGTH = 64
# AAPM TG-263, targets: type, classifier, number, suffixes, margin, and what follows "^".
_GROSS_TUMOUR = re.compile(
    r"I?GTV(n|p|sb|par|v|vas)?\d*(_[A-Za-z0-9]+)*(-\d{2})?(\^[A-Za-z0-9_]+)?"
)


class Rule(StrEnum):
    """What an object was refused for; the values are what people and tests go by."""

    UNREADABLE = "unreadable"
    WRONG_KIND = "wrong_kind"
    DS_TOO_LONG = "ds_too_long"
    DS_NO_NUMBER = "ds_no_number"
    PRIVATE_TAG = "private_tag"
    UID_INVALID = "uid_invalid"
    UID_NOT_NEW = "uid_not_new"
    PATIENT_MISMATCH = "patient_mismatch"
    STUDY_MISMATCH = "study_mismatch"
    FRAME_MISMATCH = "frame_mismatch"
    SERIES_MISMATCH = "series_mismatch"
    IMAGES_NOT_LISTED = "images_not_listed"
    PREDECESSOR_MISMATCH = "predecessor_mismatch"
    LABEL_TOO_LONG = "label_too_long"
    RESEARCH_USE_MISSING = "research_use_missing"
    APPROVED_WITHOUT_SIGNATURE = "approved_without_signature"
    APPROVAL_INCOMPLETE = "approval_incomplete"
    REGION_NUMBERS = "region_numbers"
    NAME_TOO_LONG = "name_too_long"
    NAME_NOT_TG263 = "name_not_tg263"
    NAME_NOT_MARKED_AI = "name_not_marked_ai"
    NAME_UNEXPECTED = "name_unexpected"
    ALGORITHM_MISMATCH = "algorithm_mismatch"
    NOT_A_GTV = "not_a_gtv"
    CONTOUR_NOT_CLOSED = "contour_not_closed"
    CONTOUR_IMAGE = "contour_image"
    CONTOUR_POINTS = "contour_points"
    CONTOUR_OFF_PLANE = "contour_off_plane"
    CONTOUR_OUTSIDE = "contour_outside"
    CONTOURS_OVERLAP = "contours_overlap"
    NOT_BINARY = "not_binary"
    GRID_MISMATCH = "grid_mismatch"
    SLICE_MISPLACED = "slice_misplaced"
    MASK_DIFFERS = "mask_differs"


class ExportRefused(DataError):  # noqa: N818 - it says what happened, as PermissionDenied would
    """An object that may not be sent: `rule` says why."""

    def __init__(self, rule: Rule, what: str) -> None:
        super().__init__(
            f"export refused ({rule.value}): {what}; nothing was sent: export again, and if it is "
            "refused again report this rule with the version of fedgtv"
        )
        self.rule = rule


def refuse(rule: Rule, what: str) -> NoReturn:
    """Refuse an object for `what` is wrong with it."""
    raise ExportRefused(rule, what)


@dataclass(frozen=True)
class Expected:
    """What the object to be sent must say.

    Attributes:
        contours: what it must hold, on one grid.
        identity: whose images they were drawn on, from the sealed crosswalk.
        signature: of the oncologist who approved it; None: it must be UNAPPROVED.
        predecessor: SOPInstanceUID of the structure set that it follows; None: it follows none.
        used_uids: of objects sent before, which must not be used again.
    """

    contours: Sequence[Contour]
    identity: OriginalIdentity
    signature: ReviewSignature | None = None
    predecessor: str | None = field(default=None, repr=False)
    used_uids: Collection[str] = field(default=(), repr=False)

    @property
    def geometry(self) -> Geometry:
        """The grid of the images."""
        return self.contours[0].mask.geometry


# --- values --------------------------------------------------------------------------------------


def check_values(dataset: Dataset) -> None:
    """Check every element, nested ones included, as it is in the file: whole, public, DS valid."""
    for raw, vr in _raw_elements(dataset):
        if raw.tag.is_private:
            refuse(Rule.PRIVATE_TAG, f"it holds the private element {raw.tag}")
        value = raw.value or b""
        if raw.length != _UNDEFINED_LENGTH and len(value) < raw.length:
            refuse(Rule.UNREADABLE, "it is cut off")
        if vr != "DS" or not value:
            continue
        for part in value.rstrip(b" \0").split(b"\\"):
            if len(part) > _DS_BYTES:
                refuse(Rule.DS_TOO_LONG, f"a value of {raw.tag} has {len(part)} bytes, not 16")
            if not _DECIMAL.fullmatch(part):
                refuse(Rule.DS_NO_NUMBER, f"a value of {raw.tag} is no decimal number")


def _raw_elements(dataset: Dataset) -> Iterator[tuple[RawDataElement, str]]:
    """Yield each element before pydicom converts it, with its VR; then what sequences hold."""
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        vr = str(raw.VR) if raw.VR else _vr(raw.tag)
        if isinstance(raw, RawDataElement):
            yield raw, vr
        if vr == "SQ":
            for item in dataset[tag].value or ():
                yield from _raw_elements(item)


def _vr(tag: BaseTag) -> str:
    """Look up the VR that an implicit file does not state."""
    try:
        return dictionary_VR(tag)
    except KeyError:  # private, or of a newer standard
        return "UN"


def numbers(item: Dataset, keyword: str) -> FloatArray:
    """Parse the decimal strings of an element from its own bytes, without pydicom's conversion."""
    raw = item.get_item(keyword) if keyword in item else None
    if raw is None:
        return np.empty(0)
    if isinstance(raw, RawDataElement):
        parts = [part for part in (raw.value or b"").rstrip(b" \0").split(b"\\") if part.strip()]
        return np.array([float(part) for part in parts], dtype=np.float64)
    return np.array(raw.value, dtype=np.float64).ravel()


def text(item: Dataset, keyword: str) -> str:
    """Return an element as text without padding; "" where it is absent or empty."""
    value = item.get(keyword, "")
    return "" if value is None else str(value).strip(" \0")


def items(item: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; none where it is absent."""
    return list(item.get(keyword, None) or ())


# --- what every object says ----------------------------------------------------------------------


def check_identity(dataset: Dataset, expected: Expected) -> None:
    """Check patient, study and frame of reference against the crosswalk, and that it is new."""
    identity = expected.identity
    patient = {
        "PatientID": identity.patient_id,
        "PatientName": identity.patient_name,
        "PatientBirthDate": identity.patient_birth_date,
        "PatientSex": identity.patient_sex,
    }
    study = {
        "StudyInstanceUID": identity.study_instance_uid,
        "StudyDate": identity.study_date,
        "StudyTime": identity.study_time,
        "StudyID": identity.study_id,
        "AccessionNumber": identity.accession_number,
    }
    for rule, fields in ((Rule.PATIENT_MISMATCH, patient), (Rule.STUDY_MISMATCH, study)):
        for keyword, value in fields.items():
            if text(dataset, keyword) != value.strip():
                refuse(rule, f"its {keyword} is not that of the images")
    if text(dataset, "FrameOfReferenceUID") != identity.frame_of_reference_uid:
        refuse(Rule.FRAME_MISMATCH, "its frame of reference is not that of the images")
    _check_new(dataset, expected)


def _check_new(dataset: Dataset, expected: Expected) -> None:
    identity = expected.identity
    taken = {
        *expected.used_uids,
        *identity.sop_instance_uids,
        identity.series_instance_uid,
        identity.study_instance_uid,
        identity.frame_of_reference_uid,
    }
    own = [text(dataset, keyword) for keyword in ("SOPInstanceUID", "SeriesInstanceUID")]
    for uid in own:
        if not _UID.fullmatch(uid) or len(uid) > _UID_LENGTH:
            refuse(Rule.UID_INVALID, "a UID of its own is missing or no valid UID")
    if taken & set(own) or own[0] == own[1]:
        refuse(Rule.UID_NOT_NEW, "a UID of its own is that of another object")
    if text(dataset.file_meta, "MediaStorageSOPInstanceUID") != own[0]:
        refuse(Rule.UID_INVALID, "the file's header names another object")


def check_research_use(dataset: Dataset, *keywords: str) -> None:
    """Check that each of these description fields says what this may be used for."""
    for keyword in keywords:
        if RESEARCH_USE not in text(dataset, keyword):
            refuse(Rule.RESEARCH_USE_MISSING, f"{keyword} does not say '{RESEARCH_USE}'")


def check_images_listed(listed: Sequence[Dataset], identity: OriginalIdentity) -> None:
    """Check that all images of the series are named, once, by class and instance."""
    found = sorted(_reference(one) for one in listed)
    wanted = sorted((identity.sop_class_uid, uid) for uid in identity.sop_instance_uids)
    if found != wanted:
        refuse(
            Rule.IMAGES_NOT_LISTED,
            f"it lists {len(found)} images that are not the {len(wanted)} of the series",
        )


def slice_referred_to(references: Sequence[Dataset], identity: OriginalIdentity) -> int:
    """Return the slice of the one image that is referred to."""
    if len(references) == 1:
        sop_class, sop_instance = _reference(references[0])
        if sop_class == identity.sop_class_uid and sop_instance in identity.sop_instance_uids:
            return identity.sop_instance_uids.index(sop_instance)
    refuse(Rule.CONTOUR_IMAGE, "a region's slice does not refer to exactly one image of the series")


def _reference(item: Dataset) -> tuple[str, str]:
    return text(item, "ReferencedSOPClassUID"), text(item, "ReferencedSOPInstanceUID")


def check_approval(dataset: Dataset, expected: Expected) -> None:
    """Check that it is UNAPPROVED, or APPROVED by exactly the person who signed."""
    status = text(dataset, "ApprovalStatus")
    reviewed = [text(dataset, k) for k in ("ReviewerName", "ReviewDate", "ReviewTime")]
    signature = expected.signature
    if signature is None:
        if status == "APPROVED" or any(reviewed):
            refuse(Rule.APPROVED_WITHOUT_SIGNATURE, "it claims an approval that nobody signed")
        if status != "UNAPPROVED":
            refuse(Rule.APPROVAL_INCOMPLETE, "it does not say that it is UNAPPROVED")
        return
    if any(contour.provenance is Provenance.SIMULATED for contour in expected.contours):
        refuse(Rule.APPROVED_WITHOUT_SIGNATURE, "no person drew or reviewed a simulated contour")
    at = signature.signed_at.astimezone(UTC)
    signed = [signature.reviewer, at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")]
    if status != "APPROVED" or reviewed != signed:
        refuse(Rule.APPROVAL_INCOMPLETE, "reviewer, date and time are not those of the signature")


# --- regions -------------------------------------------------------------------------------------


def contours_by_name(names: Sequence[str], expected: Expected) -> list[Contour]:
    """Check the names of the regions and return the contour that each must be."""
    wanted = {_name(contour): contour for contour in expected.contours}
    for name in names:
        if not 0 < len(name) <= NAME_LENGTH:
            refuse(Rule.NAME_TOO_LONG, f"a region's name has {len(name)} characters, not 1 to 16")
        if not _GROSS_TUMOUR.fullmatch(name):
            refuse(Rule.NAME_NOT_TG263, "a region's name is no TG-263 name of a GTV")
        if name not in wanted:
            if name + AI_SUFFIX in wanted:
                refuse(Rule.NAME_NOT_MARKED_AI, f"a program's region lacks '{AI_SUFFIX}'")
            refuse(Rule.NAME_UNEXPECTED, "a region has a name that was not to be exported")
    if sorted(names) != sorted(wanted):
        refuse(Rule.NAME_UNEXPECTED, "a region is missing or there twice")
    return [wanted[name] for name in names]


def _name(contour: Contour) -> str:
    """Say under which name a contour must leave: what no person drew or changed is marked."""
    person = contour.provenance in (
        Provenance.MANUAL,
        Provenance.SEMIAUTOMATIC,
        Provenance.REFERENCE,
    )
    plain = contour.roi_name.strip()
    return plain if person or plain.endswith(AI_SUFFIX) else plain + AI_SUFFIX


def check_algorithm(stated: str, contour: Contour) -> None:
    """Check what the object says about who drew a region."""
    wanted = {
        Provenance.REFERENCE: "",
        Provenance.MANUAL: "MANUAL",
        Provenance.SEMIAUTOMATIC: "SEMIAUTOMATIC",
        Provenance.AUTOMATIC: "AUTOMATIC",
        Provenance.SIMULATED: "AUTOMATIC",
    }[contour.provenance]
    if stated != wanted:
        refuse(Rule.ALGORITHM_MISMATCH, f"a region says that it was drawn {stated or 'unknown'}")


def check_same_region(found: MaskArray, contour: Contour) -> None:
    """Check the region that was read again, slice by slice."""
    meant = contour.mask.voxels
    drawn_on = np.flatnonzero(found.any(axis=(1, 2)))
    meant_on = np.flatnonzero(meant.any(axis=(1, 2)))
    if not np.array_equal(drawn_on, meant_on):
        refuse(
            Rule.SLICE_MISPLACED,
            f"a region is on {len(drawn_on)} slices, which are not the {len(meant_on)} of the "
            "contour",
        )
    for k in meant_on:
        shared = 2.0 * np.count_nonzero(found[k] & meant[k])
        similarity = shared / (np.count_nonzero(found[k]) + np.count_nonzero(meant[k]))
        if similarity < LEAST_DICE:
            refuse(
                Rule.MASK_DIFFERS,
                f"read again, a region agrees with the contour by Dice {similarity:.3f} on slice "
                f"{k}, less than {LEAST_DICE}",
            )


def plane(geometry: Geometry, k: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the first voxel centre of slice `k` and its steps along x and y, `[3]` mm each."""
    corner, along_x, along_y = geometry.points_from_index(
        np.array([[k, 0.0, 0.0], [k, 0.0, 1.0], [k, 1.0, 0.0]])
    )
    return corner, along_x - corner, along_y - corner
