"""One slice with contours as a picture: pure, arrays in and an RGB array out.

The slice is turned as radiologists look at it, from its place in the patient: an axial slice has
the patient's right on the left of the screen and the front on top.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt

from algorithms.contracts.volume import FloatArray, Geometry, ImageArray, MaskArray, Volume

RgbArray = NDArray[np.uint8]
Colour = tuple[int, int, int]

LONGEST_SIDE_PX = 768
LINE_WIDTH_PX = 3.5
HALO_PX = 1.0  # a dark rim keeps a bright line visible on bright tissue
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

    def turn(self, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
        """Turn a slice `[y, x]` to screen rows and columns."""
        turned = pixels.T if self.transposed else pixels
        rows = slice(None, None, -1 if self.flipped_rows else 1)
        columns = slice(None, None, -1 if self.flipped_columns else 1)
        return turned[rows, columns]


@dataclass(frozen=True, eq=False)
class Outline:
    """A region to outline on a slice.

    Attributes:
        mask_yx: bool `[y, x]`, on the slice's own grid.
        colour: RGB, 0 to 255.
        dash_px: lengths drawn and left out, by turns; empty for a solid line.
    """

    mask_yx: MaskArray
    colour: Colour
    dash_px: tuple[int, ...] = ()


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
    low, high = (float(v) for v in np.percentile(image, WINDOW_PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)


def render_slice(
    volume: Volume,
    slice_z: int,
    outlines: Sequence[Outline] = (),
    *,
    window: tuple[float, float] | None = None,
    longest_side_px: int = LONGEST_SIDE_PX,
) -> RgbArray:
    """Draw a slice with the outlines of regions, later ones over earlier ones.

    Args:
        volume: the image; pixels that are not square in mm are drawn in true proportion.
        slice_z: index of the slice.
        outlines: regions on this slice; empty regions draw nothing.
        window: grey values shown black and white; None takes `percentile_window`.
        longest_side_px: of the picture.

    Returns:
        uint8 `[row, column, 3]`.

    Raises:
        IndexError: when there is no such slice.
    """
    if not 0 <= slice_z < volume.geometry.shape_zyx[0]:
        raise IndexError(f"slice {slice_z} of {volume.geometry.shape_zyx[0]}")
    view = radiological_view(volume.geometry)
    low, high = window if window is not None else percentile_window(volume.image)
    grey = np.clip((view.turn(volume.image[slice_z]).astype(np.float32) - low) / (high - low), 0, 1)
    shape_mm = np.multiply(grey.shape, view.pixel_yx_mm)
    rows, columns = (max(1, round(n)) for n in shape_mm / shape_mm.max() * longest_side_px)
    smooth = Image.fromarray(grey).resize((columns, rows), Image.Resampling.BILINEAR)
    picture = np.repeat(np.asarray(smooth, dtype=np.float32)[:, :, None], 3, axis=2) * 255.0
    for outline in outlines:
        mask = view.turn(outline.mask_yx)
        _draw(picture, _outline_points(mask, (rows, columns), outline.dash_px), outline.colour)
    drawn: RgbArray = np.rint(picture).astype(np.uint8)
    return drawn


def _letters(direction_xyz: FloatArray) -> str:
    """Name a patient direction by its largest parts, such as "R" or "AR"."""
    order = np.argsort(-np.abs(direction_xyz), kind="stable")
    parts = [axis for axis in order if abs(direction_xyz[axis]) >= _SECOND_LETTER][:2]
    return "".join(_LETTERS[axis][0 if direction_xyz[axis] > 0 else 1] for axis in parts)


def _outline_points(
    mask: NDArray[np.generic], shape: tuple[int, int], dash_px: tuple[int, ...]
) -> FloatArray:
    """Return points `[n, 2]` (row, column in px) closely along the rim of a region, dashed."""
    padded = np.pad(mask.astype(np.float64), 1)  # a region that reaches the border is closed too
    lines = contour_generator(z=padded).lines(0.5)
    scale = np.array(shape) / np.array(mask.shape)
    points = []
    for line in lines:
        # Undo the padding, go from pixel centres to the picture's; contourpy gives (x, y).
        corners = (np.asarray(line)[:, ::-1] - 0.5) * scale - 0.5
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
        steps = np.arange(0.0, along[-1], 0.5)
        steps = steps[_is_drawn(steps, dash_px)]
        points.append(np.stack([np.interp(steps, along, corners[:, i]) for i in (0, 1)], axis=1))
    return np.concatenate(points) if points else np.empty((0, 2))


def _is_drawn(along_px: FloatArray, dash_px: tuple[int, ...]) -> MaskArray:
    if not dash_px:
        return np.ones(along_px.shape, dtype=bool)
    ends = np.cumsum(dash_px)
    part: MaskArray = np.searchsorted(ends, along_px % ends[-1], side="right") % 2 == 0
    return part


def _draw(picture: NDArray[np.float32], points: FloatArray, colour: Colour) -> None:
    """Draw a smooth line with a dark rim through `points` into a float picture, in place."""
    height, width = picture.shape[:2]
    pixels = np.rint(points).astype(np.intp)
    inside = (pixels >= 0).all(axis=1) & (pixels < (height, width)).all(axis=1)
    pixels = pixels[inside]
    if not len(pixels):
        return
    reach = int(np.ceil(LINE_WIDTH_PX / 2 + HALO_PX)) + 1
    top, left = np.maximum(pixels.min(axis=0) - reach, 0)
    bottom, right = pixels.max(axis=0) + reach + 1
    box = picture[top:bottom, left:right]
    away = np.ones(box.shape[:2], dtype=bool)
    away[pixels[:, 0] - top, pixels[:, 1] - left] = False
    distance = np.asarray(distance_transform_edt(away))
    for half_width, ink in ((LINE_WIDTH_PX / 2 + HALO_PX, (0, 0, 0)), (LINE_WIDTH_PX / 2, colour)):
        cover = np.clip(half_width + 0.5 - distance, 0.0, 1.0)[:, :, None]
        box *= 1.0 - cover
        box += cover * np.array(ink)
