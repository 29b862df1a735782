"""Run lengths: the viewer's own, damaged ones, and texts that would become large."""

import base64
import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from algorithms.contracts.errors import DataError
from site_agent.run_lengths import decode, encode, text_limit
from tests.site_agent.viewer_window import packed, runs

MASKS = array_shapes(min_dims=1, max_dims=3, max_side=9).flatmap(lambda s: arrays(bool, s))


@given(MASKS)
def test_what_was_written_is_read(mask) -> None:
    text = encode(mask)
    np.testing.assert_array_equal(decode(text, mask.shape), mask)
    assert encode(mask) == text


@given(MASKS)
def test_it_is_what_the_viewer_writes(mask) -> None:
    """Another encoder, another level of zipping."""
    np.testing.assert_array_equal(decode(runs(mask), mask.shape), mask)
    for text in (runs(mask), encode(mask)):
        counts = np.frombuffer(gzip.decompress(base64.b64decode(text)), "<u4")
        said = [bool(i % 2) for i, count in enumerate(counts) for _ in range(count)]
        assert said == mask.ravel().tolist()


def test_the_first_run_is_of_voxels_outside() -> None:
    counts = np.array([0, 2, 1], "<u4")
    assert decode(packed(counts.tobytes()), (3,)).tolist() == [True, True, False]


@pytest.mark.parametrize("counts", [[], [7], [9], [4, 5], [2**32 - 1, 2**32 - 1, 10]])
def test_other_lengths_are_refused(counts) -> None:
    with pytest.raises(DataError, match="do not fill the volume: reload"):
        decode(packed(np.array(counts, "<u4").tobytes()), (2, 2, 2))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "%%%%",
        "\N{GREEK SMALL LETTER MU}",
        base64.b64encode(b"no gzip").decode(),
        base64.b64encode(zlib.compress(np.array([8], "<u4").tobytes())).decode(),
        runs(np.zeros(8, bool))[:-8],
        base64.b64encode(base64.b64decode(runs(np.zeros(8, bool))) + b"more").decode(),
        packed(b"\0\0\0"),
    ],
)
def test_what_is_no_such_text_is_refused(text) -> None:
    with pytest.raises(DataError, match="cannot be unpacked: reload") as refused:
        decode(text, (2, 2, 2))
    assert not text or text not in str(refused.value)


def test_a_short_text_does_not_become_a_large_array() -> None:
    bomb = packed(bytes(50 << 20))
    assert len(bomb) < text_limit(4 << 20)
    with pytest.raises(DataError, match="too many runs"):
        decode(bomb, (60, 320, 320))


def test_a_long_text_is_not_even_unpacked() -> None:
    with pytest.raises(DataError, match="too many runs"):
        decode("A" * 4000, (2, 2, 2))


@settings(max_examples=25)
@given(st.integers(0, 20), st.integers(0, 20))
def test_the_limit_is_on_runs(changes, limit) -> None:
    mask = (np.arange(64) < changes) & (np.arange(64) % 2 == 0)
    count = 1 + int((mask[1:] != mask[:-1]).sum()) + int(mask[0])
    if count <= limit:
        np.testing.assert_array_equal(decode(encode(mask), mask.shape, limit), mask)
    else:
        with pytest.raises(DataError, match=r"too many runs|cannot"):
            decode(encode(mask), mask.shape, limit)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_be_refused(data) -> None:
    """Or they are a mask of that shape."""
    try:
        mask = decode(base64.b64encode(data).decode(), (3, 4))
    except DataError:
        return
    assert mask.shape == (3, 4)
    assert mask.dtype == bool
