"""Which way round a case is looked at, and between which grey values.

Slices are turned as radiologists look at them, from their place in the patient: an axial slice has
the patient's right on the left of the screen and the front on top.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.volume import FloatArray, Geometry, ImageArray

WINDOW_PERCENTILES = (1.0, 99.0)
# Along an index axis that runs within about 20 degrees of a patient axis one letter is enough.
_SECOND_LETTER = 0.35
_LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))
# Patient axis of the slice normal -> plane, and (patient axis, sign) to the right and downwards.
_PLANES = {
    0: ("sagittal", (1, 1.0), (2, -1.0)),
    1: ("coronal", (0, 1.0), (2, -1.0)),
    2: ("axial", (0, 1.0), (1, 1.0)),
}


@dataclass(frozen=True)
class View:
    """How the rows and columns of a slice are turned to lie as radiologists look at them.

    Attributes:
        plane: "axial", "coronal" or "sagittal": the nearest one.
        axis: index axis that the slices are counted along: 0 for z, 1 for y, 2 for x.
        transposed: rows and columns change places, before anything is flipped.
        flipped_rows, flipped_columns: order reversed on the screen.
        edges: patient directions at the left, right, top and bottom edge, such as "R" or "AR".
        pixel_yx_mm: pixel size on the screen's rows and columns.
    """

    plane: str
    axis: int
    transposed: bool
    flipped_rows: bool
    flipped_columns: bool
    edges: tuple[str, str, str, str]
    pixel_yx_mm: tuple[float, float]

    @property
    def row_and_column_axes(self) -> tuple[int, int]:
        """Return the index axes that the screen's rows and columns are counted along."""
        first, second = (axis for axis in range(3) if axis != self.axis)
        return (second, first) if self.transposed else (first, second)


def radiological_view(geometry: Geometry, axis: int = 0) -> View:
    """Return how to turn the slices along an index axis: patient right on the left of the screen.

    The acquisition plane (axis 0) is named after the nearest patient plane; the other two share
    the planes that are left, so that each of the three has a name of its own.
    """
    axes_zyx = np.asarray(geometry.axes_xyz, dtype=np.float64)[::-1]
    plane, (right_axis, right_sign), (down_axis, down_sign) = _PLANES[_normals(axes_zyx)[axis]]
    rows_axis, columns_axis = (other for other in range(3) if other != axis)
    towards_right = np.abs(axes_zyx[:, right_axis])
    transposed = bool(towards_right[rows_axis] > towards_right[columns_axis])
    if transposed:
        rows_axis, columns_axis = columns_axis, rows_axis
    right, down = axes_zyx[columns_axis], axes_zyx[rows_axis]
    flipped_columns = bool(right[right_axis] * right_sign < 0)
    flipped_rows = bool(down[down_axis] * down_sign < 0)
    right, down = (-right if flipped_columns else right), (-down if flipped_rows else down)
    spacing = geometry.spacing_zyx_mm
    return View(
        plane=plane,
        axis=axis,
        transposed=transposed,
        flipped_rows=flipped_rows,
        flipped_columns=flipped_columns,
        edges=(_letters(-right), _letters(right), _letters(-down), _letters(down)),
        pixel_yx_mm=(spacing[rows_axis], spacing[columns_axis]),
    )


def _normals(axes_zyx: FloatArray) -> tuple[int, int, int]:
    """Return the patient axis (0 to the left, 1 back, 2 up) that each index axis stands for."""
    along = np.abs(axes_zyx)
    first = int(along[0].argmax())
    second, third = (axis for axis in range(3) if axis != first)
    if along[1, third] + along[2, second] > along[1, second] + along[2, third]:
        second, third = third, second
    return first, second, third


def percentile_window(image: ImageArray) -> tuple[float, float]:
    """Return the grey values shown black and white: the 1st and 99th percentile of the volume."""
    with np.errstate(invalid="ignore"):  # what is too large, or no number, becomes another value
        levels = image.astype(np.int16)
    whole = bool((levels == image).all())  # as a scanner stores them: counted, which is quicker
    percentiles = (
        _counted_percentiles(levels) if whole else np.percentile(image, WINDOW_PERCENTILES)
    )
    low, high = (float(v) for v in percentiles)
    return (low, high) if high > low else (low, low + 1.0)


def _counted_percentiles(levels: NDArray[np.int16]) -> FloatArray:
    """Return the percentiles as `np.percentile` does, between two neighbours by their distance."""
    lowest = int(levels.min())
    up_to = np.bincount(levels.ravel() - np.int32(lowest)).cumsum()
    ranks = np.asarray(WINDOW_PERCENTILES) / 100 * (levels.size - 1)
    below, above = np.floor(ranks), np.ceil(ranks)
    at_below, at_above = (lowest + np.searchsorted(up_to, r, side="right") for r in (below, above))
    return np.asarray(at_below + (ranks - below) * (at_above - at_below), dtype=np.float64)


def _letters(direction_xyz: FloatArray) -> str:
    """Name a patient direction by its largest parts, such as "R" or "AR"."""
    order = np.argsort(-np.abs(direction_xyz), kind="stable")
    parts = [axis for axis in order if abs(direction_xyz[axis]) >= _SECOND_LETTER][:2]
    return "".join(_LETTERS[axis][0 if direction_xyz[axis] > 0 else 1] for axis in parts)
