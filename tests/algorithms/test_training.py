import copy
import itertools

import numpy as np
import pytest
import torch

from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import NetworkSpec, TrainingSchedule
from algorithms.finetuning import LabelledSlice, draw_batch, finetune
from algorithms.networks import build_network
from algorithms.training import TrainingState, learning_rate
from tests.phantoms import ball

PATCH_YX = (24, 24)


def toy_slices(count: int = 8, side: int = 28) -> list[LabelledSlice]:
    rng = np.random.default_rng(0)
    slices = []
    for _ in range(count):
        centre = (0, *rng.uniform(8, side - 8, 2))
        label = ball((1, side, side), centre, 5)[0].astype(np.uint8)
        image = (2.0 * label + rng.normal(0, 0.3, label.shape)).astype(np.float32)
        slices.append(LabelledSlice(image, label))
    return slices


def network(seed: int = 0):
    return build_network(NetworkSpec(base_channels=2, levels=3), seed=seed)


def schedule(iterations: int = 6, **changes) -> TrainingSchedule:
    fields = {"batch_size": 4, "learning_rate": 0.05, "validate_every": 1} | changes
    return TrainingSchedule(iterations=iterations, **fields)


def restless_score(model) -> float:
    """Score that rises and falls while the weights move."""
    return float(np.sin(1e3 * model.head.bias.detach().sum().item()))


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# -- the whole loop ---------------------------------------------------------------------------


def test_the_loss_falls_on_a_toy_task() -> None:
    losses = []
    finetune(
        network(),
        toy_slices(),
        schedule(60, validate_every=10, learning_rate=0.1),
        patch_yx=PATCH_YX,
        seed=0,
        progress=lambda _done, _total, loss: losses.append(loss),
    )
    assert len(losses) == 6
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("validate", [None, restless_score])
@pytest.mark.parametrize("killed_at", range(1, 7))
def test_a_run_killed_at_any_checkpoint_ends_in_the_same_weights(killed_at, validate) -> None:
    def run(model, **more):
        return finetune(
            model, toy_slices(), schedule(), patch_yx=PATCH_YX, seed=3, validate=validate, **more
        )

    checkpoints: list[TrainingState] = []
    whole = network()
    end = run(whole, save=lambda state: checkpoints.append(copy.deepcopy(state)))
    resumed = network(seed=99)  # whatever it starts from, the checkpoint decides
    end_resumed = run(resumed, state=checkpoints[killed_at - 1])
    assert_same(whole.state_dict(), resumed.state_dict())
    assert (end.iteration, end.best_score) == (end_resumed.iteration, end_resumed.best_score)


def test_saving_and_validating_leave_the_road_of_the_weights_alone() -> None:
    plain, last = network(), {}
    finetune(plain, toy_slices(), schedule(validate_every=6), patch_yx=PATCH_YX, seed=1)

    def validate(model) -> float:
        model.eval()
        return 0.0

    finetune(
        network(),
        toy_slices(),
        schedule(),
        patch_yx=PATCH_YX,
        seed=1,
        validate=validate,
        save=lambda state: last.update(state.weights),
    )
    assert_same({f"network.{k}": v for k, v in plain.state_dict().items()}, last)


def test_another_seed_gives_other_weights() -> None:
    one, other = network(), network()
    finetune(one, toy_slices(), schedule(), patch_yx=PATCH_YX, seed=1)
    finetune(other, toy_slices(), schedule(), patch_yx=PATCH_YX, seed=2)
    assert not torch.equal(one.head.weight, other.head.weight)


def train_with_scores(scores: list[float]):
    """Train with these scores, of the start and of six iterations; also return what was scored."""
    answers, seen, model = iter(scores), [], network()

    def validate(scored) -> float:
        seen.append(copy.deepcopy(scored.state_dict()))
        return next(answers)

    state = finetune(model, toy_slices(), schedule(), patch_yx=PATCH_YX, seed=0, validate=validate)
    return model, state, seen


def test_the_best_weights_are_kept() -> None:
    model, state, seen = train_with_scores([0.2, 0.1, 0.7, 0.5, 0.7, 0.3, 0.0])
    assert state.best_score == 0.7
    assert_same(model.state_dict(), seen[2])  # the first of two equal scores
    assert not model.training


def test_training_never_ends_worse_than_it_began() -> None:
    model, state, seen = train_with_scores([0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert state.best_score == 0.9
    assert_same(model.state_dict(), seen[0])


def test_progress_and_checkpoints_come_at_every_validation_and_at_the_end() -> None:
    saved, reported = [], []
    finetune(
        network(),
        toy_slices(),
        schedule(5, validate_every=2),
        patch_yx=PATCH_YX,
        seed=0,
        save=lambda state: saved.append(state.iteration),
        progress=lambda done, total, _loss: reported.append((done, total)),
    )
    assert saved == [2, 4, 5]
    assert reported == [(2, 5), (4, 5), (5, 5)]


def test_nothing_to_learn_from_is_a_programming_mistake() -> None:
    with pytest.raises(ValueError, match="no slices"):
        finetune(network(), [], schedule(), patch_yx=PATCH_YX, seed=0)


# -- the learning rate ------------------------------------------------------------------------


def test_the_learning_rate_follows_its_formula() -> None:
    plan = TrainingSchedule(iterations=200, learning_rate=0.03, poly_power=0.9)
    assert learning_rate(plan, 0) == 0.03
    assert learning_rate(plan, 100) == pytest.approx(0.03 * 0.5**0.9)
    assert learning_rate(plan, 199) == pytest.approx(0.03 * (1 / 200) ** 0.9)
    rates = [learning_rate(plan, i) for i in range(200)]
    assert all(a > b > 0 for a, b in itertools.pairwise(rates))


def test_the_schedules_target_share_rules_the_batches() -> None:
    """At share 1 slices without target are never seen: leaving them out changes nothing."""
    blank = np.zeros((28, 28), np.float32)
    both = [*toy_slices(4), *[LabelledSlice(blank, blank.astype(np.uint8))] * 4]
    ends = {}
    for name, slices, share in (("only", both[:4], 1.0), ("all", both, 1.0), ("even", both, 0.0)):
        trained = network()
        finetune(trained, slices, schedule(target_share=share), patch_yx=PATCH_YX, seed=0)
        ends[name] = trained.state_dict()
    assert_same(ends["only"], ends["all"])
    assert not torch.equal(ends["only"]["head.weight"], ends["even"]["head.weight"])


def test_the_schedules_augmentation_rules_the_batches() -> None:
    """Without it, a disc keeps its size in every batch; with it, no two are of one size."""
    label = ball((1, 28, 28), (0, 13.5, 13.5), 6.0)[0].astype(np.uint8)
    slices = [LabelledSlice(label.astype(np.float32), label)]
    sizes = {}
    for strength in (0.0, 1.0):
        rng = np.random.default_rng(0)
        drawn = draw_batch(slices, size=12, patch_yx=(28, 28), rng=rng, augmentation=strength)
        sizes[strength] = drawn[1].sum(dim=(1, 2)).tolist()
    assert set(sizes[0.0]) == {int(label.sum())}
    assert len(set(sizes[1.0])) > 6
    weak, strong = network(), network()
    finetune(weak, toy_slices(4), schedule(augmentation=0.0), patch_yx=PATCH_YX, seed=0)
    finetune(strong, toy_slices(4), schedule(augmentation=1.0), patch_yx=PATCH_YX, seed=0)
    assert not torch.equal(weak.head.weight, strong.head.weight)


# -- batches ----------------------------------------------------------------------------------


def marked_slices(count: int, shape=(24, 24)) -> list[LabelledSlice]:
    """Slices that are recognised by their loss weight, which augmentation only moves."""
    image, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    return [LabelledSlice(image, label, np.full(shape, i + 1, np.float32)) for i in range(count)]


@pytest.mark.parametrize(("count", "size"), [(10, 10), (10, 6), (4, 10), (1, 3)])
def test_slices_are_drawn_without_replacement_as_far_as_they_last(count: int, size: int) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        _, _, weights = draw_batch(marked_slices(count), size=size, patch_yx=PATCH_YX, rng=rng)
        drawn = np.bincount(weights.amax(dim=(1, 2)).int().numpy(), minlength=count + 1)[1:]
        assert drawn.sum() == size
        assert drawn.max() - drawn.min() <= 1


@pytest.mark.parametrize(("share", "least"), [(0.0, 0), (0.5, 4), (1.0, 8)])
def test_a_share_of_a_batch_shows_the_target(share: float, least: int) -> None:
    """One slice in ten shows it: drawn evenly, 0.8 of a batch of eight would."""
    with_target, without = toy_slices(2, side=24), marked_slices(18)
    shown = []
    for seed in range(40):
        images, labels, _ = draw_batch(
            [*without, *with_target],
            size=8,
            patch_yx=PATCH_YX,
            rng=np.random.default_rng(seed),
            target_share=share,
        )
        assert len(images) == 8
        shown.append(int((labels.amax(dim=(1, 2)) > 0).sum()))
    assert min(shown) >= least
    assert np.mean(shown) == pytest.approx(least + 0.1 * (8 - least), abs=0.25)


def test_where_no_slice_shows_the_target_all_are_drawn() -> None:
    rng = np.random.default_rng(0)
    _, labels, weights = draw_batch(
        marked_slices(5), size=5, patch_yx=PATCH_YX, rng=rng, target_share=0.5
    )
    assert labels.sum() == 0
    assert sorted(weights.amax(dim=(1, 2)).tolist()) == [1, 2, 3, 4, 5]


def test_a_batch_has_the_patches_shape_and_types() -> None:
    images, labels, weights = draw_batch(
        toy_slices(), size=3, patch_yx=(16, 20), rng=np.random.default_rng(0)
    )
    assert images.shape == (3, 1, 16, 20)
    assert labels.shape == weights.shape == (3, 16, 20)
    assert (images.dtype, labels.dtype, weights.dtype) == (
        torch.float32,
        torch.int64,
        torch.float32,
    )


def test_patches_reach_every_corner_of_a_larger_slice() -> None:
    corners = np.zeros((60, 60), np.float32)
    for place in ((0, 0), (0, 40), (40, 0), (40, 40)):
        corners[place[0] : place[0] + 20, place[1] : place[1] + 20] = 1 + place[0] + place[1] / 10
    blank = np.zeros((60, 60), np.float32)
    item = LabelledSlice(blank, blank.astype(np.uint8), corners)
    seen: set[float] = set()
    for seed in range(60):
        _, _, weights = draw_batch(
            [item], size=4, patch_yx=(24, 24), rng=np.random.default_rng(seed)
        )
        seen |= {round(value, 3) for value in weights.unique().tolist()}
    assert {1.0, 5.0, 41.0, 45.0} <= seen


def test_a_slice_smaller_than_the_patch_is_padded_without_loss() -> None:
    item = LabelledSlice(np.ones((10, 12), np.float32), np.ones((10, 12), np.uint8))
    _, labels, weights = draw_batch([item], size=8, patch_yx=(24, 24), rng=np.random.default_rng(0))
    assert torch.equal(labels > 0, weights > 0)
    assert labels.sum(dim=(1, 2)).float().mean() == pytest.approx(120, rel=0.35)


def test_a_slice_smaller_one_way_and_larger_the_other_is_cut_and_padded() -> None:
    item = LabelledSlice(np.ones((10, 50), np.float32), np.ones((10, 50), np.uint8))
    _, labels, _ = draw_batch([item], size=6, patch_yx=(24, 24), rng=np.random.default_rng(1))
    assert labels.shape == (6, 24, 24)
    assert labels.sum(dim=(1, 2)).float().mean() == pytest.approx(240, rel=0.35)


def test_a_training_that_diverges_stops_and_says_so() -> None:
    slices = toy_slices()
    slices[0].image[:] = np.inf
    with pytest.raises(DataError, match="lower its learning_rate"):
        finetune(network(), slices[:1], schedule(), patch_yx=PATCH_YX, seed=0)
