"""Write DICOM SEG: contours as binary masks for viewers and research, under the original identity.

The object (PS3.3 A.51) is built by highdicom from headers that this file makes out of the grid and
the sealed identity: the images themselves stay where they are, and no pixel of them is needed.

Research use only, not a medical device: written into every object.
"""

import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DA, DT, TM, DSfloat

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import FloatArray, Volume
from site_agent.deidentification import OriginalIdentity
from site_agent.rtstruct import (
    RESEARCH_USE,
    check_belong_together,
    content_sha256,
    derived_uid,
    exported_name,
)

_SERIES_NUMBER = 1  # highdicom asks for one; a PACS goes by the UID
_ALGORITHM = {
    Provenance.AUTOMATIC: SegmentAlgorithmTypeValues.AUTOMATIC,
    Provenance.SEMIAUTOMATIC: SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
    Provenance.MANUAL: SegmentAlgorithmTypeValues.MANUAL,
    Provenance.SIMULATED: SegmentAlgorithmTypeValues.AUTOMATIC,  # a program drew it
}


def write_segmentation(
    volume: Volume, contours: Sequence[Contour], *, identity: OriginalIdentity, now: datetime
) -> Segmentation:
    """Build the binary SEG that gives contours back to the PACS of the hospital.

    One segment per contour, one frame per slice that a contour touches; nothing in it is approved.
    Save it with `segmentation.save_as(path)`.

    Args:
        volume: the images the contours were drawn on; de-identified or not.
        contours: regions on the grid of `volume`, each under its own name.
        identity: of the same images, slices in the same order.
        now: time of writing, with its time zone; recorded in UTC.

    Raises:
        DataError: nothing is drawn, the images have no or another frame of reference, a name does
            not fit, or a contour came in with the images and is the hospital's already.
        ValueError: contours, volume and identity do not belong together, or `now` has no zone.
    """
    check_belong_together(volume, contours, identity, now)
    if any(contour.provenance is Provenance.REFERENCE for contour in contours):
        raise DataError("a contour that came in with the images is in the PACS already")
    if not all(contour.mask.voxels.any() for contour in contours):
        raise DataError("nothing is drawn: a SEG cannot say that there is no target")
    utc = now.astimezone(UTC)
    uid = derived_uid(
        "seg", identity.series_instance_uid, utc.isoformat(), content_sha256(contours)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values of the patient
        result = Segmentation(
            source_images=_headers(volume, identity),
            pixel_array=np.stack([one.mask.voxels for one in contours], axis=-1).astype(np.uint8),
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(n, one) for n, one in enumerate(contours, start=1)],
            series_instance_uid=derived_uid("series", uid),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=uid,
            instance_number=1,
            manufacturer="fedgtv",
            manufacturer_model_name="fedgtv",
            software_versions=version("fedgtv"),
            device_serial_number="0",  # type 1, and a program has none
            content_label="FEDGTV",
            content_description=RESEARCH_USE,
            series_description=RESEARCH_USE,
        )
    _set_what_highdicom_makes_up(result, utc, uid)
    return result


def _segment(number: int, contour: Contour) -> SegmentDescription:
    kind = _ALGORITHM[contour.provenance]
    algorithm = None
    if kind is not SegmentAlgorithmTypeValues.MANUAL:
        algorithm = AlgorithmIdentificationSequence(
            name="fedgtv",
            family=codes.DCM.ArtificialIntelligence,
            version=version("fedgtv"),
        )
    result = SegmentDescription(
        segment_number=number,
        segment_label=exported_name(contour),
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,  # primary or nodal: the label says which
        algorithm_type=kind,
        algorithm_identification=algorithm,
    )
    result.SegmentDescription = f"{contour.provenance.value}; {RESEARCH_USE}"
    return result


def _headers(volume: Volume, identity: OriginalIdentity) -> list[Dataset]:
    """Make the headers that highdicom takes patient, references and places from."""
    geometry = volume.geometry
    depth, rows, columns = geometry.shape_zyx
    corners = np.column_stack([np.arange(depth, dtype=np.float64), np.zeros((depth, 2))])
    headers = []
    for uid, position in zip(
        identity.sop_instance_uids, geometry.points_from_index(corners), strict=True
    ):
        header = Dataset()
        header.SOPClassUID, header.SOPInstanceUID = identity.sop_class_uid, uid
        header.SeriesInstanceUID = identity.series_instance_uid
        header.FrameOfReferenceUID = identity.frame_of_reference_uid
        header.PatientName, header.PatientID = identity.patient_name, identity.patient_id
        header.PatientBirthDate = identity.patient_birth_date
        header.PatientSex = identity.patient_sex
        header.StudyInstanceUID = identity.study_instance_uid
        header.StudyDate, header.StudyTime = identity.study_date, identity.study_time
        header.StudyID, header.AccessionNumber = identity.study_id, identity.accession_number
        header.Modality, header.Rows, header.Columns = volume.modality, rows, columns
        header.ImagePositionPatient = _decimals(position)
        header.ImageOrientationPatient = _decimals(np.ravel(geometry.axes_xyz[:2]))
        header.PixelSpacing = _decimals(np.array(geometry.spacing_zyx_mm[1:]))
        header.SliceThickness = _decimals(np.array(geometry.spacing_zyx_mm[:1]))[0]
        headers.append(header)
    return headers


def _decimals(numbers: FloatArray) -> list[DSfloat]:
    """Write numbers in the 16 bytes that a DS value may have."""
    return [DSfloat(float(number), auto_format=True) for number in numbers]


def _set_what_highdicom_makes_up(result: Segmentation, utc: datetime, uid: str) -> None:
    """Replace its clock and random UIDs, so that the same arguments write the same bytes."""
    date, time, both = DA(utc.date()), TM(utc.time()), DT(utc.replace(tzinfo=None))
    result.SpecificCharacterSet = "ISO_IR 192"
    result.ContentDate, result.ContentTime = date, time
    result.InstanceCreationDate, result.InstanceCreationTime = date, time
    result.TimezoneOffsetFromUTC = "+0000"
    for equipment in result.ContributingEquipmentSequence:
        equipment.ContributionDateTime = both
    organisation = derived_uid("dimensions", uid)
    for sequence in (result.DimensionOrganizationSequence, result.DimensionIndexSequence):
        for item in sequence:
            item.DimensionOrganizationUID = organisation
