"""An image as the bytes that travel to the viewer: 16-bit voxels behind a small JSON header.

gzip(uint32le length of the header, header, int16le voxels in C order); a grey value is
`stored * slope + intercept`. Whole grey values that fit 16 bits are kept exactly.
"""

import gzip
import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.volume import Geometry, ImageArray, Volume
from clinical_ui.orientation import percentile_window, radiological_view

_LEAST, _LARGEST = -32768, 32767
_COMPRESSION = 1  # on one machine time counts for more than size
_ALIGNMENT = 8


def pack_volume(volume: Volume, token: str, window: tuple[float, float] | None = None) -> bytes:
    """Return the bytes of an image; the same image and token give the same bytes.

    Args:
        volume: the image; voxels that are not finite are shown as its darkest.
        token: names the image to the browser; no name of a patient.
        window: 1st and 99th percentile, where they are known already.
    """
    stored, slope, intercept = quantise(volume.image)
    header = {
        "token": token,
        "shape_zyx": list(volume.geometry.shape_zyx),
        "spacing_zyx_mm": list(volume.geometry.spacing_zyx_mm),
        "slope": slope,
        "intercept": intercept,
        "modality": volume.modality,
        "percentiles": list(window if window is not None else percentile_window(volume.image)),
        "views": index_views(volume.geometry),
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(4 + len(text)) % _ALIGNMENT)
    body = struct.pack("<I", len(text)) + text + stored.astype("<i2", copy=False).tobytes()
    return gzip.compress(body, compresslevel=_COMPRESSION, mtime=0)


def quantise(image: ImageArray) -> tuple[NDArray[np.int16], float, float]:
    """Return int16 values, slope and intercept that give the grey values back.

    Exact for whole numbers within 16 bits; else within half of 1/65535 of the range.

    >>> stored, slope, intercept = quantise(np.array([[[-1000.0, 3000.0]]], dtype=np.float32))
    >>> stored.tolist(), slope, intercept
    ([[[-1000, 3000]]], 1.0, 0.0)
    """
    finite = np.isfinite(image)
    if not finite.all():
        darkest = image[finite].min() if finite.any() else 0.0
        image = np.where(finite, image, darkest).astype(np.float32)
    low, high = float(image.min()), float(image.max())
    if low >= _LEAST and high <= _LARGEST and (np.rint(image) == image).all():
        return image.astype(np.int16), 1.0, 0.0
    if low == high:
        return np.zeros(image.shape, dtype=np.int16), 1.0, low
    slope = (high - low) / (_LARGEST - _LEAST)
    levels = np.rint((image.astype(np.float64) - low) / slope) + _LEAST
    stored = np.clip(levels, _LEAST, _LARGEST).astype(np.int16)
    return stored, slope, low - _LEAST * slope


def index_views(geometry: Geometry) -> list[dict[str, Any]]:
    """Return how the slices along each index axis lie on the screen; the acquisition plane first.

    >>> axial, coronal, sagittal = index_views(Geometry((9, 8, 7), (3.0, 1.0, 1.0), (0.0,) * 3))
    >>> axial["plane"], axial["edges"], coronal["flipped_rows"], sagittal["columns_axis"]
    ('axial', ['R', 'L', 'A', 'P'], True, 1)
    """
    views = []
    for axis in range(3):
        view = radiological_view(geometry, axis)
        rows_axis, columns_axis = view.row_and_column_axes
        views.append(
            {
                "axis": axis,
                "plane": view.plane,
                "rows_axis": rows_axis,
                "columns_axis": columns_axis,
                "flipped_rows": view.flipped_rows,
                "flipped_columns": view.flipped_columns,
                "edges": list(view.edges),
                "row_mm": view.pixel_yx_mm[0],
                "column_mm": view.pixel_yx_mm[1],
            }
        )
    return views
