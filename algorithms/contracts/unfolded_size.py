"""How large a message of Flower becomes when its parts are put together.

On the wire an array names its chunks, and may name one chunk a million times: a message of a few
kilobytes that takes all memory of whoever reads it. A list of numbers takes thirty times as much
memory as on the wire. So both parties look before they read.
"""

import json
from collections.abc import Mapping

MOST_WORDS_BYTES = 4 * 2**20  # of all in a message but its arrays; a report is some 10 kB


def is_too_large(parts: Mapping[str, bytes], limit_bytes: int) -> bool:
    r"""Say whether a message would take more memory than it may.

    >>> chunk, array = b"ArrayChunk  3\0abc", b'Array x 26\0{"arraychunk_ids": [0, 0]}'
    >>> [is_too_large({"x": chunk, "y": array}, size * len(chunk)) for size in (2, 1)]
    [False, True]

    Args:
        parts: of the message, by their names, as the network carries them.
        limit_bytes: of its arrays; all else may have `MOST_WORDS_BYTES`.

    Raises:
        ValueError: they are not such parts.
    """
    arrays_bytes = words_bytes = 0
    try:
        for content in parts.values():
            head, _, body = content.partition(b"\0")
            kind, children, _ = head.decode("ascii").split(" ")
            if kind == "Array":
                sizes = [len(parts[name]) for name in children.split(",") if name]
                arrays_bytes += sum(sizes[index] for index in json.loads(body)["arraychunk_ids"])
            if kind != "ArrayChunk":
                words_bytes += len(content)
    except (KeyError, IndexError, TypeError, RecursionError):
        raise ValueError("not the parts of a message") from None
    return arrays_bytes > limit_bytes or words_bytes > MOST_WORDS_BYTES
