from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.click_simulation import interior_margin_points
from algorithms.interactive_network import default_network
from algorithms.interactive_segmentation import InteractiveSegmenter, default_fusion
from evaluation.benchmarks import robot_user
from evaluation.benchmarks.robot_user import METHODS, ClickCurve, play
from evaluation.overlap import dice

DISC = np.add.outer(np.square(np.arange(56) - 27), np.square(np.arange(56) - 29)) <= 13**2
BALL = (
    np.add.outer(
        np.square(3 * (np.arange(12) - 6)),
        np.add.outer(np.square(np.arange(40) - 19), np.square(np.arange(40) - 21)),
    )
    <= 12**2
)


def picture(target: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0.0, 0.3, target.shape)
    return (noise + 2.0 * target).astype(np.float32)


class Scripted:
    """Answers with masks that were written down before, and keeps what it was asked."""

    def __init__(self, *masks: np.ndarray) -> None:
        self.masks, self.clicks = list(masks), []

    def start(self, image, spacing, points) -> np.ndarray:
        self.points = points
        return self.masks.pop(0)

    def correct(self, point, *, foreground) -> np.ndarray:
        self.clicks.append((point, foreground))
        return self.masks.pop(0)


def played(method, target=DISC, spacing=None, *, most_clicks=3, enough=1.0) -> ClickCurve:
    rng = np.random.default_rng(4)
    return play(
        method, picture(target), target, spacing, rng=rng, most_clicks=most_clicks, enough=enough
    )


# -- the curve --------------------------------------------------------------------------------


def test_a_curve_holds_its_last_value() -> None:
    curve = ClickCurve(5, (0.5, 0.7, 0.9), (1.0, 1.0, 1.0))
    assert [curve.dice_after(k) for k in (0, 1, 2, 3, 99)] == [0.5, 0.7, 0.9, 0.9, 0.9]


@pytest.mark.parametrize(
    ("dsc", "clicks"), [(0.0, 0), (0.5, 0), (0.51, 1), (0.7, 1), (0.9, 2), (0.91, 20)]
)
def test_clicks_to_reach_is_the_first_that_is_good_enough(dsc, clicks) -> None:
    curve = ClickCurve(5, (0.5, 0.7, 0.9), (1.0, 1.0, 1.0))
    assert curve.clicks_to_reach(dsc, limit=20) == clicks


def test_a_curve_may_go_down_and_is_still_reached_at_its_peak() -> None:
    assert ClickCurve(5, (0.5, 0.9, 0.6), (1.0, 1.0, 1.0)).clicks_to_reach(0.8, limit=9) == 1


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=8), dsc=st.floats(0, 1))
def test_what_was_reached_is_there_and_was_not_before(values, dsc) -> None:
    curve = ClickCurve(4, tuple(values), (0.0,) * len(values))
    clicks = curve.clicks_to_reach(dsc, limit=99)
    assert all(curve.dice_after(k) < dsc for k in range(min(clicks, len(values))))
    assert clicks == 99 or curve.dice_after(clicks) >= dsc


# -- the game ---------------------------------------------------------------------------------


def test_the_robot_clicks_into_errors_until_there_is_none() -> None:
    part, more = DISC & (np.arange(56) < 30), DISC.copy()
    more[2:7, 2:7] = True
    method = Scripted(part, more, DISC)
    curve = played(method, most_clicks=9)
    assert curve.dice == (dice(part, DISC), dice(more, DISC), 1.0)
    assert len(curve.seconds) == 3
    assert curve.first_points == len(method.points)
    assert DISC[tuple(method.points.T)].all()
    (missing, inside), (surplus, outside) = method.clicks
    assert inside
    assert (DISC & ~part)[missing]
    assert (surplus, outside) == ((4, 4), False)


def test_the_robot_stops_when_it_is_good_enough_or_patience_ends() -> None:
    part, empty = DISC & (np.arange(56) < 36), np.zeros_like(DISC)
    assert played(Scripted(part), enough=0.7).dice == (dice(part, DISC),)
    assert played(Scripted(empty), most_clicks=0).dice == (0.0,)
    assert len(played(Scripted(empty, part, part), most_clicks=1).dice) == 2


def test_the_robot_does_not_click_twice_on_one_voxel() -> None:
    part = DISC & (np.arange(56) < 30)
    method = Scripted(*[part] * 10)
    assert len(played(method, most_clicks=9).dice) == 2
    assert len(method.clicks) == 1


# -- the methods ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("target", "spacing"),
    [(DISC, None), (BALL, (3.0, 1.0, 1.0)), (DISC[None], (5.0, 1.0, 1.0))],
    ids=["2d", "3d", "one-slice"],
)
def test_every_method_ends(name, target, spacing) -> None:
    network = default_network(target.ndim)
    curve = played(METHODS[name](network), target, spacing, most_clicks=2)
    assert 1 <= len(curve.dice) == len(curve.seconds) <= 3
    assert all(0.0 <= value <= 1.0 for value in curve.dice)
    assert all(seconds > 0 for seconds in curve.seconds)
    points = interior_margin_points(target, rng=np.random.default_rng(4), spacing_mm=spacing)
    assert curve.first_points == len(points)
    if name.startswith("if-gc"):
        fusion = replace(default_fusion(target.ndim), local="pure" not in name)
        segmenter = InteractiveSegmenter(network, fusion)
        segmenter.set_image(picture(target), spacing)
        assert curve.dice[0] == dice(segmenter.segment(points), target)
    else:
        first = METHODS[name](network).start(picture(target), spacing, points)
        assert first.shape == target.shape
        assert curve.dice[0] == dice(first, target)


def test_the_robot_clicks_on_the_outermost_slices_however_thick_they_are() -> None:
    column = np.zeros((6, 40, 40), dtype=bool)
    column[1:5, 10:30, 10:30] = True
    thick = Scripted(column)
    played(thick, column, (8.0, 1.5, 1.5))
    assert {1, 4} <= set(thick.points[:, 0].tolist())
    fine = Scripted(column)
    played(fine, column, (0.3, 0.3, 0.3))  # pixels count, not millimetres
    assert set(fine.points[:, 0].tolist()) <= {2, 3}


def test_the_walker_may_leave_the_crop_where_the_image_ends() -> None:
    target = np.zeros((6, 40, 40), dtype=bool)
    target[:, 12:28, 12:28] = True  # in all slices
    curve = played(METHODS["random-walker"](default_network(3)), target, most_clicks=0)
    assert curve.dice[0] > 0.8  # 0.12 with the end slices as background


def test_the_walker_on_a_coarser_grid_obeys_all_the_same(monkeypatch) -> None:
    fine = played(METHODS["random-walker"](default_network(2)), most_clicks=0).dice[0]
    monkeypatch.setattr(robot_user, "_MOST_WALKED_VOXELS", 400)
    method = METHODS["random-walker"](default_network(2))
    coarse = played(method, most_clicks=0).dice[0]
    assert fine != coarse > 0.85 * fine
    mask = method.correct((3, 50), foreground=True)
    assert mask.shape == DISC.shape
    assert mask[3, 50]
    assert not method.correct((27, 29), foreground=False)[27, 29]


@pytest.mark.parametrize("target", [DISC, BALL], ids=["2d", "3d"])
def test_on_an_easy_target_our_method_does_not_end_below_its_start(target) -> None:
    curve = played(METHODS["if-gc"](default_network(target.ndim)), target, most_clicks=6)
    assert curve.dice[0] > 0.8
    assert curve.dice[-1] >= curve.dice[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_obeys_the_click_and_can_be_started_again(name) -> None:
    method = METHODS[name](default_network(2))
    points = interior_margin_points(DISC, rng=np.random.default_rng(1))
    first = method.start(picture(DISC), None, points)
    assert first[tuple(points.T)].all()
    assert method.correct((3, 50), foreground=True)[3, 50]
    assert not method.correct((27, 29), foreground=False)[27, 29]
    assert method.correct((40, 2), foreground=True)[3, 50]
    np.testing.assert_array_equal(method.start(picture(DISC), None, points), first)
