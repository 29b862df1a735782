"""Masks from DICOM objects: segments of a SEG, regions of an RTSTRUCT on a given grid."""

import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from algorithms.contour_filling import rasterise
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import FloatArray, Geometry, MaskArray
from evaluation.mask_files import LabelFile

_HALF = 0.5  # a fractional segment counts from half on
_OFF_PLANE = 0.5  # slices
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"  # Label Map Segmentation Storage


def is_rtstruct(file: Path) -> bool:
    """Say whether a DICOM file is an RTSTRUCT."""
    with _named_when_damaged(file):
        return bool(_read(file, pixels=False).SOPClassUID == RTStructureSetStorage)


def read_segmentation(file: Path, *, label: int | None = None) -> LabelFile:
    """Read the segments of a DICOM SEG as labels, on the grid of the slices that it holds.

    Args:
        file: BINARY or FRACTIONAL, where a segment counts from half on.
        label: read this segment alone; needed where segments overlap.

    Raises:
        DataError: no SEG, a damaged one, one without places in the patient, slices that are not
            evenly spaced, no such segment, or segments that overlap.
    """
    with _named_when_damaged(file):
        header = _read(file, pixels=True)
        if header.SOPClassUID == RTStructureSetStorage:
            raise DataError(f"{file} is RTSTRUCT, which has no grid: give it as NIfTI or DICOM SEG")
        if header.SOPClassUID == _LABEL_MAP:
            raise DataError(
                f"{file} is a label map SEG, which is not read: export it as binary SEG"
            )
        if header.SOPClassUID != SegmentationStorage:
            raise DataError(f"{file} is neither DICOM SEG nor RTSTRUCT: give an exported mask")
        frames = np.atleast_3d(header.pixel_array)
        if header.pixel_array.ndim == 2:
            frames = header.pixel_array[None]
        return _labels(header, frames, label, file)


def _labels(header: Dataset, frames: FloatArray, label: int | None, file: Path) -> LabelFile:
    share = float(header.get("MaximumFractionalValue", 1))
    shared = (header.get("SharedFunctionalGroupsSequence", None) or [Dataset()])[0]
    groups = header.PerFrameFunctionalGroupsSequence

    def functional(frame: Dataset, name: str) -> Dataset:
        found = frame.get(name, None) or shared.get(name, None)
        if not found:
            raise DataError(f"{file}: the SEG does not say where its slices lie: export it again")
        item: Dataset = found[0]
        return item

    orientation = np.array(
        functional(groups[0], "PlaneOrientationSequence").ImageOrientationPatient, dtype=np.float64
    )
    x, y = orientation[:3], orientation[3:]
    normal = np.cross(x, y)
    measures = functional(groups[0], "PixelMeasuresSequence")
    positions = np.array(
        [functional(f, "PlanePositionSequence").ImagePositionPatient for f in groups],
        dtype=np.float64,
    )
    numbers = [
        int(functional(f, "SegmentIdentificationSequence").ReferencedSegmentNumber) for f in groups
    ]
    # A segment may be declared and empty: what a model missed altogether has no frame.
    declared = {int(s.SegmentNumber) for s in header.get("SegmentSequence", None) or []}
    if label is not None and label not in declared.union(numbers):
        known = sorted(declared.union(numbers))
        raise DataError(f"{file}: there is no segment {label}: one of {known}")
    heights = positions @ normal
    step = _slice_step(heights, measures, file)
    slices = np.rint((heights - heights.min()) / step).astype(np.int64)
    labels = np.zeros((int(slices.max()) + 1, *frames.shape[1:]), dtype=np.int64)
    for number, z, frame in zip(numbers, slices, frames, strict=True):
        inside = frame >= _HALF * share
        if label is not None and number != label:
            continue
        if (labels[z][inside] > 0).any():
            raise DataError(f"{file}: segments overlap: choose one by --label, of score --labels")
        labels[z][inside] = number
    row_mm, column_mm = (float(part) for part in measures.PixelSpacing)
    origin = positions[int(heights.argmin())]
    spacing = (float(step), row_mm, column_mm)
    geometry = Geometry(
        labels.shape,
        spacing,
        tuple(origin.tolist()),
        (tuple(x.tolist()), tuple(y.tolist()), tuple(normal.tolist())),
    )
    return LabelFile(labels, spacing, geometry, cropped=True)


def _slice_step(heights: FloatArray, measures: Dataset, file: Path) -> float:
    """Return the distance between slices: what is stated, else the smallest gap."""
    gaps = np.diff(np.unique(heights.round(4)))
    stated = measures.get("SpacingBetweenSlices", None) or measures.get("SliceThickness", None)
    step = float(gaps.min()) if len(gaps) else float(stated or 0.0)
    if measures.get("SpacingBetweenSlices", None):
        step = float(measures.SpacingBetweenSlices)
    if step <= 0:
        raise DataError(f"{file}: the SEG does not say how far its slices are apart: export again")
    index = (heights - heights.min()) / step
    if np.abs(index - index.round()).max() > 0.05:
        raise DataError(f"{file}: the slices are not evenly spaced: resample the mask first")
    return step


def read_contours(file: Path, geometry: Geometry, *, roi: str | None = None) -> MaskArray:
    """Fill one region of an RTSTRUCT on a grid, slice by slice, by the even-odd rule.

    Args:
        file: the RTSTRUCT.
        geometry: the grid, in the coordinates of the same patient and frame of reference.
        roi: its name, without regard to capitals; None takes the only one.

    Returns:
        bool, the shape of the grid.

    Raises:
        DataError: no such region, several and no name, or a contour beside the grid.
    """
    with _named_when_damaged(file):
        header = _read(file, pixels=False)
        number = _region(header, roi, file)
        contours = next(
            (
                item.get("ContourSequence", None) or []
                for item in header.get("ROIContourSequence", None) or []
                if int(item.ReferencedROINumber) == number
            ),
            [],
        )
        if contours and not any(map(_is_closed, contours)):
            raise DataError(f"{file}: the region has no closed contour: export its outline")
        planes: dict[int, dict[float, list[FloatArray]]] = defaultdict(lambda: defaultdict(list))
        for contour in contours:
            if not _is_closed(contour):
                continue
            points = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)
            index_zyx = geometry.index_from_points(points)
            height = float(index_zyx[:, 0].mean())
            z = round(height)
            off = np.abs(index_zyx[:, 0] - z).max()
            if not 0 <= z < geometry.shape_zyx[0] or off > _OFF_PLANE:
                raise DataError(f"{file}: a contour lies on no slice of the other file's grid")
            ends = np.array(geometry.shape_zyx[1:]) - _HALF
            first, last = index_zyx[:, 1:].min(axis=0), index_zyx[:, 1:].max(axis=0)
            if (last < -_HALF).any() or (first > ends).any():
                raise DataError(f"{file}: a contour lies beside the other file's grid")
            planes[z][round(height, 2)].append(index_zyx[:, :0:-1])
    mask = np.zeros(geometry.shape_zyx, dtype=bool)
    for z, by_height in planes.items():
        # Of planes drawn finer than the slices, a slice takes the nearest: together they would
        # cancel each other out.
        nearest = min(by_height, key=lambda height: abs(height - z))
        mask[z] = rasterise(by_height[nearest], geometry.shape_zyx[1:])
    return mask


def _is_closed(contour: Dataset) -> bool:
    kind = str(contour.get("ContourGeometricType", ""))
    return kind in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def _region(header: Dataset, roi: str | None, file: Path) -> int:
    named = {
        int(item.ROINumber): str(item.get("ROIName", "")).strip()
        for item in header.get("StructureSetROISequence", None) or []
    }
    if not named:
        raise DataError(f"{file} has no region: export one that has")
    wanted = [
        number
        for number, name in named.items()
        if roi is None or name.casefold() == roi.strip().casefold()
    ]
    if len(wanted) != 1:
        raise DataError(
            f"{file}: {len(wanted)} regions fit: choose by --roi one of "
            f"{', '.join(sorted(named.values()))}"
        )
    return wanted[0]


def _read(file: Path, *, pixels: bool) -> Dataset:
    header: Dataset = pydicom.dcmread(file, stop_before_pixels=not pixels)
    return header


@contextmanager
def _named_when_damaged(file: Path) -> Iterator[None]:
    """Turn whatever pydicom says of a damaged file, which may quote it, into one line."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        pydicom.errors.InvalidDicomError,
    ) as error:
        raise DataError(
            f"{file} is damaged or of a kind that cannot be read: export it again"
        ) from error
    finally:
        logger.setLevel(level)
