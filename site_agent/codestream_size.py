"""The image size that a compressed frame states, read before a decoder believes it.

A damaged frame may claim 65,535 x 65,535 pixels, for which a decoder then asks for gigabytes and
minutes. A frame is decoded only when its claim is the size in the DICOM header.
"""

import struct

_START_JPEG = b"\xff\xd8"
_START_JPEG_2000 = b"\xff\x4f\xff\x51"  # start of codestream, then the size segment
_SIZE_MARKERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}  # JPEG frames, and the frame of JPEG-LS
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_FILLER = 0xFF
_SCAN = 0xDA


def stated_size(stream: bytes) -> tuple[int, int] | None:
    """Return rows and columns of a JPEG, JPEG-LS or JPEG 2000 codestream; None where it has none.

    >>> stated_size(bytes.fromhex("ffd8 fff7 000b 10 0040 0020 01 01 11 00"))
    (64, 32)
    """
    if stream.startswith(_START_JPEG_2000) and len(stream) >= 24:
        right, bottom, left, top = struct.unpack_from(">4L", stream, 8)
        return bottom - top, right - left
    if not stream.startswith(_START_JPEG):
        return None
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == _FILLER:
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker in _SIZE_MARKERS and at + 9 <= len(stream):
            rows, columns = struct.unpack_from(">HH", stream, at + 5)
            return rows, columns
        elif marker == _SCAN:
            return None
        else:
            at += 2 + struct.unpack_from(">H", stream, at + 2)[0]
    return None
