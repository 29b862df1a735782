import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.contracts.model_package import TrainingSchedule
from algorithms.geodesic import ENCODINGS
from algorithms.interactive_network import InteractiveNetworkSpec, build_interactive_network
from algorithms.interactive_training import (
    _FEWEST_SLICES,
    PRESETS,
    ClickLearner,
    Target,
    _thick_slices,
    click_schedule,
    cut_target,
    draw_clicks,
    draw_sample,
)
from algorithms.training import TrainingState, learning_rate, train
from tests.phantoms import ball

FLAT = InteractiveNetworkSpec(dimensions=2, input_shape=(16, 16), base_channels=4, levels=2)
SOLID = InteractiveNetworkSpec(dimensions=3, input_shape=(8, 16, 16), base_channels=2, levels=2)
MOST_BYTES = 4_000_000


def toy_targets(count: int = 6, side: int = 28) -> list[Target]:
    """Bright discs in noise."""
    rng = np.random.default_rng(0)
    targets = []
    for _ in range(count):
        mask = ball((1, side, side), (0, *rng.uniform(10, side - 10, 2)), rng.uniform(4, 7))[0]
        image = (2.0 * mask + rng.normal(0, 0.3, mask.shape)).astype(np.float32)
        targets.append(Target(image, mask))
    return targets


def solid_target() -> Target:
    mask = ball((10, 24, 24), (5, 12, 12), 4)
    return Target(mask.astype(np.float32), mask)


def network(seed: int = 0, spec: InteractiveNetworkSpec = FLAT):
    return build_interactive_network(spec, seed=seed)


def schedule(iterations: int = 6, **changes) -> TrainingSchedule:
    fields = {"batch_size": 2, "learning_rate": 1e-2, "save_every": 2} | changes
    return click_schedule(iterations, **fields)


def train_interactive(network, targets, spec, plan: TrainingSchedule, **options) -> None:
    train(ClickLearner(network), draw_clicks(targets, spec, plan.batch_size), plan, **options)


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# -- the learning rate ------------------------------------------------------------------------


def test_the_rate_is_constant_for_half_of_the_way_and_then_halved_each_tenth() -> None:
    plan = schedule(1000, learning_rate=0.032)
    assert {learning_rate(plan, i) for i in range(500)} == {0.032}
    for tenth in range(5, 10):
        rates = {learning_rate(plan, i) for i in range(100 * tenth, 100 * tenth + 100)}
        assert rates == {0.032 / 2 ** (tenth - 4)}


@settings(max_examples=30, deadline=None)
@given(iterations=st.integers(1, 400))
def test_the_rate_never_rises_and_is_never_zero(iterations: int) -> None:
    plan = schedule(iterations)
    rates = [learning_rate(plan, i) for i in range(iterations)]
    assert rates[0] == plan.learning_rate
    assert all(a >= b > 0 for a, b in itertools.pairwise(rates)) or iterations == 1
    assert rates[-1] >= plan.learning_rate / 32


# -- cutting ----------------------------------------------------------------------------------


def test_a_cut_target_keeps_four_fifths_of_its_extent_around_it() -> None:
    image = np.arange(100.0 * 120).reshape(100, 120)
    mask = np.zeros(image.shape, dtype=bool)
    mask[40:50, 5:25] = True  # 10 and 20 long: 8 + 4 and 16 + 4 around
    cut = cut_target(image, mask)
    np.testing.assert_array_equal(cut.image, image[28:62, 0:45])
    np.testing.assert_array_equal(cut.mask, mask[28:62, 0:45])
    assert cut.image.dtype == np.float32
    assert cut.image.flags.c_contiguous


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 30), min_size=2, max_size=3).map(tuple),
    seed=st.integers(0, 999),
    count=st.integers(1, 4),
)
def test_the_whole_target_is_kept_and_memory_is_its_own(shape, seed, count) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape).astype(np.float32)
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(rng.integers(0, shape, (count, len(shape))).T)] = True
    cut = cut_target(image, mask)
    assert cut.image.shape == cut.mask.shape
    np.testing.assert_array_equal(cut.image[cut.mask], image[mask])
    before = cut.mask.copy()
    mask[:] = False
    np.testing.assert_array_equal(cut.mask, before)
    again = cut_target(cut.image, cut.mask)
    np.testing.assert_array_equal(again.image, cut.image)  # there is nothing more to cut


# -- samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("spec", "target"), [(FLAT, toy_targets(1)[0]), (SOLID, solid_target())])
def test_a_sample_has_the_shape_and_types_of_the_networks_input(spec, target, encoding) -> None:
    spec = spec.model_copy(update={"encoding": encoding})
    for seed in range(3):
        inputs, label = draw_sample(target, spec, np.random.default_rng(seed))
        assert inputs.shape == (2, *spec.input_shape)
        assert label.shape == spec.input_shape
        assert inputs.dtype == label.dtype == np.float32
        assert np.isfinite(inputs).all()
        assert inputs[0].mean() == pytest.approx(0, abs=1e-4)
        assert inputs[0].std() == pytest.approx(1, abs=1e-3)
        assert inputs[1].std() > 0
        assert set(np.unique(label)) == {0.0, 1.0}


def test_samples_come_from_the_generator_alone() -> None:
    target = toy_targets(1)[0]
    before = Target(target.image.copy(), target.mask.copy())
    (one, label), (same, same_label), (other, _) = (
        draw_sample(target, FLAT, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(label, same_label)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(target.image, before.image)
    np.testing.assert_array_equal(target.mask, before.mask)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=st.integers(0, 999))
def test_there_is_always_something_to_find(data, seed) -> None:
    """Even where turning drops a target of one pixel in a corner."""
    mask = np.zeros((24, 20), dtype=bool)
    y, x = data.draw(st.integers(0, 23)), data.draw(st.integers(0, 19))
    mask[y : y + data.draw(st.integers(1, 12)), x : x + data.draw(st.integers(1, 12))] = True
    inputs, label = draw_sample(
        Target(mask.astype(np.float32), mask), FLAT, np.random.default_rng(seed)
    )
    assert label.any()
    assert np.isfinite(inputs).all()


def test_clicks_lie_on_the_label() -> None:
    """The geodesic map is 1 at clicks, which lie 1 voxel deep at least."""
    for i, target in enumerate(toy_targets()):
        inputs, label = draw_sample(target, FLAT, np.random.default_rng(i))
        clicked = inputs[1] == inputs[1].max()
        assert 1 <= clicked.sum() <= 9
        assert label[clicked].mean() >= 0.5


def test_many_images_end_inside_the_target() -> None:
    """Volumes often do; a whole target, with its context, never touches the edge of its crop."""
    mask = ball((1, 48, 48), (0, 24, 24), 8)[0]
    target = Target(mask.astype(np.float32), mask)
    wide = FLAT.model_copy(update={"input_shape": (32, 32), "least_growth_voxels": 6})
    cut = 0
    for seed in range(80):
        _, label = draw_sample(target, wide, np.random.default_rng(seed))
        cut += label[0].any() or label[-1].any() or label[:, 0].any() or label[:, -1].any()
    assert 10 <= cut <= 40


def test_slices_are_averaged_into_thick_ones_that_fill_the_same_volume() -> None:
    image = np.arange(24.0, dtype=np.float32)[:, None, None] * np.ones((24, 6, 6), np.float32)
    mask = np.zeros(image.shape, dtype=bool)
    mask[4:20, 2:5, 2:5] = True
    thickest = 0.0
    for seed in range(40):
        thick, found, spacing = _thick_slices(image, mask, np.random.default_rng(seed))
        assert thick.shape == found.shape == (round(24 / spacing[0]), 6, 6)
        assert spacing[1:] == (1.0, 1.0)
        assert thick.mean() == pytest.approx(image.mean(), rel=0.02)
        assert found.any(axis=(1, 2)).sum() >= _FEWEST_SLICES - 1
        assert found.sum() * spacing[0] == pytest.approx(mask.sum(), rel=0.2)
        thickest = max(thickest, spacing[0])
    assert 2.0 < thickest <= 16 / _FEWEST_SLICES + 1e-9


def test_flat_targets_keep_their_slices() -> None:
    flat = solid_target()
    kept = _thick_slices(flat.image[4:7], flat.mask[4:7], np.random.default_rng(0))
    np.testing.assert_array_equal(kept[0], flat.image[4:7])
    assert kept[2] == (1.0, 1.0, 1.0)


def test_dark_targets_are_as_many_as_bright_ones() -> None:
    target = toy_targets(1)[0]
    bright = 0
    for seed in range(60):
        inputs, label = draw_sample(target, FLAT, np.random.default_rng(seed))
        bright += inputs[0][label > 0].mean() > 0
    assert 15 <= bright <= 45


def test_an_image_of_one_slice_and_a_constant_image_can_be_drawn() -> None:
    flat = toy_targets(1)[0]
    thin = Target(flat.image[None], flat.mask[None])
    blank = Target(np.full_like(flat.image, 5.0), flat.mask)
    for target, spec in ((thin, SOLID), (blank, FLAT)):
        inputs, label = draw_sample(target, spec, np.random.default_rng(0))
        assert np.isfinite(inputs).all()
        assert label.any()


# -- the whole loop ---------------------------------------------------------------------------


def test_the_loss_falls_on_a_toy_task() -> None:
    losses = []
    train_interactive(
        network(),
        [toy_targets()],
        FLAT,
        schedule(30, save_every=5),
        seed=0,
        progress=lambda _done, _total, loss: losses.append(loss),
    )
    assert len(losses) == 6
    assert all(0 <= loss <= 1 for loss in losses)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_a_run_killed_at_any_checkpoint_ends_in_the_same_weights(killed_at: int) -> None:
    checkpoints: list[TrainingState] = []
    whole, resumed = network(), network(seed=99)  # the checkpoint decides
    train_interactive(
        whole,
        [toy_targets()],
        FLAT,
        schedule(),
        seed=3,
        save=lambda state: checkpoints.append(copy.deepcopy(state)),
    )
    assert [state.iteration for state in checkpoints] == [2, 4, 6]
    train_interactive(
        resumed, [toy_targets()], FLAT, schedule(), seed=3, state=checkpoints[killed_at]
    )
    assert_same(whole.state_dict(), resumed.state_dict())


def test_a_volume_is_learnt_from_too() -> None:
    before, after = network(spec=SOLID), network(spec=SOLID)
    train_interactive(after, [[solid_target()]], SOLID, schedule(2), seed=0)
    assert not torch.equal(before.head.weight, after.head.weight)


def test_saving_leaves_the_road_of_the_weights_alone() -> None:
    plain, last = network(), {}
    train_interactive(plain, [toy_targets()], FLAT, schedule(4, save_every=4), seed=1)
    train_interactive(
        network(),
        [toy_targets()],
        FLAT,
        schedule(4, save_every=1),
        seed=1,
        save=lambda state: last.update(
            {name.removeprefix("network."): w for name, w in state.weights.items()}
        ),
    )
    assert_same(plain.state_dict(), last)
    assert not plain.training


def test_another_seed_gives_other_weights() -> None:
    one, other = network(), network()
    train_interactive(one, [toy_targets()], FLAT, schedule(2), seed=1)
    train_interactive(other, [toy_targets()], FLAT, schedule(2), seed=2)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_progress_and_checkpoints_come_at_every_saving_and_at_the_end() -> None:
    saved, reported = [], []
    train_interactive(
        network(),
        [toy_targets()],
        FLAT,
        schedule(5),
        seed=0,
        save=lambda state: saved.append(state.iteration),
        progress=lambda done, total, _loss: reported.append((done, total)),
    )
    assert saved == [2, 4, 5]
    assert reported == [(2, 5), (4, 5), (5, 5)]


def test_sets_count_alike_whatever_their_size() -> None:
    """Repeating a set's only target changes nothing; another set beside it takes half."""
    (target, other) = toy_targets(2)
    shares = {}
    for name, sets in (
        ("once", [[target], [other]]),
        ("often", [[target] * 50, [other]]),
        ("alone", [[target]]),
    ):
        drawn = []

        class Spy(list):
            def __getitem__(self, i, drawn=drawn):
                drawn.append(id(list.__getitem__(self, i)) == id(target))
                return list.__getitem__(self, i)

        train_interactive(
            network(), [Spy(s) for s in sets], FLAT, schedule(10, batch_size=4), seed=0
        )
        shares[name] = np.mean(drawn)
    assert shares["alone"] == 1
    assert shares["once"] == shares["often"] == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("sets", [[], [[]], [toy_targets(1), []]])
def test_nothing_to_learn_from_is_a_programming_mistake(sets) -> None:
    with pytest.raises(ValueError, match="without targets"):
        train_interactive(network(), sets, FLAT, schedule(), seed=0)


# -- presets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "dimensions"), PRESETS)
def test_presets_fit_their_networks_and_their_files(kind, dimensions) -> None:
    spec, _ = PRESETS[(kind, dimensions)]
    assert spec.dimensions == dimensions == len(spec.input_shape)
    assert all(n % 2 ** (spec.levels - 1) == 0 for n in spec.input_shape)
    built = build_interactive_network(spec)
    assert sum(p.numel() * p.element_size() for p in built.state_dict().values()) < MOST_BYTES


def test_there_is_a_preset_for_every_place_and_dimension() -> None:
    assert set(PRESETS) == set(itertools.product(("cpu", "gpu"), (2, 3)))
