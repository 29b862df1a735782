import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.scribble_simulation import draw_scribble
from tests.phantoms import ball


def disc(shape=(40, 48), centre=(18, 22), radius=9.0) -> np.ndarray:
    return ball((1, *shape), (0, *centre), radius)[0]


def drawn(mask: np.ndarray, seed: int = 0) -> np.ndarray:
    return draw_scribble(mask, rng=np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(6, 40), st.integers(6, 40)),
    seed=st.integers(0, 9999),
    pieces=st.integers(0, 4),
)
def test_what_is_drawn_is_true_and_everything_is_drawn_on(shape, seed, pieces) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, dtype=bool)
    for _ in range(pieces):
        mask |= disc(shape, rng.uniform(0, shape), rng.uniform(1, max(shape) / 4))
    scribble = drawn(mask, seed)
    assert scribble.dtype == np.uint8
    assert set(np.unique(scribble)) <= {0, 1, NOT_ANNOTATED}
    assert mask[scribble == 1].all()
    assert not mask[scribble == 0].any()
    assert (scribble != NOT_ANNOTATED).any()
    labels, count = ndimage.label(mask)
    assert set(np.unique(labels[scribble == 1])) == set(range(1, count + 1))


def test_a_scribble_is_thin_and_leaves_most_of_the_slice_alone() -> None:
    mask = disc()
    scribble = drawn(mask)
    assert 0 < (scribble == 1).sum() < 0.3 * mask.sum()
    assert (scribble == 0).sum() < 0.1 * mask.size
    inner = scribble == 1
    assert not ndimage.binary_erosion(inner, np.ones((3, 3))).any()


def test_the_inner_curve_runs_half_as_deep_as_the_target() -> None:
    mask = disc(radius=12.0)
    y, x = np.nonzero(drawn(mask) == 1)
    assert np.hypot(y - 18, x - 22) == pytest.approx(6.0, abs=1.2)


def test_the_outer_curve_keeps_clear_of_the_target_and_goes_part_of_the_way_round() -> None:
    y, x = np.nonzero(drawn(disc()) == 0)
    far = np.hypot(y - 18, x - 22) - 9
    around = (far > 2.5) & (far < 5)
    angles = np.sort(np.arctan2(y[around] - 18, x[around] - 22))
    gap = np.diff([*angles, angles[0] + 2 * np.pi]).max()
    assert gap == pytest.approx(0.4 * 2 * np.pi, abs=0.5)
    assert far.min() > 2.5


def test_an_empty_slice_gets_a_line_across() -> None:
    scribble = drawn(np.zeros((30, 20), dtype=bool))
    assert not (scribble == 1).any()
    assert (scribble == 0).sum() >= 10


def test_the_generator_alone_decides() -> None:
    np.testing.assert_array_equal(drawn(disc(), 3), drawn(disc(), 3))
    assert not np.array_equal(drawn(disc(), 3), drawn(disc(), 4))


def test_a_slice_that_is_all_target_is_drawn_on_inside() -> None:
    scribble = drawn(np.ones((12, 12), dtype=bool))
    assert set(np.unique(scribble)) == {1, NOT_ANNOTATED}
