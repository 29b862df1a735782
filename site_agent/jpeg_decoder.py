"""Decode compressed pixels (JPEG, JPEG-LS, JPEG 2000) through a process of its own.

Decoders are C++ that is handed whatever a file holds: on damaged bytes GDCM, the one that knows
lossless and 12-bit JPEG, ends the process it runs in, and CharLS thinks about a kilobyte for ten
seconds. So they run in a child (`jpeg_process`): what ends, or takes too long, is one file's
reading, and the caller names the file.
"""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from threading import Timer

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

JPEG_SYNTAXES = {
    JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1,
    JPEGLSLossless, JPEGLSNearLossless, JPEG2000, JPEG2000Lossless,
}  # fmt: skip
PATIENCE_S = 8.0  # for a small image, the start of the child included
SLOWEST_VOXELS_PER_S = 2e5  # a tenth of what decoders do on a busy machine

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

    def decode(self, file: Path, voxels: int) -> NDArray[np.generic]:
        """Return the stored values of a file, all frames in one row of `voxels`.

        Raises:
            ValueError: they cannot be decoded, or not in a time that fits their number.
        """
        child = self._running()
        if child.stdin is None or child.stdout is None:
            raise ValueError("the decoder has no pipes")
        patience = Timer(PATIENCE_S + voxels / SLOWEST_VOXELS_PER_S, child.kill)
        patience.start()
        try:
            child.stdin.write(json.dumps(str(file.resolve())).encode() + b"\n")
            child.stdin.flush()
            says = json.loads(child.stdout.readline() or b"{}")
            kind = np.dtype(_TYPES[says["bits"], says["signed"]])
            if says["bytes"] != voxels * kind.itemsize:
                raise ValueError("the decoder found another size")
            return np.frombuffer(child.stdout.read(says["bytes"]), dtype=kind)
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
