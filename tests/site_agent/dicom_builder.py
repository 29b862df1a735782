"""Small synthetic DICOM series with a planted patient identity."""

from copy import deepcopy
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

from algorithms.contracts.volume import Geometry

PATIENT_NAME = "Mustermann^Annegret"
PATIENT_ID = "KH-77120934"
PLANTED = ("Mustermann", "Annegret", PATIENT_ID, "19540317", "Klinikum Beispielstadt", "ACC-5519")
ROOT = "1.2.826.0.1.3680043.10.4711."
FRAME_UID, STUDY_UID, SERIES_UID = f"{ROOT}1", f"{ROOT}2", f"{ROOT}3"

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_TILT = np.deg2rad(25.0)
OBLIQUE = (np.cos(_TILT), np.sin(_TILT) * 0.6, -np.sin(_TILT) * 0.8, 0.0, 0.8, 0.6)
FEET_FIRST = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def slices(
    shape_zyx: tuple[int, int, int] = (6, 10, 12),
    orientation: tuple[float, ...] = AXIAL,
    spacing_zyx_mm: tuple[float, float, float] = (3.0, 0.8, 1.1),
    origin_xyz_mm: tuple[float, float, float] = (-20.5, 14.25, -100.0),
    patient_position: str = "HFS",
) -> list[Dataset]:
    """Build one MR image per slice, in z order; stored value 100 z + 10 y + x."""
    stored = sum(
        weight * axis for weight, axis in zip((100, 10, 1), np.indices(shape_zyx), strict=True)
    ).astype(np.uint16)
    normal = np.cross(orientation[:3], orientation[3:])
    return [
        _image(
            stored[k],
            k,
            orientation,
            np.asarray(origin_xyz_mm) + k * spacing_zyx_mm[0] * normal,
            spacing_zyx_mm,
            patient_position,
        )
        for k in range(shape_zyx[0])
    ]


def _image(stored, k, orientation, position, spacing_zyx_mm, patient_position) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = MRImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{SERIES_UID}.{k + 1}"
    image.SeriesInstanceUID, image.StudyInstanceUID = SERIES_UID, STUDY_UID
    image.FrameOfReferenceUID = FRAME_UID
    image.Modality, image.Manufacturer, image.ManufacturerModelName = "MR", "Acme", "Magnet 3"
    image.MagneticFieldStrength = "3"
    image.PatientName, image.PatientID = PATIENT_NAME, PATIENT_ID
    image.PatientBirthDate, image.PatientSex = "19540317", "F"
    image.StudyDate, image.StudyTime, image.StudyID = "20240102", "101112", "STY9"
    image.AccessionNumber, image.InstitutionName = "ACC-5519", "Klinikum Beispielstadt"
    image.ReferringPhysicianName = "Arzt^Alfred"
    image.PatientPosition = patient_position
    image.InstanceNumber = 40 - k
    image.SliceThickness = f"{spacing_zyx_mm[0]:.3f}"
    image.PixelSpacing = [f"{mm:.6f}" for mm in spacing_zyx_mm[1:]]
    image.ImageOrientationPatient = [f"{part:.12f}" for part in orientation]
    image.ImagePositionPatient = [f"{part:.9f}" for part in position]
    image.Rows, image.Columns = stored.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    image.RescaleSlope, image.RescaleIntercept = "2", "-3"
    image.PixelData = stored.astype("<u2").tobytes()
    return image


def enhanced(images: list[Dataset], frame_order: list[int] | None = None) -> Dataset:
    """Put classic slices into one enhanced multi-frame image, frames in the order given.

    What all slices share lies in the shared functional groups, the rest in one item per frame.
    """
    order = range(len(images)) if frame_order is None else frame_order
    result = deepcopy(images[0])
    result.SOPClassUID = (
        EnhancedCTImageStorage if images[0].Modality == "CT" else EnhancedMRImageStorage
    )
    result.SOPInstanceUID = f"{SERIES_UID}.900"
    result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID
    result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
    moved = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
             "RescaleSlope", "RescaleIntercept")  # fmt: skip
    for keyword in moved:
        delattr(result, keyword)
    orientation = _part(images[0], "ImageOrientationPatient")
    measures = _part(images[0], "PixelSpacing", "SliceThickness")
    result.SharedFunctionalGroupsSequence = Sequence(
        [_group(PlaneOrientationSequence=orientation, PixelMeasuresSequence=measures)]
    )
    result.PerFrameFunctionalGroupsSequence = Sequence(
        [
            _group(
                PlanePositionSequence=_part(images[k], "ImagePositionPatient"),
                PixelValueTransformationSequence=_part(
                    images[k], "RescaleSlope", "RescaleIntercept"
                ),
            )
            for k in order
        ]
    )
    result.NumberOfFrames = len(images)
    result.PixelData = b"".join(images[k].PixelData for k in order)
    return result


def _part(image: Dataset, *keywords: str) -> Dataset:
    part = Dataset()
    for keyword in keywords:
        setattr(part, keyword, image[keyword].value)
    return part


def _group(**items: Dataset) -> Dataset:
    group = Dataset()
    for keyword, item in items.items():
        setattr(group, keyword, Sequence([item]))
    return group


def signed_ct(images: list[Dataset], bits_stored: int = 16) -> list[Dataset]:
    """Turn slices into CT with signed stored values around zero, and the usual rescale."""
    for image in images:
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
        image.Modality, image.PixelRepresentation = "CT", 1
        image.BitsStored, image.HighBit = bits_stored, bits_stored - 1
        image.RescaleSlope, image.RescaleIntercept = "1", "-1024"
        stored = np.frombuffer(image.PixelData, "<u2").astype(np.int32) - 500
        kept = (1 << bits_stored) - 1
        image.PixelData = (stored & kept).astype("<u2").tobytes()
    return images


def save(images: list[Dataset], folder: Path, shuffle_seed: int = 0) -> Path:
    """Write the images under names that say nothing about their order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(shuffle_seed).permutation(len(images))
    for image, number in zip(images, names, strict=True):
        image.save_as(folder / f"IM{number:04d}.dcm", enforce_file_format=True)
    return folder


def expected_geometry(
    shape_zyx=(6, 10, 12),
    orientation=AXIAL,
    spacing_zyx_mm=(3.0, 0.8, 1.1),
    origin_xyz_mm=(-20.5, 14.25, -100.0),
) -> Geometry:
    """Say where `slices` of the same arguments puts its grid."""
    x, y = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    axes = tuple(tuple(float(part) for part in axis) for axis in (x, y, np.cross(x, y)))
    return Geometry(shape_zyx, spacing_zyx_mm, origin_xyz_mm, axes)
