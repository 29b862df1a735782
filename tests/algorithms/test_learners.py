"""Every method behind the one interface: it learns, resumes, and ends as a plain network."""

import copy

import numpy as np
import pytest
import torch

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.model_package import TrainingSchedule
from algorithms.dual_task_consistency import DualTaskConsistency
from algorithms.mean_teacher import Teacher, sure
from algorithms.networks import DualBranch, DualTask, UNet, VNet
from algorithms.scribble_comparators.entropy_minimisation import EntropyMinimisation
from algorithms.scribble_comparators.gated_crf import GatedCrf, gated_crf_loss
from algorithms.scribble_comparators.mumford_shah import MumfordShah, mumford_shah_loss
from algorithms.scribble_comparators.random_walker_labels import walk
from algorithms.scribble_comparators.scribble2label import Scribble2Label
from algorithms.scribble_comparators.two_branches import (
    ConsistencyRegularisation,
    CrossPseudoSupervision,
)
from algorithms.scribble_comparators.ustm import Ustm
from algorithms.scribble_supervision import MixedPseudoLabels
from algorithms.semi_supervised_comparators import entropy_minimisation, two_views
from algorithms.semi_supervised_comparators.adversarial import Dan, Discriminator, Sassnet
from algorithms.semi_supervised_comparators.mean_teacher import MeanTeacher
from algorithms.semi_supervised_comparators.supervised_only import SupervisedOnly
from algorithms.signed_distance import level_sets
from algorithms.training import Learner, Step, TrainingState, train
from tests.phantoms import ball

SIDE = 16


def flat(classes: int = 2, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(out_channels=classes, base_channels=4, levels=3)


def solid(seed: int = 0) -> VNet:
    torch.manual_seed(seed)
    return VNet(base_channels=2, convolutions=(1, 1), dimensions=3)


SCRIBBLE = {
    "partial ce": lambda: EntropyMinimisation(flat(), weight=0.0),
    "entropy": lambda: EntropyMinimisation(flat()),
    "gated crf": lambda: GatedCrf(flat()),
    "mumford shah": lambda: MumfordShah(flat()),
    "ustm": lambda: Ustm(flat()),
    "scribble2label": lambda: Scribble2Label(flat()),
    "cr": lambda: ConsistencyRegularisation(DualBranch(flat())),
    "cps": lambda: CrossPseudoSupervision(DualBranch(flat())),
    "fixed mixing": lambda: MixedPseudoLabels(DualBranch(flat()), mixing=0.5),
    "dmpls": lambda: MixedPseudoLabels(DualBranch(flat())),
}
SEMI = {
    "supervised only": lambda: SupervisedOnly(solid()),
    "mean teacher": lambda: MeanTeacher(solid()),
    "ua-mt": lambda: MeanTeacher(solid(), samples=2),
    "entropy": lambda: entropy_minimisation.EntropyMinimisation(solid()),
    "cct": lambda: two_views.CrossConsistency(DualBranch(solid())),
    "cps": lambda: two_views.CrossPseudoSupervision(solid(), solid(1)),
    "dan": lambda: Dan(solid(), Discriminator(3, channels=2)),
    "sassnet": lambda: Sassnet(DualTask(solid()), Discriminator(3, channels=2)),
    "dtc": lambda: DualTaskConsistency(DualTask(solid())),
}
METHODS = [*[("scribble", n) for n in SCRIBBLE], *[("semi", n) for n in SEMI]]


def scribble_batch(rng: np.random.Generator):
    images, scribbles = [], []
    for _ in range(4):
        mask = ball((1, SIDE, SIDE), (0, *rng.uniform(5, 11, 2)), 4)[0]
        drawn = rng.random(mask.shape) < 0.1
        images.append((2.0 * mask + rng.normal(0, 0.2, mask.shape)).astype(np.float32))
        scribbles.append(np.where(drawn, mask, NOT_ANNOTATED).astype(np.int64))
    return torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(scribbles))


def partly_labelled_batch(rng: np.random.Generator):
    shape = (8, SIDE, SIDE)
    masks = [ball(shape, (4, *rng.uniform(6, 10, 2)), 4) for _ in range(4)]
    images = [(2.0 * m + rng.normal(0, 0.2, shape)).astype(np.float32) for m in masks]
    labels = np.stack(masks[:2])[:, None].astype(np.float32)
    distances = np.stack([level_sets(m.astype(np.uint8), 2) for m in masks[:2]])
    return torch.from_numpy(np.stack(images))[:, None], *map(torch.from_numpy, (labels, distances))


def make(kind: str, name: str) -> tuple[Learner, object]:
    if kind == "scribble":
        return SCRIBBLE[name](), scribble_batch
    return SEMI[name](), partly_labelled_batch


def schedule(iterations: int, validate_every: int) -> TrainingSchedule:
    return TrainingSchedule(iterations=iterations, learning_rate=0.1, validate_every=validate_every)


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_it_learns_what_the_target_looks_like(kind, name) -> None:
    learner, draw = make(kind, name)
    fast = {"optimiser": "adam", "learning_rate": 0.02} if kind == "scribble" else {}
    steps = 30 if kind == "scribble" else 120  # level sets take longer to begin
    train(learner, draw, schedule(steps, steps).model_copy(update=fast), seed=0)
    images, *_ = draw(np.random.default_rng(9))
    truth = images > 1.0
    with torch.no_grad():
        logits = learner.network(images)
    found = logits[:, 1:] > logits[:, :1] if kind == "scribble" else logits > 0
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.75


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_a_killed_run_ends_in_the_same_weights_and_leaves_global_randomness_alone(
    kind, name
) -> None:
    saved: list[TrainingState] = []
    whole, draw = make(kind, name)
    before = torch.get_rng_state()
    train(whole, draw, schedule(4, 2), seed=1, save=lambda s: saved.append(copy.deepcopy(s)))
    assert torch.equal(torch.get_rng_state(), before)
    resumed, _ = make(kind, name)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.add_(1.0)  # whatever it starts from, the checkpoint decides
    train(resumed, draw, schedule(4, 2), seed=1, state=saved[0])
    assert_same(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("make_dual", [DualBranch, DualTask])
@pytest.mark.parametrize("single", [flat, solid])
def test_in_use_a_dual_network_is_the_single_one(make_dual, single) -> None:
    network = single()
    dual = make_dual(network).eval()
    shape = (1, 1, 8, SIDE, SIDE) if network.dimensions == 3 else (1, 1, SIDE, SIDE)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dual(images), network(images))
    if make_dual is DualBranch or single is solid:  # else logits are against the background's
        assert torch.equal(dual.both(images)[0], network(images))


# -- what the comparators rest on -------------------------------------------------------------


def test_a_teacher_is_believed_where_it_is_sure_and_more_so_towards_the_end() -> None:
    coin = torch.tensor(np.log(2.0))
    doubts = coin * torch.tensor([0.5, 0.8, 0.99, 1.2])
    assert sure(doubts, 0.0).tolist() == [True, False, False, False]
    assert sure(doubts, 1.0).tolist() == [True, True, True, False]


def test_the_teacher_is_the_mean_of_what_the_student_was() -> None:
    student = torch.nn.Linear(1, 1)
    teacher = Teacher(student, decay=0.5)
    seen = []
    for number in range(3):
        with torch.no_grad():
            student.weight.fill_(float(number))
        teacher.follow(student, Step(number, 3, np.random.default_rng(0)))
        seen.append(teacher.network.weight.item())
    assert seen == [0.0, 0.5, 1.25]
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_gated_crf_is_least_where_labels_follow_the_picture() -> None:
    image = torch.zeros(1, 1, 12, 12)
    image[..., 6:] = 1.0
    right, shifted = (torch.zeros(1, 2, 12, 12) for _ in range(2))
    right[:, 1, :, 6:], shifted[:, 1, :, 4:] = 1.0, 1.0
    for p in (right, shifted):
        p[:, 0] = 1.0 - p[:, 1]
    assert gated_crf_loss(right, image) < 0.05 * gated_crf_loss(shifted, image)
    one = torch.zeros_like(right)
    one[:, 0] = 1.0
    assert gated_crf_loss(one, image) == 0.0


def test_the_gated_crf_is_its_sum_over_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 5, 4, generator=generator)
    p = torch.rand(1, 3, 5, 4, generator=generator).softmax(dim=1)
    total = 0.0
    for y in range(5):
        for x in range(4):
            for v in range(5):
                for u in range(4):
                    if (v, u) != (y, x) and abs(v - y) <= 2 and abs(u - x) <= 2:
                        far = ((v - y) ** 2 + (u - x) ** 2) / (2 * 6.0**2)
                        grey = (image[0, 0, y, x] - image[0, 0, v, u]) ** 2 / (2 * 0.1**2)
                        agree = (p[0, :, y, x] * p[0, :, v, u]).sum()
                        total += float(torch.exp(-far - grey) * (1 - agree))
    assert gated_crf_loss(p, image, radius=2).item() == pytest.approx(total / 20, rel=1e-5)


def test_mumford_shah_asks_for_one_grey_value_per_class_and_short_boundaries() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 2.0
    right = torch.zeros(1, 2, 8, 8)
    right[:, 1, :, 4:] = 1.0
    right[:, 0] = 1.0 - right[:, 1]
    # No spread; one edge of 8 pixels in both channels.
    assert mumford_shah_loss(right, image).item() == pytest.approx(2 * 8 / 64)
    half = torch.full_like(right, 0.5)
    assert mumford_shah_loss(half, image).item() == pytest.approx(1.0)  # variance, no boundary


def test_walks_fill_a_slice_between_its_scribbles() -> None:
    image = np.zeros((20, 20), dtype=np.float32)
    image[:, 10:] = 1.0
    drawn = np.full(image.shape, NOT_ANNOTATED, dtype=np.uint8)
    drawn[10, 2], drawn[10, 17] = 0, 3
    labels = walk(image, drawn)
    assert (labels[:, :10] == 0).all()
    assert (labels[:, 10:] == 3).all()
    background = np.where(drawn == 0, 0, NOT_ANNOTATED).astype(np.uint8)
    assert not walk(image, background).any()
    target = np.where(drawn == 3, 3, NOT_ANNOTATED).astype(np.uint8)
    np.testing.assert_array_equal(walk(image, target), target)


def test_the_network_learns_to_fool_the_discriminator_that_learns_to_tell() -> None:
    """One step downhill for both: the discriminator's loss falls by its own weights alone."""
    learner = Dan(solid(), Discriminator(3, channels=2), weight=1.0)
    batch = partly_labelled_batch(np.random.default_rng(0))
    step = Step(100, 100, np.random.default_rng(0))
    learner.loss(batch, step).backward()
    told = [p.grad.clone() for p in learner.discriminator.parameters()]
    images, _, _ = batch
    learner.zero_grad()
    maps = learner.network(images).sigmoid().detach()
    answers = learner.discriminator(images, maps)
    truth = torch.tensor([1.0, 1.0, 0.0, 0.0])
    torch.nn.functional.binary_cross_entropy_with_logits(answers, truth).backward()
    for ours, plain in zip(told, learner.discriminator.parameters(), strict=True):
        torch.testing.assert_close(ours, plain.grad, rtol=0.1, atol=1e-2)
