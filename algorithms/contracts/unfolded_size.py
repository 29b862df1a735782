"""How large a message of Flower becomes when its parts are put together.

On the wire an array names its chunks, and may name one chunk a million times: a message of a few
kilobytes that takes all memory of whoever reads it. So both parties look before they read.
"""

import json
from collections.abc import Mapping


def unfolded_bytes(parts: Mapping[str, bytes]) -> int:
    r"""Return the bytes that the arrays of a message have when it is put together.

    >>> chunk, array = b"ArrayChunk  3\0abc", b'Array x 26\0{"arraychunk_ids": [0, 0]}'
    >>> unfolded_bytes({"x": chunk, "y": array}) == 2 * len(chunk)
    True

    Args:
        parts: of the message, by their names, as the network carries them.

    Raises:
        ValueError: they are not such parts.
    """
    total = 0
    try:
        for content in parts.values():
            head, _, body = content.partition(b"\0")
            kind, children, _ = head.decode("ascii").split(" ")
            if kind == "Array":
                sizes = [len(parts[name]) for name in children.split(",") if name]
                total += sum(sizes[index] for index in json.loads(body)["arraychunk_ids"])
    except (KeyError, IndexError, TypeError, RecursionError):
        raise ValueError("not the parts of a message") from None
    return total
