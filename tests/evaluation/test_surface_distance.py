import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from evaluation.surface_distance import (
    boundary_voxel_distances,
    hausdorff_mm,
    pooled_mean_mm,
    surface_dice,
    surface_element_distances,
)

spacings = st.tuples(*[st.floats(0.3, 4.0)] * 3)
seeds = st.integers(0, 2**32 - 1)


def noise(seed, shape=(5, 6, 7), density=0.4):
    mask = np.random.default_rng(seed).random(shape) < density
    mask[2, 2] = True
    return mask


def ball(shape, centre, radius):
    grid = np.indices(shape).T - np.asarray(centre)
    return ((grid**2).sum(axis=-1) <= radius**2).T


def slow_boundary(mask):
    """Boundary voxels by the definition, one voxel at a time."""
    steps = [s * np.eye(mask.ndim, dtype=int)[axis] for axis in range(mask.ndim) for s in (-1, 1)]

    def outside(index):
        within = all(0 <= i < n for i, n in zip(index, mask.shape, strict=True))
        return not within or not mask[tuple(index)]

    return np.array([i for i in np.argwhere(mask) if any(outside(i + step) for step in steps)])


@settings(max_examples=20, deadline=None)
@given(seeds, seeds, spacings)
def test_boundary_distances_equal_all_pairs_by_the_definition(seed_a, seed_b, spacing):
    reference, predicted = noise(seed_a), noise(seed_b)
    pairs = cdist(slow_boundary(predicted) * spacing, slow_boundary(reference) * spacing)
    distances = boundary_voxel_distances(reference, predicted, spacing)
    np.testing.assert_allclose(distances.predicted_to_reference_mm, pairs.min(axis=1))
    np.testing.assert_allclose(distances.reference_to_predicted_mm, pairs.min(axis=0))


def test_two_single_voxels_are_as_far_apart_as_their_centres():
    reference, predicted = np.zeros((2, 3, 8, 8), dtype=bool)
    reference[0, 1, 1] = predicted[2, 1, 5] = True
    distances = boundary_voxel_distances(reference, predicted, (3.0, 1.0, 2.0))
    assert hausdorff_mm(distances) == hausdorff_mm(distances, 95) == pooled_mean_mm(distances) == 10


def test_hd95_is_the_larger_directed_percentile_not_the_pooled_one():
    reference = np.zeros((1, 1, 60), dtype=bool)
    reference[..., :40] = True
    predicted = reference.copy()
    predicted[..., 57] = True  # one far voxel of the prediction, 18 mm from the reference
    distances = boundary_voxel_distances(reference, predicted, (1.0, 1.0, 1.0))
    assert hausdorff_mm(distances) == 18
    assert hausdorff_mm(distances, 95) == 0  # one voxel of 41 is less than five percent
    predicted[..., 55:58] = True
    distances = boundary_voxel_distances(reference, predicted, (1.0, 1.0, 1.0))
    both = np.r_[distances.predicted_to_reference_mm, distances.reference_to_predicted_mm]
    assert np.percentile(both, 95) == 0
    # Index 39.9 of 43 sorted values, of which the last three are 16, 17 and 18 mm.
    assert hausdorff_mm(distances, 95) == pytest.approx(0.9 * 16)


@settings(max_examples=20, deadline=None)
@given(seeds, seeds, spacings)
def test_swapping_the_masks_swaps_the_directions(seed_a, seed_b, spacing):
    a, b = noise(seed_a), noise(seed_b)
    for measure in (boundary_voxel_distances, surface_element_distances):
        there, back = measure(a, b, spacing), measure(b, a, spacing)
        np.testing.assert_array_equal(
            there.predicted_to_reference_mm, back.reference_to_predicted_mm
        )
        np.testing.assert_array_equal(there.predicted_weights, back.reference_weights)
        assert surface_dice(there, 1.0) == pytest.approx(surface_dice(back, 1.0))


@settings(max_examples=20, deadline=None)
@given(seeds, st.permutations([0, 1, 2]), spacings)
def test_surface_area_does_not_depend_on_the_order_of_the_axes(seed, order, spacing):
    mask = noise(seed)
    area = surface_element_distances(mask, mask, spacing).reference_weights.sum()
    turned = np.transpose(mask, order)
    turned_spacing = [spacing[axis] for axis in order]
    again = surface_element_distances(turned, turned, turned_spacing).reference_weights.sum()
    assert again == pytest.approx(area)


def test_surface_area_of_single_voxel_slab_and_ball_in_closed_form():
    def area(mask, spacing):
        return surface_element_distances(mask, mask, spacing).reference_weights.sum()

    # One voxel becomes an octahedron whose corners lie half a step away.
    assert area(np.ones((1, 1, 1), dtype=bool), (1, 1, 1)) == pytest.approx(math.sqrt(3))
    big = np.ones((1, 201, 201), dtype=bool)  # two faces of 200 x 200 steps, and thin edges
    assert area(big, (1.0, 2.0, 3.0)) == pytest.approx(2 * 400 * 600, rel=0.02)
    # What is left of the staircase of a voxel ball adds about a tenth, whatever its size.
    assert area(ball((65, 65, 65), (32, 32, 32), 30), (1, 1, 1)) == pytest.approx(
        4 * math.pi * 30**2, rel=0.12
    )


def test_contour_length_of_a_pixel_and_a_square_in_closed_form():
    def length(mask, spacing):
        return surface_element_distances(mask, mask, spacing).reference_weights.sum()

    assert length(np.ones((1, 1), dtype=bool), (3.0, 4.0)) == pytest.approx(4 * 2.5)
    square = np.ones((5, 9), dtype=bool)
    assert length(square, (3.0, 4.0)) == pytest.approx(2 * 4 * 3 + 2 * 8 * 4 + 4 * 2.5)


@pytest.mark.parametrize("shape", [(12, 13, 14), (40, 41)])
def test_area_weighted_nsd_agrees_with_monai_on_noise_that_holds_every_neighbourhood(shape):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(5)
    spacing = (2.7, 0.6, 1.1)[: len(shape)]
    for density in (0.15, 0.5, 0.85):
        reference, predicted = rng.random((2, *shape)) < density

        def batch(mask):
            return torch.from_numpy(np.stack([~mask, mask])[None].astype(np.uint8))

        distances = surface_element_distances(reference, predicted, spacing)
        for tolerance in (0.0, 0.61, 1.2):
            expected = monai.compute_surface_dice(
                batch(predicted), batch(reference), [tolerance], spacing=spacing, use_subvoxels=True
            )
            assert surface_dice(distances, tolerance) == pytest.approx(float(expected), abs=1e-6)


def test_a_tolerance_is_not_missed_by_the_last_bit():
    reference, predicted = np.zeros((2, 1, 1, 9), dtype=bool)
    reference[..., 0] = predicted[..., 7] = True
    step = 0.2  # 7 * 0.2 is 1.4000000000000001
    distances = boundary_voxel_distances(reference, predicted, (1.0, 1.0, step))
    assert surface_dice(distances, 1.4) == 1.0
    assert surface_dice(distances, 1.39) == 0.0


def test_an_empty_mask_has_no_surface():
    full, empty = np.ones((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool)
    for measure in (boundary_voxel_distances, surface_element_distances):
        with pytest.raises(ValueError, match="empty mask"):
            measure(full, empty, (1.0, 1.0))
