import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from algorithms.contracts.errors import ProtocolError
from algorithms.federated_averaging import Tensors, clip_update
from algorithms.update_file import float_tensors, read_update, write_update

BASE = {"conv.weight": np.ones((3, 2), np.float32), "norm.bias": np.zeros(4, np.float32)}
UPDATE = {name: np.full(one.shape, 0.1, np.float32) for name, one in BASE.items()}


def _read(content: bytes, clip_norm: float = 1.0, noise_multiplier: float = 0.0) -> Tensors:
    return read_update(content, BASE, clip_norm=clip_norm, noise_multiplier=noise_multiplier)


def _rule(content: bytes, **terms: float) -> str:
    with pytest.raises(ProtocolError) as refused:
        _read(content, **terms)
    return str(refused.value)


def test_what_was_written_is_read() -> None:
    read = _read(write_update(UPDATE))
    for name, one in UPDATE.items():
        np.testing.assert_array_equal(read[name], one)
    turned = {"conv.weight": UPDATE["conv.weight"].T.copy().T, "norm.bias": UPDATE["norm.bias"]}
    assert write_update(turned) == write_update(UPDATE)


def test_counts_are_not_averaged() -> None:
    weights = save({**BASE, "norm.num_batches_tracked": np.array(7, np.int64)})
    assert float_tensors(weights).keys() == BASE.keys()


def _with_metadata(content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    written = json.dumps({"__metadata__": {"note": "Mustermann"}, **header}).encode()
    return struct.pack("<Q", len(written)) + written + content[8 + length :]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04.",
        write_update(UPDATE)[:-1],
        write_update(UPDATE) + b"\0",
        _with_metadata(write_update(UPDATE)),
        struct.pack("<Q", 2**40) + b"{}",
    ],
)
def test_there_is_room_for_nothing_else(content: bytes) -> None:
    assert _rule(content) == "not_safetensors"


@pytest.mark.parametrize(
    "changes",
    [
        {"conv.weight": np.zeros((2, 3), np.float32)},
        {"conv.weight": np.zeros((3, 2), np.float64)},
        {"norm.num_batches_tracked": np.array(7, np.int64)},
    ],
)
def test_tensors_are_the_networks(changes: dict[str, np.ndarray]) -> None:
    assert _rule(save(UPDATE | changes)) == "wrong_network"
    assert _rule(save({"conv.weight": UPDATE["conv.weight"]})) == "wrong_network"


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_are_finite(number: float) -> None:
    poisoned = UPDATE["norm.bias"].copy()
    poisoned[2] = number
    assert _rule(write_update(UPDATE | {"norm.bias": poisoned})) == "bad_weights"


def test_longer_than_clipping_and_noise_make_it_is_refused() -> None:
    long = {name: one * np.float32(100) for name, one in UPDATE.items()}
    assert _rule(write_update(long)) == "update_too_long"
    assert _rule(write_update(long), noise_multiplier=0.5) == "update_too_long"
    _read(write_update(clip_update(long, 1.0)))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_a_rule(content: bytes) -> None:
    assert _rule(content) in {"not_safetensors", "wrong_network"}


@given(st.integers(0, 2**32), st.integers(0, 8 * len(write_update(UPDATE)) - 1))
def test_a_flipped_bit_gives_numbers_or_a_rule(_seed: int, bit: int) -> None:
    content = bytearray(write_update(UPDATE))
    content[bit // 8] ^= 1 << bit % 8
    try:
        read = _read(bytes(content))
    except ProtocolError as refused:
        assert str(refused) in {
            "not_safetensors",
            "wrong_network",
            "bad_weights",
            "update_too_long",
        }
    else:
        assert read.keys() == BASE.keys()
