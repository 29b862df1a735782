"""From the pixel bytes of an image to grey values: decoding, then rescale (PS3.3 C.11.1).

Uncompressed little-endian pixels, the usual kind, are read here; the JPEG family is decoded in a
process of its own, the rest (run lengths, big endian) by pydicom in plain Python.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import ImageArray
from site_agent.codestream_size import stated_size
from site_agent.dicom_elements import numbers, plain_text, tag_of, whole_number
from site_agent.jpeg_decoder import JPEG_SYNTAXES, JpegDecoder
from site_agent.slice_stack import whole_number_of_frames

MOST_VOXELS = 2**30  # of one file; as float32 that is 4 GiB, and more than any scanner makes
MOST_PIXELS = 2**26  # of one frame; a header is believed before the pixels are decoded

_PYTHON_ALONE = "pydicom"  # the plugin for run lengths; other decoders are not for this process
_TYPES = {8: ("<u1", "<i1"), 16: ("<u2", "<i2"), 32: ("<u4", "<i4")}


def stored_frames(image: Dataset, file: Path, jpeg: JpegDecoder) -> Iterator[NDArray[np.generic]]:
    """Yield the stored values `[y, x]` of every frame of one file, in file order.

    Args:
        image: with its pixels, its transfer syntax in `file_meta`.
        file: where it was read from.
        jpeg: decodes JPEG files.

    Raises:
        DataError: the pixels end early, are larger than any image, or cannot be decoded.
    """
    rows, columns = whole_number(image, "Rows"), whole_number(image, "Columns")
    frames = whole_number_of_frames(image)
    if not 0 < frames * rows * columns <= MOST_VOXELS or rows * columns > MOST_PIXELS:
        raise DataError(f"{file}: the image states an impossible size: export it again")
    count = 0
    try:
        for stored in _frames(image, file, (frames, rows, columns), jpeg):
            if stored.shape != (rows, columns):
                break
            yield stored
            count += 1
    except Exception:
        # decoders raise their own kinds; to the user all are one message
        raise _undecodable(file) from None
    if count != frames:
        raise _undecodable(file)


def grey_values(stored: NDArray[np.generic], header: Dataset, where: str) -> ImageArray:
    """Return slope * stored + intercept, or what the modality table says, as float32.

    Raises:
        DataError: a grey value is no finite number.
    """
    if "ModalityLUTSequence" in header:
        grey = np.asarray(apply_modality_lut(stored, header), dtype=np.float32)
    else:
        slope = _rescale(header, "RescaleSlope", 1.0)
        intercept = _rescale(header, "RescaleIntercept", 0.0)
        with np.errstate(all="ignore"):  # what is not finite is refused below
            plain = (slope, intercept) == (1.0, 0.0)
            exact = stored if plain else stored.astype(np.float64) * slope + intercept
            grey = np.asarray(exact, dtype=np.float32)
        if np.isfinite(slope) and np.isfinite(intercept) and max(abs(slope), abs(intercept)) < 1e20:
            return grey  # integers of at most 32 bits cannot leave float32 then
    if not np.isfinite(grey).all():
        raise DataError(f"{where}: grey values are no finite numbers: export it again")
    return grey


def _frames(
    image: Dataset, file: Path, shape: tuple[int, int, int], jpeg: JpegDecoder
) -> Iterable[NDArray[np.generic]]:
    """Choose who decodes: only decoders that survive damaged bytes run in this process."""
    if plain_text(image.file_meta, "TransferSyntaxUID") in JPEG_SYNTAXES:
        sizes = map(stated_size, generate_frames(image.PixelData, number_of_frames=shape[0]))
        if any(size != shape[1:] for size in sizes):
            raise ValueError("a frame has another size than the header")
        return jpeg.decode(file, int(np.prod(shape))).reshape(shape)
    native = _native_frames(image, shape)
    return iter_pixels(image, decoding_plugin=_PYTHON_ALONE) if native is None else native


def _native_frames(image: Dataset, shape: tuple[int, int, int]) -> list[NDArray[np.generic]] | None:
    """View uncompressed pixels as frames; None where pydicom is to decode them."""
    bits, stored = whole_number(image, "BitsAllocated"), whole_number(image, "BitsStored")
    value = _raw_bytes(image.get_item(tag_of("PixelData")))
    if value is None or bits not in _TYPES or not 0 < stored <= bits:
        return None
    syntax = UID(plain_text(image.file_meta, "TransferSyntaxUID"))
    if syntax.is_compressed or not image.original_encoding[1]:
        return None
    voxels = int(np.prod(shape))
    if len(value) < voxels * bits // 8:
        raise ValueError("the pixels end early")
    signed = whole_number(image, "PixelRepresentation") == 1
    pixels = np.frombuffer(value, dtype=_TYPES[bits][signed], count=voxels).reshape(shape)
    high = whole_number(image, "HighBit", stored - 1)
    if stored == bits:
        return list(pixels)
    if not stored - 1 <= high < bits:
        return None
    # Only BitsStored bits are the value; others may hold an overlay or lack the sign (PS3.5 8.1.1).
    return [(frame << (bits - 1 - high)) >> (bits - stored) for frame in pixels]


def _raw_bytes(element: DataElement | RawDataElement | None) -> bytes | None:
    value = None if element is None else element.value
    return value if isinstance(value, bytes) else None


def _rescale(header: Dataset, keyword: str, default: float) -> float:
    """Return a factor of the rescale, which a header may leave out or empty."""
    element = header.get_item(tag_of(keyword))
    if element is None or element.value in (None, "", b""):
        return default
    return numbers(header, keyword)[0]


def _undecodable(file: Path) -> DataError:
    return DataError(
        f"{file}: the pixels are truncated or in a compression that cannot be decoded: "
        "export the file again, uncompressed"
    )
