"""Readers of other people's making, to check what the benchmark hospitals write."""

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from algorithms.contracts.volume import Geometry


def read_with_simpleitk(folder: Path) -> sitk.Image:
    """Read the only MR series of a folder with GDCM's own sorting."""
    reader = sitk.ImageSeriesReader()
    (series,) = reader.GetGDCMSeriesIDs(str(folder))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
    return reader.Execute()


def geometry_of(image: sitk.Image) -> Geometry:
    direction = np.array(image.GetDirection()).reshape(3, 3).T
    return Geometry(
        shape_zyx=image.GetSize()[::-1],
        spacing_zyx_mm=image.GetSpacing()[::-1],
        origin_xyz_mm=image.GetOrigin(),
        axes_xyz=tuple(tuple(axis) for axis in direction),
    )


def structure_set(folder: Path) -> pydicom.Dataset:
    (file,) = folder.glob("RS.*.dcm")
    return pydicom.dcmread(file)


def fill_contours(dataset: pydicom.Dataset, geometry: Geometry) -> NDArray[np.bool_]:
    """Fill a structure set's first region: matplotlib's point-in-polygon, even-odd per slice."""
    shape = geometry.shape_zyx
    mask = np.zeros(shape, dtype=bool)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    centres = np.column_stack([rows.ravel(), columns.ravel()])
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
        index = geometry.index_from_points(points)
        z = round(float(index[:, 0].mean()))
        assert np.abs(index[:, 0] - z).max() * geometry.spacing_zyx_mm[0] < 0.01
        mask[z] ^= Polygon(index[:, 1:]).contains_points(centres).reshape(shape[1:])
    return mask


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())
