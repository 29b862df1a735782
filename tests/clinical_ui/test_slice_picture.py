"""The picture of a slice: which way round it lies, and where its outlines run."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.volume import Geometry, Volume
from clinical_ui.slice_picture import (
    Outline,
    percentile_window,
    radiological_view,
    render_slice,
)

YELLOW, RED = (255, 224, 70), (255, 92, 80)
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


def volume(image: np.ndarray, spacing=(1.0, 1.0, 1.0), axes=UNIT) -> Volume:
    geometry = Geometry(image.shape, spacing, (0.0, 0.0, 0.0), axes)
    return Volume(image.astype(np.float32), geometry)


def test_an_ordinary_axial_slice_is_shown_as_it_is_stored():
    # Columns run to the patient's left, rows to the back: left of the screen is the right side.
    image = np.zeros((1, 8, 8))
    image[0, 1, 6] = 100
    picture = render_slice(volume(image), 0, window=(0, 100), longest_side_px=8)
    assert radiological_view(volume(image).geometry).edges == ("R", "L", "A", "P")
    assert np.argwhere(picture[:, :, 0] == 255).tolist() == [[1, 6]]


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_a_bright_voxel_appears_on_its_own_side_of_the_patient(axes):
    image = np.zeros((3, 6, 10))
    image[1, 1, 2] = 100
    shown = volume(image, axes=axes)
    view = radiological_view(shown.geometry)
    assert view.edges == EXPECTED[view.plane]

    picture = render_slice(shown, 1, window=(0, 100), longest_side_px=10)[:, :, 0]
    row, column = np.argwhere(picture == 255)[0]
    index = np.array([[1.0, 1.0, 2.0], [1.0, 2.5, 4.5]])  # the voxel, the middle of the slice
    bright, middle = shown.geometry.points_from_index(index)
    for position, size, edge in (
        (column, picture.shape[1], view.edges[1]),
        (row, picture.shape[0], view.edges[3]),
    ):
        on_screen = position - (size - 1) / 2
        in_patient = (bright - middle) @ np.array(DIRECTION[edge], dtype=float)
        assert on_screen == pytest.approx(in_patient)


def test_an_oblique_slice_names_two_directions():
    tilt = np.sqrt(0.5)
    axes = ((tilt, tilt, 0.0), (-tilt, tilt, 0.0), (0.0, 0.0, 1.0))
    left, right, _, _ = radiological_view(volume(np.zeros((1, 4, 4)), axes=axes).geometry).edges
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


def test_pixels_that_are_not_square_are_drawn_in_true_proportion():
    picture = render_slice(volume(np.zeros((1, 10, 20)), (1.0, 3.0, 1.0)), 0, longest_side_px=300)
    assert picture.shape == (300, 200, 3)
    assert picture.dtype == np.uint8


def test_without_a_contour_the_picture_is_grey():
    rng = np.random.default_rng(0)
    shown = volume(rng.normal(size=(2, 12, 12)))
    empty = Outline(np.zeros((12, 12), dtype=bool), YELLOW)
    plain = render_slice(shown, 0)
    assert (plain == plain[:, :, :1]).all()
    np.testing.assert_array_equal(render_slice(shown, 0, [empty]), plain)


@given(
    st.integers(1, 10),
    st.integers(1, 10),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_an_outline_runs_along_the_edge_of_its_region(top, left, height, width):
    mask = np.zeros((20, 20), dtype=bool)
    mask[top : top + height, left : left + width] = True
    picture = render_slice(
        volume(np.zeros((1, 20, 20))),
        0,
        [Outline(mask, YELLOW)],
        window=(0, 1),
        longest_side_px=400,
    )
    rows, columns = np.nonzero((picture == YELLOW).all(axis=2))
    # 20 px per pixel; the line is 3.5 px wide, on the edge between inside and outside.
    edges = np.array([[top, top + height], [left, left + width]]) * 20 - 0.5
    assert [[rows.min(), rows.max()], [columns.min(), columns.max()]] == pytest.approx(
        edges, abs=2.5
    )
    centre = picture[(2 * top + height) * 10, (2 * left + width) * 10]
    assert not centre.any()  # an outline does not hide what it surrounds


def test_a_region_at_the_border_and_one_with_a_hole_are_outlined():
    mask = np.zeros((20, 20), dtype=bool)
    mask[:12, :12] = True
    mask[4:8, 4:8] = False
    picture = render_slice(
        volume(np.zeros((1, 20, 20))), 0, [Outline(mask, YELLOW)], longest_side_px=400
    )
    yellow = (picture == YELLOW).all(axis=2)
    assert yellow[0, 100]  # the border of the image
    assert yellow[80, 120]  # the rim of the hole
    assert yellow[239, 100]


def test_dashes_leave_out_the_part_they_should():
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 5:15] = True
    shown = volume(np.zeros((1, 20, 20)))

    def inked(dash: tuple[int, ...]) -> int:
        picture = render_slice(shown, 0, [Outline(mask, YELLOW, dash)], longest_side_px=800)
        return int((picture == YELLOW).all(axis=2).sum())

    # A dash is longer than its nominal length by about the width of its round ends.
    assert inked((20, 20)) / inked(()) == pytest.approx((20 + 3) / 40, abs=0.05)


def test_a_later_outline_lies_over_an_earlier_one():
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 5:15] = True
    picture = render_slice(
        volume(np.zeros((1, 20, 20))), 0, [Outline(mask, YELLOW), Outline(mask, RED)]
    )
    assert (picture == RED).all(axis=2).any()
    assert not (picture == YELLOW).all(axis=2).any()


def test_the_window_leaves_out_the_extremes():
    image = np.arange(10_001, dtype=np.float32).reshape(1, 73, 137)
    assert percentile_window(image) == (100.0, 9900.0)
    low, high = percentile_window(np.full((1, 2, 2), 7.0, dtype=np.float32))
    assert low < high  # a blank image is shown, not divided by zero


def test_a_slice_that_is_not_there_is_refused():
    with pytest.raises(IndexError):
        render_slice(volume(np.zeros((2, 4, 4))), 2)
    with pytest.raises(IndexError):
        render_slice(volume(np.zeros((2, 4, 4))), -1)
