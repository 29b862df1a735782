import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.canonical_json import canonical_json, sha256_hex

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # A lone surrogate is no character, and UTF-8 cannot say it.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_what_was_written_is_read_back(value) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text("abcäé", max_size=4), st.integers(), max_size=6))
def test_the_order_of_keys_does_not_matter(mapping) -> None:
    turned = dict(reversed(list(mapping.items())))
    assert canonical_json(mapping) == canonical_json(turned)


def test_there_is_no_white_space_and_no_escape_but_the_needed_ones() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é\n"}) == '{"a":"é\\n","b":[1,2.5]}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_what_json_cannot_say_is_refused(value) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


def test_the_hash_is_sha_256() -> None:
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_hex(b"abc") == expected
