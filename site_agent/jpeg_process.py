"""Decode JPEG files (baseline, extended, lossless) in a process of its own.

Only GDCM decodes lossless and 12-bit JPEG under a licence we can ship, and a damaged file makes it
end the whole process it runs in. So it runs in a child: what ends is one file's reading, and the
caller names the file. Run as `python -m site_agent.jpeg_process`, the child answers each file name
on its input with a line that says what follows, and the stored values.
"""

import contextlib
import json
import resource
import subprocess
import sys
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
)

JPEG_SYNTAXES = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1}
PATIENCE_S = 60.0  # for one file
MOST_MEMORY = 12 * 2**30

_TYPES = {(8, 0): "<u1", (8, 1): "<i1", (16, 0): "<u2", (16, 1): "<i2"}


class JpegDecoder:
    """Decodes files one after the other; the child starts with the first and ends with the block.

    >>> with JpegDecoder() as jpeg:  # nothing to decode, so nothing starts
    ...     pass
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "JpegDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def decode(self, file: Path) -> NDArray[np.generic]:
        """Return the stored values of a file, all frames in one row.

        Raises:
            ValueError: they cannot be decoded.
        """
        child = self._running()
        if child.stdin is None or child.stdout is None:
            raise ValueError("the decoder has no pipes")
        patience = Timer(PATIENCE_S, child.kill)
        patience.start()
        try:
            child.stdin.write(json.dumps(str(file.resolve())).encode() + b"\n")
            child.stdin.flush()
            says = json.loads(child.stdout.readline() or b"{}")
            if says.get("bytes", 0) <= 0:
                raise ValueError("the decoder refuses the file")
            values = child.stdout.read(says["bytes"])
            return np.frombuffer(values, dtype=_TYPES[says["bits"], says["signed"]])
        except (OSError, ValueError, KeyError):
            self._end()
            raise ValueError("the decoder ended") from None
        finally:
            patience.cancel()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "site_agent.jpeg_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # decoders quote the file
            )
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        child.kill()
        child.wait()


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
