"""From the headers of one series to one grid: what a slice must state, and when slices are a stack.

The z axis is the slice normal, row x column direction (PS3.3 C.7.6.2.1.1), so slices are ordered by
where they lie, whichever way the patient did. What is no even, upright stack is refused by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RTDoseStorage, SegmentationStorage

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import FloatArray, Geometry
from site_agent.dicom_elements import numbers, plain_text, whole_number

MISSING_SLICE_GAP = 1.2  # a gap wider than this many usual gaps is a missing slice
UNEVEN_SHARE = 0.02  # how far a slice may lie off the even grid, as a share of the slice spacing
TILT_SHARE = 0.1  # how far a slice may lie beside the normal, as a share of a pixel
DUPLICATE_MM = 1e-3  # slices nearer than this are the same position
BEYOND_MM = 1e6  # no scanner reaches that far
RIGHT_ANGLE = 2e-3  # how far the two directions of a slice may be off unit length or a right angle

_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
_PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
NOT_AN_IMAGE = {SegmentationStorage, RTDoseStorage, _LABEL_MAP, _PARAMETRIC_MAP}

# What tells apart images that lie at one position: standard keywords, never their values.
_DISTINGUISHING = (
    "EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber",
    "InversionTime", "DiffusionBValue", "ImageType", "ConvolutionKernel", "StackID",
)  # fmt: skip


@dataclass(frozen=True)
class Planes:
    """Where the slices of a series say they lie, in the order given.

    Attributes:
        positions_xyz_mm: centres of the first voxels, `[slice, xyz]` LPS.
        orientations: row and column direction, `[slice, 6]`.
        spacings_yx_mm: between rows and between columns, `[slice, 2]`.
        sizes_yx: rows and columns, `[slice, 2]`.
    """

    positions_xyz_mm: FloatArray
    orientations: FloatArray
    spacings_yx_mm: FloatArray
    sizes_yx: FloatArray


def check_is_slice(header: Dataset, where: str) -> None:
    """Refuse what is not one grey slice; `where` names it.

    Raises:
        DataError: no image, a colour image, or without the fields every image must have.
    """
    if "Rows" not in header or plain_text(header, "SOPClassUID") in NOT_AN_IMAGE:
        raise DataError(f"{where} is not an image: give the folder of the image series")
    if "SharedFunctionalGroupsSequence" not in header and whole_number_of_frames(header) > 1:
        raise DataError(
            f"{where} is a multi-frame image that does not say where its frames lie: "
            "export the series as classic single-frame images"
        )
    colour = plain_text(header, "PhotometricInterpretation") == "PALETTE COLOR"
    samples = whole_number(header, "SamplesPerPixel") if "SamplesPerPixel" in header else 1
    if samples != 1 or colour:
        raise DataError(f"{where} is a colour image: give the grey-value series")
    for keyword in ("Modality", "SOPInstanceUID", "SeriesInstanceUID"):
        if not plain_text(header, keyword):
            raise DataError(f"{where} has no {keyword}: export the series again with it")
    for keyword in ("Rows", "Columns"):
        if not whole_number(header, keyword):
            raise DataError(f"{where} has no {keyword}: export the series again with it")


def whole_number_of_frames(header: Dataset) -> int:
    """Return NumberOfFrames, 1 where it is not stated."""
    return int(header.get("NumberOfFrames", None) or 1)


def planes_of(headers: Sequence[Dataset], where: Sequence[str]) -> Planes:
    """Collect the planes of slices; `where` names each.

    Raises:
        DataError: a slice does not state a valid place.
    """

    def column(keyword: str, count: int) -> FloatArray:
        return np.array(
            [_valid(h, keyword, count, w) for h, w in zip(headers, where, strict=True)],
            dtype=np.float64,
        )

    planes = Planes(
        positions_xyz_mm=column("ImagePositionPatient", 3),
        orientations=column("ImageOrientationPatient", 6),
        spacings_yx_mm=column("PixelSpacing", 2),
        sizes_yx=np.array(
            [(whole_number(h, "Rows"), whole_number(h, "Columns")) for h in headers], dtype=float
        ),
    )
    rows, columns = planes.orientations[:, :3], planes.orientations[:, 3:]
    products = ((rows, rows, 1.0), (columns, columns, 1.0), (rows, columns, 0.0))
    off = [np.abs((a * b).sum(axis=1) - wanted) for a, b, wanted in products]
    bad = np.max(off, axis=0) > RIGHT_ANGLE
    if bad.any():
        raise DataError(
            f"{where[int(bad.argmax())]}: ImageOrientationPatient is no pair of right-angled unit "
            "vectors: export the series again"
        )
    flat = planes.spacings_yx_mm.min(axis=1) < DUPLICATE_MM
    if flat.any():
        raise DataError(
            f"{where[int(flat.argmax())]}: PixelSpacing is not positive: export the series again"
        )
    return planes


def order_along_normal(headers: Sequence[Dataset]) -> list[int]:
    """Return the indices of `headers` sorted by position along the slice normal."""
    normal = _axes(np.array(numbers(headers[0], "ImageOrientationPatient")))[2]
    positions = np.array([numbers(header, "ImagePositionPatient") for header in headers])
    return [int(i) for i in np.argsort(positions @ normal, kind="stable")]


def check_slices_agree(headers: Sequence[Dataset], planes: Planes, files: Sequence[Path]) -> None:
    """Refuse a stack whose slices differ in what one grid and one coordinate system share.

    Raises:
        DataError: saying what differs and which file shows it.
    """

    def differs(values: FloatArray, tolerance: float) -> list[bool]:
        return [bool(one) for one in (np.abs(values - values[0]) > tolerance).any(axis=1)]

    def unlike(keyword: str) -> list[bool]:
        texts = [plain_text(header, keyword) for header in headers]
        return [text != texts[0] for text in texts]

    checks: tuple[tuple[str, Callable[[], list[bool]]], ...] = (
        ("two series", lambda: unlike("SeriesInstanceUID")),
        ("image sizes", lambda: differs(planes.sizes_yx, 0)),
        ("pixel spacings", lambda: differs(planes.spacings_yx_mm, 1e-4)),
        ("orientations", lambda: differs(planes.orientations, 1e-3)),
        ("frames of reference", lambda: unlike("FrameOfReferenceUID")),
    )
    for what, find in checks:
        found = find()
        if any(found):
            file = files[found.index(True)]
            raise DataError(
                f"the series in {file.parent} mixes {what} (see {file.name}): "
                "export the volume without localisers, as a series of its own"
            )


def stack_geometry(headers: Sequence[Dataset], planes: Planes, files: Sequence[Path]) -> Geometry:
    """Fit the grid to slices that agree; refuse what is not an even, upright stack.

    Slices need not be sorted; the grid starts with the first along the normal.

    Raises:
        DataError: a slice is missing, there twice, or off the even grid; or the gantry was tilted.
    """
    folder = files[0].parent
    axes = _axes(planes.orientations[0])
    order = np.argsort(planes.positions_xyz_mm @ axes[2], kind="stable")
    positions = planes.positions_xyz_mm[order]
    offsets = positions - positions[0]
    along = offsets @ axes[2]
    row_mm, column_mm = (float(mm) for mm in planes.spacings_yx_mm[0])
    if len(order) > 1:
        close = np.diff(along) < DUPLICATE_MM
        if close.any():
            i = int(close.argmax())
            pair = int(order[i]), int(order[i + 1])
            raise DataError(_duplicate(headers, files, pair, float(positions[i] @ axes[2])))
    beside = np.linalg.norm(offsets - along[:, None] * axes[2], axis=1).max()
    if beside > TILT_SHARE * min(row_mm, column_mm):
        raise DataError(
            f"the series in {folder} has slices that lie up to {beside:.2f} mm beside their "
            "normal (gantry tilt): resample it to an upright stack on the scanner"
        )
    slice_mm = (
        _even_spacing(along, float(positions[0] @ axes[2]), folder)
        if len(order) > 1
        else _stated_spacing(headers[0], folder)
    )
    x, y, z = (tuple(float(part) for part in axis) for axis in axes)
    origin = tuple(float(part) for part in positions[0])
    rows, columns = (int(n) for n in planes.sizes_yx[0])
    return Geometry(
        shape_zyx=(len(order), rows, columns),
        spacing_zyx_mm=(slice_mm, row_mm, column_mm),
        origin_xyz_mm=(origin[0], origin[1], origin[2]),
        axes_xyz=((x[0], x[1], x[2]), (y[0], y[1], y[2]), (z[0], z[1], z[2])),
    )


def _duplicate(
    headers: Sequence[Dataset], files: Sequence[Path], pair: tuple[int, int], at_mm: float
) -> str:
    """Say what two images at one position are: a copy, or two stacks in one series."""
    one, other = (headers[i] for i in pair)
    one_file, other_file = (files[i] for i in pair)
    same = plain_text(one, "SOPInstanceUID") == plain_text(other, "SOPInstanceUID")
    if same and one_file != other_file:
        return (
            f"the series in {one_file.parent} holds the same image twice ({one_file.name} and "
            f"{other_file.name}): remove the copy"
        )
    different = [k for k in _DISTINGUISHING if one.get(k, None) != other.get(k, None)]
    return (
        f"the series in {one_file.parent} has two images at {at_mm:.2f} mm"
        + (f", unlike in {' and '.join(different)}" if different else "")
        + ": export one image per position (one time point, one echo)"
    )


def _even_spacing(along_mm: FloatArray, start_mm: float, folder: Path) -> float:
    """Return the slice spacing of sorted positions, which must be even and without a gap."""
    gaps = np.diff(along_mm)
    usual = float(np.median(gaps))

    def between(i: int) -> str:
        return f"between {start_mm + along_mm[i]:.2f} and {start_mm + along_mm[i + 1]:.2f} mm"

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


def _valid(header: Dataset, keyword: str, count: int, where: str) -> list[float]:
    """Return exactly `count` numbers that can be a place or a size in mm."""
    try:
        found = numbers(header, keyword)
    except (KeyError, TypeError, ValueError):
        found = []
    if len(found) != count or not all(abs(one) < BEYOND_MM for one in found):
        raise DataError(f"{where} has no valid {keyword}: export the series again with it")
    return found


def _axes(orientation: FloatArray) -> FloatArray:
    """Unit vectors of the x, y and z index axes in LPS, exactly at right angles."""
    along_x, along_y = orientation.reshape(2, 3)
    along_x = along_x / np.linalg.norm(along_x)
    along_y = along_y - (along_y @ along_x) * along_x
    along_y = along_y / np.linalg.norm(along_y)
    return np.stack([along_x, along_y, np.cross(along_x, along_y)])
