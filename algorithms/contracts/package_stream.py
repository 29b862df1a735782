"""A package on the road: its files as one stream of bytes, so that "how far" is one number.

The stream is the files that the manifest names, in the order of their names, one behind the other.
It travels in parts, each a piece of the stream that begins at an offset; the signed manifest says
how long the stream is and, by the hash of every file, when it is right.
"""

from collections.abc import Mapping

from algorithms.contracts.model_package import FileEntry


def stream_spans(files: Mapping[str, FileEntry]) -> dict[str, range]:
    """Return where each file lies in the stream: its first byte and the one behind its last.

    >>> entry = FileEntry(sha256="0" * 64, size_bytes=3)
    >>> stream_spans({"b": entry, "a": entry})
    {'a': range(0, 3), 'b': range(3, 6)}
    """
    spans, end = {}, 0
    for name in sorted(files):
        spans[name] = range(end, end + files[name].size_bytes)
        end = spans[name].stop
    return spans


def stream_bytes(files: Mapping[str, FileEntry]) -> int:
    """Return the length of the stream in bytes."""
    return sum(entry.size_bytes for entry in files.values())
