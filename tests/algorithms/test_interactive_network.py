import json
from importlib import resources

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from algorithms.contracts.errors import DataError
from algorithms.geodesic import ENCODINGS
from algorithms.interactive_network import (
    InteractiveNetworkSpec,
    build_interactive_network,
    crop_box,
    default_network,
    from_bytes,
    network_input,
    normalise,
    ready,
    resize,
    seeds_in,
    to_bytes,
)

FLAT = InteractiveNetworkSpec(dimensions=2, input_shape=(16, 24), base_channels=2, levels=3)
SOLID = InteractiveNetworkSpec(dimensions=3, input_shape=(8, 8, 12), base_channels=2, levels=2)
MOST_BYTES = 4_000_000


def network(spec=FLAT, seed: int = 0):
    return ready(spec, build_interactive_network(spec, seed=seed))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(50, 10, shape).astype(np.float32)


def points(*places: tuple[int, ...]) -> np.ndarray:
    return np.array(places, dtype=np.int64)


def sides(box) -> list[tuple[int, int]]:
    return [(side.start, side.stop) for side in box]


@st.composite
def clicked_images(draw):
    """A shape of 2 or 3 axes and points in it."""
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=2, max_size=3)))
    place = st.tuples(*(st.integers(0, n - 1) for n in shape))
    return shape, points(*draw(st.lists(place, min_size=1, max_size=8)))


# -- the crop ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "shape", "expected"),
    [
        ([(10, 20), (29, 39)], (100, 100), [(5, 35), (15, 45)]),  # a quarter of 20
        ([(50, 50)], (100, 100), [(47, 54), (47, 54)]),  # 3 voxels at least
        ([(10, 10), (22, 10)], (100, 100), [(6, 27), (7, 14)]),  # a quarter of 13, rounded up
        ([(0, 99), (19, 80)], (100, 100), [(0, 25), (75, 100)]),  # cut at the edge
        ([(0, 5, 5)], (1, 10, 10), [(0, 1), (2, 9), (2, 9)]),
    ],
)
def test_the_box_of_the_points_grows_and_is_cut(places, shape, expected) -> None:
    assert sides(crop_box(points(*places), shape, FLAT)) == expected


@settings(max_examples=100, deadline=None)
@given(clicked=clicked_images(), growth=st.floats(0, 2), least=st.integers(0, 5))
def test_the_box_holds_all_points_and_grows_with_its_settings(clicked, growth, least) -> None:
    shape, places = clicked
    changes = {"growth": growth, "least_growth_voxels": least}
    tight, wide = (
        crop_box(places, shape, FLAT.model_copy(update=c))
        for c in ({"growth": 0.0, "least_growth_voxels": 0}, changes)
    )
    assert sides(tight) == list(
        zip(places.min(axis=0).tolist(), (places.max(axis=0) + 1).tolist(), strict=True)
    )
    for inner, outer, n in zip(tight, wide, shape, strict=True):
        assert 0 <= outer.start <= inner.start < inner.stop <= outer.stop <= n
        assert outer.start == 0 or inner.start - outer.start >= least
        assert outer.stop == n or outer.stop - inner.stop >= least


# -- seeds ------------------------------------------------------------------------------------


def test_seeds_are_where_the_map_by_hand_says() -> None:
    box = (slice(2, 6), slice(10, 18))  # 4 rows become 8, 8 columns become 4
    found = seeds_in(points((2, 10), (3, 13), (5, 17), (6, 12), (1, 12), (3, 9)), box, (8, 4))
    assert np.argwhere(found).tolist() == [[1, 0], [3, 1], [7, 3]]


@settings(max_examples=100, deadline=None)
@given(clicked=clicked_images(), side=st.integers(1, 50))
def test_every_point_is_in_the_cell_that_holds_its_centre(clicked, side) -> None:
    shape, places = clicked
    box = crop_box(places, shape, FLAT)
    found = seeds_in(places, box, (side,) * len(shape))
    expected = np.zeros((side,) * len(shape), dtype=bool)
    for place in places.tolist():
        pairs = zip(place, box, strict=True)
        cell = [(2 * (p - b.start) + 1) * side // (2 * (b.stop - b.start)) for p, b in pairs]
        expected[tuple(cell)] = True
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=50, deadline=None)
@given(clicked=clicked_images())
def test_on_a_grid_of_the_same_size_points_only_shift(clicked) -> None:
    shape, places = clicked
    found = seeds_in(places, tuple(slice(0, n) for n in shape), shape)
    assert {tuple(p) for p in np.argwhere(found)} == {tuple(p) for p in places}


# -- resizing ---------------------------------------------------------------------------------


def resized_by_hand(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate along one axis after the other between voxel centres."""
    for axis, n in enumerate(shape):
        old = image.shape[axis]
        at = (np.arange(n) + 0.5) * old / n - 0.5
        image = np.apply_along_axis(
            lambda row, at=at: np.interp(at, range(len(row)), row), axis, image
        )
    return image


def test_resizing_a_step_is_linear() -> None:
    found = resize(np.array([[0.0, 1.0]], dtype=np.float32), (2, 4))
    np.testing.assert_allclose(found, [[0.0, 0.25, 0.75, 1.0]] * 2)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((5, 7), (8, 3)),
        ((1, 9), (4, 4)),
        ((9, 9), (1, 1)),
        ((3, 4, 5), (6, 4, 2)),
        ((1, 5, 5), (4, 8, 8)),
    ],
)
def test_resizing_agrees_with_one_axis_after_the_other(before, after) -> None:
    image = noise(*before)
    found = resize(image.astype(np.float64), after)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, resized_by_hand(image, after), rtol=1e-4, atol=1e-37)


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.integers(2, 3).flatmap(
        lambda axes: st.tuples(*[st.tuples(*[st.integers(1, 9)] * axes)] * 2)
    ),
    value=st.floats(-1e4, 1e4, width=32),
)
def test_a_constant_image_stays_constant_and_the_range_is_kept(shapes, value) -> None:
    before, after = shapes
    found = resize(np.full(before, value, dtype=np.float32), after)
    assert found.shape == after
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-37)
    image = noise(*before)
    resized = resize(image, after)
    assert image.min() - 1e-3 <= resized.min() <= resized.max() <= image.max() + 1e-3
    np.testing.assert_array_equal(resize(image, before), image)  # exact on the same shape


# -- normalising ------------------------------------------------------------------------------


def test_normalising_follows_its_formula() -> None:
    found = normalise(np.array([[1, 3], [3, 1]], dtype=np.float32))
    np.testing.assert_array_equal(found, [[-1, 1], [1, -1]])
    assert found.dtype == np.float32


@pytest.mark.parametrize("value", [0.0, 1.0, -1000.0, 0.1])
def test_a_constant_image_becomes_zero(value: float) -> None:
    np.testing.assert_allclose(normalise(np.full((16, 16), value, np.float32)), 0.0, atol=1e-3)


@pytest.mark.parametrize("value", [1000.1, -1024.3, 40000.3])
def test_a_constant_image_of_many_digits_becomes_zero_too(value: float) -> None:
    np.testing.assert_allclose(normalise(np.full((64, 64), value, np.float32)), 0.0, atol=0.01)


@settings(max_examples=50, deadline=None)
@given(
    image=hnp.arrays(np.float32, (4, 5), elements=st.integers(-100, 100)).filter(
        lambda image: np.ptp(image) > 0
    ),
    gain=st.sampled_from([0.5, 2.0, 100.0]),
    shift=st.integers(-100, 100),
)
def test_gain_and_shift_of_the_scanner_do_not_matter(image, gain, shift) -> None:
    found = normalise(image)
    assert found.mean() == pytest.approx(0, abs=1e-4)
    assert found.std() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(normalise(image * np.float32(gain) + shift), found, atol=1e-3)


# -- input of the network ---------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("spec", "shape"), [(FLAT, (30, 30)), (SOLID, (6, 20, 20))])
def test_the_input_is_grey_values_and_encoded_clicks(spec, shape, encoding) -> None:
    spec = spec.model_copy(update={"encoding": encoding})
    places = points((2,) * len(shape), (5,) * len(shape))
    box = crop_box(places, shape, spec)
    image = noise(*shape)
    found = network_input(image, places, box, spec)
    assert found.shape == (2, *spec.input_shape)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0], normalise(resize(image[box], spec.input_shape)))
    clicks = ENCODINGS[encoding](found[0], seeds_in(places, box, spec.input_shape))
    np.testing.assert_array_equal(found[1], clicks)


@pytest.mark.parametrize(("spec", "shape"), [(FLAT, (16, 16)), (SOLID, (8, 8, 8))])
def test_the_length_weight_lets_the_map_fall_inside_a_homogeneous_target(spec, shape) -> None:
    seeds = np.zeros(shape, dtype=bool)
    seeds[tuple(n // 2 for n in shape)] = True
    flat = np.zeros(shape, dtype=np.float32)
    assert (spec.encode(flat, seeds) == 1).all()  # the pure map: nothing tells where the click was
    # A chain of diagonal and straight steps is as long as the way over the grid's 8 or 26 ways.
    diagonal = spec.model_copy(update={"encoding_length_weight": 0.3}).encode(flat, seeds)
    corner = np.sqrt(len(shape)) * (shape[0] // 2)
    assert diagonal[(0,) * len(shape)] == pytest.approx(np.exp(-0.3 * corner), rel=1e-5)
    straight = (0, *(n // 2 for n in shape[1:]))
    assert diagonal[straight] == pytest.approx(np.exp(-0.3 * (shape[0] // 2)), rel=1e-5)


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "egd"])
def test_the_length_weight_is_of_the_exponential_map_alone(encoding) -> None:
    seeds = np.zeros((12, 12), dtype=bool)
    seeds[3, 4] = True
    plain = FLAT.model_copy(update={"encoding": encoding})
    weighed = plain.model_copy(update={"encoding_length_weight": 0.3})
    image = noise(12, 12)
    np.testing.assert_array_equal(weighed.encode(image, seeds), plain.encode(image, seeds))


def test_weights_from_before_the_length_weight_are_read_as_pure_maps() -> None:
    old = FLAT.model_dump(mode="json")
    del old["encoding_length_weight"]
    assert InteractiveNetworkSpec.model_validate(old).encoding_length_weight == 0
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            InteractiveNetworkSpec.model_validate(old | {"encoding_length_weight": wrong})


# -- building ---------------------------------------------------------------------------------


def test_weights_come_from_the_seed_and_global_state_is_kept() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (build_interactive_network(FLAT, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.parametrize(
    "change",
    [{"dimensions": 4}, {"base_channels": 0}, {"levels": 1}, {"encoding": "magic"}, {"extra": 1}],
)
def test_an_impossible_network_is_refused(change) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        InteractiveNetworkSpec(**(FLAT.model_dump() | change))


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "shape"), [(FLAT, (30, 40)), (SOLID, (6, 20, 20))])
def test_a_network_that_was_written_and_read_gives_the_same_probabilities(spec, shape) -> None:
    before = network(spec.model_copy(update={"encoding": "euclidean", "growth": 0.5}), seed=7)
    data = to_bytes(before)
    after = from_bytes(data)
    assert after.spec == before.spec
    assert not after.module.training
    places = points((1,) * len(shape), (5,) * len(shape))
    (one, box), (other, other_box) = (n.probability(noise(*shape), places) for n in (before, after))
    np.testing.assert_array_equal(one, other)
    assert box == other_box
    assert to_bytes(after) == data


def with_header(change) -> bytes:
    """Change the header of a valid file."""
    data = to_bytes(network())
    length = int.from_bytes(data[:8], "little")
    header = change(json.loads(data[8 : 8 + length]))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def with_spec(**changes) -> bytes:
    spec = FLAT.model_copy(update=changes)
    return with_header(
        lambda h: (
            h
            | {"__metadata__": {"fedgtv-interactive-network": spec.model_dump_json(warnings=False)}}
        )
    )


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 200, -1, -100])
def test_a_truncated_file_is_refused(keep: int) -> None:
    with pytest.raises(DataError, match="train-interactive"):
        from_bytes(to_bytes(network())[:keep])


@pytest.mark.parametrize(
    "broken",
    [
        lambda: b"x" * 500,
        lambda: bytes(500),
        lambda: b"\xff" * 500,
        lambda: to_bytes(network()) + b"more",
        lambda: safetensors.torch.save({"a": torch.zeros(2)}),
        lambda: safetensors.torch.save({"a": torch.zeros(2)}, metadata={"other": "{}"}),
        lambda: safetensors.torch.save(
            {"a": torch.zeros(2)}, metadata={"fedgtv-interactive-network": "{}"}
        ),
        lambda: safetensors.torch.save(
            {"a": torch.zeros(2)}, metadata={"fedgtv-interactive-network": FLAT.model_dump_json()}
        ),
        lambda: with_spec(base_channels=4),  # other shapes
        lambda: with_spec(levels=4),  # other names
        lambda: with_spec(dimensions=3),
        lambda: with_spec(encoding="magic"),
        lambda: with_header(lambda h: {k: v for k, v in h.items() if k != "head.bias"}),
    ],
)
def test_bytes_that_are_no_interactive_network_are_refused(broken) -> None:
    with pytest.raises(DataError, match="train-interactive"):
        from_bytes(broken())


@pytest.mark.parametrize(
    "broken",
    [
        lambda: with_header(lambda _: []),
        lambda: with_header(lambda _: 5),
        lambda: with_header(lambda h: h | {"__metadata__": None}),
        lambda: with_header(lambda h: h | {"__metadata__": "text"}),
    ],
)
def test_a_header_of_another_kind_is_refused(broken) -> None:
    with pytest.raises(DataError, match="train-interactive"):
        from_bytes(broken())


@pytest.mark.parametrize(
    "change",
    [
        {"input_shape": (16, 16, 16)},  # of 3 axes for 2 dimensions
        {"input_shape": ()},
        {"input_shape": (0, 8)},
        {"input_shape": (15, 17)},  # cannot be halved twice
        {"base_channels": 10**30},
    ],
)
def test_a_description_that_no_network_can_have_is_refused(change) -> None:
    with pytest.raises(DataError, match="train-interactive"):
        from_bytes(with_spec(**change))


# -- use --------------------------------------------------------------------------------------


def assert_usable(found, box, shape, places) -> None:
    assert found.shape == tuple(b.stop - b.start for b in box)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert all(0 <= b.start < b.stop <= n for b, n in zip(box, shape, strict=True))
    assert all(b.start <= p < b.stop for place in places for p, b in zip(place, box, strict=True))


@pytest.mark.parametrize(
    ("spec", "shape", "places"),
    [
        (FLAT, (30, 40), [(0, 0)]),
        (FLAT, (30, 40), [(29, 39), (0, 0), (29, 0), (0, 39)]),
        (FLAT, (30, 40), [(9, 9)] * 5),
        (FLAT, (1, 1), [(0, 0)]),
        (FLAT, (1, 40), [(0, 3), (0, 30)]),
        (SOLID, (6, 20, 20), [(0, 0, 0), (5, 19, 19)]),
        (SOLID, (6, 20, 20), [(5, 0, 19)] * 2),
        (SOLID, (1, 20, 20), [(0, 3, 3), (0, 12, 15)]),
    ],
)
def test_any_points_of_any_image_give_a_probability(spec, shape, places) -> None:
    with_noise, constant = noise(*shape), np.full(shape, 7.0, dtype=np.float32)
    model = network(spec)
    for image in (with_noise, constant):
        kept = image.copy()
        found, box = model.probability(image, points(*places))
        assert_usable(found, box, shape, places)
        again, _ = model.probability(image, points(*places))
        np.testing.assert_array_equal(found, again)
        np.testing.assert_array_equal(image, kept)


def test_the_order_of_the_points_and_the_far_image_do_not_matter() -> None:
    image, places, model = noise(60, 60), points((20, 20), (30, 25), (25, 33)), network()
    one, box = model.probability(image, places)
    far = np.full_like(image, 1e4)
    far[box] = image[box]
    other, _ = model.probability(far, places[::-1])
    np.testing.assert_array_equal(one, other)


# -- the networks that come with the package --------------------------------------------------

DEFAULTS = [(2, (48, 56)), (3, (12, 40, 40))]


def bright_target(shape) -> tuple[np.ndarray, np.ndarray]:
    centre = tuple(n / 2 for n in shape)
    at = np.indices(shape)
    radius = sum(((g - c) / (0.3 * n)) ** 2 for g, c, n in zip(at, centre, shape, strict=True))
    mask = radius < 1
    return (noise(*shape) + 80 * mask).astype(np.float32), mask


def extreme_points(mask: np.ndarray) -> np.ndarray:
    places = np.argwhere(mask)
    both = [
        places[choose(places[:, a])] for a in range(mask.ndim) for choose in (np.argmin, np.argmax)
    ]
    return np.array(both)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_shipped_networks_load_and_are_small(dimensions) -> None:
    shipped = default_network(dimensions)
    assert shipped.spec.dimensions == dimensions == len(shipped.spec.input_shape)
    assert all(n % shipped.module.stride == 0 for n in shipped.spec.input_shape)
    assert default_network(dimensions) is shipped  # read once
    file = resources.files("algorithms") / "weights" / f"interactive-{dimensions}d.safetensors"
    assert len(file.read_bytes()) <= MOST_BYTES
    assert all(torch.isfinite(w).all() for w in shipped.module.state_dict().values())


@pytest.mark.parametrize(("dimensions", "shape"), DEFAULTS)
def test_the_shipped_networks_find_a_bright_target(dimensions, shape) -> None:
    image, mask = bright_target(shape)
    places = extreme_points(mask)
    found, box = default_network(dimensions).probability(image, places)
    assert_usable(found, box, shape, places)
    whole = np.zeros(shape, dtype=bool)
    whole[box] = found > 0.5
    assert 2 * (whole & mask).sum() / (whole.sum() + mask.sum()) > 0.8


@pytest.mark.parametrize(
    ("dimensions", "shape", "places"),
    [
        (2, (20, 20), [(0, 0), (19, 19)]),
        (2, (20, 20), [(10, 10)]),
        (3, (1, 20, 20), [(0, 0, 0), (0, 12, 15)]),
        (3, (6, 20, 20), [(5, 19, 19)]),
    ],
)
def test_the_shipped_networks_answer_at_corners_on_one_place_and_in_one_slice(
    dimensions, shape, places
) -> None:
    for image in (noise(*shape), np.zeros(shape, np.float32)):
        found, box = default_network(dimensions).probability(image, points(*places))
        assert_usable(found, box, shape, places)


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (4, 5)])
def test_a_flipped_image_can_be_resized(shape) -> None:
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for axis in (0, 1):
        there = resize(np.flip(image, axis), (8, 8))
        np.testing.assert_allclose(there, np.flip(resize(image, (8, 8)), axis), atol=1e-5)
