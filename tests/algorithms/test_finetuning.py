import numpy as np
import pytest
import torch
from torch import nn

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.model_package import NetworkSpec, TrainingSchedule
from algorithms.finetuning import (
    LabelledSlice,
    ValidationCase,
    bare_slice,
    draw_batch,
    finetune,
    mean_dice,
    scribbled_slice,
)
from algorithms.networks import UNet2d, build_network
from algorithms.scribble_simulation import draw_scribble
from algorithms.signed_distance import level_set
from tests.phantoms import ball


class BrightIsTarget(UNet2d):
    """A U-Net in name: calls what is above zero target, so that Dice is known in advance."""

    def __init__(self) -> None:
        super().__init__(base_channels=2, levels=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([-images, images], dim=1)


def case(prediction, label, known=None) -> ValidationCase:
    label = np.asarray(label, np.uint8)
    known = np.ones(len(label), bool) if known is None else np.asarray(known, bool)
    if known.ndim == 1:  # whole slices
        known = np.broadcast_to(known[:, None, None], label.shape)
    return ValidationCase(np.where(prediction, 1, -1).astype(np.float32), label, known)


def row(*values: int) -> np.ndarray:
    return np.array(values).reshape(1, 2, 2)


def test_the_mean_is_over_patients_not_over_pixels() -> None:
    perfect = case(np.repeat(row(1, 1, 1, 0), 9, axis=0), np.repeat(row(1, 1, 1, 0), 9, axis=0))
    missed = case(row(0, 0, 0, 0), row(0, 0, 0, 1))
    half = case(row(1, 1, 0, 0), row(0, 1, 1, 0))
    score = mean_dice([perfect, missed, half])
    assert score is not None
    assert score(BrightIsTarget()) == pytest.approx((1.0 + 0.0 + 0.5) / 3)


def test_only_known_slices_are_scored() -> None:
    prediction = np.concatenate([row(1, 0, 0, 0), row(1, 1, 1, 1)])
    label = np.concatenate([row(1, 0, 0, 0), row(0, 0, 0, 0)])
    scores = [
        mean_dice([case(prediction, label, known)])(BrightIsTarget())
        for known in ([True, False], [True, True])
    ]
    assert scores == [1.0, pytest.approx(2 / 6)]


def test_a_patient_without_target_and_prediction_agrees() -> None:
    assert mean_dice([case(row(0, 0, 0, 0), row(0, 0, 0, 0))])(BrightIsTarget()) == 1.0


def test_without_patients_there_is_no_score() -> None:
    assert mean_dice([]) is None


def test_another_network_is_a_programming_mistake() -> None:
    score = mean_dice([case(row(0, 0, 0, 0), row(0, 0, 0, 0))])
    with pytest.raises(TypeError, match="Linear"):
        score(nn.Linear(1, 1))


def test_beside_a_scribble_nothing_is_scored() -> None:
    prediction, label = row(1, 1, 0, 1), row(1, 0, 0, 0)
    drawn = row(1, 0, 1, 0).astype(bool)
    assert mean_dice([case(prediction, label, drawn)])(BrightIsTarget()) == 1.0
    assert mean_dice([case(prediction, label, row(1, 1, 0, 0))])(BrightIsTarget()) == pytest.approx(
        2 / 3
    )


# -- scribbles, and slices without annotation -------------------------------------------------

SIDE = 32


def pictures(count: int, *, seed: int = 0):
    """Bright discs in noise, and where they are."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        mask = ball((1, SIDE, SIDE), (0, *rng.uniform(10, 22, 2)), rng.uniform(4, 7))[0]
        yield (2.0 * mask + rng.normal(0, 0.4, mask.shape)).astype(np.float32), mask


def score(network, seed: int = 7) -> float:
    cases = [
        ValidationCase(image[None], mask[None].astype(np.uint8), np.ones((1, SIDE, SIDE), bool))
        for image, mask in pictures(6, seed=seed)
    ]
    validate = mean_dice(cases)
    assert validate is not None
    return validate(network)


def schedule(iterations: int) -> TrainingSchedule:
    return TrainingSchedule(
        iterations=iterations, batch_size=8, learning_rate=0.1, validate_every=iterations
    )


def test_a_scribbled_slice_counts_where_it_was_drawn_on() -> None:
    image = np.zeros((2, 3), dtype=np.float32)
    scribble = np.array([[0, 1, NOT_ANNOTATED], [NOT_ANNOTATED, 1, 0]], dtype=np.uint8)
    item = scribbled_slice(image, scribble)
    assert item.label.tolist() == [[0, 1, 0], [0, 1, 0]]
    assert item.weight is not None
    assert item.weight.tolist() == [[1, 1, 0], [0, 1, 1]]
    assert item.has_target
    bare = bare_slice(image)
    assert not bare.has_target
    assert bare.weight is not None
    assert not bare.weight.any()


def test_level_sets_are_cut_and_turned_with_their_labels() -> None:
    items = [LabelledSlice(image, mask.astype(np.uint8)) for image, mask in pictures(4)]
    images, labels, weights, level_sets = draw_batch(
        items, size=8, patch_yx=(SIDE, SIDE), rng=np.random.default_rng(0), level_sets=True
    )
    assert images.shape == (8, 1, SIDE, SIDE)
    inside = (labels == 1) & (weights > 0)
    outside = (labels == 0) & (weights > 0)
    assert (level_sets[inside] <= 0).all()
    assert (level_sets[outside] >= 0).all()
    for item in items:
        np.testing.assert_array_equal(item.level_set, level_set(item.label > 0))
    same = draw_batch(items, size=8, patch_yx=(SIDE, SIDE), rng=np.random.default_rng(0))
    assert len(same) == 3
    assert torch.equal(same[0], images)


def test_a_network_learns_from_scribbles_and_slices_that_nobody_drew_on() -> None:
    rng = np.random.default_rng(0)
    drawn = [scribbled_slice(image, draw_scribble(mask, rng=rng)) for image, mask in pictures(16)]
    bare = [bare_slice(image) for image, _ in pictures(16, seed=1)]
    network = build_network(NetworkSpec(base_channels=4, levels=3))
    finetune(
        network,
        [*drawn, *bare],
        schedule(80),
        patch_yx=(SIDE, SIDE),
        seed=0,
        supervision="scribble",
    )
    assert score(network) > 0.8


def test_a_network_learns_from_few_contours_and_slices_without() -> None:
    known = [LabelledSlice(image, mask.astype(np.uint8)) for image, mask in pictures(4)]
    bare = [bare_slice(image) for image, _ in pictures(16, seed=1)]
    network = build_network(NetworkSpec(base_channels=4, levels=3))
    finetune(network, known, schedule(100), patch_yx=(SIDE, SIDE), seed=0, dual_task=bare)
    assert score(network) > 0.8


@pytest.mark.parametrize("more", [{"supervision": "scribble"}, {"dual_task": True}])
def test_the_best_weights_in_validation_are_kept_whatever_is_trained_beside(more) -> None:
    items = [LabelledSlice(image, mask.astype(np.uint8)) for image, mask in pictures(4)]
    if "dual_task" in more:
        more = {"dual_task": [bare_slice(image) for image, _ in pictures(4, seed=1)]}
    seen = []

    def validate(model) -> float:
        assert isinstance(model, UNet2d)
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return -abs(len(seen) - 2.0)

    network = build_network(NetworkSpec(base_channels=2, levels=2))
    finetune(
        network,
        items,
        schedule(4).model_copy(update={"validate_every": 1}),
        patch_yx=(SIDE, SIDE),
        seed=0,
        validate=validate,
        **more,
    )
    assert len(seen) == 4
    assert all(torch.equal(v, seen[1][k]) for k, v in network.state_dict().items())


def test_dual_tasks_are_not_asked_of_scribbles() -> None:
    items = [bare_slice(image) for image, _ in pictures(2)]
    network = build_network(NetworkSpec(base_channels=2, levels=2))
    with pytest.raises(ValueError, match="no level set"):
        finetune(
            network,
            items,
            schedule(1),
            patch_yx=(SIDE, SIDE),
            seed=0,
            supervision="scribble",
            dual_task=items,
        )
