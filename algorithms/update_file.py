"""A model update as the bytes of a safetensors file, in which there is room for nothing else.

Both parties read it here: the hospital before it lets it go, the coordinator before it keeps it.
"""

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from algorithms.contracts.errors import ProtocolError
from algorithms.federated_averaging import Tensors, l2_norm, longest_update


def write_update(update: Tensors) -> bytes:
    """Write an update."""
    return save({name: np.asarray(one, order="C") for name, one in update.items()})


def float_tensors(weights: bytes) -> dict[str, NDArray[np.float32]]:
    """Return the weights that are averaged: all but counts such as num_batches_tracked.

    `weights` is a safetensors file that was checked before. In order of name.
    """
    return {name: one for name, one in sorted(load(weights).items()) if one.dtype == np.float32}


def read_update(
    content: bytes, base: Tensors, *, clip_norm: float, noise_multiplier: float
) -> dict[str, NDArray[np.float32]]:
    """Read an update that may come from anybody.

    Args:
        content: of the file.
        base: the weights that it is an update of.
        clip_norm: longest it was before noise.
        noise_multiplier: of the noise over `clip_norm`.

    Raises:
        ProtocolError: naming the rule that it breaks: not_safetensors, wrong_network, bad_weights
            or update_too_long.
    """
    try:
        update: dict[str, NDArray[np.float32]] = load(content)
        # What was written of these tensors, and not a byte of anything beside them.
        exact = write_update(update) == content
    except (SafetensorError, ValueError, KeyError, TypeError):
        exact = False
    if not exact:
        raise ProtocolError("not_safetensors")
    found = {name: (one.dtype, one.shape) for name, one in update.items()}
    if found != {name: (np.dtype(np.float32), one.shape) for name, one in base.items()}:
        raise ProtocolError("wrong_network")
    if not all(np.isfinite(one).all() for one in update.values()):
        raise ProtocolError("bad_weights")
    numbers = sum(one.size for one in base.values())
    if l2_norm(update) > longest_update(numbers, clip_norm, noise_multiplier):
        raise ProtocolError("update_too_long")
    return update
