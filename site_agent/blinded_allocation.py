"""Which contour a blinded reader is shown, in which order, and the seal over it: pure.

The order comes from a seeded generator, so that it can be shown later that nobody chose. The seed
stands in the database, where a reader might see it: the generator also takes the site's key,
without which nobody can work the order out. An allocation is sealed with the same key, filled up to
one length, for a longer seal would tell a longer name.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
from cryptography.fernet import Fernet, InvalidToken

from algorithms.contracts.canonical_json import canonical_json
from algorithms.contracts.errors import DataError

_SEALED_BYTES = 512


@dataclass(frozen=True)
class Allocation:
    """What is shown at one place of a reading.

    Attributes:
        arm: "adapted", "reference" or "reviewed".
        contour_id: of the very contour; one that is saved later is not shown.
        mask_sha256: of its mask.
    """

    reading: str
    place: int
    case_id: str
    arm: str
    contour_id: int
    mask_sha256: str

    def __repr__(self) -> str:
        """Say nothing, so that a stray log line cannot either."""
        return "Allocation(<sealed>)"


def generator(key: bytes, reading: str, seed: int) -> np.random.Generator:
    """Make the generator of a reading: the same key, name and seed give the same order."""
    digest = hmac.new(key, f"blinded:{reading}".encode(), hashlib.sha256).digest()
    return np.random.default_rng([seed, int.from_bytes(digest)])


def balanced_order(
    case_ids: Sequence[str], arms: Sequence[str], rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Give every case one arm: (case, arm) in the order of showing.

    The arms are dealt out as evenly as the number of cases allows; which one is left over, who gets
    which, and the order are random.
    """
    dealt = [arms[i] for i in rng.permutation(len(arms))]
    given = [dealt[i % len(arms)] for i in range(len(case_ids))]
    shuffled = [given[i] for i in rng.permutation(len(case_ids))]
    return [(case_ids[i], shuffled[i]) for i in rng.permutation(len(case_ids))]


def crossed_order(
    case_ids: Sequence[str], arms: Sequence[str], rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Give every case every arm: (case, arm), the same case never twice in a row.

    Every such order is equally likely: shuffled again until one comes out.

    Raises:
        DataError: one case alone would follow itself.
    """
    if len(case_ids) == 1 and len(arms) > 1:
        raise DataError("one case alone would be shown twice in a row: read at least two")
    pairs = [(case_id, arm) for case_id in case_ids for arm in arms]
    while True:
        order = [pairs[i] for i in rng.permutation(len(pairs))]
        if all(one[0] != next_[0] for one, next_ in pairwise(order)):
            return order


def seal_allocation(allocation: Allocation, key: bytes) -> bytes:
    """Encrypt an allocation; every token has the same length."""
    text = canonical_json(asdict(allocation))
    if len(text) > _SEALED_BYTES:
        raise ValueError("an allocation is longer than its seal")
    return Fernet(key).encrypt(text.ljust(_SEALED_BYTES))


def open_allocation(sealed: bytes, key: bytes, *, reading: str, place: int) -> Allocation:
    """Decrypt what `seal_allocation` made for this place.

    Raises:
        DataError: another key, changed bytes, or the seal of another place.
    """
    try:
        found = Allocation(**json.loads(Fernet(key).decrypt(sealed)))
    except InvalidToken:
        raise DataError(
            f"reading {reading}: a seal cannot be opened: use the crosswalk.key of its start"
        ) from None
    if (found.reading, found.place) != (reading, place):
        raise DataError(f"reading {reading}: seals were exchanged: compare with a backup")
    return found
