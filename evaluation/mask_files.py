"""Read contours from files to measure them: label maps and DICOM objects, each with its grid.

Reads NIfTI, NRRD and MetaImage through SimpleITK, `.npz` with one label array, DICOM SEG, and DICOM
RTSTRUCT onto the grid of another file or of an image. Site agents read clinical DICOM with
`site_agent.dicom_series` and `site_agent.rtstruct`; these readers are for masks that were exported.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Geometry
from evaluation.nifti_length import refuse_cut_off

Labels = NDArray[np.int64]
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".npz", ".dcm")
_ARRAYS = ("mask", "label", "labels", "segmentation")
_SPACINGS = ("spacing_zyx_mm", "spacing_zyx", "spacing")
_GRID_TOLERANCE = 0.02  # of a voxel: files round their coordinates


@dataclass(frozen=True, eq=False)
class LabelFile:
    """Labels with what the file says about their grid.

    Attributes:
        labels: int64 `[z, y, x]`, or `[y, x]` of a single slice; 0 is background.
        spacing_mm: one per axis; None where the file does not say.
        geometry: where the grid lies; None where the file does not say, and for a single slice.
        cropped: the file holds only the slices with something on them (DICOM SEG).
    """

    labels: Labels
    spacing_mm: tuple[float, ...] | None
    geometry: Geometry | None = None
    cropped: bool = False


def read_pair(
    predicted: Path,
    reference: Path,
    *,
    label: int | None = None,
    roi: str | None = None,
    grid: Path | None = None,
) -> tuple[LabelFile, LabelFile]:
    """Read two files that show one patient, on one grid: see `read_together`."""
    ours, theirs = read_together([predicted, reference], label=label, roi=roi, grid=grid)
    return ours, theirs


def read_together(
    files: Sequence[Path],
    *,
    label: int | None = None,
    roi: str | None = None,
    grid: Path | None = None,
) -> tuple[LabelFile, ...]:
    """Read files that show one patient, on one grid.

    Args:
        files: any kinds. What is drawn in an RTSTRUCT is filled on the grid of the first that is
            none.
        label: of segments that overlap, read this one alone.
        roi: the region to read from an RTSTRUCT; None takes its only one.
        grid: an image on whose grid RTSTRUCTs are filled; needed where all files are RTSTRUCT.

    Raises:
        DataError: a file that cannot be read, grids that differ, or nothing but RTSTRUCTs, which
            have none.
    """
    drawn = [file for file in files if _is_rtstruct(file)]
    read = {file: read_labels(file, label=label) for file in files if file not in drawn}
    if drawn:
        from evaluation.dicom_masks import read_contours

        grid_file = grid or next(iter(read), None)
        if grid_file is None:
            raise DataError(
                f"{' and '.join(map(str, files))} are RTSTRUCT, which has no grid: give --grid, "
                "the image that they were drawn on, or one of them as NIfTI"
            )
        geometry = read_grid(grid_file) if grid else _whole_grid(read[grid_file])
        if geometry is None:
            raise DataError(
                f"{grid_file} does not say where its grid lies: RTSTRUCT needs a NIfTI beside it"
            )
        for file in drawn:
            mask = read_contours(file, geometry, roi=roi)
            read[file] = LabelFile(mask.astype(np.int64), geometry.spacing_zyx_mm, geometry)
    return on_one_grid([read[file] for file in files], files)


def read_grid(image: Path) -> Geometry:
    """Read where an image lies, whatever it shows.

    Args:
        image: a file of three axes, or the folder of a DICOM series.

    Raises:
        DataError: none of either, or a folder that holds several series.
    """
    import SimpleITK

    reader: Any = SimpleITK.ImageFileReader()  # type: ignore[no-untyped-call]
    of_series: Any = SimpleITK.ImageSeriesReader
    try:
        if image.is_dir():
            series = of_series.GetGDCMSeriesIDs(str(image))
            if len(series) != 1:
                raise DataError(f"{image} holds {len(series)} DICOM series: give a folder of one")
            names = of_series.GetGDCMSeriesFileNames(str(image), series[0])
            reader = SimpleITK.ReadImage(names)
        else:
            reader.SetFileName(str(image))
            reader.ReadImageInformation()
    except RuntimeError as error:  # its text holds a stack of C++ file names
        raise DataError(
            f"{image} cannot be read as an image: give a NIfTI or the folder of a DICOM series"
        ) from error
    if reader.GetDimension() != 3:
        raise DataError(f"{image} has {reader.GetDimension()} axes: give an image of three")
    return _geometry(reader)


def _whole_grid(content: LabelFile) -> Geometry | None:
    return None if content.cropped else content.geometry


def read_labels(file: Path, *, label: int | None = None) -> LabelFile:
    """Read one file of labels.

    Args:
        file: NIfTI, NRRD, MetaImage, `.npz` or DICOM SEG.
        label: of segments that overlap, read this one alone.

    Raises:
        DataError: a file of another kind, one that cannot be read, or one that holds no labels.
    """
    if not file.is_file():
        raise DataError(f"{file} is not there: give a file or a folder of masks")
    if file.name.lower().endswith(".npz"):
        return _read_npz(file)
    if _is_dicom(file):
        from evaluation.dicom_masks import read_segmentation

        return read_segmentation(file, label=label)
    if file.name.lower().endswith(ENDINGS) and not file.name.lower().endswith(".dcm"):
        return _read_image(file)
    raise DataError(f"{file} is of an unknown kind: give one of {', '.join(ENDINGS)}")


def on_one_grid(contents: Sequence[LabelFile], files: Sequence[Path]) -> tuple[LabelFile, ...]:
    """Check that files lie on one grid; those that hold only some slices of it are filled up.

    Raises:
        DataError: other shapes, spacings or places.
    """
    first, names = contents[0], ", ".join(str(file) for file in files)
    if any(one.cropped for one in contents) and all(one.geometry for one in contents):
        return tuple(_fill_up(list(contents), names))
    for one in contents[1:]:
        if one.labels.shape != first.labels.shape:
            raise DataError(
                f"{names}: shapes {first.labels.shape} and {one.labels.shape} differ: bring "
                "them onto one grid first"
            )
        if first.spacing_mm and one.spacing_mm:
            apart = np.abs(np.subtract(first.spacing_mm, one.spacing_mm))
            if (apart > _GRID_TOLERANCE * np.array(first.spacing_mm) / max(one.labels.shape)).any():
                raise DataError(
                    f"{names}: spacings {_short(first.spacing_mm)} and {_short(one.spacing_mm)} "
                    "mm differ: bring them onto one grid first"
                )
        if first.geometry and one.geometry:
            tolerance = _GRID_TOLERANCE * max(first.geometry.spacing_zyx_mm)
            if not first.geometry.matches(one.geometry, tolerance):
                raise DataError(
                    f"{names}: the grids lie in other places: bring them onto one grid first"
                )
    return tuple(contents)


def _fill_up(contents: list[LabelFile], names: str) -> list[LabelFile]:
    """Put labels on the grid that holds all of theirs, which must be shifted by whole voxels."""
    grids = [one.geometry for one in contents if one.geometry is not None]
    first = grids[0]
    starts = []
    for grid in grids:
        same = np.allclose(grid.axes_xyz, first.axes_xyz, atol=1e-4) and np.allclose(
            grid.spacing_zyx_mm, first.spacing_zyx_mm, rtol=1e-3
        )
        start = first.index_from_points(np.array([grid.origin_xyz_mm]))[0]
        if not same or np.abs(start - start.round()).max() > _GRID_TOLERANCE:
            raise DataError(f"{names}: the grids are not one: bring them onto one grid first")
        starts.append(start.round().astype(np.int64))
    low = np.min(starts, axis=0)
    ends = [s + g.shape_zyx for s, g in zip(starts, grids, strict=True)]
    shape = np.max(ends, axis=0) - low
    origin = first.points_from_index(low[None].astype(np.float64))[0]
    grid = Geometry(
        (int(shape[0]), int(shape[1]), int(shape[2])),
        first.spacing_zyx_mm,
        (float(origin[0]), float(origin[1]), float(origin[2])),
        first.axes_xyz,
    )
    filled = []
    for one, start in zip(contents, starts, strict=True):
        labels = np.zeros(grid.shape_zyx, dtype=np.int64)
        at = start - low
        labels[tuple(slice(a, a + n) for a, n in zip(at, one.labels.shape, strict=True))] = (
            one.labels
        )
        filled.append(LabelFile(labels, grid.spacing_zyx_mm, grid))
    return filled


def _read_npz(file: Path) -> LabelFile:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, BadZipFile, zlib.error) as error:
        raise DataError(f"{file} cannot be read as .npz: write it again") from error
    names = [name for name in _ARRAYS if name in arrays] or list(arrays)
    if len(names) != 1:
        raise DataError(
            f"{file} holds no array or several: name the labels one of {', '.join(_ARRAYS)}"
        )
    labels = _whole_numbers(arrays[names[0]], file)
    found = next((arrays[name] for name in _SPACINGS if name in arrays), None)
    if found is None:
        return LabelFile(labels, None)
    if found.shape != (labels.ndim,) or not np.issubdtype(found.dtype, np.number):
        raise DataError(f"{file}: the spacing must be {labels.ndim} numbers in mm")
    spacing = tuple(float(step) for step in found)
    if not all(0 < step < float("inf") for step in spacing):
        raise DataError(f"{file}: the spacing must be numbers above 0 in mm")
    return LabelFile(labels, spacing)


def _read_image(file: Path) -> LabelFile:
    import SimpleITK

    try:
        image: Any = SimpleITK.ReadImage(str(file))
    except RuntimeError as error:  # its text holds a stack of C++ file names
        raise DataError(f"{file} cannot be read as an image of labels: write it again") from error
    axes = image.GetDimension()
    if axes not in (2, 3) or image.GetNumberOfComponentsPerPixel() != 1:
        raise DataError(f"{file} is no label map of two or three axes: give one")
    if file.name.lower().endswith((".nii", ".nii.gz")):
        refuse_cut_off(file)  # SimpleITK reads zeros there
    labels = _whole_numbers(SimpleITK.GetArrayFromImage(image), file)
    spacing = tuple(float(step) for step in image.GetSpacing()[::-1])
    if axes == 2:
        return LabelFile(labels, spacing)
    return LabelFile(labels, spacing, _geometry(image))


def _geometry(image: Any) -> Geometry:
    """Return the grid of what SimpleITK knows of an image of three axes."""
    x, y, z = np.reshape(image.GetDirection(), (3, 3)).T.tolist()
    shape, spacing, origin = image.GetSize(), image.GetSpacing(), image.GetOrigin()
    return Geometry(shape[::-1], spacing[::-1], origin, (tuple(x), tuple(y), tuple(z)))


def _whole_numbers(labels: NDArray[np.generic], file: Path) -> Labels:
    if labels.ndim not in (2, 3) or labels.dtype.kind not in "biuf":
        raise DataError(f"{file} holds no label map of two or three axes: give one")
    with np.errstate(invalid="ignore"):  # NaN is no whole number, which the next line says
        whole = labels.astype(np.int64)
    if labels.dtype.kind == "f" and not (whole == labels).all():
        raise DataError(f"{file} holds fractions: threshold the probabilities first")
    if whole.size and whole.min() < 0:  # a mask of 255 kept in signed bytes is -1: not empty
        raise DataError(f"{file} holds numbers below 0: write labels from 0, the background, on")
    return whole


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _is_rtstruct(file: Path) -> bool:
    if not file.is_file() or not _is_dicom(file):
        return False
    from evaluation.dicom_masks import is_rtstruct

    return is_rtstruct(file)


def _short(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.4g}" for step in spacing)
