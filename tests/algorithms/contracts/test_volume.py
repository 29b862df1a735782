import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.contracts.volume import Geometry, Mask, Volume
from tests.phantoms import turned_axes

angles = st.floats(-3.1, 3.1)
millimetres = st.floats(0.2, 12.0)
coordinates = st.floats(-500.0, 500.0)
triples = st.tuples


@st.composite
def geometries(draw) -> Geometry:
    """Any grid in the patient, oblique ones included."""
    return Geometry(
        draw(triples(*[st.integers(1, 50)] * 3)),
        draw(triples(*[millimetres] * 3)),
        draw(triples(*[coordinates] * 3)),
        turned_axes(draw(triples(*[angles] * 3))),
    )


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), index=triples(*[st.floats(-10, 60)] * 3))
def test_index_to_point_and_back(geometry: Geometry, index) -> None:
    there = geometry.points_from_index(np.array([index]))
    np.testing.assert_allclose(geometry.index_from_points(there)[0], index, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), index=triples(*[st.floats(0, 50)] * 3))
def test_points_agree_with_simpleitk(geometry: Geometry, index) -> None:
    image = SimpleITK.Image([1, 1, 1], SimpleITK.sitkUInt8)
    image.SetSpacing(geometry.spacing_zyx_mm[::-1])
    image.SetOrigin(geometry.origin_xyz_mm)
    image.SetDirection(np.array(geometry.axes_xyz).T.ravel().tolist())
    expected = image.TransformContinuousIndexToPhysicalPoint(index[::-1])
    found = geometry.points_from_index(np.array([index]))[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_closed_form_on_an_upright_grid() -> None:
    geometry = Geometry((4, 5, 6), (3.0, 0.5, 2.0), (10.0, 20.0, 30.0))
    np.testing.assert_array_equal(
        geometry.points_from_index(np.array([[2.0, 4.0, 1.0]])), [[12.0, 22.0, 36.0]]
    )
    assert geometry.voxel_volume_ml == pytest.approx(0.003)


def test_the_volume_of_a_mask() -> None:
    geometry = Geometry((2, 2, 5), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert Mask(np.ones((2, 2, 5), bool), geometry).volume_ml == pytest.approx(0.04)


@settings(max_examples=40, deadline=None)
@given(geometry=geometries(), gap_mm=st.floats(0.05, 5.0), axis=st.integers(0, 2))
def test_grids_match_when_no_voxel_lies_apart(geometry: Geometry, gap_mm, axis) -> None:
    origin = list(geometry.origin_xyz_mm)
    origin[axis] += gap_mm
    moved = Geometry(geometry.shape_zyx, geometry.spacing_zyx_mm, tuple(origin), geometry.axes_xyz)
    assert geometry.matches(geometry)
    assert not geometry.matches(moved)
    assert geometry.matches(moved, tolerance_mm=2 * gap_mm)


def test_grids_of_other_shape_or_orientation_do_not_match() -> None:
    geometry = Geometry((9, 9, 9), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    turned = Geometry((9, 9, 9), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), turned_axes((0.1, 0.0, 0.0)))
    assert not geometry.matches(turned)
    assert not geometry.matches(Geometry((9, 9, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))


@pytest.mark.parametrize("swapped", [(0, 1), (0, 2), (1, 2)])
def test_grids_with_two_axes_exchanged_do_not_match(swapped) -> None:
    axes = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    a, b = swapped
    axes[a], axes[b] = axes[b], axes[a]
    geometry = Geometry((9, 9, 9), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    exchanged = Geometry((9, 9, 9), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(axes))
    assert not geometry.matches(exchanged)


@pytest.mark.parametrize("kind", [Volume, Mask])
def test_an_array_of_another_shape_than_its_grid_is_refused(kind) -> None:
    with pytest.raises(ValueError, match="on a grid of"):
        kind(np.zeros((2, 3, 4), np.float32), Geometry((2, 3, 5), (1, 1, 1), (0, 0, 0)))
