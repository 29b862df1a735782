"""Whether a NIfTI file is all there: SimpleITK reads zeros where one was cut off."""

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

from algorithms.contracts.errors import DataError


def refuse_cut_off(file: Path) -> None:
    """Refuse a file that ends before its last voxel.

    Raises:
        DataError: naming the file.
    """
    try:
        with _open(file) as stream:
            header = stream.read(540)
            size = len(header)
            while block := stream.read(1 << 20):
                size += len(block)
        whole = size >= _bytes_needed(header)
    except (OSError, EOFError, ValueError, zlib.error, struct.error) as error:
        raise DataError(f"{file} is cut off or damaged: copy or write the file again") from error
    if not whole:
        raise DataError(f"{file} ends before its last voxel: copy or write the file again")


def _open(file: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb")


def _bytes_needed(header: bytes) -> int:
    """Return where the voxels end, by a NIfTI-1 or NIfTI-2 header; 0 when it is neither."""
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", header)
        if size == 348:
            dimensions = struct.unpack_from(order + "8h", header, 40)
            (bits,) = struct.unpack_from(order + "h", header, 72)
            (start,) = struct.unpack_from(order + "f", header, 108)
        elif size == 540:
            dimensions = struct.unpack_from(order + "8q", header, 16)
            (bits,) = struct.unpack_from(order + "h", header, 14)
            (start,) = struct.unpack_from(order + "q", header, 168)
        else:
            continue
        voxels: int = math.prod(dimensions[1 : dimensions[0] + 1])
        return int(start) + voxels * int(bits) // 8
    return 0
