import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from algorithms.click_simulation import interior_margin_points, next_click
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import ImageArray, MaskArray
from algorithms.geodesic import geodesic_distance
from algorithms.graph_cut import minimum_cut
from algorithms.interactive_network import InteractiveNetwork, default_network
from algorithms.interactive_segmentation import (
    Fusion,
    InteractiveSegmenter,
    default_fusion,
    fuse,
)
from evaluation.overlap import dice

PROBABILITIES = st.floats(0.0, 1.0)
DISTANCES = st.one_of(st.floats(0.0, 1e30), st.floats(0.0, 5.0), st.just(np.inf), st.just(0.0))
REACH = Fusion.reach / Fusion.length_weight  # of a click, in distances to the contour


def ball(
    shape: tuple[int, ...],
    centre: tuple[float, ...],
    radius: float,
    spacing: tuple[float, ...] | None = None,
) -> MaskArray:
    """Mark a disc or a ball; its radius is in mm where there is a spacing."""
    steps = (
        (axis - c) * s
        for axis, c, s in zip(
            np.indices(shape), centre, spacing or (1.0,) * len(shape), strict=True
        )
    )
    return np.asarray(sum(np.square(step) for step in steps) <= radius**2)


def picture(*targets: MaskArray, contrast: float = 2.0, noise: float = 0.3) -> ImageArray:
    """Draw targets brighter (or darker) than the noise around them."""
    grey = np.random.default_rng(0).normal(0.0, noise, targets[0].shape)
    return (grey + contrast * np.any(targets, axis=0)).astype(np.float32)


DISC = ball((64, 64), (30, 34), 14)
DISC_IMAGE = picture(DISC)
BALL = ball((24, 40, 40), (12, 20, 19), 8)
BALL_IMAGE = picture(BALL)


def margin_points(target: MaskArray, seed: int = 0) -> np.ndarray:
    """Click into the target near its edge, as a doctor would."""
    return interior_margin_points(target, rng=np.random.default_rng(seed))


def opened(
    image: ImageArray = DISC_IMAGE,
    spacing: tuple[float, ...] | None = None,
    fusion: Fusion | None = None,
) -> InteractiveSegmenter:
    """Return a segmenter with the package's own network, at the start of an image."""
    network = default_network(2 if image.ndim == 2 else 3)
    segmenter = InteractiveSegmenter(network, fusion, clock=time.perf_counter)
    segmenter.set_image(image, spacing)
    return segmenter


def corrected(
    contour: MaskArray, image: ImageArray = DISC_IMAGE, fusion: Fusion | None = None
) -> InteractiveSegmenter:
    """Return a segmenter that starts from a contour and needs no network."""
    segmenter = InteractiveSegmenter(fusion=fusion)
    segmenter.set_image(image)
    segmenter.set_contour(contour)
    return segmenter


def at(*point: int) -> np.ndarray:
    return np.array([point])


@contextmanager
def nothing_changes(segmenter: InteractiveSegmenter) -> Iterator[None]:
    mask, steps = segmenter.mask, list(map(id, segmenter.steps))
    yield
    np.testing.assert_array_equal(segmenter.mask, mask)
    assert list(map(id, segmenter.steps)) == steps


# -- fusion: the reference vectors and closed forms -------------------------------------------


@pytest.mark.parametrize(
    ("case", "foreground", "background"),
    [("both", True, True), ("fgonly_Cinf", True, False), ("bgonly_Cinf", False, True)],
)
def test_fusion_agrees_with_the_reference_vectors(vectors, case, foreground, background) -> None:
    with np.load(vectors / "fusion.npz") as data:
        df, db = data["Df"] if foreground else None, data["Db"] if background else None
        rf, rb = fuse(data["Pf"], df, db)
        np.testing.assert_allclose(rf, data[f"{case}_Rf"], atol=1e-5)
        np.testing.assert_allclose(rb, data[f"{case}_Rb"], atol=1e-5)


def test_without_clicks_the_probability_stays(vectors) -> None:
    with np.load(vectors / "fusion.npz") as data:
        rf, _ = fuse(data["Pf"], None, None)
        np.testing.assert_allclose(rf, data["none_Cinf_Rf"], atol=1e-5)
        np.testing.assert_array_equal(rf, data["Pf"])


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_a_click_alone_gets_exactly_its_label(probability) -> None:
    p, zero = np.array([probability]), np.array([0.0])
    assert fuse(p, zero, None)[0].tolist() == [1.0]
    assert fuse(p, None, zero)[0].tolist() == [0.0]
    assert fuse(p, zero, np.array([np.inf]))[1].tolist() == [0.0]
    assert fuse(p, np.array([1e30]), zero)[1].tolist() == [1.0]


def test_a_click_with_another_kind_near_by_follows_the_formula() -> None:
    rf, rb = fuse(np.array([0.1]), np.array([0.0]), np.array([np.log(3.0)]))
    assert rf == pytest.approx([0.75])  # 1 / (1 + 1/3), and nothing of the probability
    assert rb == pytest.approx([0.25])


def test_halfway_between_two_clicks_distance_says_nothing() -> None:
    d = np.array([np.log(2.0)])
    assert fuse(np.array([0.9]), d, d)[0] == pytest.approx([0.5 * 0.9 + 0.5 * 0.5])


@settings(max_examples=200, deadline=None)
@given(p=PROBABILITIES, df=DISTANCES, db=DISTANCES, single=st.booleans())
def test_fused_values_are_probabilities_that_add_up_to_one(p, df, db, single) -> None:
    dtype = np.float32 if single else np.float64
    rf, rb = fuse(*(np.array([v], dtype=dtype) for v in (p, df, db)))
    assert rf.dtype == rb.dtype == dtype
    assert 0.0 <= rf[0] <= 1.0  # which NaN is not
    assert 0.0 <= rb[0] <= 1.0
    assert rf[0] + rb[0] == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(p=PROBABILITIES, d=DISTANCES)
def test_none_is_infinitely_far_and_kinds_are_symmetric(p, d) -> None:
    p, d, far = np.array([p]), np.array([d]), np.array([np.inf])
    np.testing.assert_array_equal(fuse(p, d, None), fuse(p, d, far))
    np.testing.assert_array_equal(fuse(p, None, d), fuse(p, far, d))
    np.testing.assert_allclose(fuse(p, d, None), fuse(1.0 - p, None, d)[::-1], atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(p=PROBABILITIES, df=st.floats(0, 9), db=st.floats(0, 9), nearer=st.floats(0, 1))
def test_a_nearer_lone_click_pulls_more(p, df, db, nearer) -> None:
    p, near, far = np.array([p]), np.array([df * nearer]), np.array([df])
    assert fuse(p, near, None)[0] >= fuse(p, far, None)[0] - 1e-12
    assert fuse(p, None, near)[0] <= fuse(p, None, far)[0] + 1e-12
    # Where no network speaks, the nearer kind of click wins.
    rf, _ = fuse(np.array([0.5]), near, np.array([db]))
    assert (rf[0] - 0.5) * (db - near[0]) >= -1e-12


# -- stage 1 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("contrast", [2.0, -2.0], ids=["bright", "dark"])
@pytest.mark.parametrize("target", [DISC, BALL], ids=["2d", "3d"])
def test_a_few_clicks_find_the_target(target, contrast) -> None:
    image, found_well = picture(target, contrast=contrast), []
    for seed in range(6):  # where a click near an outermost point is missing, the crop is short
        points = margin_points(target, seed)
        found = opened(image).segment(points)
        assert found.dtype == bool
        assert found[tuple(points.T)].all()
        found_well.append(dice(target, found))
    assert np.mean(found_well) > 0.8
    assert min(found_well) > 0.7


def test_a_target_with_thick_slices_is_found_and_corrected() -> None:
    spacing = (5.0, 0.5, 0.5)
    target = ball((8, 48, 48), (4, 24, 24), 9.0, spacing)
    segmenter = opened(picture(target), spacing)
    points = interior_margin_points(
        target, rng=np.random.default_rng(0), spacing_mm=(10.0, 1.0, 1.0)
    )
    found = segmenter.segment(points)
    assert dice(target, found) > 0.8
    surplus = found | ball(target.shape, (4, 24, 42), 3.0, spacing)
    segmenter.set_contour(surplus)
    click = next_click(surplus, target, spacing_mm=spacing)
    assert click is not None
    assert not click.foreground
    refined = segmenter.refine(background=at(*click.point))
    assert not refined[click.point]
    assert dice(target, refined) > dice(target, surplus)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_first_contour_may_be_cut_along_edges(temperature) -> None:
    fusion = Fusion(first_pairwise_weight=3.0, temperature=temperature)
    points = margin_points(DISC)
    found = opened(fusion=fusion).segment(points)
    probability, box = default_network(2).probability(DISC_IMAGE, points)
    crop = DISC_IMAGE[box]
    low, high = np.percentile(crop, (1, 99))
    seeds = np.zeros(DISC.shape, dtype=bool)
    seeds[tuple(points.T)] = True
    clipped = np.clip(probability.astype(np.float64), 1e-6, 1 - 1e-6)
    odds = (clipped / (1.0 - clipped)) ** (1.0 / temperature)
    expected = minimum_cut(
        odds / (1.0 + odds), (crop - low) / (high - low), seeds[box], None, pairwise_weight=3.0
    )
    assert (found[box] != expected).mean() < 0.001  # probabilities are single precision there
    assert not found.any() or found.sum() == found[box].sum()


@pytest.mark.parametrize("target", [DISC, BALL], ids=["2d", "3d"])
def test_a_large_first_contour_is_cut_on_a_coarser_grid(target, monkeypatch) -> None:
    points, fusion = margin_points(target), Fusion(first_pairwise_weight=3.0)
    fine = opened(picture(target), fusion=fusion).segment(points)
    sizes = []

    def watched(probability: np.ndarray, *arguments: object, **more: object) -> np.ndarray:
        sizes.append(probability.size)
        return minimum_cut(probability, *arguments, **more)

    module = sys.modules["algorithms.interactive_segmentation"]
    monkeypatch.setattr(module, "minimum_cut", watched)
    monkeypatch.setattr(module, "_MOST_COARSE_VOXELS", 900)
    coarse = opened(picture(target), fusion=fusion).segment(points)
    assert 300 < sizes[0] <= 900
    assert coarse[tuple(points.T)].all()
    assert dice(coarse, fine) > 0.85


def test_temperature_alone_leaves_the_first_contour_as_it_is() -> None:
    points = margin_points(BALL)
    cold, warm = (opened(BALL_IMAGE, fusion=Fusion(temperature=t)) for t in (1.0, 4.0))
    np.testing.assert_array_equal(cold.segment(points), warm.segment(points))


class TooMuch(torch.nn.Module):
    """A network that is a little sure of nearly the whole crop."""

    def __init__(self) -> None:
        super().__init__()
        self.sure = torch.nn.Parameter(torch.tensor(0.4))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        sign = torch.full_like(inputs[:, :1], -10.0)
        sign[:, :, 4:-4, 4:-4] = 1.0
        return sign * self.sure


def test_what_the_first_cut_took_away_stays_away() -> None:
    network = InteractiveNetwork(default_network(2).spec, TooMuch().eval())
    points, masks = margin_points(DISC), {}
    for weight in (0.0, 5.0):
        fusion = Fusion(first_pairwise_weight=weight, intensity_weight=0.0, pairwise_weight=0.0)
        segmenter = InteractiveSegmenter(network, fusion)
        segmenter.set_image(DISC_IMAGE)
        masks[weight] = segmenter.segment(points)
    assert dice(masks[5.0], DISC) > 0.95 > dice(masks[0.0], DISC)
    # The network was 60 % sure of it. A click pulls 40 % over where it counts for a sixth.
    back = np.argwhere(segmenter.refine(foreground=at(30, 46)) & ~masks[5.0])
    units = np.linalg.norm(back - (30, 46), axis=1) / 2.0  # the contour is 2 pixels away or 3
    assert (Fusion.length_weight * units <= 1.5 * np.log(6.0)).all()


@settings(max_examples=15, deadline=None)
@given(point=st.tuples(st.integers(0, 63), st.integers(0, 63)))
def test_a_doubted_contour_follows_a_click_farther(point) -> None:
    kind = "background" if LEFT_PART[point] else "foreground"
    changed = [
        corrected(LEFT_PART, fusion=Fusion(contour_doubt=doubt, pairwise_weight=0.0)).refine(
            **{kind: at(*point)}
        )
        ^ LEFT_PART
        for doubt in (0.0, 0.3, 0.6)
    ]
    assert changed[0][point]
    assert not (changed[0] & ~changed[1]).any()
    assert not (changed[1] & ~changed[2]).any()


def test_a_volume_of_one_slice_is_a_volume() -> None:
    target = DISC[None]
    segmenter = opened(picture(target), (3.0, 1.0, 1.0))
    points = margin_points(target)
    found = segmenter.segment(points)
    assert found.shape == target.shape
    assert found[tuple(points.T)].all()
    contour = segmenter.set_contour(target & (np.arange(64) < 38))
    assert dice(target, segmenter.refine(foreground=at(0, 30, 43))) > dice(target, contour)


def test_two_targets_are_segmented_one_after_the_other() -> None:
    one, two = ball((64, 64), (18, 17), 10), ball((64, 64), (45, 44), 11)
    segmenter = opened(picture(one, two))
    first = segmenter.segment(margin_points(one))
    both = segmenter.segment(margin_points(two))
    assert (both & first == first).all()
    assert dice(one | two, both) > 0.8
    corner = segmenter.refine(foreground=at(45, 44))
    assert (corner & one == first & one).all()
    segmenter.undo()
    np.testing.assert_array_equal(segmenter.undo(), first)


def test_all_points_in_one_place_are_one_point() -> None:
    one, many = opened(), opened()
    found = one.segment(at(30, 34))
    assert found[30, 34]
    np.testing.assert_array_equal(found, many.segment(np.repeat(at(30, 34), 5, axis=0)))


@pytest.mark.parametrize("point", [(0, 0), (63, 63), (0, 40)])
def test_a_click_at_the_edge_of_the_image_counts(point) -> None:
    assert opened().segment(at(*point))[point]
    assert corrected(np.zeros_like(DISC)).refine(foreground=at(*point))[point]
    assert not corrected(np.ones_like(DISC)).refine(background=at(*point))[point]


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64])
def test_a_constant_image_and_any_type_of_numbers_have_a_result(dtype) -> None:
    segmenter = opened(np.full((40, 40), 7, dtype=dtype))
    assert segmenter.segment(at(20, 20))[20, 20]
    assert segmenter.refine(foreground=at(28, 28), background=at(2, 2))[28, 28]
    assert not segmenter.mask[2, 2]


# -- stage 2 ----------------------------------------------------------------------------------

LEFT_PART = DISC & (np.arange(64) < 38)
TOO_MUCH = DISC | ball((64, 64), (30, 54), 6)
BALL_PART = BALL & (np.arange(40) < 22)
BALL_TOO_MUCH = BALL | ball(BALL.shape, (12, 20, 31), 5)


@pytest.mark.parametrize("local", [True, False], ids=["local", "pure"])
@pytest.mark.parametrize(
    ("target", "contour"),
    [
        (DISC, LEFT_PART),
        (DISC, TOO_MUCH),
        (BALL, BALL_PART),
        (BALL, BALL_TOO_MUCH),
    ],
    ids=["2d-missing", "2d-surplus", "3d-missing", "3d-surplus"],
)
def test_a_click_on_an_error_makes_it_smaller(target, contour, local) -> None:
    segmenter = corrected(contour, picture(target), Fusion(local=local))
    click = next_click(contour, target)
    assert click is not None
    kind = "foreground" if click.foreground else "background"
    refined = segmenter.refine(**{kind: at(*click.point)})
    assert refined[click.point] == click.foreground
    assert dice(target, refined) > dice(target, contour)


@pytest.mark.parametrize("local", [True, False], ids=["local", "pure"])
def test_without_any_contour_a_click_is_at_least_its_own_voxel(local) -> None:
    segmenter = InteractiveSegmenter(fusion=Fusion(local=local))
    segmenter.set_image(DISC_IMAGE)
    refined = segmenter.refine(foreground=at(30, 34))
    assert refined[30, 34]
    assert not segmenter.refine(background=at(30, 36))[30, 36]
    assert not segmenter.undo()[DISC == 0].all()
    assert not segmenter.undo().any()
    assert not corrected(np.zeros_like(DISC)).refine(background=at(5, 5)).any()


def test_on_a_constant_image_a_correction_is_what_the_formulas_say() -> None:
    shape, click = (41, 41), (20, 26)
    contour = np.broadcast_to(np.arange(41) < 21, shape).copy()
    segmenter = corrected(contour, np.full(shape, 3.0, dtype=np.float32))
    dy, dx = (np.abs(axis - c) for axis, c in zip(np.indices(shape), click, strict=True))
    # The shortest way over 8 neighbours; the contour, column 20, is 6 away.
    way = np.maximum(dy, dx) + (np.sqrt(2.0) - 1.0) * np.minimum(dy, dx)
    distance = Fusion.length_weight * way / 6.0
    near = distance <= Fusion.reach
    pulled = (1.0 - np.exp(-distance)) * contour + np.exp(-distance)
    seeds = (dy == 0) & (dx == 0)
    expected = minimum_cut(
        np.where(near, pulled, contour),
        np.zeros(shape),
        seeds,
        None,
        pairwise_weight=Fusion.pairwise_weight,
        region=near,
        engine="scipy",
    )
    np.testing.assert_array_equal(segmenter.refine(foreground=at(*click)), expected)


POINTS = st.tuples(st.integers(0, 63), st.integers(0, 63))


@settings(max_examples=25, deadline=None)
@given(clicks=st.lists(st.tuples(POINTS, st.booleans()), min_size=1, max_size=5))
def test_clicked_voxels_keep_their_label_whatever_follows(clicks) -> None:
    segmenter, said = corrected(TOO_MUCH), {}
    for point, foreground in clicks:
        if point in said:
            continue
        said[point] = foreground
        mask = segmenter.refine(**{"foreground" if foreground else "background": at(*point)})
        assert {p: bool(mask[p]) for p in said} == said
    while len(segmenter.steps) > 1:
        segmenter.undo()
    np.testing.assert_array_equal(segmenter.mask, TOO_MUCH)


@settings(max_examples=25, deadline=None)
@given(point=POINTS)
def test_what_a_click_does_not_reach_keeps_its_label(point) -> None:
    inside = bool(LEFT_PART[point])
    refined = corrected(LEFT_PART).refine(**{"background" if inside else "foreground": at(*point)})
    distance = np.linalg.norm(np.argwhere(np.ones_like(DISC)) - point, axis=1).reshape(64, 64)
    reach = REACH * max(distance[inside != LEFT_PART].min(), Fusion.least_reach_voxels)
    assert not (refined ^ LEFT_PART)[distance > reach + 1e-4].any()


def test_what_a_click_does_not_reach_keeps_its_label_in_mm() -> None:
    spacing, shape, point = (5.0, 0.5, 0.5), (7, 40, 40), (3, 20, 24)
    contour = np.broadcast_to(np.arange(40) < 20, shape).copy()
    segmenter = opened(np.zeros(shape, dtype=np.float32), spacing)
    segmenter.set_contour(contour)
    changed = segmenter.refine(foreground=at(*point)) ^ contour
    # The contour is 5 * 0.5 mm away, so the click reaches 6.25 mm: one slice up and down.
    steps_mm = (np.argwhere(changed) - point) * spacing
    assert changed[point]
    assert np.linalg.norm(steps_mm, axis=1).max() <= REACH * 2.5 + 1e-6
    assert not changed[[0, 1, 5, 6]].any()


def test_a_slice_without_contour_does_not_make_a_click_reach_far() -> None:
    """The contour is a thick slice away: as far as the target is wide, but no error is as large."""
    spacing, shape, point = (10.0, 1.0, 1.0), (3, 60, 60), (2, 30, 30)
    contour = np.zeros(shape, dtype=bool)
    contour[:2, 20:40, 20:40] = True
    for share, unit_mm, least in ((9.0, 10.0, 200), (0.1, 3.0, 10)):
        segmenter = opened(np.zeros(shape, np.float32), spacing, Fusion(most_reach_share=share))
        segmenter.set_contour(contour)
        changed = segmenter.refine(foreground=at(*point)) ^ contour
        steps_mm = (np.argwhere(changed) - point) * spacing
        lengths = np.linalg.norm(steps_mm, axis=1)
        # The crop of 3 x 30 x 30 voxels is 30 mm wide in the mean, and a tenth of that is 3 mm.
        assert lengths.max() <= REACH * unit_mm + 1e-6
        assert changed.sum() >= least


# A drum, of which no grey value says anything: in a slice it is 68 mm wide, and it is 64 mm high.
DRUM_SPACING = (2.0, 1.0, 1.0)
DRUM = np.zeros((40, 80, 80), dtype=bool)
DRUM[4:36] = ball((80, 80), (40, 40), 33.9)


def grey_contour(
    contour: MaskArray, spacing: tuple[float, ...], fusion: Fusion | None = None
) -> InteractiveSegmenter:
    """Return a segmenter for a contour on an image that is the same everywhere."""
    segmenter = opened(np.zeros(contour.shape, dtype=np.float32), spacing, fusion)
    segmenter.set_contour(contour)
    return segmenter


@pytest.mark.parametrize("point", [(20, 40, 40), (20, 40, 26)])
def test_one_click_deep_inside_takes_a_ball_around_itself_and_no_more(point) -> None:
    gone = DRUM & ~grey_contour(DRUM, DRUM_SPACING).refine(background=at(*point))
    steps = np.argwhere(gone) - point
    unit_mm = 8.0  # a tenth of the crop, since the contour is farther away
    assert np.linalg.norm(steps * DRUM_SPACING, axis=1).max() <= 2.0 * unit_mm
    _, y, x = np.abs(steps[steps[:, 0] == 0]).T
    assert y.max() == pytest.approx(x.max(), abs=2)
    assert np.hypot(y, x).max() <= 1.1 * max(y.max(), x.max())  # in a box it is 1.4


def test_in_a_large_slice_a_click_takes_a_disc_and_not_the_window() -> None:
    """The contour is so far away that the click could have the whole of its window."""
    contour = ball((400, 400), (200, 200), 190)
    fusion = Fusion(contour_doubt=0.5, pairwise_weight=0.0)
    segmenter = grey_contour(contour, (1.0, 1.0), fusion)
    gone = contour & ~segmenter.refine(background=at(200, 200))
    y, x = np.abs(np.argwhere(gone) - (200, 200)).T
    assert y.max() == x.max() > 20
    assert np.hypot(y, x).max() <= 1.1 * y.max()


@settings(max_examples=25, deadline=None)
@given(
    point=st.tuples(st.integers(0, 19), st.integers(0, 31), st.integers(0, 31)),
    radii=st.tuples(st.integers(4, 9), st.integers(6, 15), st.integers(6, 15)),
    thickness=st.sampled_from([1.0, 2.0, 4.0]),
)
def test_a_click_has_its_voxel_and_changes_one_piece_within_its_ball(
    point, radii, thickness
) -> None:
    contour = ball((20, 32, 32), (10, 16, 16), 1.0, tuple(1.0 / r for r in radii))
    foreground = not contour[point]
    with pytest.MonkeyPatch.context() as patch:
        module = sys.modules["algorithms.interactive_segmentation"]
        patch.setattr(module, "_MOST_REACHED_VOXELS", {3: 1500})
        segmenter = grey_contour(contour, (thickness, 1.0, 1.0))
        mask = segmenter.refine(**{"foreground" if foreground else "background": at(*point)})
    assert mask[point] == foreground
    changed = mask ^ contour
    assert ndimage.label(changed, np.ones((3, 3, 3)))[1] == 1
    steps_mm = (np.argwhere(changed) - point) * (thickness, 1.0, 1.0)
    farthest_mm = (1500 * thickness * 3 / (4 * np.pi)) ** (1 / 3)
    assert np.linalg.norm(steps_mm, axis=1).max() <= farthest_mm


def test_a_cut_changes_nothing_that_does_not_hang_together_with_the_click() -> None:
    """Spikes are dear, and a click reaches both of these: but it was not about the farther one."""
    contour = np.zeros((20, 60, 60), dtype=bool)
    contour[:, :, :30] = True
    contour[10, (20, 38), 30:34] = True
    mask = grey_contour(contour, (1.0, 1.0, 1.0)).refine(background=at(10, 20, 27))
    assert not mask[10, 20, 27:34].any()
    assert mask[10, 38, :34].all()


def test_a_given_contour_is_doubted_at_its_edge_and_not_inside() -> None:
    """Doubt makes a click beside the edge do more, and one deep inside hardly more."""
    doubting = default_fusion(3)
    trusting = replace(doubting, contour_doubt=0.0)
    gone = {}
    for fusion in (doubting, trusting):
        for column in (72, 40):
            segmenter = grey_contour(DRUM, DRUM_SPACING, fusion)
            mask = segmenter.refine(background=at(20, 40, column))
            gone[fusion, column] = int((DRUM & ~mask).sum())
    assert gone[doubting, 72] > 2 * gone[trusting, 72] > 0
    assert 0 < gone[doubting, 40] < 2 * gone[trusting, 40]


@settings(max_examples=15, deadline=None)
@given(
    points=st.lists(POINTS, min_size=2, max_size=5, unique=True),
    kinds=st.lists(st.booleans(), min_size=5, max_size=5),
    seed=st.integers(0, 99),
)
def test_order_and_repetition_of_clicks_in_one_call_do_not_matter(points, kinds, seed) -> None:
    kind = np.array(kinds[: len(points)])
    one = corrected(LEFT_PART).refine(np.array(points)[kind], np.array(points)[~kind])
    order = np.random.default_rng(seed).permutation(len(points))
    order = np.concatenate([order, order[:1]])
    points, kind = np.array(points)[order], kind[order]
    other = corrected(LEFT_PART).refine(points[kind], points[~kind])
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("local", [True, False], ids=["local", "pure"])
def test_the_unit_of_grey_values_and_of_length_does_not_matter(local) -> None:
    masks = []
    for grey, mm in ((1.0, 1.0), (64.0, 1.0), (1.0, 0.25)):
        segmenter = opened(DISC_IMAGE * np.float32(grey), (mm, mm), Fusion(local=local))
        segmenter.segment(margin_points(DISC))
        masks.append(segmenter.refine(foreground=at(30, 50), background=at(30, 24)))
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])


def test_both_engines_give_the_same_mask() -> None:
    pytest.importorskip("maxflow")
    masks = [
        corrected(LEFT_PART, fusion=Fusion(engine=engine)).refine(foreground=at(30, 43))
        for engine in ("pymaxflow", "scipy")
    ]
    np.testing.assert_array_equal(*masks)


# -- steps and undo ---------------------------------------------------------------------------


@pytest.mark.parametrize("local", [True, False], ids=["local", "pure"])
@pytest.mark.parametrize("target", [DISC, BALL], ids=["2d", "3d"])
def test_undo_restores_everything(target, local) -> None:
    image, points, fusion = picture(target), margin_points(target), Fusion(local=local)
    middle = tuple(np.argwhere(target).mean(axis=0).astype(int))
    here, there = at(*middle), at(*(m + 4 for m in middle))
    straight, detour = opened(image, fusion=fusion), opened(image, fusion=fusion)
    first = straight.segment(points)
    np.testing.assert_array_equal(detour.segment(points), first)
    detour.refine(background=here)
    detour.refine(foreground=there)
    detour.undo()
    np.testing.assert_array_equal(detour.undo(), first)
    # The contrary click shows that the undone one is forgotten.
    expected = straight.refine(foreground=here)
    np.testing.assert_array_equal(detour.refine(foreground=here), expected)
    expected = straight.refine(background=there)
    np.testing.assert_array_equal(detour.refine(background=there), expected)
    for segmenter in (straight, detour):
        for _ in range(5):
            segmenter.undo()
        assert not segmenter.mask.any()
        assert segmenter.steps == []
    np.testing.assert_array_equal(detour.segment(points), first)


def test_undo_without_steps_is_harmless() -> None:
    segmenter = opened()
    assert not segmenter.undo().any()
    segmenter.set_contour(LEFT_PART)
    np.testing.assert_array_equal(segmenter.undo(), LEFT_PART)
    assert [step.kind for step in segmenter.steps] == ["contour"]


def test_steps_say_what_was_done_and_how_long_it_took() -> None:
    segmenter, points = opened(), margin_points(DISC)
    segmenter.segment(points)
    segmenter.refine(foreground=at(30, 50), background=np.array([[30, 24], [1, 1]]))
    segmenter.refine(background=at(2, 2))
    assert [step.kind for step in segmenter.steps] == ["segment", "refine", "refine"]
    first, second, third = segmenter.steps
    np.testing.assert_array_equal(first.foreground, points)
    assert first.background.shape == third.foreground.shape == (0, 2)
    np.testing.assert_array_equal(second.foreground, [[30, 50]])
    np.testing.assert_array_equal(second.background, [[30, 24], [1, 1]])
    np.testing.assert_array_equal(third.background, [[2, 2]])
    segmenter.undo()
    assert segmenter.steps == [first, second]
    segmenter.set_contour(DISC)
    assert [step.kind for step in segmenter.steps] == ["contour"]
    assert all(step.seconds > 0 for step in (first, second, third, *segmenter.steps))


def test_without_a_clock_no_time_is_claimed() -> None:
    segmenter = InteractiveSegmenter()
    assert segmenter.steps == []
    segmenter.set_image(DISC_IMAGE)
    segmenter.set_contour(DISC)
    assert np.isnan(segmenter.steps[0].seconds)


@pytest.mark.parametrize(
    "setting",
    [
        {"length_weight": 0.0},
        {"reach": -1.0},
        {"intensity_sigma": 0.0},
        {"pairwise_weight": -1.0},
        {"temperature": 0.0},
        {"most_reach_share": 0.0},
        {"first_pairwise_weight": -1.0},
        {"contour_doubt": 1.0},
        {"contour_doubt": -0.1},
        {"temperature": np.nan},
        {"most_reach_share": np.nan},
        {"length_weight": np.inf},
        {"engine": "bogus"},
        {"neighbourhood": "bogus"},
    ],
)
def test_settings_that_make_no_sense_are_refused(setting) -> None:
    with pytest.raises(ValueError, match="positive"):
        Fusion(**setting)


def test_another_image_forgets_the_last_one() -> None:
    used, fresh = opened(picture(BALL[12])), opened()
    used.segment(margin_points(BALL[12]))
    used.refine(background=at(20, 20))
    used.set_image(DISC_IMAGE)
    assert used.steps == []
    assert not used.mask.any()
    assert used.mask.shape == DISC.shape
    for points in (margin_points(DISC), at(20, 20)):  # (20, 20) was clicked the other way round
        np.testing.assert_array_equal(used.segment(points), fresh.segment(points))
    np.testing.assert_array_equal(
        used.refine(foreground=at(30, 50)), fresh.refine(foreground=at(30, 50))
    )
    used.undo()
    used.undo()
    used.undo()
    assert not used.undo().any()


def test_masks_belong_to_the_caller() -> None:
    contour = LEFT_PART.copy()
    segmenter = corrected(contour)
    contour[:] = True
    segmenter.mask[:] = True
    segmenter.undo()[:] = True
    np.testing.assert_array_equal(segmenter.mask, LEFT_PART)


# -- bad input --------------------------------------------------------------------------------


def started() -> InteractiveSegmenter:
    """Return a segmenter in the middle of its work, with a background click at (30, 24)."""
    segmenter = opened()
    segmenter.segment(np.array([[30, 22], [18, 34], [42, 34], [30, 46]]))
    segmenter.refine(background=at(30, 24))
    return segmenter


@pytest.mark.parametrize("point", [(-1, 5), (64, 5), (5, 64), (5, -64), (10**9, 0)])
def test_a_click_outside_the_image_is_refused(point) -> None:
    segmenter = started()
    for act in (segmenter.segment, segmenter.refine, lambda p: segmenter.refine(background=p)):
        with nothing_changes(segmenter), pytest.raises(DataError, match="outside the image"):
            act(np.array([[30, 40], point]))


def test_contradictory_clicks_are_refused() -> None:
    segmenter = started()
    with nothing_changes(segmenter), pytest.raises(DataError, match="take one click back"):
        segmenter.refine(np.array([[9, 9], [8, 8]]), at(8, 8))
    with nothing_changes(segmenter), pytest.raises(DataError, match="undo that click"):
        segmenter.refine(foreground=at(30, 24))
    with nothing_changes(segmenter), pytest.raises(DataError, match="undo that click"):
        segmenter.segment(np.array([[30, 30], [30, 24]]))
    with nothing_changes(segmenter), pytest.raises(DataError, match="undo that click"):
        segmenter.refine(background=at(18, 34))  # a point of stage 1
    segmenter.undo()
    assert segmenter.refine(foreground=at(30, 24))[30, 24]


@pytest.mark.parametrize("points", [[], np.empty((0, 2)), np.empty((0, 2), dtype=int)])
def test_no_click_is_refused(points) -> None:
    segmenter = started()
    with nothing_changes(segmenter), pytest.raises(DataError, match="click at least one point"):
        segmenter.segment(points)
    with nothing_changes(segmenter), pytest.raises(DataError, match="click on what is missing"):
        segmenter.refine(points, points)
    with nothing_changes(segmenter), pytest.raises(DataError, match="click on what is missing"):
        segmenter.refine()


@pytest.mark.parametrize(
    "points",
    [
        np.array([[3.0, 4.0]]),
        np.array([[np.nan, 4.0]]),
        np.array([[True, False]]),
        np.array([[1, 2, 3]]),
        np.array([[1]]),
        np.array([1, 2]),
        np.array([["1", "2"]]),
    ],
    ids=["float", "nan", "bool", "3d", "1d", "flat", "text"],
)
def test_points_that_are_no_voxel_indices_are_a_mistake(points) -> None:
    segmenter = started()
    for act in (segmenter.segment, segmenter.refine):
        with nothing_changes(segmenter), pytest.raises(ValueError, match="whole voxel indices"):
            act(points)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_an_image_with_values_that_are_not_finite_is_refused(value) -> None:
    image = DISC_IMAGE.astype(np.float64)
    image[3, 4] = value
    segmenter = started()
    with nothing_changes(segmenter), pytest.raises(DataError, match="export it again"):
        segmenter.set_image(image)
    assert segmenter.undo().any()


@pytest.mark.parametrize("shape", [(5,), (2, 2, 2, 2), (0, 5)])
def test_an_image_of_another_shape_is_a_mistake(shape) -> None:
    segmenter = started()
    with nothing_changes(segmenter), pytest.raises(ValueError, match="an image is"):
        segmenter.set_image(np.zeros(shape))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (1, np.nan)])
def test_a_spacing_that_does_not_fit_is_a_mistake(spacing) -> None:
    segmenter = started()
    with nothing_changes(segmenter), pytest.raises(ValueError, match="spacing"):
        segmenter.set_image(DISC_IMAGE, spacing)


@pytest.mark.parametrize(
    "contour", [DISC[:, 1:], DISC[None], DISC.astype(np.uint8), DISC.astype(float)]
)
def test_a_contour_that_does_not_fit_is_a_mistake(contour) -> None:
    segmenter = started()
    with nothing_changes(segmenter), pytest.raises(ValueError, match="contour"):
        segmenter.set_contour(contour)


@pytest.mark.parametrize("network", [None, 3])
def test_a_network_of_other_dimensions_is_a_mistake(network) -> None:
    segmenter = InteractiveSegmenter(network and default_network(network))
    segmenter.set_image(DISC_IMAGE)
    with nothing_changes(segmenter), pytest.raises(ValueError, match="network for 2 dimensions"):
        segmenter.segment(at(30, 34))


def test_nothing_goes_before_the_image() -> None:
    segmenter = InteractiveSegmenter(default_network(2))
    for act in (
        lambda: segmenter.mask,
        lambda: segmenter.segment(at(1, 1)),
        lambda: segmenter.refine(foreground=at(1, 1)),
        lambda: segmenter.set_contour(DISC),
        segmenter.undo,
    ):
        with pytest.raises(ValueError, match="set_image comes first"):
            act()


def test_an_interrupted_first_contour_is_none(monkeypatch) -> None:
    segmenter = corrected(LEFT_PART)
    segmenter.network = default_network(2)
    segmenter.refine(foreground=at(30, 42))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    module = sys.modules["algorithms.interactive_segmentation"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_pieces_with", interrupted)
        with nothing_changes(segmenter), pytest.raises(KeyboardInterrupt):
            segmenter.segment(margin_points(DISC))
    np.testing.assert_array_equal(segmenter.undo(), LEFT_PART)  # one step back, not two
    segmenter.refine(background=margin_points(DISC)[:1])  # its points were not kept


@pytest.mark.parametrize("local", [True, False], ids=["local", "pure"])
def test_what_was_corrected_stays_so_when_the_first_contour_is_made_again(local) -> None:
    """A bright handle hangs on a bright disc, and the doctor takes it away."""
    y, x = np.mgrid[:80, :80]
    handle = (abs(y - 40) < 5) & (x >= 38) & (x < 46)
    image = 1.0 * ((np.hypot(y - 40, x - 25) < 12) | ((abs(y - 40) < 5) & (x >= 25) & (x < 46)))
    points = np.array([[29, 25], [51, 25], [40, 14], [40, 44]])
    segmenter = opened(image, fusion=Fusion(local=local))
    leaked = (segmenter.segment(points[:3]) | segmenter.segment(points)) & handle
    assert leaked.sum() > 30
    for column in (41, 43, 39):
        after = segmenter.refine(background=at(38, column))
    again = segmenter.segment(points[:3] + 1)
    assert (again & handle).sum() <= (after & handle).sum() + 8


@pytest.mark.parametrize("grey", [1e-30, 1e-9, 1e19, 1e30, 1e37])
@pytest.mark.parametrize("target", [DISC, BALL], ids=["2d", "3d"])
def test_grey_values_of_any_size_give_the_same_contour(target, grey) -> None:
    image, points = picture(target).astype(np.float64), margin_points(target)
    centre = tuple(np.argwhere(target).mean(axis=0).astype(int))
    masks = []
    for unit in (1.0, grey):
        segmenter = opened(image * unit)
        segmenter.segment(points)
        masks.append(segmenter.refine(background=at(*centre)))
    assert dice(masks[0], masks[1]) > 0.995


def test_the_image_is_the_segmenters_own() -> None:
    image = DISC_IMAGE.copy()
    segmenter = opened(image)
    first = segmenter.segment(margin_points(DISC))
    image[:] = 0.0
    segmenter.undo()
    np.testing.assert_array_equal(segmenter.segment(margin_points(DISC)), first)


def test_a_click_far_from_any_contour_stays_small_where_there_is_none() -> None:
    """Nothing says how large an error is before the first contour."""
    ramp = np.broadcast_to(np.linspace(0, 1, 300, dtype=np.float32), (300, 300))
    segmenter = opened(ramp)
    assert 1 <= segmenter.refine(foreground=at(150, 150)).sum() < 1000


def test_the_pure_formula_fuses_corrections_alone() -> None:
    """The network has read the first points: (3-3) to (3-7) are about clicks on errors."""
    points, click = margin_points(DISC), (30, 40)
    segmenter = opened(fusion=Fusion(local=False, pairwise_weight=0.0))
    segmenter.segment(points)
    probability, box = default_network(2).probability(DISC_IMAGE, points)
    crop, seed = DISC_IMAGE[box], np.zeros(DISC.shape, dtype=bool)
    seed[click] = True
    distance = geodesic_distance((crop - crop.mean()) / crop.std(), seed[box])
    expected = (1.0 - np.exp(-distance)) * probability > 0.5
    expected[tuple((points - [side.start for side in box]).T)] = True
    refined = segmenter.refine(background=at(*click))
    assert (refined[box] != expected).mean() < 0.002  # single precision


def test_a_failing_cut_leaves_everything_as_it_was(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "maxflow", None)  # as if it were not installed
    noise = picture(DISC, contrast=0.0)  # where pixels are left for the engine to decide
    segmenter = corrected(LEFT_PART, noise, Fusion(engine="pymaxflow"))
    with nothing_changes(segmenter), pytest.raises(DataError, match="not installed"):
        segmenter.refine(foreground=at(30, 43))
    np.testing.assert_array_equal(segmenter.undo(), LEFT_PART)
    assert [step.kind for step in segmenter.steps] == ["contour"]


def test_a_click_of_a_failed_cut_is_not_remembered(monkeypatch) -> None:
    noise = picture(DISC, contrast=0.0)
    segmenter = corrected(LEFT_PART, noise, Fusion(engine="pymaxflow"))
    with monkeypatch.context() as patch, pytest.raises(DataError, match="not installed"):
        patch.setitem(sys.modules, "maxflow", None)
        segmenter.refine(foreground=at(30, 43))
    fresh = corrected(LEFT_PART, noise, Fusion(engine="scipy"))
    segmenter.fusion = fresh.fusion
    # Its contrary is no contradiction, and its distances do not pull.
    for click in (at(30, 43), at(30, 30)):
        np.testing.assert_array_equal(
            segmenter.refine(background=click), fresh.refine(background=click)
        )
