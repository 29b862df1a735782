"""Masks as run lengths, which is how they travel between the browser and the server.

Counts of equal voxels by turns, the first of those outside (it may be 0), in C order `[z, y, x]`;
uint32 little-endian, gzip, base64. What comes from a browser is unpacked within limits: a short
text may not become a large array.
"""

import base64
import binascii
import gzip
import math
import zlib

import numpy as np

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray

MOST_RUNS = 1 << 20  # a hundred times those of a contour over all slices of a large CT
_GZIP = 16 + zlib.MAX_WBITS
_BYTES = 4  # of one count


def encode(mask: MaskArray) -> str:
    """Write a mask as text, the same text every time.

    >>> decode(encode(np.eye(3, dtype=bool)), (3, 3)).astype(int)
    array([[1, 0, 0],
           [0, 1, 0],
           [0, 0, 1]])

    Args:
        mask: bool, any shape.
    """
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = [0, 0] if flat.size and flat[0] else [0]
    counts = np.diff(np.concatenate([first, changes, [flat.size]]))
    packed = gzip.compress(counts.astype("<u4").tobytes(), mtime=0)
    return base64.b64encode(packed).decode("ascii")


def decode(text: str, shape: tuple[int, ...], limit: int = MOST_RUNS) -> MaskArray:
    """Read what `encode`, or the viewer, wrote.

    Args:
        text: base64.
        shape: of the mask.
        limit: most runs.

    Returns:
        bool, of that shape.

    Raises:
        DataError: damaged, longer or shorter than the shape, or more runs than the limit.
    """
    size = math.prod(shape)
    most_bytes = _BYTES * min(limit, size + 2)
    if len(text) > text_limit(most_bytes):
        raise DataError(_refused("it has too many runs"))
    try:
        packed = base64.b64decode(text, validate=True)
        unzip = zlib.decompressobj(_GZIP)
        data = unzip.decompress(packed, most_bytes + 1)
    except (binascii.Error, ValueError, zlib.error):
        raise DataError(_refused("it cannot be unpacked")) from None
    if len(data) > most_bytes:
        raise DataError(_refused("it has too many runs"))
    if not unzip.eof or unzip.unused_data or len(data) % _BYTES:
        raise DataError(_refused("it cannot be unpacked"))
    counts = np.frombuffer(data, "<u4")
    if int(counts.sum(dtype=np.uint64)) != size:
        raise DataError(_refused("its run lengths do not fill the volume"))
    inside = np.zeros(counts.size, bool)
    inside[1::2] = True
    return np.repeat(inside, counts).reshape(shape)


def text_limit(most_bytes: int) -> int:
    """Return how long a text of so many bytes may be: base64 of what could not be packed."""
    return (most_bytes + most_bytes // 1000 + 64) * 4 // 3 + 4


def _refused(why: str) -> str:
    return f"the contour that the browser sent was refused: {why}: reload the page"
