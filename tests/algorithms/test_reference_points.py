import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.reference_points import fit_reference_points


def inertia(features: np.ndarray, points: np.ndarray) -> float:
    return float(np.square(features[:, None] - points[None]).sum(axis=2).min(axis=1).sum())


def lloyd(features: np.ndarray, start: np.ndarray, steps: int = 50) -> np.ndarray:
    """Plain Lloyd iteration: the textbook in four lines."""
    points = start.astype(np.float64)
    for _ in range(steps):
        nearest = np.square(features[:, None] - points[None]).sum(axis=2).argmin(axis=1)
        for k in np.unique(nearest):
            points[k] = features[nearest == k].mean(axis=0)
    return points


def clustered(seed: int, count: int = 60, k: int = 4, d: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 5, (k, d))
    return (centres[rng.integers(0, k, count)] + rng.normal(0, 1, (count, d))).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_no_plain_lloyd_from_several_starts_is_better(seed: int) -> None:
    features = clustered(seed)
    found = inertia(features, fit_reference_points(features, 4))
    rng = np.random.default_rng(seed)
    starts = [features[rng.permutation(len(features))[:4]] for _ in range(8)]
    best = min(inertia(features, lloyd(features, start)) for start in starts)
    assert found <= best * (1 + 1e-5)


def test_the_reference_vectors_centroids_are_not_better(vectors) -> None:
    with np.load(vectors / "stdr.npz") as data:
        source, centroids, expected = data["src"], data["centroids"], data["inertia"]
    assert inertia(source, centroids) == pytest.approx(expected[-1], rel=1e-6)
    points = fit_reference_points(source.astype(np.float32), len(centroids))
    assert inertia(source, points) <= expected[-1] * (1 + 1e-5)


def test_closed_form_of_two_clusters() -> None:
    features = np.array([[0, 1], [0, 3], [9, 9], [0, 2]], np.float32)
    points = fit_reference_points(features, 2)
    np.testing.assert_allclose(points, [[0, 2], [9, 9]], atol=1e-6)  # the larger cluster first
    assert points.dtype == np.float32


def test_slices_without_foreground_are_left_out() -> None:
    features = clustered(1)
    padded = np.concatenate([np.zeros((30, 8), np.float32), features])
    np.testing.assert_allclose(fit_reference_points(padded, 4), fit_reference_points(features, 4))


def test_the_order_of_the_rows_does_not_change_the_points() -> None:
    features = clustered(2)
    shuffled = features[np.random.default_rng(0).permutation(len(features))]
    one, other = fit_reference_points(features, 4), fit_reference_points(shuffled, 4)
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_equal_cluster_sizes_are_ordered_by_their_coordinates() -> None:
    features = np.array([[5, 1], [5, 1], [2, 9], [2, 9], [2, 3], [2, 3]], np.float32)
    points = fit_reference_points(features, 3)
    np.testing.assert_allclose(points, [[2, 3], [2, 9], [5, 1]], atol=1e-6)


def test_there_are_no_more_points_than_distinct_rows() -> None:
    features = np.repeat(np.array([[1, 0], [0, 1]], np.float32), 5, axis=0)
    assert fit_reference_points(features, 10).shape == (2, 2)


# -- what leaves a hospital describes nobody --------------------------------------------------


def test_every_point_stands_for_five_slices_of_three_patients() -> None:
    """One patient's heap apart, and a heap of four slices: both go to their neighbours."""
    rng = np.random.default_rng(0)
    heaps = [
        (rng.normal(0, 0.1, (9, 2)), list("aaabbbccc")),
        (rng.normal(10, 0.1, (9, 2)), list("aaabbbccc")),
        (rng.normal(12, 0.1, (8, 2)), ["d"] * 8),  # one patient
        (rng.normal(-2, 0.1, (4, 2)), list("abcd")),  # four slices
    ]
    features = np.concatenate([heap for heap, _ in heaps]).astype(np.float32)
    patients = [name for _, names in heaps for name in names]
    assert len(fit_reference_points(features, 4)) == 4
    points = fit_reference_points(features, 4, patients=patients)
    expected = [features[9:26].mean(axis=0), features[[*range(9), *range(26, 30)]].mean(axis=0)]
    np.testing.assert_allclose(points, expected, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(5, 60), people=st.integers(3, 8))
def test_no_point_describes_one_patient(seed, count, people) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 3)).astype(np.float32)
    patients = [str(i) for i in [*range(3), *rng.integers(0, people, count - 3)]]
    points = fit_reference_points(features, 10, patients=patients)
    assert 1 <= len(points) <= 10
    mean = np.average(features, axis=0)
    assert np.all((points >= features.min(axis=0) - 1e-5) & (points <= features.max(axis=0) + 1e-5))
    if count < 10:  # cannot make two points of five slices
        np.testing.assert_allclose(points, mean[None], atol=1e-4)


@pytest.mark.parametrize("patients", [list("aaaaabbbbb"), list("abcabcabca")])
def test_too_few_patients_or_slices_make_no_point(patients) -> None:
    features = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    if len(set(patients)) == 3:
        features[4:] = 0  # four slices with finding
    with pytest.raises(ValueError, match="fewer than 5 slices or 3 patients"):
        fit_reference_points(features, 3, patients=patients)


def test_a_model_that_finds_nothing_has_no_reference_points() -> None:
    with pytest.raises(ValueError, match="no slice has predicted foreground"):
        fit_reference_points(np.zeros((5, 4), np.float32))
