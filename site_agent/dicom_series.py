"""Read an image series from DICOM files: find it, check that it is whole, place it in the patient.

Slices are ordered by their position along the slice normal, never by file name or instance number.
Whatever would put a voxel in a wrong place (a missing slice, mixed orientations, gantry tilt) is
refused by name. Messages name files and folders, never what a patient tag says.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.misc import is_dicom
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import RTDoseStorage, RTStructureSetStorage, SegmentationStorage

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import FloatArray, Geometry, ImageArray, Volume

MISSING_SLICE_GAP = 1.2  # a gap wider than this many usual gaps is a missing slice
UNEVEN_SHARE = 0.02  # how far a slice may lie off the even grid, as a share of the slice spacing
TILT_SHARE = 0.1  # how far a slice may lie beside the normal, as a share of a pixel
DUPLICATE_MM = 1e-3  # slices nearer than this are the same position
BEYOND_MM = 1e6  # no scanner reaches that far

_NOT_AN_IMAGE = {SegmentationStorage, RTDoseStorage}
_SCAN_TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "FrameOfReferenceUID",
    "ReferencedFrameOfReferenceSequence",
]  # fmt: skip


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one image series.

    Attributes:
        series_instance_uid: as in the files.
        modality: DICOM modality, such as "MR".
        files: one per image, in no meaningful order.
        frame_of_reference_uid: of its first file; "" when that states none.
    """

    series_instance_uid: str
    modality: str
    files: tuple[Path, ...]
    frame_of_reference_uid: str = ""


@dataclass(frozen=True)
class StructureSetFile:
    """An RTSTRUCT file and what it says it was drawn on.

    Attributes:
        file: where it lies.
        frame_of_reference_uids: the coordinate systems it uses.
        series_instance_uids: the series it names; real files name series that do not exist.
    """

    file: Path
    frame_of_reference_uids: tuple[str, ...] = ()
    series_instance_uids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scan:
    """What a folder holds.

    Attributes:
        folder: where it was looked for, subfolders included.
        series: image series, the largest first.
        structure_sets: RTSTRUCT files.
        others: DICOM objects that are neither (plans, doses, segmentations, reports); not read.
    """

    folder: Path
    series: tuple[SeriesFiles, ...]
    structure_sets: tuple[StructureSetFile, ...]
    others: tuple[Path, ...]


def scan(folder: Path) -> Scan:
    """Sort every DICOM file under `folder` by what it is, from headers alone.

    Hidden files and DICOMDIR are passed over; any other file that is not readable DICOM is an
    error, because a file that was meant to be a slice must not vanish silently.

    Raises:
        DataError: `folder` is no folder, a file is not readable DICOM, or there is nothing here.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the folder that holds the .dcm files")
    images: dict[str, list[tuple[Dataset, Path]]] = {}
    structure_sets: list[StructureSetFile] = []
    others: list[Path] = []
    unreadable: list[Path] = []
    for file in _candidate_files(folder):
        header = _header_or_none(file)
        if header is None:
            unreadable.append(file)
        elif header.SOPClassUID == RTStructureSetStorage:
            with named_when_damaged(file):
                structure_sets.append(_structure_set_file(header, file))
        elif "Rows" in header and header.SOPClassUID not in _NOT_AN_IMAGE:
            images.setdefault(str(header.SeriesInstanceUID), []).append((header, file))
        else:
            others.append(file)
    if not images and not structure_sets and not others:
        raise DataError(
            f"no DICOM series in {folder}: give the folder that holds the .dcm files"
            + (f" ({len(unreadable)} files there are not DICOM)" if unreadable else "")
        )
    if unreadable:
        raise DataError(
            f"{unreadable[0]} is not a complete DICOM file ({len(unreadable)} such in the folder): "
            "move it away, or export the series again if it was a slice"
        )
    series = [_series_files(uid, entries) for uid, entries in images.items()]
    series.sort(key=lambda one: (-len(one.files), one.series_instance_uid))
    return Scan(folder, tuple(series), tuple(structure_sets), tuple(others))


def find_series(folder: Path) -> list[SeriesFiles]:
    """List the image series under `folder`, the largest first.

    Raises:
        DataError: as `scan`, or the folder holds DICOM but no image series.
    """
    series = scan(folder).series
    if not series:
        raise DataError(f"no image series in {folder}: give the folder that holds the image files")
    return list(series)


def holds_dicom(folder: Path) -> bool:
    """Say whether any file under `folder` has the mark of a DICOM file (PS3.10 7.1)."""
    return any(is_dicom(file) for file in _candidate_files(folder))


@contextmanager
def without_remarks() -> Iterator[None]:
    """Silence pydicom: its warnings quote values, and those identify patients."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def named_when_damaged(what: Path | str) -> Iterator[None]:
    """Name a file or series, and quote nothing of it, whatever fails inside: a `DataError` then.

    pydicom decodes a value where it is used, and raises whatever a broken byte leads to.
    """
    try:
        yield
    except DataError:
        raise
    except Exception:
        raise DataError(f"{what} is damaged or no complete DICOM: export it again") from None


def read_series(source: Path | Sequence[Path]) -> Volume:
    """Read one series as float32 `[z, y, x]` in the scanner's own grey values, placed in LPS mm.

    The grey value is slope * stored + intercept, slice by slice (PS3.3 C.11.1). The z axis is the
    slice normal, row x column direction (PS3.3 C.7.6.2.1.1).

    Args:
        source: a folder that holds exactly one image series, or the files of one series, in
            any order.

    Raises:
        DataError: the series is not one whole, even, readable stack of single-frame slices.
    """
    return read_series_and_headers(source)[0]


def read_series_and_headers(source: Path | Sequence[Path]) -> tuple[Volume, list[Dataset]]:
    """Read one series as `read_series` does, and return its headers too, in order of z."""
    unordered = _only_series(source).files if isinstance(source, Path) else tuple(source)
    if not unordered:
        raise DataError("no image files given: give the files of one series")
    headers = read_headers(unordered)
    with named_when_damaged(f"the series of {unordered[0]}"):
        _check_slices_agree(headers, unordered)
        order = order_along_normal(headers)
        files = [unordered[i] for i in order]
        headers = [headers[i] for i in order]
        first = headers[0]
        volume = Volume(
            image=np.stack([_read_pixels(file) for file in files]),
            geometry=_geometry(headers, files[0].parent),
            modality=str(first.Modality),
            frame_of_reference_uid=str(first.get("FrameOfReferenceUID", "")),
            sop_instance_uids=tuple(str(header.SOPInstanceUID) for header in headers),
            series_instance_uid=str(first.SeriesInstanceUID),
            study_instance_uid=str(first.get("StudyInstanceUID", "")),
            scanner=_scanner(first),
        )
    return volume, headers


def read_headers(files: Iterable[Path]) -> list[Dataset]:
    """Read files without their pixels, in the order given, each with a place in the patient.

    Raises:
        DataError: a file is unreadable or lacks a field that an image slice must have.
    """
    headers: list[Dataset] = []
    for file in files:
        with named_when_damaged(file):
            header = pydicom.dcmread(file, stop_before_pixels=True)
            _check_is_slice(header, file)
        headers.append(header)
    return headers


def order_along_normal(headers: Sequence[Dataset]) -> list[int]:
    """Return the indices of `headers` sorted by position along the slice normal."""
    normal = _axes(headers[0])[2]
    return [int(i) for i in np.argsort(_positions(headers) @ normal, kind="stable")]


def _candidate_files(folder: Path) -> list[Path]:
    """List files below `folder` but for hidden ones and DICOMDIR, in a stable order."""

    def hidden(file: Path) -> bool:
        return any(part.startswith(".") for part in file.relative_to(folder).parts)

    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [file for file in files if not hidden(file) and file.name.upper() != "DICOMDIR"]


def _header_or_none(file: Path) -> Dataset | None:
    """Read what `scan` needs; None when the file is no DICOM object, or one cut off in the header.

    pydicom reads a cut file up to the cut without a word, so a missing field is what tells.
    """
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_SCAN_TAGS)
        whole = bool(header.SOPClassUID) and bool(header.SeriesInstanceUID)
        if "Image Storage" in header.SOPClassUID.name:
            whole = whole and "Rows" in header and "Columns" in header
    except Exception:
        # a broken byte can raise anything in pydicom; the caller names the file
        return None
    return header if whole else None


def _series_files(uid: str, entries: Sequence[tuple[Dataset, Path]]) -> SeriesFiles:
    first, file = entries[0]
    with named_when_damaged(file):
        return SeriesFiles(
            series_instance_uid=uid,
            modality=str(first.get("Modality", "")),
            files=tuple(file for _, file in entries),
            frame_of_reference_uid=str(first.get("FrameOfReferenceUID", "")),
        )


def _structure_set_file(header: Dataset, file: Path) -> StructureSetFile:
    """Follow the references: frame -> study -> series (PS3.3 C.8.8.5)."""
    frames = header.get("ReferencedFrameOfReferenceSequence", None) or []
    series = [
        str(one.get("SeriesInstanceUID", ""))
        for frame in frames
        for study in frame.get("RTReferencedStudySequence", None) or []
        for one in study.get("RTReferencedSeriesSequence", None) or []
    ]
    own = [str(frame.get("FrameOfReferenceUID", "")) for frame in frames]
    own.append(str(header.get("FrameOfReferenceUID", "")))
    return StructureSetFile(file, tuple(sorted(set(own) - {""})), tuple(sorted(set(series) - {""})))


def _only_series(folder: Path) -> SeriesFiles:
    series = find_series(folder)
    if len(series) > 1:
        counts = ", ".join(f"{len(one.files)} {one.modality} images" for one in series[:6])
        raise DataError(
            f"{folder} holds {len(series)} series ({counts}{', ...' if len(series) > 6 else ''}): "
            "give a folder with one series"
        )
    return series[0]


def _check_is_slice(header: Dataset, file: Path) -> None:
    """Refuse what is not one grey slice with a place in the patient."""
    if "Rows" not in header or header.get("SOPClassUID") in _NOT_AN_IMAGE:
        raise DataError(f"{file} is not an image: give the folder of the image series")
    frames = int(header.get("NumberOfFrames", None) or 1)
    if frames > 1 or "SharedFunctionalGroupsSequence" in header:
        raise DataError(
            f"{file} is an enhanced multi-frame image, which is not read: "
            "export the series as classic single-frame images"
        )
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise DataError(f"{file} is a colour image: give the grey-value series")
    for keyword in ("Rows", "Columns", "Modality", "SOPInstanceUID", "SeriesInstanceUID"):
        if header.get(keyword) in (None, "", 0):
            raise DataError(f"{file} has no {keyword}: export the series again with it")
    counts = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
    for keyword, count in counts.items():
        if not _has_numbers(header, keyword, count):
            raise DataError(f"{file} has no valid {keyword}: export the series again with it")
    rows = _numbers(header, "ImageOrientationPatient").reshape(2, 3)
    if not np.allclose(rows @ rows.T, np.eye(2), atol=2e-3):
        raise DataError(
            f"{file}: ImageOrientationPatient is no pair of right-angled unit vectors: "
            "export the series again"
        )
    if _numbers(header, "PixelSpacing").min() < DUPLICATE_MM:
        raise DataError(f"{file}: PixelSpacing is not positive: export the series again")


def _check_slices_agree(headers: Sequence[Dataset], files: Sequence[Path]) -> None:
    """Refuse a stack whose slices differ in what one grid and one coordinate system share."""

    def refuse(what: str, i: int) -> None:
        raise DataError(
            f"the series in {files[i].parent} mixes {what} (see {files[i].name}): "
            "export the volume without localisers, as a series of its own"
        )

    first = headers[0]
    for i, header in enumerate(headers):
        if header.SeriesInstanceUID != first.SeriesInstanceUID:
            refuse("two series", i)
        if (header.Rows, header.Columns) != (first.Rows, first.Columns):
            refuse("image sizes", i)
        if not np.allclose(
            _numbers(header, "PixelSpacing"), _numbers(first, "PixelSpacing"), atol=1e-4
        ):
            refuse("pixel spacings", i)
        if not np.allclose(_axes(header), _axes(first), atol=1e-3):
            refuse("orientations", i)
        if header.get("FrameOfReferenceUID", "") != first.get("FrameOfReferenceUID", ""):
            refuse("frames of reference", i)


def _geometry(headers: Sequence[Dataset], folder: Path) -> Geometry:
    """Fit the grid to slices sorted along the normal; refuse what is not an even, upright stack."""
    first = headers[0]
    axes = _axes(first)
    offsets = _positions(headers) - _positions(headers)[0]
    along = offsets @ axes[2]
    row_mm, column_mm = _numbers(first, "PixelSpacing")
    beside = np.linalg.norm(offsets - along[:, None] * axes[2], axis=1).max()
    if beside > TILT_SHARE * min(row_mm, column_mm):
        raise DataError(
            f"the series in {folder} has slices that lie up to {beside:.2f} mm beside their "
            "normal (gantry tilt): resample it to an upright stack on the scanner"
        )
    slice_mm = (
        _even_spacing(along, float(_positions(headers)[0] @ axes[2]), folder)
        if len(headers) > 1
        else _stated_spacing(first, folder)
    )
    x, y, z = (tuple(float(part) for part in axis) for axis in axes)
    origin = tuple(float(part) for part in _positions(headers)[0])
    return Geometry(
        shape_zyx=(len(headers), int(first.Rows), int(first.Columns)),
        spacing_zyx_mm=(slice_mm, float(row_mm), float(column_mm)),
        origin_xyz_mm=(origin[0], origin[1], origin[2]),
        axes_xyz=((x[0], x[1], x[2]), (y[0], y[1], y[2]), (z[0], z[1], z[2])),
    )


def _even_spacing(along_mm: FloatArray, start_mm: float, folder: Path) -> float:
    """Return the slice spacing of sorted positions, which must be even and without a gap."""
    gaps = np.diff(along_mm)
    usual = float(np.median(gaps))

    def between(i: int) -> str:
        return f"between {start_mm + along_mm[i]:.2f} and {start_mm + along_mm[i + 1]:.2f} mm"

    if gaps.min() < DUPLICATE_MM:
        i = int(gaps.argmin())
        raise DataError(
            f"the series in {folder} has two images at {start_mm + along_mm[i]:.2f} mm: "
            "export one image per position (one time point, one echo)"
        )
    if gaps.max() > MISSING_SLICE_GAP * usual:
        raise DataError(
            f"the series in {folder} misses a slice {between(int(gaps.argmax()))} (usual "
            f"spacing {usual:.2f} mm): export the whole series"
        )
    spacing = float(along_mm[-1]) / len(gaps)
    off_grid = np.abs(along_mm - spacing * np.arange(len(along_mm)))
    if off_grid.max() > UNEVEN_SHARE * spacing:
        i = int(np.abs(gaps - usual).argmax())
        raise DataError(
            f"the series in {folder} has uneven slice spacing ({gaps.min():.2f} to "
            f"{gaps.max():.2f} mm, most unlike {between(i)}): export an evenly spaced series"
        )
    return spacing


def _stated_spacing(header: Dataset, folder: Path) -> float:
    """Return the slice spacing a single image states about itself."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = header.get(keyword)
        if value not in (None, "") and 0 < float(value) < BEYOND_MM:
            return float(value)
    raise DataError(f"the one image in {folder} states no slice thickness: export the whole series")


def _read_pixels(file: Path) -> ImageArray:
    """Decode one slice and apply its rescale or modality table."""
    try:
        with warnings.catch_warnings():
            # remarks may quote the header; pixels that are missing raise
            warnings.simplefilter("ignore")
            image = pydicom.dcmread(file)
            pixels = apply_modality_lut(image.pixel_array, image)
            grey = np.asarray(pixels, dtype=np.float32)
    except Exception:
        # decoders raise their own kinds; to the user all are one message
        raise DataError(
            f"{file}: the pixels are truncated or in a compression that cannot be decoded: "
            "export the file again, uncompressed"
        ) from None
    if not np.isfinite(grey).all():
        raise DataError(f"{file}: grey values are no finite numbers: export it again")
    return grey


def _scanner(header: Dataset) -> dict[str, str]:
    """Keep what says which kind of scanner made the image; nothing that says which one."""
    kept = {
        "manufacturer": "Manufacturer",
        "model": "ManufacturerModelName",
        "field_strength_t": "MagneticFieldStrength",
    }
    return {name: str(header.get(tag, "") or "").strip() for name, tag in kept.items()}


def _numbers(header: Dataset, keyword: str) -> FloatArray:
    return np.asarray([float(part) for part in header[keyword].value], dtype=np.float64)


def _has_numbers(header: Dataset, keyword: str, count: int) -> bool:
    """Say whether a field holds exactly `count` numbers that can be a place or a size in mm."""
    try:
        numbers = _numbers(header, keyword)
    except (KeyError, TypeError, ValueError):
        return False
    return numbers.shape == (count,) and bool((np.abs(numbers) < BEYOND_MM).all())


def _positions(headers: Sequence[Dataset]) -> FloatArray:
    """Centres of the first voxels, `[slice, xyz]` mm."""
    return np.stack([_numbers(header, "ImagePositionPatient") for header in headers])


def _axes(header: Dataset) -> FloatArray:
    """Unit vectors of the x, y and z index axes in LPS, exactly at right angles."""
    along_x, along_y = _numbers(header, "ImageOrientationPatient").reshape(2, 3)
    along_x = along_x / np.linalg.norm(along_x)
    along_y = along_y - (along_y @ along_x) * along_x
    along_y = along_y / np.linalg.norm(along_y)
    return np.stack([along_x, along_y, np.cross(along_x, along_y)])
