import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.sample_selection import (
    DOMAIN_INVARIANT,
    DOMAIN_SPECIFIC,
    REPRESENTATIVE,
    STRATEGIES,
    distances_to_reference_points,
    select,
)
from algorithms.slice_description import SliceDescription

POINTS = np.zeros((1, 2))  # with rows (r, 0) the distance is r squared


def rows(*distances: float | None) -> np.ndarray:
    """Give rows at these distances from the origin; None is a slice without foreground."""
    return np.array([[0.0, 0.0] if d is None else [np.sqrt(d), 0.0] for d in distances])


def described(features: np.ndarray) -> SliceDescription:
    """What a model might say about slices: it follows from their features, so rows keep it."""
    size = np.abs(features).sum(axis=1).astype(np.float32)
    unsure = np.exp(-size / 3)
    return SliceDescription(
        features=features.astype(np.float32),
        embedding=np.stack([size, np.sin(size), size % 2], axis=1),
        foreground_share=size / 100,
        least_confidence=unsure / 2,
        margin=1 - unsure,
        entropy=unsure,
    )


@st.composite
def problems(draw):
    """Features with ties and empty predictions, reference points and a budget."""
    values = draw(st.lists(st.integers(0, 5), min_size=1, max_size=25))
    budget = draw(st.integers(0, len(values)))
    # 0 stands for an empty prediction; the rest share few distances, so that there are ties.
    features = np.array([[v, 2.0 * v] for v in values], dtype=np.float64)
    return features, np.array([[1.5, 3.0], [7.0, 1.0]]), budget


@st.composite
def problems_of_patients(draw):
    """Features, reference points, a budget, and whose slice each row is."""
    features, points, budget = draw(problems())
    count = len(features)
    whose = draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count))
    return features, points, budget, np.array(whose)


# -- the reference vectors --------------------------------------------------------------------


def test_distances_and_selections_agree_with_the_reference_vectors(vectors) -> None:
    with np.load(vectors / "stdr.npz") as data:
        features, points = data["F_fgsoft"], data["centroids"]
        distances = distances_to_reference_points(features, points)
        np.testing.assert_allclose(distances, data["simi"], rtol=1e-10)
        np.testing.assert_array_equal(np.argsort(distances, kind="stable"), data["order"])
        both = select(features, points, 4)
        assert both.ids == (*data["sel_invariant"], *data["sel_specific"])
        assert both.roles == (DOMAIN_INVARIANT,) * 2 + (DOMAIN_SPECIFIC,) * 2
        assert both.scores == pytest.approx(tuple(data["simi"][list(both.ids)]))
        near = select(features, points, 4, strategy="stdr_invariant")
        far = select(features, points, 4, strategy="stdr_specific")
        assert near.ids == tuple(data["alpha_20"])
        assert far.ids == tuple(data["beta_20"])


# -- closed forms -----------------------------------------------------------------------------


def test_the_distance_is_to_the_nearest_point_squared() -> None:
    features = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    points = np.array([[0.0, 0.0], [1.0, 1.0]])
    found = distances_to_reference_points(features, points)
    np.testing.assert_array_equal(found, [13.0, np.nan, 1.0])


@pytest.mark.parametrize(
    ("budget", "near", "far"), [(0, [], []), (1, [1], []), (2, [1], [4]), (5, [1, 3, 0], [4, 2])]
)
def test_half_is_nearest_half_is_farthest_and_an_odd_one_is_nearest(budget, near, far) -> None:
    chosen = select(rows(3, 1, 4, 2, 5), POINTS, budget)
    assert chosen.ids == (*near, *far)
    assert chosen.roles == (DOMAIN_INVARIANT,) * len(near) + (DOMAIN_SPECIFIC,) * len(far)


def test_ties_go_to_the_lowest_id_and_nothing_is_chosen_twice() -> None:
    chosen = select(rows(1, 1, 1, 1), POINTS, 4, ids=[40, 10, 30, 20])
    assert chosen.ids == (10, 20, 30, 40)


def test_empty_predictions_take_part_in_their_proportion_evenly_spread() -> None:
    # 8 of 12 are empty, so 3 of 5 are empty: the middle one of each third of the 8.
    features = rows(1, 2, *[None] * 4, 3, 4, *[None] * 4)
    assert select(features, POINTS, 5, strategy="stdr_specific").ids == (7, 6, 3, 8, 10)
    # After the three nearest, 8 of the 9 that are left are empty.
    assert select(features, POINTS, 5).ids == (0, 1, 6, 4, 10)


def test_a_slice_without_foreground_has_no_score() -> None:
    chosen = select(rows(None, 2.0), POINTS, 2)
    assert chosen.ids == (1, 0)
    assert chosen.scores[0] == pytest.approx(2.0)
    assert np.isnan(chosen.scores[1])


# -- invariants -------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=25, deadline=None)
@given(problem=problems())
def test_exactly_the_budget_is_chosen_without_duplicates(strategy, problem) -> None:
    features, points, budget = problem
    chosen = select(features, points, budget, strategy=strategy, described=described(features))
    assert len(chosen.ids) == len(chosen.roles) == len(chosen.scores) == budget
    assert len(set(chosen.ids)) == budget
    assert set(chosen.ids) <= set(range(len(features)))


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=25, deadline=None)
@given(problem=problems(), seed=st.integers(0, 999))
def test_the_order_of_the_rows_does_not_matter(strategy, problem, seed) -> None:
    features, points, budget = problem
    rng = np.random.default_rng(seed)
    ids = rng.permutation(1000)[: len(features)]
    order = rng.permutation(len(features))
    one, other = (
        select(
            f,
            points,
            budget,
            strategy=strategy,
            ids=i,
            described=described(f),
            rng=np.random.default_rng(seed),
        )
        for f, i in ((features, ids), (features[order], ids[order]))
    )
    assert (one.ids, one.roles) == (other.ids, other.roles)
    np.testing.assert_array_equal(one.scores, other.scores)


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_empty_predictions_are_domain_invariant_only_when_nothing_else_is_left(problem) -> None:
    features, points, budget = problem
    chosen = select(features, points, budget)
    invariant = {i for i, r in zip(chosen.ids, chosen.roles, strict=True) if r == DOMAIN_INVARIANT}
    found = set(np.flatnonzero(features.any(axis=1)))
    assert all(i in found for i in invariant) or found <= invariant


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_no_slice_left_out_is_nearer_or_farther_than_a_chosen_one(problem) -> None:
    features, points, budget = problem
    distances = distances_to_reference_points(features, points)
    chosen = select(features, points, budget)
    by_role = {
        role: [s for s, r in zip(chosen.scores, chosen.roles, strict=True) if r == role]
        for role in (DOMAIN_INVARIANT, DOMAIN_SPECIFIC)
    }
    left_out = np.delete(distances, list(chosen.ids))
    left_out = left_out[~np.isnan(left_out)]
    if len(left_out):
        assert np.nanmax([*by_role[DOMAIN_INVARIANT], 0.0]) <= left_out.min()
        assert np.nanmin([*by_role[DOMAIN_SPECIFIC], np.inf]) >= left_out.max()


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=25, deadline=None)
@given(problem=problems_of_patients(), seed=st.integers(0, 99))
def test_with_patients_each_is_asked_for_their_share(strategy, problem, seed) -> None:
    features, points, budget, whose = problem
    chosen = select(
        features,
        points,
        budget,
        strategy=strategy,
        patients=list(whose),
        described=described(features),
        rng=np.random.default_rng(seed),
    )
    assert len(set(chosen.ids)) == len(chosen.ids) == budget
    for patient in set(whose):
        exact = budget * (whose == patient).mean()
        assert abs((whose[list(chosen.ids)] == patient).sum() - exact) < 1
    if strategy == "stdr":
        assert chosen.roles.count(DOMAIN_INVARIANT) == budget - budget // 2
    # the order of the rows does not matter here either
    order = np.random.default_rng(seed).permutation(len(features))
    again = select(
        features[order],
        points,
        budget,
        strategy=strategy,
        ids=list(order),
        patients=list(whose[order]),
        described=described(features[order]),
        rng=np.random.default_rng(seed),
    )
    assert (chosen.ids, chosen.roles) == (again.ids, again.roles)


def test_one_patient_cannot_fill_a_half() -> None:
    """b's slices are all nearer than any of a's; ranked together they are the whole half."""
    features = rows(10, 11, 12, 13, 1, 2, 3, 4)
    together = select(features, POINTS, 4)
    assert together.ids == (4, 5, 3, 2)
    apart = select(features, POINTS, 4, patients=["a"] * 4 + ["b"] * 4)
    assert apart.ids == (0, 3, 4, 7)
    assert apart.roles == (DOMAIN_INVARIANT, DOMAIN_SPECIFIC) * 2


def test_representative_slices_are_spaced_evenly_whatever_they_show() -> None:
    """Of 12 slices the middles of three parts; the strategy has only the others to choose from."""
    features = rows(9, 9, 0.1, 9, 9, 9, 90, 9, 8, 9, None, 9)
    chosen = select(features, POINTS, 5, representative=3)
    assert chosen.ids == (8, 0, 2, 6, 10)
    assert chosen.roles == (DOMAIN_INVARIANT, DOMAIN_SPECIFIC) + (REPRESENTATIVE,) * 3
    alone = select(features, POINTS, 3, representative=3, strategy="random")
    assert alone.ids == (2, 6, 10)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=25, deadline=None)
@given(problem=problems_of_patients(), data=st.data())
def test_every_patient_has_their_part_of_the_representative_slices(strategy, problem, data) -> None:
    features, points, budget, whose = problem
    representative = data.draw(st.integers(0, budget))
    # Which slices are representative does not depend on what the model makes of them.
    chosen, blind = (
        select(
            f,
            points,
            budget,
            strategy=strategy,
            patients=whose,
            representative=representative,
            described=described(f),
        )
        for f in (features, np.ones_like(features))
    )
    assert len(set(chosen.ids)) == len(chosen.ids) == budget
    even, even_blind = (
        [i for i, role in zip(choice.ids, choice.roles, strict=True) if role == REPRESENTATIVE]
        for choice in (chosen, blind)
    )
    assert len(even) == representative
    assert even == even_blind
    for patient in set(whose):
        asked = int((whose[list(chosen.ids)] == patient).sum())
        exact = representative * asked / max(budget, 1)
        assert abs(sum(whose[i] == patient for i in even) - exact) < 1


def test_random_choice_comes_from_the_generator_alone() -> None:
    features = rows(*range(1, 30))
    draws = [
        select(features, POINTS, 6, strategy="random", rng=np.random.default_rng(s)).ids
        for s in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


# -- strategies beside STDR ---------------------------------------------------------------------


def description(count: int, **figures) -> SliceDescription:
    """Describe `count` slices alike, but for what is given."""
    alike = {
        "features": np.ones((count, 2), dtype=np.float32),
        "embedding": np.zeros((count, 1), dtype=np.float32),
        **dict.fromkeys(
            ("foreground_share", "least_confidence", "margin", "entropy"),
            np.full(count, 0.5, dtype=np.float32),
        ),
    }
    given = {name: np.asarray(value, dtype=np.float32) for name, value in figures.items()}
    return SliceDescription(**(alike | given))


@pytest.mark.parametrize(
    ("strategy", "figures", "expected"),
    [
        ("least_confidence", {"least_confidence": [0.1, 0.4, 0.2]}, (1, 2)),
        ("margin", {"margin": [0.1, 0.4, 0.2]}, (0, 2)),
        ("entropy", {"entropy": [0.1, 0.4, 0.2]}, (1, 2)),
    ],
)
def test_the_most_uncertain_slices_come_first(strategy, figures, expected) -> None:
    told = description(3, **figures)
    assert select(rows(1, 2, 3), POINTS, 2, strategy=strategy, described=told).ids == expected


def test_with_two_classes_the_margin_asks_what_least_confidence_asks() -> None:
    least = np.random.default_rng(0).uniform(0, 0.5, 20)
    told = description(20, least_confidence=least, margin=1 - 2 * least)
    one, other = (
        select(rows(*range(1, 21)), POINTS, 7, strategy=s, described=told).ids
        for s in ("least_confidence", "margin")
    )
    assert one == other


def test_one_slice_of_every_cluster_is_chosen() -> None:
    """Three heaps of equal slices: whatever their size, each is asked about once."""
    places = np.repeat([[0.0], [10.0], [20.0]], [8, 1, 3], axis=0)
    told = description(12, embedding=places)
    chosen = select(
        rows(*range(1, 13)), POINTS, 3, strategy="cluster_representative", described=told
    )
    assert {float(places[i, 0]) for i in chosen.ids} == {0.0, 10.0, 20.0}


def test_the_discriminator_finds_what_does_not_look_like_the_source() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (10, 4))
    features = np.concatenate([rng.normal(0, 1, (12, 4)), rng.normal(6, 1, (4, 4))])
    far = {12, 13, 14, 15}
    assert set(select(features, points, 4, strategy="adversarial").ids) == far
    told = description(16, entropy=[0.0] * 14 + [1.0, 1.0])
    assert set(select(features, points, 2, strategy="aada", described=told).ids) == {14, 15}


def test_minimum_happy_points_are_not_each_others_neighbours() -> None:
    """Two heaps of slices, alike within: the second choice leaves the heap of the first."""
    rng = np.random.default_rng(0)
    places = np.concatenate([rng.normal(0, 0.1, (20, 3)), rng.normal(5, 0.1, (20, 3))])
    told = description(40, embedding=places, entropy=[1.0] * 20 + [0.5] * 20)
    first, *others = select(rows(*range(1, 41)), POINTS, 40, strategy="mhpl", described=told).ids
    assert first < 20
    assert {i // 20 for i in (first, *others[:10])} == {0, 1}


def test_coverage_goes_evenly_through_slices_with_finding() -> None:
    features = rows(None, 1, 1, 1, None, None, 1, 1, 1, None)
    assert select(features, POINTS, 2, strategy="coverage").ids == (2, 7)
    assert select(features, POINTS, 6, strategy="coverage").ids == (1, 2, 3, 6, 7, 8)
    assert select(features, POINTS, 8, strategy="coverage").ids == (1, 2, 3, 6, 7, 8, 4, 9)


@pytest.mark.parametrize(
    "strategy", ["least_confidence", "margin", "entropy", "cluster_representative", "aada", "mhpl"]
)
def test_a_strategy_that_needs_a_description_says_so(strategy) -> None:
    with pytest.raises(ValueError, match="describe_slices"):
        select(rows(1, 2, 3), POINTS, 1, strategy=strategy)


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": 4}, "budget of 4"),
        ({"budget": -1}, "budget of -1"),
        ({"representative": 2}, "2 representative slices in a budget of 1"),
        ({"ids": [1, 1, 2]}, "ids"),
        ({"ids": [1, 2]}, "ids"),
        ({"strategy": "best"}, "stdr"),
        ({"patients": ["a", "b"]}, "2 patients for 3 slices"),
    ],
)
def test_an_impossible_question_is_refused(change, words) -> None:
    with pytest.raises(ValueError, match=words):
        select(**({"features": rows(1, 2, 3), "reference_points": POINTS, "budget": 1} | change))
