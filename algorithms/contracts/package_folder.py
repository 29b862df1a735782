"""Writes a package's folder wholly or not at all, on both sides."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path


def write_package_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files into a folder that appears at once, with all of them.

    A kill leaves a part beside it, which the next attempt at the same folder replaces.

    Args:
        folder: it must not be there yet.
        contents: name of a file -> its bytes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    try:
        for name, content in contents.items():
            with (part / name).open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())  # or a power cut leaves the name with no content
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
