"""Read and write RTSTRUCT: contours in patient coordinates to masks on a grid, and back.

Definition of a mask: a voxel belongs to a region when its centre lies inside an odd number of the
polygons of its slice (even-odd rule), so a contour inside a contour is a hole. Contours are placed
by where their points are, never by the image they claim to refer to; `placement_of` says whether
the references would have agreed. What is written is traced half way between voxel centres, so that
reading it gives the same mask.

Research use only, not a medical device: written into every structure set.
"""

import hashlib
import logging
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import reduce
from itertools import pairwise
from pathlib import Path

import contourpy
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ImplicitVRLittleEndian, RTStructureSetStorage
from scipy.spatial import cKDTree

from algorithms.contour_filling import rasterise
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import FloatArray, Geometry, Mask, MaskArray, Volume
from site_agent.deidentification import OriginalIdentity
from site_agent.dicom_elements import is_cut_off, without_remarks

RESEARCH_USE = "Research use only, not a medical device"
NAME_LENGTH = 16  # TG-263 names and the VR of StructureSetLabel
AI_SUFFIX = "^AI"
DRAWN_BY_PROGRAM = (Provenance.AUTOMATIC, Provenance.SIMULATED)

_PERSON_NAME = 64  # characters of a PN component group (PS3.5 6.2)

_OFF_PLANE = 0.5 + 1e-3  # slices; the thousandth is for rounding in the file
_SAME_PLANE = 2  # decimals of the slice index to which two contours share a plane
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # retired, and still what PS3.3 C.8.8.5 readers expect
_ALGORITHM = {
    Provenance.REFERENCE: "",  # type 2: unknown, it came in with the images
    Provenance.AUTOMATIC: "AUTOMATIC",
    Provenance.SEMIAUTOMATIC: "SEMIAUTOMATIC",
    Provenance.MANUAL: "MANUAL",
    Provenance.SIMULATED: "AUTOMATIC",  # a program drew it; the description says which kind
}
_log = logging.getLogger(__name__)


class Placement(StrEnum):
    """What ties contours to an image series."""

    BY_REFERENCE = "by_reference"  # they also name images of the series
    BY_GEOMETRY = "by_geometry"  # only their coordinates do


@dataclass(frozen=True)
class ReviewSignature:
    """An oncologist's electronic signature: the one thing that makes a structure set APPROVED.

    Attributes:
        reviewer: DICOM person name, such as "Family^Given"; at most 64 characters.
        signed_at: when, with its time zone.
    """

    reviewer: str
    signed_at: datetime

    def __post_init__(self) -> None:
        if self.signed_at.tzinfo is None:
            raise ValueError("signed_at has no time zone")
        printable = self.reviewer.isprintable() and not set(self.reviewer) & set("\\=")
        if not self.reviewer.strip("^ ") or len(self.reviewer) > _PERSON_NAME or not printable:
            raise DataError(
                "an approval needs the reviewer's name: give it as Family^Given, with at most "
                f"{_PERSON_NAME} characters and neither backslash nor equals sign"
            )

    def __repr__(self) -> str:
        """Say nothing about the person, so that a stray log line cannot either."""
        return "ReviewSignature(<reviewer>)"


def read_rtstruct(
    file: Path, volume: Volume, *, names: Collection[str] | None = None
) -> dict[str, Mask]:
    """Read regions of interest onto the grid of `volume`, by their names.

    A region without contours is an empty mask; point and open contours enclose nothing. Where
    contours were drawn on planes finer than the slices, each slice takes the plane nearest to it.

    Args:
        file: an RTSTRUCT of the same patient, not de-identified.
        volume: the images it was drawn on, with their original UIDs.
        names: the regions wanted, compared as `folded`; the others are not looked at. None: all.

    Raises:
        DataError: no whole RTSTRUCT, another frame of reference, a contour that misses the grid,
            or two regions of one name.
    """
    structure_set = _read(file)
    wanted = None if names is None else {folded(name) for name in names}
    with _named_when_damaged(file):
        if _placement(structure_set, volume) is Placement.BY_GEOMETRY:
            _log.warning("contours refer to no image of the series: placed by geometry")
        return _regions(structure_set, volume, wanted, file)


def folded(name: str) -> str:
    """Return the form in which two names of a region are compared: no outer blanks, no capitals."""
    return name.strip().casefold()


def placement_of(file: Path, volume: Volume) -> Placement:
    """Say whether the contours of `file` name images of `volume` or only share its coordinates.

    Raises:
        DataError: `file` is no readable RTSTRUCT.
    """
    structure_set = _read(file)
    with _named_when_damaged(file):
        return _placement(structure_set, volume)


def trace(mask_yx: MaskArray) -> list[FloatArray]:
    """Outline each connected part of a mask by one closed polygon `[n, 2]` (x, y) in pixel indices.

    The outline is the 0.5 level between pixel centres (marching squares), without the points that
    lie on a straight line between their neighbours. No pixel centre lies on it, so `rasterise`
    gives the mask back. A hole hangs on its outline by a keyhole, a channel without width (PS3.3
    C.8.8.6.3): a contour of its own would be filled by readers that unite contours.
    """
    level = contourpy.contour_generator(
        z=np.pad(mask_yx, 1).astype(np.float64), fill_type=contourpy.FillType.OuterOffset
    )
    polygons = []
    for points, offsets in zip(*level.filled(0.5, np.inf), strict=True):
        rings = [
            _without_straight_points(np.asarray(points[start : end - 1]) - 1.0)  # undo the padding
            for start, end in pairwise(int(offset) for offset in offsets)
        ]
        polygons.append(reduce(_join_by_keyhole, rings))
    return polygons


def exported_name(contour: Contour) -> str:
    """Name a region in the PACS: a program's contour is marked, so it never replaces a person's.

    Raises:
        DataError: the name is blank or too long for TG-263.
    """
    name = contour.roi_name.strip()
    if contour.provenance in DRAWN_BY_PROGRAM and not name.endswith(AI_SUFFIX):
        name += AI_SUFFIX
    if not 0 < len(name) <= NAME_LENGTH:
        raise DataError(
            f"a region's exported name has {len(name)} characters: give it a TG-263 name of 1 to "
            f"{NAME_LENGTH}"
        )
    return name


def write_rtstruct(
    volume: Volume,
    contours: Sequence[Contour],
    *,
    identity: OriginalIdentity,
    label: str,
    now: datetime,
    signature: ReviewSignature | None = None,
    predecessor: str | None = None,
) -> Dataset:
    """Build the RTSTRUCT (PS3.3 A.19) that gives contours back to the PACS of the hospital.

    It carries the *original* patient and UIDs. Save it with
    `dataset.save_as(path, enforce_file_format=True)`.

    Args:
        volume: the images the contours were drawn on; de-identified or not.
        contours: regions on the grid of `volume`, each under its own name.
        identity: of the same images, slices in the same order.
        label: StructureSetLabel, at most 16 characters.
        now: time of writing, with its time zone; recorded in UTC.
        signature: of the oncologist who approved it; None leaves the set UNAPPROVED.
        predecessor: SOPInstanceUID of the structure set that this one follows.

    Raises:
        DataError: the images have no or another frame of reference, a name does not fit, or a
            simulated contour is to be approved.
        ValueError: contours, volume and identity do not belong together, or `now` has no zone.
    """
    check_belong_together(volume, contours, identity, now)
    if not 0 < len(label) <= NAME_LENGTH:
        raise ValueError(f"label has {len(label)} characters, not 1 to {NAME_LENGTH}")
    _check_signature(signature, contours, now)
    utc = now.astimezone(UTC)
    result = Dataset()
    _add_patient_and_study(result, identity)
    signed = "" if signature is None else f"{signature.reviewer} {signature.signed_at.isoformat()}"
    uid = derived_uid(
        identity.series_instance_uid,
        label,
        utc.isoformat(),
        predecessor or "",
        signed,
        content_sha256(contours),
    )
    _add_series(result, identity, utc, uid)
    result.StructureSetLabel = label
    result.StructureSetDescription = RESEARCH_USE
    result.StructureSetDate, result.StructureSetTime = utc.strftime("%Y%m%d"), _time(utc)
    result.ReferencedFrameOfReferenceSequence = DicomSequence([_frame_reference(identity)])
    numbered = list(enumerate(contours, start=1))
    result.StructureSetROISequence = DicomSequence(
        [_structure_set_roi(number, contour, identity) for number, contour in numbered]
    )
    result.ROIContourSequence = DicomSequence(
        [_roi_contour(number, contour, identity) for number, contour in numbered]
    )
    result.RTROIObservationsSequence = DicomSequence(
        [_observation(number) for number, _ in numbered]
    )
    result.ApprovalStatus = "UNAPPROVED" if signature is None else "APPROVED"
    if signature is not None:
        at = signature.signed_at.astimezone(UTC)
        result.ReviewDate, result.ReviewTime = at.strftime("%Y%m%d"), _time(at)
        result.ReviewerName = signature.reviewer
    if predecessor is not None:
        result.PredecessorStructureSetSequence = DicomSequence(
            [_reference(RTStructureSetStorage, predecessor)]
        )
    return result


# --- reading -------------------------------------------------------------------------------------


def _read(file: Path) -> Dataset:
    try:
        with without_remarks():
            structure_set: Dataset = pydicom.dcmread(file)
            cut_off = any(map(is_cut_off, structure_set.values()))
            is_structure_set = structure_set.get("SOPClassUID") == RTStructureSetStorage
    except Exception as error:
        # pydicom raises whatever a broken byte leads to; to the user all are one message
        raise DataError(f"{file} is not a complete DICOM file: export it again") from error
    if cut_off:
        raise DataError(f"{file} is not a complete DICOM file: export it again")
    if not is_structure_set or not structure_set.get("StructureSetROISequence"):
        raise DataError(f"{file} is not an RTSTRUCT with regions of interest: give the RTSTRUCT")
    return structure_set


@contextmanager
def _named_when_damaged(file: Path) -> Iterator[None]:
    """Name the file whatever fails inside: pydicom decodes, and breaks, where a value is used."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{file} is a damaged or invalid RTSTRUCT: export it again") from error


def _regions(
    structure_set: Dataset, volume: Volume, wanted: set[str] | None, file: Path
) -> dict[str, Mask]:
    contours = {
        int(item.ReferencedROINumber): item.get("ContourSequence", None) or []
        for item in structure_set.get("ROIContourSequence", None) or []
    }
    masks: dict[str, Mask] = {}
    for roi in structure_set.StructureSetROISequence:
        number = int(roi.ROINumber)
        name = str(roi.get("ROIName", "") or f"ROI_{number}").strip()
        if wanted is not None and folded(name) not in wanted:
            continue
        where = f"{file}, ROI {number}"
        if name in masks:
            raise DataError(f"{where}: a second region of this name: rename or delete one")
        if number not in contours:
            raise DataError(f"{where}: its item of ROIContourSequence is missing: export it again")
        _check_frame(structure_set, roi, volume, where)
        masks[name] = _mask(contours[number], volume.geometry, where)
    return masks


def _placement(structure_set: Dataset, volume: Volume) -> Placement:
    referenced = {
        str(image.get("ReferencedSOPInstanceUID", ""))
        for roi in structure_set.get("ROIContourSequence", None) or []
        for contour in roi.get("ContourSequence", None) or []
        for image in contour.get("ContourImageSequence", None) or []
    }
    agree = referenced & set(volume.sop_instance_uids)
    return Placement.BY_REFERENCE if agree else Placement.BY_GEOMETRY


def _check_frame(structure_set: Dataset, roi: Dataset, volume: Volume, where: str) -> None:
    """Refuse coordinates of another system.

    What the region says counts when the structure set lists that frame; where the file contradicts
    itself (it happens), either of the two may match.
    """
    listed = {
        str(item.get("FrameOfReferenceUID", ""))
        for item in structure_set.get("ReferencedFrameOfReferenceSequence", None) or []
    }
    own = str(roi.get("ReferencedFrameOfReferenceUID", ""))
    stated = ({own} if own in listed else listed | {own}) - {""}
    if stated and volume.frame_of_reference_uid and volume.frame_of_reference_uid not in stated:
        raise DataError(
            f"{where}: drawn in another frame of reference than the images: give the RTSTRUCT of "
            "this series, or register the two first"
        )


def _mask(contours: Sequence[Dataset], geometry: Geometry, where: str) -> Mask:
    """Fill one region; the points go through the grid's own inverse, so oblique grids work."""
    planes: dict[int, dict[float, list[FloatArray]]] = defaultdict(lambda: defaultdict(list))
    for contour in contours:
        if str(contour.get("ContourGeometricType", "")) not in _CLOSED:
            continue
        index_zyx = geometry.index_from_points(_points(contour, where))
        height = float(index_zyx[:, 0].mean())
        k = int(np.clip(round(height), 0, geometry.shape_zyx[0] - 1))
        if np.abs(index_zyx[:, 0] - k).max() > _OFF_PLANE:
            raise DataError(
                f"{where}: a contour lies more than half a slice off every slice: give the "
                "RTSTRUCT that was drawn on this series"
            )
        low, high = index_zyx[:, 1:].min(axis=0), index_zyx[:, 1:].max(axis=0)
        if (high < -0.5).any() or (low > np.array(geometry.shape_zyx[1:]) - 0.5).any():
            raise DataError(
                f"{where}: a contour lies beside the image: give the RTSTRUCT that was drawn on "
                "this series"
            )
        planes[k][round(height, _SAME_PLANE)].append(index_zyx[:, :0:-1])
    voxels = np.zeros(geometry.shape_zyx, dtype=bool)
    for k, by_height in planes.items():
        nearest = min(by_height, key=lambda height: abs(height - k))
        voxels[k] = rasterise(by_height[nearest], geometry.shape_zyx[1:])
    return Mask(voxels, geometry)


def _points(contour: Dataset, where: str) -> FloatArray:
    """Corners `[n, 3]` (x, y, z) mm of one contour."""
    try:
        numbers = np.array([float(part) for part in contour.ContourData], dtype=np.float64)
        points = numbers.reshape(-1, 3)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{where}: ContourData is no list of points: export it again") from error
    if not points.size or not np.isfinite(points).all():
        raise DataError(f"{where}: ContourData is no list of points: export it again")
    return points


def _without_straight_points(polygon: FloatArray) -> FloatArray:
    before, after = polygon - np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0) - polygon
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return polygon[np.abs(turns) > 1e-9]


def _join_by_keyhole(outline: FloatArray, hole: FloatArray) -> FloatArray:
    """Walk to the hole at the nearest pair of corners, around it, and back the same way.

    The two ways cancel exactly under the even-odd rule, because their ends are the same numbers.
    """
    distance, nearest = cKDTree(outline).query(hole)
    j = int(np.argmin(distance))
    i = int(np.asarray(nearest)[j])
    around = np.roll(hole, -j, axis=0)
    return np.concatenate([outline[: i + 1], around, hole[j : j + 1], outline[i:]])


# --- writing -------------------------------------------------------------------------------------


def check_belong_together(
    volume: Volume, contours: Sequence[Contour], identity: OriginalIdentity, now: datetime
) -> None:
    """Refuse to write contours on images that they were not drawn on.

    Raises:
        DataError: the images have no or another frame of reference, or a name does not fit.
        ValueError: contours, volume and identity do not belong together, or `now` has no zone.
    """
    if now.tzinfo is None:
        raise ValueError("now has no time zone")
    if len(identity.sop_instance_uids) != volume.geometry.shape_zyx[0]:
        raise ValueError("identity and volume have different numbers of slices")
    if not contours or not all(one.mask.geometry.matches(volume.geometry) for one in contours):
        raise ValueError("contours must be given, on the grid of the volume")
    names = [exported_name(contour) for contour in contours]
    if len(set(names)) < len(names):
        raise ValueError("two contours have one name")
    if not identity.frame_of_reference_uid:
        raise DataError("the images have no FrameOfReferenceUID: contours cannot be tied to them")
    # A de-identified volume has other UIDs throughout; `pacs_export` compares those by the key.
    if set(volume.sop_instance_uids) & set(identity.sop_instance_uids):
        if volume.sop_instance_uids != identity.sop_instance_uids:
            raise ValueError("identity and volume have their slices in another order")
        if volume.frame_of_reference_uid != identity.frame_of_reference_uid:
            raise DataError(
                "the contours were drawn in another frame of reference than the images have: "
                "ingest the series again"
            )


def _check_signature(
    signature: ReviewSignature | None, contours: Sequence[Contour], now: datetime
) -> None:
    if signature is None:
        return
    if signature.signed_at > now:
        raise DataError("the signature lies in the future: set the clock right and sign again")
    if any(one.provenance is Provenance.SIMULATED for one in contours):
        raise DataError("a simulated annotator's contour cannot be approved: have a person draw it")


def _add_patient_and_study(result: Dataset, identity: OriginalIdentity) -> None:
    result.SpecificCharacterSet = "ISO_IR 192"
    result.PatientName, result.PatientID = identity.patient_name, identity.patient_id
    result.PatientBirthDate = identity.patient_birth_date
    result.PatientSex = identity.patient_sex
    result.StudyInstanceUID = identity.study_instance_uid
    result.StudyDate, result.StudyTime = identity.study_date, identity.study_time
    result.StudyID, result.AccessionNumber = identity.study_id, identity.accession_number
    result.ReferringPhysicianName = ""


def _add_series(result: Dataset, identity: OriginalIdentity, utc: datetime, uid: str) -> None:
    result.file_meta = FileMetaDataset()
    # implicit: an explicit DS value ends at 64 KiB, which a long contour exceeds
    result.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    result.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    result.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    result.SOPClassUID, result.SOPInstanceUID = RTStructureSetStorage, uid
    result.SeriesInstanceUID = derived_uid("series", uid)
    result.Modality = "RTSTRUCT"
    result.SeriesDescription = RESEARCH_USE
    result.SeriesNumber, result.OperatorsName = None, ""
    result.Manufacturer = result.ManufacturerModelName = "fedgtv"
    result.InstanceCreationDate, result.InstanceCreationTime = utc.strftime("%Y%m%d"), _time(utc)
    result.TimezoneOffsetFromUTC = "+0000"
    result.FrameOfReferenceUID = identity.frame_of_reference_uid
    result.PositionReferenceIndicator = ""


def _frame_reference(identity: OriginalIdentity) -> Dataset:
    """Refer from the frame over study and series to every image (PS3.3 C.8.8.5)."""
    series = Dataset()
    series.SeriesInstanceUID = identity.series_instance_uid
    files = dict.fromkeys(identity.sop_instance_uids)  # frames of one file share its UID
    series.ContourImageSequence = DicomSequence(
        [_reference(identity.sop_class_uid, uid) for uid in files]
    )
    study = _reference(_STUDY_CLASS, identity.study_instance_uid)
    study.RTReferencedSeriesSequence = DicomSequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = identity.frame_of_reference_uid
    frame.RTReferencedStudySequence = DicomSequence([study])
    return frame


def _structure_set_roi(number: int, contour: Contour, identity: OriginalIdentity) -> Dataset:
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = identity.frame_of_reference_uid
    roi.ROIName = exported_name(contour)
    roi.ROIDescription = f"{contour.provenance.value}; {RESEARCH_USE}"
    roi.ROIGenerationAlgorithm = _ALGORITHM[contour.provenance]
    return roi


def _roi_contour(number: int, contour: Contour, identity: OriginalIdentity) -> Dataset:
    result = Dataset()
    result.ROIDisplayColor = [255, 160, 0]
    result.ReferencedROINumber = number
    items = []
    for k, points in _outlines(contour.mask):
        item = Dataset()
        image = _reference(identity.sop_class_uid, identity.sop_instance_uids[k])
        if identity.frame_numbers:
            image.ReferencedFrameNumber = identity.frame_numbers[k]
        item.ContourImageSequence = DicomSequence([image])
        item.ContourGeometricType = "CLOSED_PLANAR"
        item.NumberOfContourPoints = len(points)
        # a tenth of a micrometre, and well below the 16 bytes a DS value may have
        item.ContourData = [f"{part:.4f}" for part in points.ravel()]
        items.append(item)
    if items:  # an empty region has no ContourSequence (type 3)
        result.ContourSequence = DicomSequence(items)
    return result


def _outlines(mask: Mask) -> Iterator[tuple[int, FloatArray]]:
    """Yield slice and corners `[n, 3]` (x, y, z) mm of every polygon."""
    for k in np.flatnonzero(mask.voxels.any(axis=(1, 2))):
        for polygon_xy in trace(mask.voxels[k]):
            index_zyx = np.column_stack([np.full(len(polygon_xy), float(k)), polygon_xy[:, ::-1]])
            yield int(k), mask.geometry.points_from_index(index_zyx)


def _observation(number: int) -> Dataset:
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = "GTV"
    observation.ROIInterpreter = ""
    return observation


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    return reference


def content_sha256(contours: Sequence[Contour]) -> str:
    """Hash names and regions, so that what holds others gets another UID."""
    content = hashlib.sha256()
    for contour in contours:
        content.update(exported_name(contour).encode())
        content.update(np.packbits(contour.mask.voxels).tobytes())
    return content.hexdigest()


def derived_uid(*parts: str) -> str:
    """Derive a UID below the root for UUIDs, 2.25 (PS3.5 B.2), from all that makes an object."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def _time(utc: datetime) -> str:
    return utc.strftime("%H%M%S.%f")
