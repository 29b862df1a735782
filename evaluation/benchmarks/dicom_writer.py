"""The other party's scanner and planning system: MR and RTSTRUCT files of benchmark hospitals.

The files carry what a hospital's files carry, identifiers and private elements included, so that
de-identification has something to remove; every person in them is invented. Everything derives from
the arguments (no clock, no random UID): the same arguments write the same bytes.

Research use only, not a medical device.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import contourpy
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RTStructureSetStorage,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from algorithms.contracts.volume import FloatArray, Geometry, ImageArray, MaskArray

DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"  # what planning systems still write here
PRIVATE_GROUP = 0x0029
PRIVATE_CREATOR = "FICTIONAL SCANNER HEADER"
CONTOUR_DECIMALS = 3  # mm; far below the 0.01 mm that contours must keep to their slice's plane


@dataclass(frozen=True)
class PatientTags:
    """Who an invented study is about: everything here must be gone after de-identification.

    Attributes:
        name: DICOM person name, "Family^Given".
        birth_date: YYYYMMDD; `study_date` likewise, `study_time` as HHMMSS.
        accession_number: at most 16 characters.
    """

    patient_id: str
    name: str
    birth_date: str
    sex: str
    institution: str
    referring_physician: str
    accession_number: str
    study_date: str
    study_time: str
    study_description: str = "MR head and neck, radiotherapy planning"


@dataclass(frozen=True)
class ScannerTags:
    """What the scanner says about itself and its sequence."""

    manufacturer: str
    model: str
    field_strength_t: float
    series_description: str
    scanning_sequence: str = "SE"
    repetition_time_ms: float = 600.0
    echo_time_ms: float = 12.0
    station_name: str = "MRROOM1"
    device_serial_number: str = "000000"
    software_versions: str = "fictional"


@dataclass(frozen=True)
class StudyUids:
    """Every UID of one study with one MR series and one structure set."""

    study: str
    series: str
    frame_of_reference: str
    sop_instances: tuple[str, ...]
    rtstruct_series: str
    rtstruct: str


def study_uids(entropy: str, slices: int) -> StudyUids:
    """Derive the UIDs of a study from a text that names it: same text, same UIDs."""

    def uid(*what: str) -> str:
        return str(generate_uid(entropy_srcs=[entropy, *what]))

    return StudyUids(
        study=uid("study"),
        series=uid("series"),
        frame_of_reference=uid("frame of reference"),
        sop_instances=tuple(uid("slice", str(number)) for number in range(slices)),
        rtstruct_series=uid("structure set series"),
        rtstruct=uid("structure set"),
    )


def write_mr_series(
    folder: Path,
    image: ImageArray,
    geometry: Geometry,
    *,
    patient: PatientTags,
    scanner: ScannerTags,
    uids: StudyUids,
    rescale: tuple[float, float] | None = None,
) -> list[str]:
    """Write one MR Image Storage file per slice; file names do not follow the slice order.

    Args:
        folder: where the files go; created when absent.
        image: float32 `[z, y, x]`, grey values.
        geometry: the grid of `image`.
        patient: the identifying elements.
        scanner: the technical elements.
        uids: the study's UIDs, one SOP instance per slice.
        rescale: slope and intercept, value = stored * slope + intercept. Without it whole numbers
            in 0..65535 are stored as they are, and other values are spread over 16 bits.

    Returns:
        The SOP instance UIDs in z order.

    Raises:
        ValueError: when image, geometry and UIDs disagree, or `rescale` cannot hold the values.
    """
    if image.shape != geometry.shape_zyx or len(uids.sop_instances) != image.shape[0]:
        raise ValueError(
            f"image {image.shape}, grid {geometry.shape_zyx}, {len(uids.sop_instances)} SOP UIDs"
        )
    slope, intercept = rescale or _rescale_for(image)
    stored = np.rint((image.astype(np.float64) - intercept) / slope)
    if stored.min() < 0 or stored.max() > np.iinfo(np.uint16).max:
        raise ValueError(f"rescale {slope}, {intercept} puts grey values outside 16 bits")
    folder.mkdir(parents=True, exist_ok=True)
    # One dataset serves all slices: most elements are the series', and making them takes the time.
    dataset = _new_dataset(MRImageStorage, uids.sop_instances[0], patient, uids.study)
    _add_series(dataset, scanner, uids)
    for number, (uid, pixels) in enumerate(
        zip(uids.sop_instances, stored.astype("<u2"), strict=True)
    ):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(uid)
        _add_plane(dataset, geometry, number)
        _add_pixels(dataset, pixels, slope, intercept)
        dataset.save_as(folder / f"MR.{_file_stem(uid)}.dcm", enforce_file_format=True)
    return list(uids.sop_instances)


def write_rtstruct(
    file: Path,
    regions: Mapping[str, MaskArray],
    geometry: Geometry,
    *,
    patient: PatientTags,
    uids: StudyUids,
    planning_system: str = "Fictional Planning System",
) -> None:
    """Write regions as a planning system does: closed planar contours in mm, slice by slice.

    Holes are separate contours of the same slice (even-odd filling restores them).

    Args:
        file: the file to write; its folder is created when absent.
        regions: ROI name, as this hospital writes it, to bool `[z, y, x]` on `geometry`.
        geometry: the grid of the MR series `uids` names.
        patient: the identifying elements, as in the MR series.
        uids: the study's UIDs, as in the MR series.
        planning_system: what stands as the equipment's model name.

    Raises:
        ValueError: when a region does not lie on the grid.
    """
    dataset = _new_dataset(RTStructureSetStorage, uids.rtstruct, patient, uids.study)
    dataset.Modality = "RTSTRUCT"
    dataset.Manufacturer = "Fictional Planning Ltd"
    dataset.ManufacturerModelName = planning_system
    dataset.SeriesInstanceUID = uids.rtstruct_series
    dataset.SeriesNumber = "99"
    dataset.OperatorsName = "Planner^Imaginary"
    dataset.StructureSetLabel = "GTV"
    dataset.StructureSetDate = patient.study_date
    dataset.StructureSetTime = patient.study_time
    dataset.ReferencedFrameOfReferenceSequence = Sequence([_frame_of_reference(uids)])
    dataset.StructureSetROISequence = Sequence()
    dataset.ROIContourSequence = Sequence()
    dataset.RTROIObservationsSequence = Sequence()
    dataset.ApprovalStatus = "UNAPPROVED"
    for number, (name, mask) in enumerate(regions.items(), start=1):
        if mask.shape != geometry.shape_zyx:
            raise ValueError(f"region {name}: {mask.shape} on a grid of {geometry.shape_zyx}")
        roi, contours, observation = _region(number, name, mask, geometry, uids)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(contours)
        dataset.RTROIObservationsSequence.append(observation)
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(file, enforce_file_format=True)


def write_study(
    folder: Path,
    image: ImageArray,
    mask: MaskArray,
    geometry: Geometry,
    *,
    roi_name: str,
    patient: PatientTags,
    scanner: ScannerTags,
    entropy: str,
    rescale: tuple[float, float] | None = None,
) -> StudyUids:
    """Write an MR series and its structure set side by side into `folder`; see the two writers."""
    uids = study_uids(entropy, image.shape[0])
    write_mr_series(
        folder, image, geometry, patient=patient, scanner=scanner, uids=uids, rescale=rescale
    )
    file = folder / f"RS.{_file_stem(uids.rtstruct)}.dcm"
    write_rtstruct(file, {roi_name: mask}, geometry, patient=patient, uids=uids)
    return uids


def trace_slice(mask: MaskArray) -> list[FloatArray]:
    """Trace the 0.5 level of a bool slice `[y, x]` as closed lines of (y, x) pixel indices.

    The last point is not repeated. Pixel centres of the region lie inside, all others outside.
    """
    padded = np.pad(mask, 1).astype(np.float64)
    lines = contourpy.contour_generator(z=padded).lines(0.5)
    return [np.asarray(line)[:-1, ::-1] - 1.0 for line in lines]


def _rescale_for(image: ImageArray) -> tuple[float, float]:
    low, high = float(image.min()), float(image.max())
    top = np.iinfo(np.uint16).max
    if low >= 0 and high <= top and bool(np.all(image == np.rint(image))):
        return 1.0, 0.0
    # the slope as the file can say it, so that writer and reader use one number
    slope = max(float(_ds((high - low) / (top - 1))), 1e-12)
    return slope, float(_ds(low))


def _file_stem(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


def _ds(value: float) -> str:
    return format_number_as_ds(float(value))


def _new_dataset(sop_class: str, uid: str, patient: PatientTags, study_uid: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = uid
    dataset.InstanceCreationDate = patient.study_date
    dataset.InstanceCreationTime = patient.study_time
    dataset.StudyInstanceUID = study_uid
    dataset.StudyDate = patient.study_date
    dataset.StudyTime = patient.study_time
    dataset.StudyID = patient.accession_number[-8:]
    dataset.StudyDescription = patient.study_description
    dataset.AccessionNumber = patient.accession_number
    dataset.ReferringPhysicianName = patient.referring_physician
    dataset.InstitutionName = patient.institution
    dataset.InstitutionAddress = f"1 Imaginary Street, {patient.institution}"
    dataset.PatientName = patient.name
    dataset.PatientID = patient.patient_id
    dataset.PatientBirthDate = patient.birth_date
    dataset.PatientSex = patient.sex
    dataset.OtherPatientIDs = f"{patient.patient_id}-OLD"
    dataset.PatientAddress = f"7 Nowhere Lane (home of {patient.name})"
    dataset.PatientComments = f"Invented patient {patient.name}"
    private = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    private.add_new(0x01, "LO", f"scanned as {patient.name}")
    private.add_new(0x02, "OB", f"{patient.patient_id:<64}".encode()[:64])
    return dataset


def _add_series(dataset: Dataset, scanner: ScannerTags, uids: StudyUids) -> None:
    dataset.Modality = "MR"
    dataset.Manufacturer = scanner.manufacturer
    dataset.ManufacturerModelName = scanner.model
    dataset.StationName = scanner.station_name
    dataset.DeviceSerialNumber = scanner.device_serial_number
    dataset.SoftwareVersions = scanner.software_versions
    dataset.SeriesInstanceUID = uids.series
    dataset.SeriesNumber = "3"
    dataset.SeriesDescription = scanner.series_description
    dataset.ProtocolName = scanner.series_description
    dataset.OperatorsName = "Radiographer^Imaginary"
    dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = dataset.StudyDate
    dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = dataset.StudyTime
    dataset.BodyPartExamined = "HEADNECK"
    dataset.PatientPosition = "HFS"
    dataset.FrameOfReferenceUID = uids.frame_of_reference
    dataset.PositionReferenceIndicator = ""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence = scanner.scanning_sequence
    dataset.SequenceVariant = "NONE"
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "2D"
    dataset.RepetitionTime = _ds(scanner.repetition_time_ms)
    dataset.EchoTime = _ds(scanner.echo_time_ms)
    dataset.EchoTrainLength = "1"
    dataset.MagneticFieldStrength = _ds(scanner.field_strength_t)


def _add_plane(dataset: Dataset, geometry: Geometry, number: int) -> None:
    position = geometry.points_from_index(np.array([[float(number), 0.0, 0.0]]))[0]
    spacing_z, spacing_y, spacing_x = geometry.spacing_zyx_mm
    dataset.InstanceNumber = str(number + 1)
    dataset.AcquisitionNumber = "1"
    dataset.ImagePositionPatient = [_ds(value) for value in position]
    dataset.ImageOrientationPatient = [
        _ds(value) for axis in geometry.axes_xyz[:2] for value in axis
    ]
    dataset.SliceLocation = _ds(np.dot(position, geometry.axes_xyz[2]))
    dataset.PixelSpacing = [_ds(spacing_y), _ds(spacing_x)]  # row spacing first
    dataset.SliceThickness = _ds(spacing_z)
    dataset.SpacingBetweenSlices = _ds(spacing_z)


def _add_pixels(
    dataset: Dataset,
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]],
    slope: float,
    intercept: float,
) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope = _ds(slope)
    dataset.RescaleIntercept = _ds(intercept)
    dataset.RescaleType = "US"
    dataset.PixelData = pixels.tobytes()


def _image_references(uids: Iterable[str]) -> Sequence:
    items = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID = MRImageStorage
        item.ReferencedSOPInstanceUID = uid
        items.append(item)
    return Sequence(items)


def _frame_of_reference(uids: StudyUids) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = uids.series
    series.ContourImageSequence = _image_references(uids.sop_instances)
    study = Dataset()
    study.ReferencedSOPClassUID = DETACHED_STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = uids.study
    study.RTReferencedSeriesSequence = Sequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = uids.frame_of_reference
    frame.RTReferencedStudySequence = Sequence([study])
    return frame


def _region(
    number: int, name: str, mask: MaskArray, geometry: Geometry, uids: StudyUids
) -> tuple[Dataset, Dataset, Dataset]:
    """Return the items of one region: what it is, its contours, and what it means."""
    roi = Dataset()
    roi.ROINumber = str(number)
    roi.ReferencedFrameOfReferenceUID = uids.frame_of_reference
    roi.ROIName = name
    roi.ROIGenerationAlgorithm = "MANUAL"
    contours = Dataset()
    contours.ReferencedROINumber = str(number)
    contours.ROIDisplayColor = ["255", "64", "64"]
    contours.ContourSequence = Sequence()
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        for line in trace_slice(mask[z]):
            index = np.column_stack([np.full(len(line), float(z)), line])
            contours.ContourSequence.append(
                _contour(geometry.points_from_index(index), uids.sop_instances[z])
            )
    observation = Dataset()
    observation.ObservationNumber = str(number)
    observation.ReferencedROINumber = str(number)
    observation.RTROIInterpretedType = "GTV"
    observation.ROIInterpreter = "Oncologist^Imaginary"
    return roi, contours, observation


def _contour(points_xyz_mm: FloatArray, sop_instance_uid: str) -> Dataset:
    contour = Dataset()
    contour.ContourImageSequence = _image_references([sop_instance_uid])
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = str(len(points_xyz_mm))
    contour.ContourData = [f"{value:.{CONTOUR_DECIMALS}f}" for value in points_xyz_mm.ravel()]
    return contour
