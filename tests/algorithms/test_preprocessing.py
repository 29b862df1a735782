import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.model_package import PreprocessingRecipe
from algorithms.contracts.volume import Geometry, Volume
from algorithms.preprocessing import (
    mirror_outwards,
    preprocess,
    preprocess_mask,
    preprocess_scribble,
    resize_scribble,
    restore,
)
from tests.phantoms import ball, tiny_volume

SPACINGS_MM = [(3.0, 0.5, 0.5), (3.0, 0.7, 1.3), (5.0, 1.0, 1.0), (1.0, 2.4, 1.7), (3.0, 4.0, 4.0)]


@pytest.mark.parametrize("spacing", SPACINGS_MM)
def test_the_body_has_zero_mean_and_unit_variance(spacing) -> None:
    volume, _ = tiny_volume(1, shape_zyx=(6, 40, 36), spacing_zyx_mm=spacing)
    recipe = PreprocessingRecipe(in_plane_spacing_mm=1.5)
    slices = preprocess(volume, recipe).slices
    # The way to network input keeps the order of grey values, so the body is found in it again.
    body = slices[slices > np.percentile(slices, recipe.foreground_percentile)]
    assert body.mean() == pytest.approx(0.0, abs=1e-4)
    assert body.std() == pytest.approx(1.0, abs=1e-4)
    assert slices.dtype == np.float32


def test_grey_scale_and_offset_of_a_scanner_do_not_matter() -> None:
    volume, _ = tiny_volume(2)
    other = Volume(volume.image * 7.0 - 300.0, volume.geometry)
    recipe = PreprocessingRecipe()
    a, b = preprocess(volume, recipe).slices, preprocess(other, recipe).slices
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_an_image_of_one_grey_value_becomes_zero() -> None:
    volume = Volume(np.full((2, 8, 8), 41.0, np.float32), Geometry((2, 8, 8), (1, 1, 1), (0, 0, 0)))
    assert not preprocess(volume, PreprocessingRecipe()).slices.any()


def test_outliers_are_clipped_to_the_percentiles() -> None:
    volume, _ = tiny_volume(3)
    spiked = volume.image.copy()
    spiked[0, 0, :8] = 1e6
    recipe = PreprocessingRecipe(in_plane_spacing_mm=1.0)
    assert preprocess(Volume(spiked, volume.geometry), recipe).slices.max() < 20


@pytest.mark.parametrize("spacing", SPACINGS_MM)
def test_pixels_have_the_recipes_size_and_slices_stay(spacing) -> None:
    volume, _ = tiny_volume(4, shape_zyx=(5, 40, 36), spacing_zyx_mm=spacing)
    slices = preprocess(volume, PreprocessingRecipe(in_plane_spacing_mm=1.5)).slices
    sides_mm = np.array([40, 36]) * np.array(spacing[1:])
    assert slices.shape[0] == 5
    assert np.abs(np.array(slices.shape[1:]) - sides_mm / 1.5).max() <= 0.5


def test_without_a_spacing_whole_slices_get_the_patchs_size() -> None:
    """A region in the middle third of a slice fills the middle third of it, there and back."""
    recipe = PreprocessingRecipe(in_plane_spacing_mm=None, patch_yx=(48, 30))
    region = np.zeros((3, 30, 90), dtype=bool)
    region[1, 10:20, 30:60] = True
    geometry = Geometry(region.shape, (4.0, 2.0, 0.7), (0.0, 0.0, 0.0))
    prepared = preprocess(Volume(region.astype(np.float32), geometry), recipe)
    label = preprocess_mask(region, geometry, recipe)
    assert prepared.slices.shape == label.shape == (3, 48, 30)
    assert not label[[0, 2]].any()
    rows, columns = np.nonzero(label[1])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 31, 10, 19)
    np.testing.assert_array_equal(restore(label.astype(np.float32), geometry) > 0.5, region)


@pytest.mark.parametrize("spacing", SPACINGS_MM)
@pytest.mark.parametrize("working_mm", [0.8, 2.0])
def test_a_mask_there_and_back_keeps_its_centre_within_half_a_voxel(spacing, working_mm) -> None:
    shape = (7, 64, 60)
    geometry = Geometry(shape, spacing, (0.0, 0.0, 0.0))
    recipe = PreprocessingRecipe(in_plane_spacing_mm=working_mm)
    mask = ball(shape, (3.0, 25.3, 36.8), 17.0)
    there = preprocess_mask(mask, geometry, recipe)
    back = restore(there.astype(np.float32), geometry) > 0.5
    gap = np.subtract(center_of_mass(mask), center_of_mass(back))
    coarser = max(1.0, working_mm / min(spacing[1:]))
    assert np.abs(gap).max() < 0.1 * coarser  # voxels
    assert back.sum() == pytest.approx(mask.sum(), rel=0.04 * coarser)


def test_image_and_mask_are_resampled_alike() -> None:
    """A mask as an image gives, cut at one half, the mask as a mask."""
    mask = ball((4, 33, 47), (2, 15, 21), 9)
    geometry = Geometry(mask.shape, (3.0, 0.9, 1.2), (0, 0, 0))
    recipe = PreprocessingRecipe(in_plane_spacing_mm=2.0, clip_percentiles=(0, 100))
    slices = preprocess(Volume(mask.astype(np.float32), geometry), recipe).slices
    unscaled = (slices - slices.min()) / np.ptp(slices)
    label = preprocess_mask(mask, geometry, recipe)
    assert np.mean((unscaled >= 0.5) != label) < 0.005


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 99),
)
def test_a_restored_probability_lies_on_its_grid_within_0_and_1(sides, target, seed) -> None:
    probability = np.random.default_rng(seed).random((3, *sides)).round().astype(np.float32)
    geometry = Geometry((3, *target), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    restored = restore(probability, geometry)
    assert restored.shape == geometry.shape_zyx
    assert restored.min() >= 0.0
    assert restored.max() <= 1.0 + 1e-6  # weights of float32 add up to 1 within rounding


def test_a_probability_with_another_number_of_slices_is_refused() -> None:
    with pytest.raises(ValueError, match="3 slices"):
        restore(np.zeros((3, 4, 4), np.float32), Geometry((4, 4, 4), (1, 1, 1), (0, 0, 0)))


@pytest.mark.parametrize("shape", [(16, 16), (17, 30), (1, 5), (40, 9)])
@pytest.mark.parametrize("patch_yx", [(1, 1), (20, 24)])
def test_small_slices_are_mirrored_outwards_and_cut_back(shape, patch_yx) -> None:
    slices = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, *shape)
    larger, (rows, columns) = mirror_outwards(slices, stride=8, patch_yx=patch_yx)
    assert all(side % 8 == 0 for side in larger.shape[1:])
    assert all(side >= patch for side, patch in zip(larger.shape[1:], patch_yx, strict=True))
    np.testing.assert_array_equal(larger[:, rows, columns], slices)
    first = rows.start
    if 0 < first <= shape[0]:
        np.testing.assert_array_equal(larger[:, first - 1, columns], slices[:, 0])  # a mirror
    assert set(np.unique(larger)) == set(np.unique(slices))


def test_the_percentile_range_does_not_depend_on_how_much_is_bright() -> None:
    recipe = PreprocessingRecipe(
        in_plane_spacing_mm=1.0, clip_percentiles=(0.0, 100.0), normalisation="percentile_range"
    )
    values = []
    for bright in (4, 12):
        image = np.full((1, 16, 16), 50.0, dtype=np.float32)
        image[0, 0], image[0, 1, :bright] = 0.0, 100.0
        volume = Volume(image, Geometry((1, 16, 16), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
        slices = preprocess(volume, recipe).slices
        assert (slices.min(), slices.max()) == (-2.0, 2.0)
        values.append(slices[0, 8, 8])
    assert values == [0.0, 0.0]


# -- scribbles --------------------------------------------------------------------------------


def line(shape, *places, code=1) -> np.ndarray:
    scribble = np.full(shape, NOT_ANNOTATED, dtype=np.uint8)
    scribble[tuple(np.array(places).T)] = code
    return scribble


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 999),
)
def test_no_stroke_is_lost_and_none_is_invented(shape, size, seed) -> None:
    rng = np.random.default_rng(seed)
    scribble = np.where(rng.random(shape) < 0.05, 1, NOT_ANNOTATED).astype(np.uint8)
    found = resize_scribble(scribble, size)
    assert found.shape == size
    assert found.dtype == np.uint8
    scale = np.array(size) / np.array(shape)
    for place in np.argwhere(scribble == 1):
        assert (
            found[tuple(((place + 0.5) * scale).astype(int))] == 1
        )  # where its centre comes to lie
    strokes = (np.argwhere(scribble == 1) + 0.5) * scale
    for place in np.argwhere(found == 1) + 0.5:
        assert (np.abs(strokes - place) <= 0.5 * np.maximum(scale, 1) + 1e-9).all(axis=1).any()


def test_a_scribble_on_its_own_grid_stays_as_it_is() -> None:
    scribble = line((9, 7), (1, 2), (3, 4)) & line((9, 7), (8, 6), code=0)
    np.testing.assert_array_equal(resize_scribble(scribble, (9, 7)), scribble)


def test_where_two_classes_meet_in_a_coarse_pixel_the_higher_one_stays() -> None:
    both = np.minimum(line((4, 4), (0, 0), code=2), line((4, 4), (1, 1), (3, 3), code=0))
    found = resize_scribble(both, (2, 2))
    assert found.tolist() == [[2, NOT_ANNOTATED], [NOT_ANNOTATED, 0]]


def test_a_scribble_follows_its_image_onto_the_working_grid() -> None:
    geometry = Geometry((1, 40, 60), (3.0, 0.5, 1.0), (0.0, 0.0, 0.0))
    recipe = PreprocessingRecipe(in_plane_spacing_mm=1.0)
    found = preprocess_scribble(line((40, 60), (10, 30), (11, 31)), geometry, recipe)
    assert found.shape == (20, 60)
    assert np.argwhere(found == 1).tolist() == [[5, 30], [5, 31]]
