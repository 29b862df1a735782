import itertools
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from algorithms.interactive_network import InteractiveNetworkSpec
from algorithms.interactive_training import Target, draw_sample
from evaluation.benchmarks import shape_phantoms as module
from evaluation.benchmarks.shape_phantoms import SHAPES, draw_phantom, shape_phantoms

COUNTS = {2: 30, 3: 12}


@cache
def drawn(dimensions: int) -> tuple[Target, ...]:
    """Draw once what several tests look at."""
    return tuple(shape_phantoms(dimensions, COUNTS[dimensions], seed=0))


@pytest.mark.parametrize("dimensions", COUNTS)
def test_every_target_is_one_piece_inside_finite_surroundings(dimensions) -> None:
    for target in drawn(dimensions):
        image, mask = target.image, target.mask
        assert image.shape == mask.shape
        assert image.ndim == dimensions
        assert all(n <= most for n, most in zip(mask.shape, SHAPES[dimensions], strict=True))
        assert (image.dtype, mask.dtype) == (np.float32, np.bool_)
        assert np.isfinite(image).all()
        assert image.std() > 0.01
        assert mask.any()
        assert not mask.all()
        assert ndimage.label(mask)[1] == 1


@pytest.mark.parametrize("dimensions", COUNTS)
def test_each_is_drawn_from_the_seed_and_its_number_alone(dimensions) -> None:
    alone = draw_phantom(dimensions, np.random.default_rng([0, 1]))
    np.testing.assert_array_equal(alone.image, drawn(dimensions)[1].image)
    np.testing.assert_array_equal(alone.mask, drawn(dimensions)[1].mask)


@pytest.mark.parametrize("dimensions", COUNTS)
@pytest.mark.parametrize("kind", ["_dented_ball", "_bent_tube", "_column"])
def test_every_kind_of_target_is_one_piece_of_some_size(dimensions, kind) -> None:
    shape, sizes = SHAPES[dimensions], []
    for i in range(12):
        mask = getattr(module, kind)(shape, np.random.default_rng(i))
        assert mask.shape == shape
        assert ndimage.label(mask)[1] == 1
        sizes.append(mask.mean())
    assert 0.0005 < min(sizes) < max(sizes) < 0.5


def test_columns_have_flat_ends_and_balls_have_not() -> None:
    for i in range(6):
        assert _flattest(module._column(SHAPES[3], np.random.default_rng(i))) > 0.6
        assert _flattest(module._dented_ball(SHAPES[3], np.random.default_rng(i))) < 0.4


def _flattest(mask: np.ndarray) -> float:
    """Area of the flatter end of the axis with the flattest ends, by the mean area along it."""
    ends = []
    for axis in range(mask.ndim):
        areas = mask.any(axis=axis).size * mask.mean(axis=tuple({0, 1, 2} - {axis}))
        areas = areas[areas > 0]
        ends.append(min(areas[0], areas[-1]) / areas.mean())
    return float(max(ends))


def test_some_tubes_are_bent() -> None:
    outside = 0
    for i in range(12):
        tube = module._bent_tube(SHAPES[3], np.random.default_rng(i))
        middle = np.round(np.argwhere(tube).mean(axis=0)).astype(int)
        outside += not tube[tuple(middle)]
    assert outside > 0


def test_no_two_are_alike() -> None:
    targets = [*drawn(2)[:5], *shape_phantoms(2, 5, seed=1)]
    for one, other in itertools.combinations(targets, 2):
        assert not np.array_equal(one.image, other.image)


def test_none_is_no_phantom() -> None:
    assert shape_phantoms(2, 0, seed=0) == []


def test_brighter_and_darker_small_and_large_targets_occur() -> None:
    targets = drawn(2)
    contrasts = []
    for target in targets:
        ring = ndimage.binary_dilation(target.mask, iterations=4) & ~target.mask
        contrasts.append(np.median(target.image[target.mask]) - np.median(target.image[ring]))
    assert min(contrasts) < -0.2
    assert max(contrasts) > 0.2
    assert np.median(np.abs(contrasts)) > 0.1  # most can be told from their surroundings
    sizes = [int(target.mask.sum()) for target in targets]
    assert max(sizes) > 4 * min(sizes)


@pytest.mark.parametrize(("dimensions", "shape"), [(2, (16, 16)), (3, (8, 16, 16))])
def test_a_network_can_learn_from_them(dimensions, shape) -> None:
    spec = InteractiveNetworkSpec(dimensions=dimensions, input_shape=shape, base_channels=1)
    for i, target in enumerate(drawn(dimensions)):
        inputs, label = draw_sample(target, spec, np.random.default_rng(i))
        assert np.isfinite(inputs).all()
        assert 0 < label.sum() < label.size
