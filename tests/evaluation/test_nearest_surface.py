import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from evaluation.nearest_surface import nearest_mm


def tree_mm(queries, targets, spacing):
    """The same question to scipy's tree of points."""
    return KDTree(targets * spacing).query(queries * spacing)[0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=3, max_size=3),
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_a_tree_of_points_finds_the_same(shape, seed, queries, targets):
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.3, 5, 3)
    asked = rng.integers(shape, size=(queries, 3)).astype(np.int32)
    there = rng.integers(shape, size=(targets, 3)).astype(np.int32)
    found = nearest_mm(asked, there, tuple(spacing))
    np.testing.assert_allclose(found, tree_mm(asked, there, spacing))


def test_far_apart_and_close_together_in_a_large_grid():
    rng = np.random.default_rng(3)
    spacing = (3.0, 0.7, 0.9)
    near = rng.integers(0, (8, 20, 110), size=(500, 3)).astype(np.int32)
    for away in ((40, 95, 0), (0, 0, 0), (0, 0, 1), (0, 0, 300)):
        for asked, there in ((near + np.int32(away), near), (near, near + np.int32(away))):
            found = nearest_mm(asked, there, spacing)
            np.testing.assert_allclose(found, tree_mm(asked, there, spacing))


def test_nothing_is_near_to_nothing():
    none, one = np.empty((0, 3), dtype=np.int32), np.ones((1, 3), dtype=np.int32)
    with pytest.raises(ValueError, match="nothing to measure"):
        nearest_mm(one, none, (1.0, 1.0, 1.0))
    assert nearest_mm(none, one, (1.0, 1.0, 1.0)).shape == (0,)
