import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from algorithms.signed_distance import inverse_level_set, level_set, level_sets

CASES = (("2d", "mask2", None), ("3d", "mask3", None), ("3d_aniso", "mask3", (2.5, 1.0, 1.0)))

masks = hnp.arrays(
    bool, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=8), elements=st.booleans()
)


@pytest.mark.parametrize(("case", "mask", "spacing"), CASES)
def test_the_reference_vectors_are_reproduced(vectors, case, mask, spacing) -> None:
    with np.load(vectors / "levelset.npz", allow_pickle=False) as data:
        for kind, normalised in (("T", False), ("Tnorm", True)):
            found = level_set(data[mask], spacing_zyx_mm=spacing, normalised=normalised)
            np.testing.assert_allclose(found, data[f"{case}_{kind}"], atol=1e-6)


def test_the_way_back_reproduces_the_reference_vectors(vectors) -> None:
    with np.load(vectors / "levelset.npz", allow_pickle=False) as data:
        z = torch.from_numpy(data["z"]).requires_grad_()
        found = inverse_level_set(z)
        found.sum().backward()
        np.testing.assert_allclose(found.detach(), data["Tinv_code"], atol=1e-6)
        np.testing.assert_allclose(z.grad, data["dTinv_code"], rtol=1e-6, atol=1e-6)


def brute_force(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """(5-1) word by word: the distance to the nearest boundary pixel, with the sign of the side."""
    boundary = []
    for place in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                other = place.copy()
                other[axis] += step
                inside = 0 <= other[axis] < mask.shape[axis]
                if inside and not mask[tuple(other)]:
                    boundary.append(tuple(place))
    edge = np.array(boundary) * spacing
    found = np.empty(mask.shape)
    for place in np.ndindex(mask.shape):
        nearest = np.linalg.norm(edge - np.array(place) * spacing, axis=1).min()
        found[place] = -nearest if mask[place] else nearest
    return found


@settings(max_examples=60, deadline=None)
@given(mask=masks, data=st.data())
def test_lengths_are_those_of_the_definition(mask, data) -> None:
    spacing = tuple(data.draw(st.floats(0.5, 4)) for _ in range(mask.ndim))
    if not mask.any() or mask.all():
        return
    found = level_set(mask, spacing_zyx_mm=spacing, normalised=False)
    np.testing.assert_allclose(found, brute_force(mask, spacing), rtol=1e-5, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(mask=masks)
def test_the_sign_says_the_side_and_normalised_values_stay_in_range(mask) -> None:
    found = level_set(mask)
    assert found.dtype == np.float32
    assert found.shape == mask.shape
    assert np.isfinite(found).all()
    assert (np.abs(found) <= 1).all()
    assert (found[~mask] > 0).all()
    assert (found[mask] <= 0).all()


@settings(max_examples=50, deadline=None)
@given(mask=masks, scale=st.floats(0.25, 8))
def test_the_unit_of_length_does_not_matter_to_the_normalised_map(mask, scale) -> None:
    spacing = (scale,) * mask.ndim
    np.testing.assert_allclose(level_set(mask, spacing_zyx_mm=spacing), level_set(mask), atol=1e-5)


def test_without_a_boundary_everything_lies_on_one_side() -> None:
    empty, full = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    assert (level_set(empty) == 1).all()
    assert (level_set(full) == -1).all()
    assert np.isposinf(level_set(empty, normalised=False)).all()
    assert np.isneginf(level_set(full, normalised=False)).all()


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, float("nan")), (1.0, -2.0)])
def test_a_spacing_that_does_not_fit_is_refused(spacing) -> None:
    with pytest.raises(ValueError, match="a positive number for each"):
        level_set(np.ones((3, 4), bool), spacing_zyx_mm=spacing)


def test_every_class_but_the_background_has_a_channel() -> None:
    labels = np.zeros((6, 7), np.uint8)
    labels[1:3, 1:4], labels[4:, 4:] = 1, 3
    found = level_sets(labels, 4, spacing_zyx_mm=(2.0, 1.0))
    assert found.shape == (3, 6, 7)
    for channel, code in enumerate((1, 2, 3)):
        expected = level_set(labels == code, spacing_zyx_mm=(2.0, 1.0))
        np.testing.assert_array_equal(found[channel], expected)


@settings(max_examples=50, deadline=None)
@given(mask=masks)
def test_there_and_back_gives_the_mask(mask) -> None:
    """The boundary itself is at one half: it belongs to the target."""
    back = inverse_level_set(torch.from_numpy(level_set(mask)).double()).numpy()
    np.testing.assert_array_equal(back >= 0.5, mask)


def test_the_way_back_does_not_overflow() -> None:
    ends = torch.tensor([-np.inf, -1e30, 1e30, np.inf])
    assert inverse_level_set(ends).tolist() == [1.0, 1.0, 0.0, 0.0]
