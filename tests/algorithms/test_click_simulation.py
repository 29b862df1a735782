import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from algorithms.click_simulation import Click, interior_margin_points, next_click
from tests.phantoms import ball

SPACINGS = (None, (1.0, 1.0), (3.0, 1.0), (0.5, 2.0))


def disc(side: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    return ball((1, side, side), (0, *centre), radius)[0]


def flat_masks(side: int = 9, *, least: int = 0):
    """Masks of any kind, drawn as their rows of bits."""
    masks = hnp.arrays(np.bool_, (side, side), elements=st.booleans())
    return masks.filter(lambda mask: mask.sum() >= least)


def depth_by_hand(mask: np.ndarray, spacing: tuple[float, ...] | None) -> np.ndarray:
    """Distance of each voxel to every voxel outside, one ring beyond the edge included."""
    padded = np.pad(mask, 1)
    scale = np.ones(mask.ndim) if spacing is None else np.array(spacing)
    outside = np.argwhere(~padded) * scale
    depth = np.zeros(padded.shape)
    for voxel in np.argwhere(padded):
        depth[tuple(voxel)] = np.sqrt(((outside - voxel * scale) ** 2).sum(axis=1)).min()
    return depth[(slice(1, -1),) * mask.ndim]


def deepest_near(depth: np.ndarray, place: np.ndarray, reach: np.ndarray) -> float:
    low = np.maximum(place - reach, 0)
    window = (slice(a, b) for a, b in zip(low, place + reach + 1, strict=True))
    return float(depth[tuple(window)].max())


def pieces_by_hand(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Flood the mask over faces."""
    left = {tuple(int(c) for c in v) for v in np.argwhere(mask)}
    pieces = []
    while left:
        piece, border = set(), [left.pop()]
        while border:
            voxel = border.pop()
            piece.add(voxel)
            for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
                beside = (*voxel[:axis], voxel[axis] + step, *voxel[axis + 1 :])
                if beside in left:
                    left.remove(beside)
                    border.append(beside)
        pieces.append(piece)
    return pieces


# -- interior margin points: closed forms -----------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6)])
def test_a_single_voxel_is_the_only_point(shape) -> None:
    mask = np.zeros(shape, dtype=bool)
    mask[(2,) * len(shape)] = True
    points = interior_margin_points(mask, rng=np.random.default_rng(0))
    assert points.tolist() == [[2] * len(shape)]
    assert points.dtype == np.int64


@pytest.mark.parametrize("axis", [0, 1])
def test_a_line_of_one_pixel_is_clicked_on_itself_and_near_an_end_at_least(axis: int) -> None:
    mask = np.zeros((40, 40), dtype=bool)
    np.moveaxis(mask, axis, 0)[5:36, 7] = True
    for seed in range(5):
        points = interior_margin_points(mask, rng=np.random.default_rng(seed))
        assert mask[tuple(points.T)].all()
        assert set(points[:, 1 - axis]) == {7}
        # Equally deep everywhere, so nothing moves; one of the four extremes may be left out.
        assert points[:, axis].min() <= 5 + 3 or points[:, axis].max() >= 35 - 3


@pytest.mark.parametrize("shape", [(1, 12, 12), (12, 1, 12), (12, 12, 1), (1, 1, 1), (1, 9)])
def test_a_target_that_fills_a_thin_image_can_be_clicked(shape) -> None:
    mask = np.ones(shape, dtype=bool)
    points = interior_margin_points(mask, rng=np.random.default_rng(0))
    assert ((points >= 0) & (points < shape)).all()


def test_without_a_target_there_is_nothing_to_click() -> None:
    with pytest.raises(ValueError, match="no target"):
        interior_margin_points(np.zeros((4, 4), dtype=bool), rng=np.random.default_rng(0))


def test_points_move_inward_as_far_as_asked() -> None:
    mask = disc(80, (40, 40), 30)
    depth = depth_by_hand(mask, None)
    for wanted in (1.0, 2.0, 5.0):
        rng = np.random.default_rng(3)
        points = interior_margin_points(mask, rng=rng, inward_mm_or_voxels=wanted)
        found = depth[tuple(points.T)]
        assert (found >= wanted).all()
        assert (found < wanted + 1.5).all()  # the nearest voxel that is deep enough


def test_with_spacing_the_depth_is_in_mm() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:35, 5:35] = True
    spacing = (4.0, 1.0)
    depth = depth_by_hand(mask, spacing)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        points = interior_margin_points(mask, rng=rng, inward_mm_or_voxels=4.0, spacing_mm=spacing)
        assert (depth[tuple(points.T)] >= 4.0).all()
        assert points[:, 0].min() == 5 or points[:, 0].max() == 34  # one row is 4 mm already
        assert points[:, 1].min() >= 8
        assert points[:, 1].max() <= 31


@pytest.mark.parametrize("seed", range(6))
def test_all_extremes_but_one_at_most_are_clicked(seed: int) -> None:
    flat, solid = disc(80, (40, 40), 30), ball((50, 50, 50), (25, 25, 25), 20)
    for mask, least in ((flat, 3), (solid, 5)):
        points = interior_margin_points(mask, rng=np.random.default_rng(seed), extra=(0, 0))
        assert len(points) <= 2 * mask.ndim
        places = np.argwhere(mask)
        low, high = places.min(axis=0), places.max(axis=0)
        near = 0.1 * (high - low) + 3  # a tenth of the extent, and the way inward
        hit = (points <= low + near).any(axis=0).sum() + (points >= high - near).any(axis=0).sum()
        assert hit >= least


def test_both_counts_of_extreme_points_and_all_counts_of_others_occur() -> None:
    # A triangle: its corner lies at two extremes, so that three points can have its box. Large: two
    # points on one voxel are rare.
    mask = np.tri(160, dtype=bool)
    counts = [
        len(interior_margin_points(mask, rng=np.random.default_rng(seed), extra=(0, 2)))
        for seed in range(40)
    ]
    assert set(counts) == {3, 4, 5, 6}


@pytest.mark.parametrize("seed", range(20))
def test_the_grown_box_of_the_points_covers_the_target(seed: int) -> None:
    flat, solid = disc(80, (40, 40), 30), ball((50, 50, 50), (25, 25, 25), 20)
    for mask in (flat, solid, np.tri(60, dtype=bool)):
        points = interior_margin_points(mask, rng=np.random.default_rng(seed), extra=(0, 0))
        places = np.argwhere(mask)
        grow = 0.25 * (points.max(axis=0) - points.min(axis=0)) + 1
        assert (points.min(axis=0) - grow <= places.min(axis=0)).all()
        assert (points.max(axis=0) + grow >= places.max(axis=0)).all()


# -- interior margin points: invariants -------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    mask=flat_masks(least=1),
    seed=st.integers(0, 999),
    most=st.integers(0, 8),
    wanted=st.sampled_from([0.0, 1.0, 2.0, 3.5]),
    spacing=st.sampled_from(SPACINGS),
)
def test_points_are_different_inside_and_as_deep_as_the_target_is_near(
    mask, seed, most, wanted, spacing
) -> None:
    points, again = (
        interior_margin_points(
            mask,
            rng=np.random.default_rng(seed),
            extra=(0, most),
            inward_mm_or_voxels=wanted,
            spacing_mm=spacing,
        )
        for _ in range(2)
    )
    np.testing.assert_array_equal(points, again)
    assert 1 <= len(points) <= 4 + most
    assert len({tuple(p) for p in points}) == len(points)
    assert mask[tuple(points.T)].all()
    depth = depth_by_hand(mask, spacing)
    reach = np.ceil(2 * wanted / np.array(spacing or (1.0, 1.0))).astype(int)
    for point in points:
        if depth[tuple(point)] >= wanted - 1e-9:
            continue
        # It came from somewhere within reach, and nothing within reach of there is deeper.
        starts = [s for s in np.argwhere(mask) if (np.abs(s - point) <= reach).all()]
        assert min(deepest_near(depth, s, reach) for s in starts) <= depth[tuple(point)] + 1e-9


@settings(max_examples=20, deadline=None)
@given(mask=hnp.arrays(np.bool_, (4, 5, 6)).filter(lambda m: m.any()), seed=st.integers(0, 999))
def test_points_lie_inside_any_volume(mask, seed) -> None:
    points = interior_margin_points(mask, rng=np.random.default_rng(seed), extra=(2, 2))
    assert points.shape[1] == 3
    assert 1 <= len(points) <= 8
    assert mask[tuple(points.T)].all()


def test_another_seed_gives_other_points() -> None:
    mask = disc(80, (40, 40), 30)
    one, other = (interior_margin_points(mask, rng=np.random.default_rng(s)) for s in (0, 1))
    assert one.tolist() != other.tolist()


# -- the next click: closed forms -------------------------------------------------------------


@pytest.mark.parametrize("foreground", [True, False])
def test_an_error_that_is_a_ball_is_clicked_in_its_centre(foreground: bool) -> None:
    for error, centre in (
        (disc(40, (17, 22), 9), (17, 22)),
        (ball((20, 24, 28), (9, 11, 15), 6), (9, 11, 15)),
        (disc(40, (0, 39), 0), (0, 39)),
    ):
        nothing = np.zeros_like(error)
        masks = (nothing, error) if foreground else (error, nothing)
        assert next_click(*masks) == Click(centre, foreground)


def test_the_click_is_plain_numbers() -> None:
    click = next_click(np.zeros((9, 9), dtype=bool), disc(9, (4, 4), 2))
    assert click is not None
    assert all(type(c) is int for c in click.point)


def test_the_component_with_the_most_voxels_decides_not_the_thickest() -> None:
    predicted, reference = np.zeros((2, 30, 30), dtype=bool)
    reference[2:5, 2:5] = True  # 9 are missing
    predicted[20, 5:16] = True  # 11 are too many
    predicted[25, ::2] = True  # 15 are too many, but each alone
    assert next_click(predicted, reference) == Click((20, 10), False)


def test_of_two_errors_of_one_size_the_missing_one_comes_first() -> None:
    predicted, reference = np.zeros((2, 10, 10), dtype=bool)
    predicted[1, 1] = reference[8, 8] = True
    assert next_click(predicted, reference) == Click((8, 8), True)


def test_among_equally_deep_voxels_the_nearest_to_the_centre_of_mass_is_clicked() -> None:
    reference = np.zeros((9, 40), dtype=bool)
    reference[3:6, 4:31] = True
    assert next_click(np.zeros_like(reference), reference) == Click((4, 17), True)


def test_with_spacing_the_middle_is_farthest_in_mm() -> None:
    reference = np.zeros((30, 40), dtype=bool)
    reference[2:5, 2:32] = True  # 3 rows, long
    reference[5:26, 2:7] = True  # 5 columns, long
    nothing = np.zeros_like(reference)
    upright, lying = (next_click(nothing, reference, spacing_mm=s) for s in ((1, 1), (9, 1)))
    assert upright is not None
    assert lying is not None
    assert upright.point[1] == 4
    assert lying.point[0] == 3
    assert lying.point[1] > 7


def test_masks_of_two_shapes_are_a_programming_mistake() -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\).*\(3, 4\)"):
        next_click(np.zeros((3, 3), dtype=bool), np.zeros((3, 4), dtype=bool))


# -- the next click: invariants and an oracle -------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(predicted=flat_masks(7), reference=flat_masks(7), spacing=st.sampled_from(SPACINGS))
def test_a_click_is_the_deepest_voxel_of_a_largest_error(predicted, reference, spacing) -> None:
    click = next_click(predicted, reference, spacing_mm=spacing)
    if click is None:
        np.testing.assert_array_equal(predicted, reference)
        return
    assert predicted[click.point] != reference[click.point]
    assert click.foreground == reference[click.point]
    missing = pieces_by_hand(reference & ~predicted)
    surplus = pieces_by_hand(predicted & ~reference)
    (piece,) = (p for p in (missing if click.foreground else surplus) if click.point in p)
    assert len(piece) == max(len(p) for p in missing + surplus)
    error = np.zeros(predicted.shape, dtype=bool)
    error[tuple(np.array(sorted(piece)).T)] = True
    depth = depth_by_hand(error, spacing)
    assert depth[click.point] == pytest.approx(depth.max())


@settings(max_examples=40, deadline=None)
@given(mask=flat_masks())
def test_equal_masks_need_no_click(mask) -> None:
    assert next_click(mask, mask.copy()) is None


@settings(max_examples=25, deadline=None)
@given(predicted=flat_masks(6), reference=flat_masks(6))
def test_a_robot_that_corrects_voxel_by_voxel_ends(predicted, reference) -> None:
    now = predicted.copy()
    wrong = int((now != reference).sum())
    for _ in range(wrong):
        click = next_click(now, reference)
        assert click is not None
        now[click.point] = click.foreground
    assert next_click(now, reference) is None
    np.testing.assert_array_equal(now, reference)
