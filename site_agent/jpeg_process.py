"""The child of `jpeg_decoder`: answers each file name on its input with the stored values.

Each question is a file name in JSON, one a line; each answer is a line of JSON that says how many
bytes follow and what they are, and the bytes. It imports next to nothing, so that it starts fast.
"""

import json
import resource
import sys
from typing import Any, BinaryIO

MOST_MEMORY = 12 * 2**30


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer file names, one a line in JSON, until there are no more."""
    for line in questions:
        says, values = _decoded(json.loads(line))
        answers.write(json.dumps({**says, "bytes": len(values)}).encode() + b"\n" + values)
        answers.flush()


def _decoded(file: str) -> tuple[dict[str, Any], bytes]:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(file)
    if not reader.Read():
        return {}, b""
    image = reader.GetImage()
    kind = image.GetPixelFormat()
    says = {"bits": kind.GetBitsAllocated(), "signed": kind.GetPixelRepresentation()}
    # GDCM hands bytes out as text
    return says, image.GetBuffer().encode("utf-8", "surrogateescape")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    serve(sys.stdin.buffer, sys.stdout.buffer)
