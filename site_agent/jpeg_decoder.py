"""Decode JPEG files (baseline, extended, lossless) through a process of its own.

Only GDCM decodes lossless and 12-bit JPEG under a licence we can ship, and a damaged file makes it
end the whole process it runs in. So it runs in a child (`jpeg_process`): what ends is one file's
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
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
)

JPEG_SYNTAXES = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1}
PATIENCE_S = 60.0  # for one file

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
