import sys
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from algorithms.contracts.errors import DataError
from algorithms.geodesic import (
    ENCODINGS,
    box_map,
    euclidean_map,
    exponential_geodesic_map,
    gaussian_map,
    geodesic_distance,
    truncated_geodesic_map,
)

EXACT = 1e-5  # of the largest distance: float32 sums over at most some dozens of steps
NEIGHBOURHOODS = ("full", "face")
CASES = (("2d", 2), ("3d", 3), ("3d_aniso", 3))  # of the reference vectors, with their axes

examples = partial(settings, deadline=None)

GREYS = {
    "continuous": lambda rng, shape: rng.normal(size=shape),
    "quantised": lambda rng, shape: rng.integers(0, 3, size=shape),  # many steps cost nothing
    "large": lambda rng, shape: rng.normal(size=shape) * 1e30,
    "small": lambda rng, shape: rng.normal(size=shape) * 1e-9,
    "tiny": lambda rng, shape: rng.normal(size=shape) * 1e-30,  # below the narrowest bucket
    "outlier": lambda rng, shape: np.where(
        np.arange(np.prod(shape)).reshape(shape) == rng.integers(np.prod(shape)),
        1e6,
        rng.random(shape),
    ),
}


class Problem(NamedTuple):
    """An image, its clicks and how far apart its pixels are."""

    image: np.ndarray
    seeds: np.ndarray
    spacing: tuple[float, ...]
    weight: float

    def distance(self, **change) -> np.ndarray:
        """Return the distance for this problem with some arguments changed."""
        given = {
            "image": self.image,
            "seeds": self.seeds,
            "spacing_mm": self.spacing,
            "length_weight_per_mm": self.weight,
        } | change
        return geodesic_distance(given.pop("image"), given.pop("seeds"), **given)


@st.composite
def problems(draw, greys=tuple(GREYS), weights=(0.0, 0.05, 3.0)) -> Problem:
    """Draw a small image in 2-D or 3-D with at least one seed."""
    axes = draw(st.sampled_from((2, 3)))
    longest = 9 if axes == 2 else 5
    shape = tuple(draw(st.lists(st.integers(1, longest), min_size=axes, max_size=axes)))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    image = GREYS[draw(st.sampled_from(greys))](rng, shape).astype(np.float32)
    seeds = np.zeros(shape, dtype=bool)
    seeds.flat[rng.integers(seeds.size, size=draw(st.integers(1, 4)))] = True
    spacing = tuple(draw(st.sampled_from((0.3, 1.0, 1.7, 5.0))) for _ in shape)
    return Problem(image, seeds, spacing, draw(st.sampled_from(weights)))


def edges(
    problem: Problem, neighbourhood: str = "full", by_length: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List all steps as (from, to, cost); `by_length` is the cost of GeodisTK."""
    image = problem.image.astype(np.float64)
    places = np.argwhere(np.ones(image.shape, dtype=bool))
    apart = places[:, None] - places[None]
    near = np.abs(apart).max(-1) == 1
    if neighbourhood == "face":
        near &= np.abs(apart).sum(-1) == 1
    start, end = np.nonzero(near)
    length = np.sqrt(np.square(apart[start, end] * np.array(problem.spacing)).sum(-1))
    change = np.abs(image.flat[start] - image.flat[end])
    cost = change * (length if by_length else 1.0) + problem.weight * length
    return start, end, cost


def oracle(problem: Problem, neighbourhood: str = "full", by_length: bool = False) -> np.ndarray:
    """Return the distance by SciPy's heap, in float64, on a graph written out edge by edge."""
    start, end, cost = edges(problem, neighbourhood, by_length)
    size = problem.image.size
    graph = csr_array((cost, (start, end)), shape=(size, size))  # keeps edges that cost 0
    found = dijkstra(graph, indices=np.flatnonzero(problem.seeds), min_only=True)
    return found.reshape(problem.image.shape)


def assert_exact(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT * float(expected.max()))


def at(shape: tuple[int, ...], *places: tuple[int, ...]) -> np.ndarray:
    """Give seeds at these places."""
    seeds = np.zeros(shape, dtype=bool)
    for place in places:
        seeds[place] = True
    return seeds


def pixels_from_nearest(seeds: np.ndarray) -> np.ndarray:
    """Measure every pixel's straight distance to every seed and take the smallest."""
    everywhere = np.argwhere(np.ones(seeds.shape, dtype=bool))
    apart = everywhere[:, None] - np.argwhere(seeds)[None]
    return np.sqrt(np.square(apart).sum(-1)).min(1).reshape(seeds.shape)


def reference(vectors, case: str, axes: int) -> tuple[Problem, dict[str, np.ndarray]]:
    with np.load(vectors / "geodesic.npz") as data:
        spacing = tuple(data["spacing"]) if case.endswith("aniso") else (1.0,) * axes
        problem = Problem(data[f"I{axes}"], data[f"S{axes}"].astype(bool), spacing, 0.0)
        return problem, dict(data)


# -- the reference vectors --------------------------------------------------------------------


@pytest.mark.parametrize(("case", "axes"), CASES)
def test_the_exact_engine_agrees_with_the_reference_vectors(vectors, case, axes) -> None:
    problem, expected = reference(vectors, case, axes)
    for neighbourhood in NEIGHBOURHOODS:
        found = problem.distance(neighbourhood=neighbourhood)
        np.testing.assert_allclose(
            found, expected[f"D_{case}_tv_{neighbourhood}"], rtol=0, atol=1e-5
        )
    egd = exponential_geodesic_map(problem.image, problem.seeds, spacing_mm=problem.spacing)
    np.testing.assert_allclose(egd, expected[f"EGD_{case}_tv"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("case", "axes"), CASES)
def test_geodistk_approaches_its_own_distance_from_above(vectors, case, axes) -> None:
    """A raster scan only ever finds real paths, so it may be too far and never too near.

    GeodisTK adds 1e-5 to every change of grey value, hence the 1e-3. In 2-D its scans find every
    shortest path here; in 3-D they miss some, so only most pixels are close.
    """
    pytest.importorskip("GeodisTK")
    problem, expected = reference(vectors, case, axes)
    exact = expected[f"D_{case}_gtk_full"]
    excess = problem.distance(engine="geodistk") - exact
    assert excess.min() >= -EXACT * exact.max()
    assert np.median(excess) <= 1e-3
    if axes == 2:
        assert excess.max() <= 1e-3
    else:
        assert np.quantile(excess, 0.9) <= 0.05 * exact.max()
        assert excess.max() <= 0.25 * exact.max()


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("case", "axes"), CASES)
def test_fastgeodis_approaches_our_distance_from_above(vectors, case, axes, weight) -> None:
    pytest.importorskip("FastGeodis")
    problem = reference(vectors, case, axes)[0]._replace(weight=weight)
    exact = oracle(problem)
    excess = problem.distance(engine="fastgeodis") - exact
    assert excess.min() >= -EXACT * exact.max()
    assert np.median(excess) <= EXACT * exact.max()
    assert excess.max() <= 0.05 * exact.max()


# -- an independent oracle --------------------------------------------------------------------


@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS)
@examples(max_examples=150)
@given(problem=problems())
def test_the_distance_is_that_of_dijkstra_on_the_explicit_graph(neighbourhood, problem) -> None:
    found = problem.distance(neighbourhood=neighbourhood)
    assert_exact(found, oracle(problem, neighbourhood))


@pytest.mark.parametrize("greys", GREYS)
@pytest.mark.parametrize("shape", [(24, 20), (7, 9, 8)])
def test_the_distance_is_that_of_dijkstra_on_larger_images(greys, shape) -> None:
    image = GREYS[greys](np.random.default_rng(7), shape).astype(np.float32)
    seeds = at(shape, (0,) * len(shape), tuple(n // 2 for n in shape))
    for weight in (0.0, 0.4):
        problem = Problem(image, seeds, (3.0, 1.0, 1.5)[: len(shape)], weight)
        assert_exact(problem.distance(), oracle(problem))


def test_thick_slices_are_far_apart() -> None:
    shape, spacing = (4, 9, 9), (5.0, 0.5, 0.5)
    image = np.random.default_rng(3).random(shape, dtype=np.float32)
    problem = Problem(image, at(shape, (0, 4, 4)), spacing, 1.0)
    assert_exact(problem.distance(), oracle(problem))
    flat = problem._replace(image=np.zeros(shape, dtype=np.float32)).distance()
    np.testing.assert_allclose(flat[:, 4, 4], [0.0, 5.0, 10.0, 15.0])
    np.testing.assert_allclose(flat[0, 4, 4:], [0.0, 0.5, 1.0, 1.5, 2.0])


def test_long_ways_in_2d_are_exact_to_the_last_digit_of_single_precision() -> None:
    """Hundreds of rounded steps would add up to 1e-5."""
    image = np.random.default_rng(1).normal(size=(2, 900)).astype(np.float32)
    problem = Problem(image, at(image.shape, (0, 0)), (1.0, 1.0), 0.0)
    np.testing.assert_allclose(problem.distance(), oracle(problem), rtol=2e-7)


def test_a_volume_of_one_slice_is_like_its_slice() -> None:
    image = np.random.default_rng(4).random((8, 7), dtype=np.float32)
    seeds = at(image.shape, (2, 3))
    for neighbourhood in NEIGHBOURHOODS:
        options = {"length_weight_per_mm": 0.2, "neighbourhood": neighbourhood}
        flat = geodesic_distance(image, seeds, spacing_mm=(0.5, 0.7), **options)
        deep = geodesic_distance(image[None], seeds[None], spacing_mm=(5.0, 0.5, 0.7), **options)
        np.testing.assert_allclose(deep, flat[None], rtol=1e-6)  # double precision in 2-D only


def test_geodistk_multiplies_changes_of_grey_value_by_length() -> None:
    pytest.importorskip("GeodisTK")
    image = np.random.default_rng(5).random((12, 10), dtype=np.float32)
    problem = Problem(image, at(image.shape, (3, 4)), (1.0, 1.0), 0.0)
    exact = oracle(problem, by_length=True)
    excess = problem.distance(engine="geodistk") - exact
    assert excess.min() >= -EXACT * exact.max()
    assert excess.max() <= 1e-3


# -- closed forms -----------------------------------------------------------------------------


def test_in_one_row_the_distance_is_the_total_variation() -> None:
    row = np.array([[2.0, 5.0, 4.0, 4.0, -1.0, 3.0]])
    found = geodesic_distance(row, at(row.shape, (0, 1)))
    np.testing.assert_array_equal(found, [[3.0, 0.0, 1.0, 1.0, 6.0, 10.0]])
    np.testing.assert_array_equal(geodesic_distance(row.T, at(row.T.shape, (1, 0))), found.T)


def test_length_is_added_to_the_change_of_grey_values() -> None:
    row = np.array([[2.0, 5.0, 4.0]])
    found = geodesic_distance(
        row, at(row.shape, (0, 0)), spacing_mm=(9.0, 2.0), length_weight_per_mm=0.25
    )
    np.testing.assert_array_equal(found, [[0.0, 3.5, 5.0]])


def test_a_way_around_a_wall_costs_nothing_but_its_length() -> None:
    image = np.array([[0, 9, 0], [0, 9, 0], [0, 0, 0]], dtype=np.float32)
    seeds = at(image.shape, (0, 0))
    np.testing.assert_array_equal(geodesic_distance(image, seeds), image)
    around = geodesic_distance(image, seeds, length_weight_per_mm=1.0, neighbourhood="face")
    np.testing.assert_array_equal(around, [[0, 10, 6], [1, 11, 5], [2, 3, 4]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 5), (1, 4, 5), (3, 4, 5)])
@pytest.mark.parametrize("grey", [0.0, -7.5, 1e6])
def test_a_constant_image_without_weight_is_everywhere_at_zero(shape, grey) -> None:
    found = geodesic_distance(np.full(shape, grey), at(shape, (0,) * len(shape)))
    np.testing.assert_array_equal(found, np.zeros(shape))


@examples(max_examples=60)
@given(problem=problems(greys=("continuous",), weights=(0.1, 2.0)))
def test_a_constant_image_is_measured_in_diagonals_then_straight_on(problem) -> None:
    """The octile distance: diagonal over all axes that have steps left, until none is left."""
    source = np.unravel_index(np.flatnonzero(problem.seeds)[0], problem.seeds.shape)
    expected = np.zeros(problem.seeds.shape)
    steps = np.abs(np.argwhere(np.ones_like(problem.seeds)) - source)
    straight = (steps * problem.spacing).sum(1).reshape(problem.seeds.shape)
    for place, left in zip(np.ndindex(problem.seeds.shape), steps, strict=True):
        while left.any():
            count, axes = left[left > 0].min(), left > 0
            expected[place] += count * np.linalg.norm(axes * np.array(problem.spacing))
            left[axes] -= count
    flat = problem._replace(
        image=np.full(problem.image.shape, 3.0), seeds=at(problem.seeds.shape, source)
    )
    assert_exact(flat.distance(), problem.weight * expected)
    assert_exact(flat.distance(neighbourhood="face"), problem.weight * straight)


@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS)
@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5)])
def test_where_all_is_clicked_all_is_at_zero_and_without_clicks_infinite(
    neighbourhood, shape
) -> None:
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    distance = partial(geodesic_distance, image, neighbourhood=neighbourhood)
    np.testing.assert_array_equal(distance(np.ones(shape, dtype=bool)), np.zeros(shape))
    nowhere = distance(np.zeros(shape, dtype=bool))
    assert nowhere.dtype == np.float32
    np.testing.assert_array_equal(nowhere, np.full(shape, np.inf))


@pytest.mark.parametrize("engine", ["geodistk", "fastgeodis"])
def test_without_clicks_the_raster_engines_are_infinite_too(engine) -> None:
    found = geodesic_distance(np.ones((3, 4)), np.zeros((3, 4), dtype=bool), engine=engine)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.full((3, 4), np.inf))


@examples(max_examples=80)
@given(problem=problems(), part=st.floats(0, 1))
def test_beyond_the_maximum_is_infinite_and_below_it_nothing_changes(problem, part) -> None:
    free = problem.distance()
    maximum = float(np.sort(free, axis=None)[int(part * (free.size - 1))])  # a distance that is met
    expected = np.where(free <= maximum, free, np.inf)
    np.testing.assert_array_equal(problem.distance(maximum=maximum), expected)


# -- invariants -------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS)
@examples(max_examples=80)
@given(problem=problems())
def test_neighbours_differ_by_at_most_the_step_between_them(neighbourhood, problem) -> None:
    found = problem.distance(neighbourhood=neighbourhood).astype(np.float64)
    start, end, cost = edges(problem, neighbourhood)
    rounding = EXACT * found.max()
    assert (np.abs(found.flat[start] - found.flat[end]) <= cost + rounding).all()


@examples(max_examples=80)
@given(problem=problems(greys=("continuous", "large", "small", "outlier")))
def test_the_distance_is_zero_at_the_clicks_and_nowhere_else(problem) -> None:
    """Nowhere else, since in these images no two neighbours are alike."""
    np.testing.assert_array_equal(problem.distance() == 0.0, problem.seeds)


@examples(max_examples=80)
@given(problem=problems())
def test_the_distance_is_zero_at_the_clicks_and_never_negative(problem) -> None:
    found = problem.distance()
    assert (found[problem.seeds] == 0.0).all()
    assert (found >= 0.0).all()
    assert np.isfinite(found).all()


@examples(max_examples=80)
@given(problem=problems(), seed=st.integers(0, 999))
def test_one_more_click_never_moves_anything_away(problem, seed) -> None:
    more = problem.seeds.copy()
    more.flat[np.random.default_rng(seed).integers(more.size)] = True
    assert (problem.distance(seeds=more) <= problem.distance()).all()


@examples(max_examples=60)
@given(problem=problems())
def test_several_clicks_give_the_smallest_of_their_distances(problem) -> None:
    alone = [
        problem.distance(seeds=at(problem.seeds.shape, tuple(p)))
        for p in np.argwhere(problem.seeds)
    ]
    np.testing.assert_array_equal(problem.distance(), np.min(alone, axis=0))


@examples(max_examples=80)
@given(problem=problems(), axis=st.integers(0, 2))
def test_a_mirror_image_has_the_mirrored_distance(problem, axis) -> None:
    axis %= problem.image.ndim
    mirrored = problem.distance(
        image=np.flip(problem.image, axis), seeds=np.flip(problem.seeds, axis)
    )
    np.testing.assert_array_equal(mirrored, np.flip(problem.distance(), axis))


@examples(max_examples=80)
@given(problem=problems(), data=st.data())
def test_axes_may_change_places_together_with_their_spacing(problem, data) -> None:
    order = data.draw(st.permutations(range(problem.image.ndim)))
    turned = problem.distance(
        image=problem.image.transpose(order),
        seeds=problem.seeds.transpose(order),
        spacing_mm=tuple(problem.spacing[axis] for axis in order),
    )
    assert_exact(turned, problem.distance().transpose(order))


@examples(max_examples=80)
@given(problem=problems(), constant=st.integers(-1000, 1000))
def test_only_differences_of_grey_values_count(problem, constant) -> None:
    np.testing.assert_array_equal(problem.distance(image=-problem.image), problem.distance())
    # Sixteenths of small numbers, so that adding does not round.
    steps = np.round(problem.image / np.abs(problem.image).max(initial=1e-30) * 16.0) / 16.0
    np.testing.assert_array_equal(
        problem.distance(image=steps + constant), problem.distance(image=steps)
    )


@examples(max_examples=80)
@given(
    problem=problems(greys=("continuous", "quantised", "small", "outlier"), weights=(0.0,)),
    factor=st.floats(1e-3, 1e3),
)
def test_without_weight_the_distance_grows_with_the_grey_values(problem, factor) -> None:
    scaled = problem.distance(image=problem.image * np.float32(factor))
    assert_exact(scaled, factor * problem.distance().astype(np.float64))


@examples(max_examples=60)
@given(problem=problems(weights=(0.0,)))
def test_without_weight_the_spacing_does_not_count(problem) -> None:
    np.testing.assert_array_equal(problem.distance(), problem.distance(spacing_mm=None))


@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS)
@examples(max_examples=80)
@given(problem=problems(), clicks=st.integers(1, 6), seed=st.integers(0, 999))
def test_click_after_click_gives_exactly_what_all_at_once_give(
    neighbourhood, problem, clicks, seed
) -> None:
    distance = partial(problem.distance, neighbourhood=neighbourhood)
    seeds, earlier = problem.seeds.copy(), distance()
    for place in np.random.default_rng(seed).integers(seeds.size, size=clicks):
        seeds.flat[place] = True
        kept = earlier.copy()
        later = distance(seeds=seeds, initial=earlier)
        np.testing.assert_array_equal(earlier, kept)  # is read, not written
        np.testing.assert_array_equal(later, distance(seeds=seeds))
        earlier = later


@examples(max_examples=60)
@given(problem=problems(), part=st.floats(0, 1), seed=st.integers(0, 999))
def test_click_after_click_works_with_a_maximum_and_from_nothing(problem, part, seed) -> None:
    maximum = float(problem.distance().max()) * part
    earlier = problem.distance(seeds=np.zeros_like(problem.seeds), maximum=maximum)
    more = problem.seeds.copy()
    more.flat[np.random.default_rng(seed).integers(more.size)] = True
    for seeds in (problem.seeds, problem.seeds, more):
        earlier = problem.distance(seeds=seeds, initial=earlier, maximum=maximum)
        np.testing.assert_array_equal(earlier, problem.distance(seeds=seeds, maximum=maximum))


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6, 1e30])
@examples(max_examples=40)
@given(problem=problems(greys=("continuous", "quantised")))
def test_far_grey_values_beside_the_image_change_nothing_inside(far, problem) -> None:
    """No way leads through them, but they make the buckets wide enough to hold everything."""
    beside = [(0, 1)] + [(0, 0)] * (problem.image.ndim - 1)
    wide = problem.distance(
        image=np.pad(problem.image, beside, constant_values=far),
        seeds=np.pad(problem.seeds, beside),
    )
    np.testing.assert_array_equal(wide[:-1], problem.distance())


def test_a_step_over_nearly_all_buckets_is_followed() -> None:
    """The corner is reached by one diagonal step as long as a step can be here; all else is a wall.

    The image is large enough for its usual step not to decide the width of the buckets.
    """
    image = np.zeros((64, 64), dtype=np.float32)
    image[-4:, -4:] = [
        [0, 0, 0, 1000],
        [0, 0, 1000, 1950],
        [0, 1000, 1950, 2900],
        [1000, 1950, 2900, 2000],
    ]
    found = geodesic_distance(image, at(image.shape, (0, 0)))
    np.testing.assert_array_equal(found, image)  # the ways up are steady
    walled = geodesic_distance(image, at(image.shape, (0, 0)), neighbourhood="face")
    assert walled[-1, -1] == 2900 + 900


def test_what_no_click_brings_nearer_is_kept_from_before() -> None:
    image = np.random.default_rng(0).random((6, 7), dtype=np.float32)
    seeds = at(image.shape, (2, 2))
    nearer = geodesic_distance(image, seeds) / 2
    np.testing.assert_array_equal(geodesic_distance(image, seeds, initial=nearer), nearer)


def test_neither_the_image_nor_the_clicks_are_changed() -> None:
    image = np.random.default_rng(0).random((6, 7), dtype=np.float32)
    seeds = at(image.shape, (2, 2))
    image.flags.writeable = seeds.flags.writeable = False
    found = geodesic_distance(image, seeds)
    again = geodesic_distance(image.astype(np.float64), seeds, initial=found)
    np.testing.assert_array_equal(again, found)


# -- encodings --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODINGS)
@examples(max_examples=40)
@given(problem=problems(), clicked=st.booleans())
def test_an_encoding_is_an_input_channel(name, problem, clicked) -> None:
    found = ENCODINGS[name](problem.image, problem.seeds & clicked)
    assert found.dtype == np.float32
    assert found.shape == problem.image.shape
    assert np.isfinite(found).all()
    assert found.min() >= 0.0
    assert found.max() <= 1.0


@pytest.mark.parametrize(
    ("name", "at_click", "without_clicks"),
    [("egd", 1, 0), ("gaussian", 1, 0), ("box", 1, 0), ("euclidean", 0, 1), ("geodesic", 0, 1)],
)
@pytest.mark.parametrize("shape", [(6, 7), (3, 4, 5)])
def test_clicks_and_their_absence_are_at_opposite_ends(
    name, at_click, without_clicks, shape
) -> None:
    image = np.random.default_rng(0).random(shape)
    seeds = at(shape, (1,) * len(shape))
    assert ENCODINGS[name](image, seeds)[seeds] == at_click
    assert (ENCODINGS[name](image, np.zeros(shape, dtype=bool)) == without_clicks).all()


@examples(max_examples=60)
@given(problem=problems(), sigma=st.sampled_from((0.5, 5.0)))
def test_euclidean_and_gaussian_maps_are_those_of_the_nearest_click(problem, sigma) -> None:
    nearest = pixels_from_nearest(problem.seeds)
    diagonal = np.sqrt(sum(n**2 for n in problem.seeds.shape))
    np.testing.assert_allclose(
        euclidean_map(problem.image, problem.seeds), nearest / diagonal, rtol=1e-6
    )
    np.testing.assert_allclose(
        gaussian_map(problem.image, problem.seeds, sigma_pixels=sigma),
        np.exp(-(nearest**2) / (2 * sigma**2)),
        rtol=1e-5,
        atol=1e-30,
    )


def test_the_gaussian_is_five_pixels_wide() -> None:
    found = gaussian_map(np.zeros((1, 11)), at((1, 11), (0, 0)))
    assert found[0, 5] == pytest.approx(np.exp(-0.5))
    assert found[0, 10] == pytest.approx(np.exp(-2.0))


@examples(max_examples=60)
@given(problem=problems())
def test_the_box_holds_what_lies_between_clicks_on_every_axis(problem) -> None:
    inside = np.ones(problem.seeds.shape, dtype=bool)
    for index, of_seeds in zip(np.indices(inside.shape), np.nonzero(problem.seeds), strict=True):
        inside &= (index >= of_seeds.min()) & (index <= of_seeds.max())
    np.testing.assert_array_equal(box_map(problem.image, problem.seeds), inside)


def test_the_truncated_map_is_cut_off_at_its_threshold() -> None:
    row, seeds = np.array([[0.0, 0.5, 1.0, 2.5]]), at((1, 4), (0, 0))
    np.testing.assert_array_equal(truncated_geodesic_map(row, seeds), [[0, 0.5, 1, 1]])
    np.testing.assert_array_equal(
        truncated_geodesic_map(row, seeds, truncation=2.0), [[0, 0.25, 0.5, 1]]
    )


@examples(max_examples=60)
@given(problem=problems(greys=("continuous", "quantised")), threshold=st.floats(0.1, 10.0))
def test_the_truncated_map_is_that_of_the_distance(problem, threshold) -> None:
    expected = np.minimum(oracle(problem._replace(weight=0.0)) / threshold, 1.0)
    found = truncated_geodesic_map(problem.image, problem.seeds, truncation=threshold)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@examples(max_examples=60)
@given(problem=problems(greys=("continuous", "quantised")))
def test_the_exponential_map_is_exp_of_minus_the_distance(problem) -> None:
    found = exponential_geodesic_map(
        problem.image,
        problem.seeds,
        spacing_mm=problem.spacing,
        length_weight_per_mm=problem.weight,
    )
    np.testing.assert_allclose(found, np.exp(-oracle(problem)), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found, np.exp(-problem.distance()))


@pytest.mark.parametrize(
    ("engine", "package"),
    [("exact", "numba"), ("geodistk", "GeodisTK"), ("fastgeodis", "FastGeodis")],
)
def test_the_exponential_map_may_use_any_engine(engine, package) -> None:
    pytest.importorskip(package)
    image = np.random.default_rng(6).random((9, 8))
    seeds = at(image.shape, (4, 4))
    found = exponential_geodesic_map(image, seeds, engine=engine)
    np.testing.assert_array_equal(found, np.exp(-geodesic_distance(image, seeds, engine=engine)))
    assert found.dtype == np.float32


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encode", [geodesic_distance, *ENCODINGS.values()])
def test_an_image_that_is_not_finite_is_refused(encode, value) -> None:
    image = np.zeros((4, 5))
    image[3, 2] = value
    with pytest.raises(DataError, match="not finite"):
        encode(image, at(image.shape, (0, 0)))


@pytest.mark.parametrize("shape", [(5,), (2, 2, 2, 2), (), (0, 5), (3, 0, 4)])
@pytest.mark.parametrize("encode", [geodesic_distance, *ENCODINGS.values()])
def test_an_image_has_two_or_three_axes_and_pixels(encode, shape) -> None:
    with pytest.raises(ValueError, match="not empty"):
        encode(np.zeros(shape), np.zeros(shape, dtype=bool))


@pytest.mark.parametrize(
    "seeds",
    [np.zeros((5, 4), dtype=bool), np.zeros((4, 5), dtype=np.uint8), np.zeros((1, 4, 5), bool)],
)
@pytest.mark.parametrize("encode", [geodesic_distance, *ENCODINGS.values()])
def test_clicks_are_boolean_and_have_the_shape_of_the_image(encode, seeds) -> None:
    with pytest.raises(ValueError, match="seeds"):
        encode(np.zeros((4, 5)), seeds)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length_weight_per_mm": -0.1}, "length"),
        ({"spacing_mm": (1.0,)}, "spacing"),
        ({"spacing_mm": (1.0, 1.0, 1.0)}, "spacing"),
        ({"spacing_mm": (0.0, 1.0)}, "spacing"),
        ({"spacing_mm": (1.0, -1.0)}, "spacing"),
        ({"spacing_mm": (np.nan, 1.0)}, "spacing"),
        ({"spacing_mm": (1.0, np.inf)}, "spacing"),
        ({"engine": "best"}, "engine 'best' is unknown"),
        ({"initial": np.zeros((5, 4), dtype=np.float32)}, "initial"),
    ],
)
def test_an_impossible_question_is_refused(change, words) -> None:
    with pytest.raises(ValueError, match=words):
        geodesic_distance(np.zeros((4, 5)), at((4, 5), (0, 0)), **change)


@pytest.mark.parametrize("engine", ["geodistk", "fastgeodis"])
@pytest.mark.parametrize(
    "change",
    [{"initial": np.zeros((4, 5), np.float32)}, {"neighbourhood": "face"}, {"maximum": 1.0}],
)
def test_what_only_the_exact_engine_can_do_is_refused_by_the_others(engine, change) -> None:
    with pytest.raises(ValueError, match=engine):
        geodesic_distance(np.zeros((4, 5)), at((4, 5), (0, 0)), engine=engine, **change)


def test_an_engine_that_is_not_installed_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "FastGeodis", None)  # makes its import fail
    with pytest.raises(DataError, match="FastGeodis is not installed"):
        geodesic_distance(np.zeros((4, 5)), at((4, 5), (0, 0)), engine="fastgeodis")
