"""Read an image series from DICOM files: find it, check that it is whole, place it in the patient.

Slices are ordered by their position along the slice normal, never by file name or instance number.
Whatever would put a voxel in a wrong place (a missing slice, mixed orientations, gantry tilt) is
refused by name. Messages name files and folders, never what a patient tag says.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.misc import is_dicom
from pydicom.uid import UID, RTStructureSetStorage

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import ImageArray, Volume
from site_agent.dicom_elements import plain_text, read_dataset, read_head, without_remarks
from site_agent.enhanced_frames import frame_headers, is_enhanced
from site_agent.jpeg_decoder import JpegDecoder
from site_agent.slice_pixels import MOST_VOXELS, grey_values, stored_frames
from site_agent.slice_stack import (
    NOT_AN_IMAGE,
    check_is_slice,
    check_slices_agree,
    order_along_normal,
    planes_of,
    stack_geometry,
)

__all__ = [
    "Scan", "SeriesFiles", "StructureSetFile", "find_series", "holds_dicom", "named_when_damaged",
    "order_along_normal", "read_headers", "read_series", "read_series_and_headers", "scan",
    "without_remarks",
]  # fmt: skip

_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 9.1; leading zeros are wrong, and happen
_SUBSTITUTE = re.compile(r"[0-9A-Za-z.-]{1,64}")  # what some de-identification writes instead
_HEAD_TAGS = (
    "SOPClassUID", "Modality", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns",
)  # fmt: skip
_SCAN_TAGS = [
    *_HEAD_TAGS, "ReferencedFrameOfReferenceSequence", "PatientID", "PatientBirthDate",
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
        patient_id: whose it says it is; "" where it does not.
        birth_date: of the patient, likewise.
    """

    file: Path
    frame_of_reference_uids: tuple[str, ...] = ()
    series_instance_uids: tuple[str, ...] = ()
    patient_id: str = field(default="", repr=False)
    birth_date: str = field(default="", repr=False)


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


@without_remarks()
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
    others: dict[Path, str] = {}
    unreadable: list[Path] = []
    for file in _candidate_files(folder):
        header = _header_or_none(file)
        if header is None:
            unreadable.append(file)
        elif plain_text(header, "SOPClassUID") == RTStructureSetStorage:
            with named_when_damaged(file):
                structure_sets.append(_structure_set_file(header, file))
        elif "Rows" in header and plain_text(header, "SOPClassUID") not in NOT_AN_IMAGE:
            series_uid = plain_text(header, "SeriesInstanceUID")
            images.setdefault(series_uid, []).append((header, file))
        else:
            others[file] = plain_text(header, "SeriesInstanceUID")
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
    for file, uid in others.items():
        if uid in images:
            raise DataError(
                f"{file} lies in an image series without being an image: export the series again, "
                "or move the file away"
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


@without_remarks()
def read_series_and_headers(source: Path | Sequence[Path]) -> tuple[Volume, list[Dataset]]:
    """Read one series as `read_series` does, and return its headers too, in order of z.

    Each file is opened and parsed once. An enhanced image gives one header per frame.
    """
    unordered = _only_series(source).files if isinstance(source, Path) else tuple(source)
    if not unordered:
        raise DataError("no image files given: give the files of one series")
    sources = [_read_source(file) for file in unordered]
    slices = [one for source in sources for one in source.slices]
    headers = [one.header for one in slices]
    with named_when_damaged(f"the series of {unordered[0]}"):
        planes = planes_of(headers, [one.where for one in slices])
        files = [one.file for one in slices]
        check_slices_agree(headers, planes, files)
        geometry = stack_geometry(headers, planes, files)
        order = order_along_normal(headers)
        image = _grey_stack(sources, order, geometry.shape_zyx)
        headers = [headers[i] for i in order]
        first = headers[0]
        volume = Volume(
            image=image,
            geometry=geometry,
            modality=plain_text(first, "Modality"),
            frame_of_reference_uid=plain_text(first, "FrameOfReferenceUID"),
            sop_instance_uids=tuple(plain_text(header, "SOPInstanceUID") for header in headers),
            series_instance_uid=plain_text(first, "SeriesInstanceUID"),
            study_instance_uid=plain_text(first, "StudyInstanceUID"),
            scanner=_scanner(first),
        )
    return volume, headers


@without_remarks()
def read_headers(files: Iterable[Path]) -> list[Dataset]:
    """Read files without their pixels, in the order given, each with a place in the patient.

    Raises:
        DataError: a file is unreadable or lacks a field that an image slice must have.
    """
    headers: list[Dataset] = []
    for file in files:
        slices = _read_source(file).slices
        planes_of([one.header for one in slices], [one.where for one in slices])
        headers += [one.header for one in slices]
    return headers


@dataclass(frozen=True)
class _Slice:
    """One slice: its classic header without pixels, and where it came from."""

    header: Dataset
    file: Path
    where: str


@dataclass(frozen=True)
class _Source:
    """One file with its pixels, and the slices it holds, in file order."""

    image: Dataset
    slices: tuple[_Slice, ...]


def _read_source(file: Path) -> _Source:
    with named_when_damaged(file):
        image = read_dataset(file)
        check_is_slice(image, str(file))
        if not is_enhanced(image):
            return _Source(image, (_Slice(image, file, str(file)),))
        headers = frame_headers(image, str(file))
        named = ((header, f"{file}, frame {n}") for n, header in enumerate(headers, start=1))
        return _Source(image, tuple(_Slice(header, file, where) for header, where in named))


def _grey_stack(
    sources: Sequence[_Source], order: Sequence[int], shape_zyx: tuple[int, int, int]
) -> ImageArray:
    """Decode every slice into its place, and let go of the pixels as stored."""
    if int(np.prod(shape_zyx)) > MOST_VOXELS:
        raise DataError("the series is larger than any scanner makes: export it again")
    stack = np.empty(shape_zyx, dtype=np.float32)
    place = {number: z for z, number in enumerate(order)}
    number = 0
    with JpegDecoder() as jpeg:
        for source in sources:
            frames = stored_frames(source.image, source.slices[0].file, jpeg)
            for one, stored in zip(source.slices, frames, strict=True):
                stack[place[number]] = grey_values(stored, one.header, one.where)
                number += 1
            if "PixelData" in source.image:
                del source.image.PixelData
    return stack


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
        header = read_head(file, _HEAD_TAGS)
        if header is None or plain_text(header, "SOPClassUID") == RTStructureSetStorage:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_SCAN_TAGS)
        kind, series = plain_text(header, "SOPClassUID"), plain_text(header, "SeriesInstanceUID")
        whole = bool(_UID.fullmatch(kind) and _SUBSTITUTE.fullmatch(series))
        if "Image Storage" in UID(kind).name:
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
    return StructureSetFile(
        file,
        tuple(sorted(set(own) - {""})),
        tuple(sorted(set(series) - {""})),
        str(header.get("PatientID", "") or "").strip(),
        str(header.get("PatientBirthDate", "") or "").strip(),
    )


def _only_series(folder: Path) -> SeriesFiles:
    series = find_series(folder)
    if len(series) > 1:
        counts = ", ".join(f"{len(one.files)} {one.modality} images" for one in series[:6])
        raise DataError(
            f"{folder} holds {len(series)} series ({counts}{', ...' if len(series) > 6 else ''}): "
            "give a folder with one series"
        )
    return series[0]


def _scanner(header: Dataset) -> dict[str, str]:
    """Keep what says which kind of scanner made the image; nothing that says which one."""
    kept = {
        "manufacturer": "Manufacturer",
        "model": "ManufacturerModelName",
        "field_strength_t": "MagneticFieldStrength",
    }
    return {name: str(header.get(tag, "") or "").strip() for name, tag in kept.items()}
