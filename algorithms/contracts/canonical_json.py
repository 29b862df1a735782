"""One byte string per value, so that a signature or a hash means the same on every machine."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Encode a JSON value with sorted keys, no white space, UTF-8 and no NaN or infinity.

    >>> canonical_json({"b": 1, "a": [True, None]})
    b'{"a":[true,null],"b":1}'

    Raises:
        ValueError: when `value` holds NaN or an infinity, which JSON cannot say.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
