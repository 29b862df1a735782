import importlib.util
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from algorithms.contracts.errors import DataError
from algorithms.graph_cut import cut_energy, minimum_cut

ENGINES = ["scipy"] + ["pymaxflow"] * (importlib.util.find_spec("maxflow") is not None)
NEIGHBOURHOODS = ["face", "full"]


def terms(probability, image, *, spacing_mm, pairwise_weight, intensity_sigma, neighbourhood):
    """Write the energy down pixel by pixel: cost of background, of foreground, and pairs."""
    r = np.clip(probability.astype(float).ravel(), 1e-6, 1 - 1e-6)
    places = list(np.ndindex(image.shape))
    pairs = []
    for (i, p), (j, q) in product(enumerate(places), repeat=2):
        step = np.abs(np.subtract(p, q))
        if i < j and step.max() == 1 and (neighbourhood == "full" or step.sum() == 1):
            length = np.sqrt(((step * spacing_mm) ** 2).sum())
            alike = np.exp(-((image[p] - image[q]) ** 2) / (2 * intensity_sigma**2))
            pairs.append((i, j, pairwise_weight * alike / length))
    return -np.log(1 - r), -np.log(r), pairs


def energies_of_all(labelings, background, foreground, pairs):
    energy = labelings @ foreground + ~labelings @ background
    for i, j, weight in pairs:
        energy += weight * (labelings[:, i] != labelings[:, j])
    return energy


@st.composite
def problems(draw, shapes, levels=(0.0, 0.25, 0.5, 0.6, 0.75, 1.0)):
    """Probabilities with ties, an image, seeds and parameters."""
    shape = draw(st.sampled_from(shapes))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    probability = rng.choice(levels, shape)
    if draw(st.booleans()):  # wide areas, as a network gives them
        probability = np.clip(ndimage.uniform_filter(probability, 3), 0, 1)  # it rounds past 1
    image = rng.choice([0.0, 0.05, 0.3], shape)
    kinds = rng.random(shape)
    share = draw(st.sampled_from([0.0, 0.1, 0.3]))
    return {
        "foreground_probability": probability,
        "image": image,
        "foreground_seeds": kinds < share,
        "background_seeds": kinds > 1 - share,
        "spacing_mm": draw(st.sampled_from([(1.0, 1.0, 1.0), (3.0, 1.0, 0.5)]))[-len(shape) :],
        "pairwise_weight": draw(st.sampled_from([0.0, 0.2, 1.0, 5.0])),
        "intensity_sigma": draw(st.sampled_from([0.1, 10.0])),
        "neighbourhood": draw(st.sampled_from(NEIGHBOURHOODS)),
    }


def energy_of(labels, problem) -> float:
    without_seeds = {k: v for k, v in problem.items() if not k.endswith("_seeds")}
    return cut_energy(labels, **without_seeds)


def row(*values: float) -> np.ndarray:
    return np.array([values])


SMALL = [(1, 1), (1, 9), (3, 3), (2, 5), (2, 2, 2), (1, 3, 3), (2, 1, 5)]
MIDDLE = [(12, 13), (4, 6, 5), (1, 9, 9), (40, 1), (3, 8, 9)]


# -- the reference vectors --------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["tiny", "mid", "vol"])
@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS)
def test_the_energy_is_the_optimum_of_the_reference_vectors(
    vectors, name, neighbourhood, engine
) -> None:
    volume, full = name == "vol", neighbourhood == "full"
    suffix = {(0, 0): "4n_nodist", (0, 1): "8n_dist", (1, 0): "6n_nodist", (1, 1): "26n_dist"}
    with np.load(vectors / "graphcut.npz") as data:
        problem = {
            "foreground_probability": data[f"{name}_R"],
            "image": data[f"{name}_I"],
            "foreground_seeds": data[f"{name}_fg"],
            "background_seeds": data[f"{name}_bg"],
            "neighbourhood": neighbourhood,
            "spacing_mm": (3.0, 1.0, 1.0) if volume and full else None,
            "pairwise_weight": 0.5 if name == "tiny" else 5.0,
            "intensity_sigma": 0.3 if name == "tiny" else 0.1,
        }
        expected = data[f"{name}_label_{suffix[volume, full]}"].astype(bool)
        optimum = float(data[f"{name}_energy_{suffix[volume, full]}"])
    assert energy_of(expected, problem) == pytest.approx(optimum, rel=1e-9)
    labels = minimum_cut(**problem, engine=engine)
    assert energy_of(labels, problem) == pytest.approx(optimum, rel=1e-5)
    assert labels[problem["foreground_seeds"]].all()
    assert not labels[problem["background_seeds"]].any()


# -- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("distance_mm", [1.0, 2.5])
@pytest.mark.parametrize("step", [0.0, 0.1])
@pytest.mark.parametrize(("factor", "second"), [(0.99, False), (1.01, True)])
def test_two_pixels_join_once_the_edge_costs_more_than_the_odds(
    factor, second, step, distance_mm
) -> None:
    """The second pixel would rather be background, by log(0.6 / 0.4)."""
    weight = factor * np.log(1.5) * distance_mm / np.exp(-(step**2) / 0.02)
    labels = minimum_cut(
        row(0.9, 0.4),
        row(0.5, 0.5 + step),
        None,
        None,
        spacing_mm=(7.0, distance_mm),
        pairwise_weight=weight,
    )
    assert labels.tolist() == [[True, second]]


def test_the_energy_of_two_pixels() -> None:
    parameters = {"spacing_mm": (1.0, 2.0), "pairwise_weight": 3.0, "intensity_sigma": 0.2}
    together = cut_energy(row(True, True), row(0.8, 0.4), row(0.0, 0.1), **parameters)
    apart = cut_energy(row(True, False), row(0.8, 0.4), row(0.0, 0.1), **parameters)
    assert together == pytest.approx(-np.log(0.8 * 0.4))
    assert apart == pytest.approx(-np.log(0.8 * 0.6) + 3.0 / 2.0 * np.exp(-0.125))


def test_diagonal_neighbours_count_in_the_full_neighbourhood_only() -> None:
    labels, half = np.eye(2, dtype=bool), np.full((2, 2), 0.5)
    face, full = (
        cut_energy(labels, half, np.zeros((2, 2)), spacing_mm=(3.0, 4.0), neighbourhood=n)
        for n in NEIGHBOURHOODS
    )
    assert face == pytest.approx(4 * np.log(2) + 5 * (2 / 3 + 2 / 4))
    assert full == pytest.approx(face)  # both diagonals join equal labels
    labels[1, 1] = False
    face, full = (
        cut_energy(labels, half, np.zeros((2, 2)), spacing_mm=(3.0, 4.0), neighbourhood=n)
        for n in NEIGHBOURHOODS
    )
    assert full - face == pytest.approx(5 / 5)


def test_probabilities_of_zero_and_one_are_clipped() -> None:
    sure = row(0.0, 1.0)
    assert cut_energy(row(True, False), sure, row(0.0, 9.0)) == pytest.approx(-2 * np.log(1e-6))
    assert minimum_cut(sure, row(0.0, 9.0), None, None).tolist() == [[False, True]]
    # 13.8 nats on each side: two edges of 7 outweigh them, two of 6.8 do not.
    for weight, middle in ((7.0, True), (6.8, False)):
        labels = minimum_cut(
            row(1.0, 0.0, 1.0), np.zeros((1, 3)), None, None, pairwise_weight=weight
        )
        assert labels.tolist() == [[True, middle, True]]


@pytest.mark.parametrize("engine", ENGINES)
def test_where_all_is_equal_there_is_background(engine) -> None:
    half = np.full((3, 4, 5), 0.5)
    assert not minimum_cut(half, np.zeros((3, 4, 5)), None, None, engine=engine).any()
    # two minima, all or nothing
    assert not minimum_cut(row(0.75, 0.25), row(0.0, 0.0), None, None, engine=engine).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_one_click_takes_a_homogeneous_area_up_to_its_edge(engine) -> None:
    image = np.zeros((1, 12, 12))
    image[:, 3:9, 3:9] = 1.0
    click = np.zeros(image.shape, dtype=bool)
    click[0, 5, 5] = True
    doubtful = np.full(image.shape, 0.45)
    labels = minimum_cut(doubtful, image, click, None, engine=engine)
    np.testing.assert_array_equal(labels, image == 1.0)


def test_an_enormous_weight_or_step_of_grey_values_does_no_harm() -> None:
    """All follow the only seed; and an edge between extremes costs nothing."""
    doubtful, flat = np.full((20, 20), 0.4), np.zeros((20, 20))
    click = np.zeros((20, 20), dtype=bool)
    click[3, 4] = True
    assert minimum_cut(doubtful, flat, click, None, pairwise_weight=1e12).all()
    extremes = row(-1.7e308, 1.7e308)
    found = minimum_cut(row(0.9, 0.4), extremes, None, None, intensity_sigma=1e-300)
    assert found.tolist() == [[True, False]]
    energy = cut_energy(row(True, False), row(0.9, 0.4), extremes, intensity_sigma=1e-300)
    assert energy == pytest.approx(-np.log(0.9 * 0.6))


# -- independent oracles ----------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(problem=problems(SMALL))
def test_no_labeling_is_better_by_enumeration(problem) -> None:
    background, foreground, pairs = terms(
        problem["foreground_probability"],
        problem["image"],
        **{k: v for k, v in problem.items() if k[:4] in ("spac", "pair", "inte", "neig")},
    )
    all_of_them = np.array(list(product([False, True], repeat=len(background))))
    energies = energies_of_all(all_of_them, background, foreground, pairs)
    allowed = all_of_them[:, problem["foreground_seeds"].ravel()].all(axis=1)
    allowed &= ~all_of_them[:, problem["background_seeds"].ravel()].any(axis=1)
    labels = minimum_cut(**problem)
    mine = int(np.flatnonzero((all_of_them == labels.ravel()).all(axis=1))[0])
    assert allowed[mine]
    assert energies[mine] == pytest.approx(energies[allowed].min(), abs=1e-4)
    assert energy_of(labels, problem) == pytest.approx(energies[mine])


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=80, deadline=None)
@given(problem=problems(SMALL, levels=(0.25, 0.5, 0.75)))
def test_of_several_minima_the_least_foreground_is_taken(problem, engine) -> None:
    """All terms are multiples of log 3, so that ties are exact."""
    problem |= {"image": np.zeros(problem["image"].shape), "neighbourhood": "face"}
    problem |= {"spacing_mm": None, "pairwise_weight": np.log(3.0)}
    levels = np.round(problem["foreground_probability"] * 4) / 4
    problem["foreground_probability"] = np.clip(levels, 0.25, 0.75)
    background, foreground, pairs = terms(
        problem["foreground_probability"],
        problem["image"],
        spacing_mm=(1.0,) * levels.ndim,
        pairwise_weight=np.log(3.0),
        intensity_sigma=1.0,
        neighbourhood="face",
    )
    all_of_them = np.array(list(product([False, True], repeat=levels.size)))
    keep = all_of_them[:, problem["foreground_seeds"].ravel()].all(axis=1)
    keep &= ~all_of_them[:, problem["background_seeds"].ravel()].any(axis=1)
    energies = energies_of_all(all_of_them[keep], background, foreground, pairs)
    minima = all_of_them[keep][energies < energies.min() + 1e-6]
    labels = minimum_cut(**problem, engine=engine)
    np.testing.assert_array_equal(labels.ravel(), minima.all(axis=0))


@settings(max_examples=25, deadline=None)
@given(problem=problems([(4, 6, 5), (9, 10)]))
def test_the_energy_is_the_maximum_flow_through_all_pixels(problem) -> None:
    """A flow as large as the cut proves the cut minimal; here nothing is decided beforehand."""
    background, foreground, pairs = terms(
        problem["foreground_probability"],
        problem["image"],
        **{k: v for k, v in problem.items() if k[:4] in ("spac", "pair", "inte", "neig")},
    )
    to_source = background + 1e3 * problem["foreground_seeds"].ravel()
    to_sink = foreground + 1e3 * problem["background_seeds"].ravel()
    n = len(background)
    i, j, weights = (np.array(column) for column in zip(*pairs, strict=True))
    rows = np.concatenate([i, j, np.full(n, n), np.arange(n)]).astype(int)
    columns = np.concatenate([j, i, np.arange(n), np.full(n, n + 1)]).astype(int)
    capacities = np.rint(1e5 * np.concatenate([weights, weights, to_source, to_sink]))
    graph = sparse.csr_array((capacities.astype(np.int32), (rows, columns)), (n + 2, n + 2))
    flow = csgraph.maximum_flow(graph, n, n + 1).flow_value / 1e5
    assert energy_of(minimum_cut(**problem), problem) == pytest.approx(flow, abs=1e-5 * len(rows))


# -- invariants -------------------------------------------------------------------------------


@pytest.mark.skipif(len(ENGINES) < 2, reason="PyMaxflow is absent")
@settings(max_examples=150, deadline=None)
@given(problem=problems(MIDDLE))
def test_the_engines_agree_in_every_pixel(problem) -> None:
    one, other = (minimum_cut(**problem, engine=engine) for engine in ENGINES)
    np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(problem=problems(MIDDLE), data=st.data())
def test_the_order_of_axes_and_pixels_does_not_matter(problem, data) -> None:
    axes = data.draw(st.permutations(range(problem["image"].ndim)))
    flipped = data.draw(st.sets(st.sampled_from(axes)))

    def turned(array):
        return np.flip(np.transpose(array, axes), tuple(flipped))

    again = {k: turned(v) if isinstance(v, np.ndarray) else v for k, v in problem.items()}
    again["spacing_mm"] = tuple(problem["spacing_mm"][axis] for axis in axes)
    np.testing.assert_array_equal(minimum_cut(**again), turned(minimum_cut(**problem)))


@settings(max_examples=60, deadline=None)
@given(problem=problems(MIDDLE))
def test_a_larger_weight_never_lengthens_the_boundary(problem) -> None:
    weights = (0.1, 0.7, 3.0, 20.0)
    cuts = [minimum_cut(**problem | {"pairwise_weight": weight}) for weight in weights]
    lengths = [
        energy_of(cut, problem | {"pairwise_weight": 1.0})
        - energy_of(cut, problem | {"pairwise_weight": 0.0})
        for cut in cuts
    ]
    for shorter, longer in zip(lengths[1:], lengths, strict=False):
        assert shorter <= longer + 1e-2  # what rounding can move


@settings(max_examples=60, deadline=None)
@given(problem=problems(MIDDLE), seed=st.integers(0, 999))
def test_outside_the_region_labels_stay_and_act_on_what_is_inside(problem, seed) -> None:
    region = np.random.default_rng(seed).random(problem["image"].shape) < 0.5
    region[: seed % 4] = False
    found = minimum_cut(**problem, region=region)
    start = problem["foreground_probability"] > 0.5
    start = (start | problem["foreground_seeds"]) & ~problem["background_seeds"]
    np.testing.assert_array_equal(found[~region], start[~region])
    fixed = {
        "foreground_seeds": problem["foreground_seeds"] | (start & ~region),
        "background_seeds": problem["background_seeds"] | (~start & ~region),
    }
    np.testing.assert_array_equal(found, minimum_cut(**problem | fixed))


@settings(max_examples=20, deadline=None)
@given(problem=problems([(7, 8)]))
def test_a_volume_of_one_slice_is_an_image_and_none_means_no_seeds(problem) -> None:
    volume = {k: v[None] if isinstance(v, np.ndarray) else v for k, v in problem.items()}
    volume["spacing_mm"] = (4.0, *problem["spacing_mm"])
    np.testing.assert_array_equal(minimum_cut(**volume)[0], minimum_cut(**problem))
    nothing = np.zeros((7, 8), dtype=bool)
    without = problem | {"foreground_seeds": nothing, "background_seeds": nothing}
    none = problem | {"foreground_seeds": None, "background_seeds": None}
    np.testing.assert_array_equal(minimum_cut(**none), minimum_cut(**without))
    np.testing.assert_array_equal(minimum_cut(**none, region=~nothing), minimum_cut(**none))


def test_an_empty_region_changes_nothing_but_seeds() -> None:
    seeds = row(True, False, False)
    region = np.zeros((1, 3), dtype=bool)
    labels = minimum_cut(row(0.1, 0.5, 0.6), np.zeros((1, 3)), seeds, None, region=region)
    assert labels.tolist() == [[True, False, True]]


def test_the_inputs_are_left_alone_and_single_precision_will_do() -> None:
    rng = np.random.default_rng(5)
    inputs = [rng.random((6, 7)).astype(np.float32) for _ in range(2)]
    inputs += [rng.random((6, 7)) < 0.1 for _ in range(2)]
    inputs[3] &= ~inputs[2]
    before = [array.copy() for array in inputs]
    for array in inputs:
        array.flags.writeable = False
    labels = minimum_cut(*inputs)
    assert (labels.dtype, labels.shape) == (bool, (6, 7))
    for array, copy in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_without_pymaxflow_the_other_engine_gives_the_cut(monkeypatch) -> None:
    rng = np.random.default_rng(3)
    inputs = (rng.random((15, 15)), rng.random((15, 15)), None, None)
    usual = minimum_cut(*inputs, intensity_sigma=1.0, pairwise_weight=0.5)
    monkeypatch.setitem(sys.modules, "maxflow", None)
    labels = minimum_cut(*inputs, intensity_sigma=1.0, pairwise_weight=0.5)
    np.testing.assert_array_equal(labels, usual)
    assert 0 < labels.sum() < labels.size
    with pytest.raises(DataError, match="use the engine 'scipy'"):
        minimum_cut(*inputs, intensity_sigma=1.0, pairwise_weight=0.5, engine="pymaxflow")


# -- mistakes ---------------------------------------------------------------------------------

GOOD = {
    "foreground_probability": np.full((2, 3), 0.5),
    "image": np.zeros((2, 3)),
    "foreground_seeds": None,
    "background_seeds": None,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": np.zeros(6), "foreground_probability": np.zeros(6)}, "is .y, x."),
        ({"image": np.zeros((0, 3))}, "not empty"),
        ({"image": np.zeros((3, 2))}, r"probabilities \(2, 3\)"),
        ({"image": np.zeros((2, 3), dtype=np.int16)}, "int16"),
        ({"foreground_probability": np.ones((2, 3), dtype=bool)}, "bool"),
        ({"foreground_seeds": np.zeros((2, 3))}, "foreground_seeds float64"),
        ({"background_seeds": np.zeros((2, 2), dtype=bool)}, "background_seeds"),
        ({"region": np.zeros((3, 2), dtype=bool)}, "region"),
        ({"spacing_mm": (1.0, 1.0, 1.0)}, "spacing"),
        ({"spacing_mm": (1.0, 0.0)}, "spacing"),
        ({"pairwise_weight": -1.0}, "pairwise_weight"),
        ({"pairwise_weight": np.nan}, "pairwise_weight"),
        ({"intensity_sigma": 0.0}, "intensity_sigma"),
        ({"intensity_sigma": np.inf}, "intensity_sigma"),
        ({"neighbourhood": "diagonal"}, "'face' or 'full'"),
        ({"engine": "fast"}, "'pymaxflow', 'scipy'"),
    ],
)
def test_an_impossible_question_is_refused(change, words) -> None:
    with pytest.raises(ValueError, match=words):
        minimum_cut(**GOOD | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": np.full((2, 3), np.nan)}, "the image holds values that are not finite"),
        ({"foreground_probability": np.full((2, 3), np.inf)}, "not finite"),
        ({"foreground_probability": np.full((2, 3), 1.5)}, "not logits"),
        ({"foreground_probability": np.full((2, 3), -0.1)}, "not logits"),
    ],
)
def test_bad_values_are_refused_by_the_cut_and_by_the_energy(change, words) -> None:
    with pytest.raises(DataError, match=words):
        minimum_cut(**GOOD | change)
    values = {k: v for k, v in (GOOD | change).items() if not k.endswith("_seeds")}
    with pytest.raises(DataError, match=words):
        cut_energy(np.zeros((2, 3), dtype=bool), **values)


def test_a_pixel_clicked_as_both_is_refused() -> None:
    both = np.zeros((2, 3), dtype=bool)
    both[1, 2] = True
    with pytest.raises(DataError, match=r"pixel \(1, 2\) .* remove one click"):
        minimum_cut(**GOOD | {"foreground_seeds": both, "background_seeds": both})


def test_the_energy_of_labels_that_are_no_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="labels uint8"):
        cut_energy(np.zeros((2, 3), np.uint8), GOOD["foreground_probability"], GOOD["image"])
