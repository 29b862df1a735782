"""Images and masks on a grid in the patient, and the only conversions between index and millimetre.

Arrays are `[z, y, x]`. Points are `(x, y, z)` in mm in the DICOM patient system (LPS). An integer
index is the centre of a voxel.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
ImageArray = NDArray[np.float32]
MaskArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Geometry:
    """Where a `[z, y, x]` grid lies in the patient.

    Attributes:
        shape_zyx: number of voxels.
        spacing_zyx_mm: distance between neighbouring voxel centres.
        origin_xyz_mm: centre of voxel (0, 0, 0), LPS.
        axes_xyz: unit vectors of the x, y and z index axes in LPS, in this order.
    """

    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    origin_xyz_mm: tuple[float, float, float]
    axes_xyz: tuple[
        tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]
    ] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

    def _steps_mm(self) -> FloatArray:
        spacing_xyz = np.asarray(self.spacing_zyx_mm[::-1], dtype=np.float64)
        return np.asarray(self.axes_xyz, dtype=np.float64) * spacing_xyz[:, None]

    def points_from_index(self, index_zyx: FloatArray) -> FloatArray:
        """Map voxel indices `[n, 3]` (z, y, x; fractions allowed) to points `[n, 3]` (x, y, z) mm.

        >>> g = Geometry((2, 2, 2), (3.0, 1.0, 1.0), (10.0, 0.0, 0.0))
        >>> g.points_from_index(np.array([[1.0, 0.0, 1.0]])).tolist()
        [[11.0, 0.0, 3.0]]
        """
        index_xyz = np.asarray(index_zyx, dtype=np.float64)[:, ::-1]
        points: FloatArray = index_xyz @ self._steps_mm() + np.asarray(self.origin_xyz_mm)
        return points

    def index_from_points(self, points_xyz_mm: FloatArray) -> FloatArray:
        """Map points `[n, 3]` (x, y, z) mm to fractional voxel indices `[n, 3]` (z, y, x)."""
        offsets = np.asarray(points_xyz_mm, dtype=np.float64) - np.asarray(self.origin_xyz_mm)
        index_xyz: FloatArray = offsets @ np.linalg.inv(self._steps_mm())
        return index_xyz[:, ::-1]

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(np.prod(self.spacing_zyx_mm)) / 1000.0

    def matches(self, other: "Geometry", tolerance_mm: float = 0.01) -> bool:
        """Say whether two grids put every voxel within `tolerance_mm` of each other."""
        if self.shape_zyx != other.shape_zyx:
            return False
        # The origin and the far end of every axis fix a grid.
        corners = np.vstack([np.zeros(3), np.diag([n - 1.0 for n in self.shape_zyx])])
        gap = self.points_from_index(corners) - other.points_from_index(corners)
        return bool(np.abs(gap).max() <= tolerance_mm)


@dataclass(frozen=True, eq=False)
class Volume:
    """A grey-value image with its place in the patient.

    Attributes:
        image: float32 `[z, y, x]`, in the scanner's own grey values.
        geometry: the grid.
        modality: DICOM modality, such as "MR".
        frame_of_reference_uid: the coordinate system contours must share; "" when unknown.
        sop_instance_uids: one per slice in z order; empty for images that were never DICOM.
        series_instance_uid: "" when unknown.
        study_instance_uid: "" when unknown.
        scanner: vendor and model and whatever else technical is kept ("manufacturer", ...).
    """

    image: ImageArray
    geometry: Geometry
    modality: str = ""
    frame_of_reference_uid: str = ""
    sop_instance_uids: tuple[str, ...] = ()
    series_instance_uid: str = ""
    study_instance_uid: str = ""
    scanner: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image.shape != self.geometry.shape_zyx:
            raise ValueError(f"image {self.image.shape} on a grid of {self.geometry.shape_zyx}")


@dataclass(frozen=True, eq=False)
class Mask:
    """A region on a grid: bool `[z, y, x]`."""

    voxels: MaskArray
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.voxels.shape != self.geometry.shape_zyx:
            raise ValueError(f"mask {self.voxels.shape} on a grid of {self.geometry.shape_zyx}")

    @property
    def volume_ml(self) -> float:
        """Volume of the region in ml."""
        return float(self.voxels.sum()) * self.geometry.voxel_volume_ml
