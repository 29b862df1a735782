import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from evaluation.nearest_surface import nearest_mm


def tree_mm(queries, targets, shape, spacing):
    """The same question to scipy's tree of points."""
    points = [np.stack(np.unravel_index(c, shape), axis=1) * spacing for c in (queries, targets)]
    return KDTree(points[1]).query(points[0])[0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=3),
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_a_tree_of_points_finds_the_same(shape, seed, queries, targets):
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.3, 5, len(shape))
    cells = int(np.prod(shape))
    asked = rng.integers(cells, size=queries)
    there = np.unique(rng.integers(cells, size=targets))
    found = nearest_mm(asked, there, tuple(shape), spacing)
    np.testing.assert_allclose(found, tree_mm(asked, there, shape, spacing))


def test_far_apart_and_close_together_in_a_large_grid():
    rng = np.random.default_rng(3)
    shape, spacing = (50, 120, 110), (3.0, 0.7, 0.9)
    z, y, x = rng.integers(0, (8, 20, 110), size=(500, 3)).T
    near = np.unique(np.ravel_multi_index((z, y, x), shape))
    far = np.ravel_multi_index((z + 40, y + 95, x), shape)
    for asked in (far, near, near[::-1] + 1):
        found = nearest_mm(asked, near, shape, spacing)
        np.testing.assert_allclose(found, tree_mm(asked, near, shape, spacing))


def test_nothing_is_near_to_nothing():
    none = np.empty(0, dtype=np.int64)
    with pytest.raises(ValueError, match="nothing to measure"):
        nearest_mm(np.array([1]), none, (2, 2), (1.0, 1.0))
    assert nearest_mm(none, np.array([1]), (2, 2), (1.0, 1.0)).shape == (0,)
