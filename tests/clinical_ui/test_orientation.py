"""Which way round a slice is looked at, for every way in which a scanner can lie."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.volume import Geometry
from clinical_ui.orientation import percentile_window, radiological_view

UNIT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
# Every way in which a scanner can lay the index axes along patient axes.
ORIENTATIONS = [
    tuple(tuple(sign * v for v in axis) for sign, axis in zip(signs, axes, strict=True))
    for axes in permutations(UNIT)
    for signs in product((1.0, -1.0), repeat=3)
]
DIRECTION = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0)} | {
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}
EXPECTED = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I")} | {
    "sagittal": ("A", "P", "S", "I")
}


def test_an_ordinary_axial_slice_is_shown_as_it_is_stored():
    # Columns run to the patient's left, rows to the back: left of the screen is the right side.
    view = radiological_view(Geometry((1, 8, 8), (1.0,) * 3, (0.0,) * 3, UNIT))
    assert (view.plane, view.edges) == ("axial", ("R", "L", "A", "P"))
    assert (view.row_and_column_axes, view.flipped_rows, view.flipped_columns) == (
        (1, 2),
        False,
        False,
    )


def test_an_oblique_slice_names_two_directions():
    tilt = np.sqrt(0.5)
    axes = ((tilt, tilt, 0.0), (-tilt, tilt, 0.0), (0.0, 0.0, 1.0))
    geometry = Geometry((1, 4, 4), (1.0,) * 3, (0.0,) * 3, axes)
    left, right, _, _ = radiological_view(geometry).edges
    assert (set(left), set(right)) == ({"R", "A"}, {"L", "P"})


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_the_three_index_axes_give_the_three_planes_the_right_way_round(axes):
    geometry = Geometry((4, 6, 10), (3.0, 0.5, 0.75), (0.0, 0.0, 0.0), axes)
    views = [radiological_view(geometry, axis) for axis in range(3)]
    assert {view.plane for view in views} == set(EXPECTED)
    for axis, view in enumerate(views):
        assert view.edges == EXPECTED[view.plane]
        rows, columns = view.row_and_column_axes
        assert {axis, rows, columns} == {0, 1, 2}
        assert view.pixel_yx_mm == (geometry.spacing_zyx_mm[rows], geometry.spacing_zyx_mm[columns])
        # One step to the right or down on the screen goes where the edge's letter says.
        for index_axis, flipped, edge in (
            (columns, view.flipped_columns, view.edges[1]),
            (rows, view.flipped_rows, view.edges[3]),
        ):
            step = np.zeros((1, 3))
            step[0, index_axis] = -1.0 if flipped else 1.0
            moved = geometry.points_from_index(step)[0] - geometry.points_from_index(0 * step)[0]
            expected = np.array(DIRECTION[edge]) * geometry.spacing_zyx_mm[index_axis]
            np.testing.assert_allclose(moved, expected)


@given(st.integers(0, 10**6))
def test_tilted_slices_have_three_planes_too_and_the_first_is_the_nearest(seed):
    # A random rotation: the first two columns of a Gaussian matrix, made orthonormal.
    turned, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    geometry = Geometry((2, 2, 2), (1.0,) * 3, (0.0,) * 3, tuple(map(tuple, turned.tolist())))
    views = [radiological_view(geometry, axis) for axis in range(3)]
    assert {view.plane for view in views} == {"axial", "coronal", "sagittal"}
    nearest = ("sagittal", "coronal", "axial")[int(np.abs(turned[2]).argmax())]
    assert views[0].plane == nearest
    for view in views:
        directions = [np.array(turned[2 - axis]) for axis in view.row_and_column_axes]
        right = directions[1] * (-1 if view.flipped_columns else 1)
        towards = {"axial": right[0], "coronal": right[0], "sagittal": right[1]}[view.plane]
        assert towards >= 0


@given(
    values=st.one_of(
        st.lists(st.integers(-40_000, 40_000), min_size=1, max_size=60),
        st.lists(st.integers(-3, 3), min_size=1, max_size=60),
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    )
)
def test_the_window_is_what_numpy_says_of_whole_and_of_other_grey_values(values):
    image = np.array(values, dtype=np.float32).reshape(1, 1, -1)
    low, high = np.percentile(image.astype(np.float64), (1, 99))
    expected = (low, high) if np.float32(high) > np.float32(low) else (low, low + 1)
    assert percentile_window(image) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_window_leaves_out_the_extremes():
    image = np.arange(10_001, dtype=np.float32).reshape(1, 73, 137)
    assert percentile_window(image) == (100.0, 9900.0)
    low, high = percentile_window(np.full((1, 2, 2), 7.0, dtype=np.float32))
    assert low < high  # a blank image is shown, not divided by zero
