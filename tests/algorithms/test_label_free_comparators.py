import numpy as np
import pytest
import torch
from torch import nn

from algorithms.contracts.model_package import NetworkSpec, TrainingSchedule
from algorithms.finetuning import LabelledSlice, finetune
from algorithms.inference import torch_predictor
from algorithms.label_free_comparators.adami import AdaMi
from algorithms.label_free_comparators.cbmt import ClassBalancedMeanTeacher
from algorithms.label_free_comparators.dpl import DenoisedPseudoLabels
from algorithms.label_free_comparators.histogram_matching import grey_quantiles, match_histogram
from algorithms.label_free_comparators.tent import Tent, mean_entropy
from algorithms.networks import build_network
from algorithms.training import Step, train
from evaluation.overlap import dice

METHODS = {
    "Tent": Tent,
    "AdaMI": AdaMi,
    "CBMT": ClassBalancedMeanTeacher,
    "DPL": DenoisedPseudoLabels,
}
STEP = Step(0, 10, np.random.default_rng(0))
SHORT = TrainingSchedule(iterations=12, batch_size=4, learning_rate=0.003, validate_every=4)


def pictures(seed: int, *, contrast: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Four slices of noise with a square that is brighter: the target."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.3, (4, 16, 16)).astype(np.float32)
    labels = np.zeros(images.shape, dtype=np.uint8)
    for label, (y, x) in zip(labels, rng.integers(1, 7, (4, 2)), strict=True):
        label[y : y + 7, x : x + 7] = 1
    images[labels > 0] += contrast
    return images, labels


@pytest.fixture(scope="module")
def source():
    network = build_network(NetworkSpec(base_channels=4, levels=2), seed=0)
    images, labels = pictures(0)
    slices = [LabelledSlice(i, y) for i, y in zip(images, labels, strict=True)]
    schedule = TrainingSchedule(iterations=40, batch_size=4, learning_rate=0.1)
    finetune(network, slices, schedule, patch_yx=(16, 16), seed=0)
    return network


@pytest.fixture
def network(source):
    copy = build_network(NetworkSpec(base_channels=4, levels=2))
    copy.load_state_dict(source.state_dict())
    return copy


def draw(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(pictures(int(rng.integers(1, 9)), contrast=2.0)[0])[:, None]


def found(network, seed: int = 20) -> float:
    images, labels = pictures(seed, contrast=2.0)
    return dice(labels > 0, torch_predictor(network)(images) > 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_knows_the_target_still_finds_it(network, method) -> None:
    before = {name: t.clone() for name, t in network.state_dict().items()}
    start = found(network)
    assert start > 0.6
    train(METHODS[method](network), draw, SHORT, seed=0)
    assert found(network) > 0.6
    assert any(not torch.equal(before[k], t) for k, t in network.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_ends_in_the_same_weights(source, method) -> None:
    def trained(stop: int | None):
        torch.manual_seed(stop or 0)  # global state must not matter
        network = build_network(NetworkSpec(base_channels=4, levels=2))
        network.load_state_dict(source.state_dict())
        saved = []

        def save(state):
            saved.append(state)
            if state.iteration == stop:
                raise KeyboardInterrupt

        learner = METHODS[method](network)
        if stop is None:
            train(learner, draw, SHORT, seed=0)
            return network.state_dict()
        with pytest.raises(KeyboardInterrupt):
            train(learner, draw, SHORT, seed=0, save=save)
        again = build_network(NetworkSpec(base_channels=4, levels=2))
        again.load_state_dict(source.state_dict())
        train(METHODS[method](again), draw, SHORT, seed=0, state=saved[-1])
        return again.state_dict()

    whole, resumed = trained(None), trained(8)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_entropy_of_a_coin_is_log_2_and_of_certainty_0() -> None:
    assert float(mean_entropy(torch.zeros(1, 2, 3, 3))) == pytest.approx(np.log(2))
    sure = torch.stack([torch.full((1, 3, 3), 50.0), torch.zeros(1, 3, 3)], dim=1)
    assert float(mean_entropy(sure)) == pytest.approx(0.0, abs=1e-6)


def test_tent_moves_normalisations_alone(network) -> None:
    before = {name: t.clone() for name, t in network.named_parameters()}
    train(Tent(network), draw, SHORT, seed=0)
    norms = {
        f"{name}.{part}"
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    moved = {name for name, t in network.named_parameters() if not torch.equal(before[name], t)}
    assert moved
    assert moved <= norms


def test_adami_holds_on_to_the_expected_share(network) -> None:
    """A network that finds nothing any more is as sure as can be, and pays for the share."""
    learner = AdaMi(network)
    images = torch.from_numpy(pictures(3)[0])[:, None]
    kept = float(learner.loss(images, STEP))
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([20.0, -20.0]))
    assert float(learner.loss(images, STEP)) > kept


class Fixed(nn.Module):
    """Gives the same logits whatever it sees, and remembers that it has a gradient."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1, -1, -1)


def test_matched_images_have_the_sources_grey_values_and_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    home = [rng.normal(5, 2, (20, 20)).astype(np.float32) for _ in range(4)]
    away = rng.exponential(1, (30, 30)).astype(np.float32)
    quantiles = grey_quantiles(home)
    matched = match_histogram(away, quantiles)
    assert matched.dtype == np.float32
    percents = [5, 25, 50, 75, 95]
    expected = np.percentile(np.stack(home), percents)
    np.testing.assert_allclose(np.percentile(matched, percents), expected, atol=0.1)
    order = np.argsort(away, axis=None)
    assert np.all(np.diff(matched.ravel()[order]) >= 0)
    own = match_histogram(home[0], grey_quantiles(home[:1]))
    np.testing.assert_allclose(own, home[0], atol=1e-4)


def test_cbmt_weighs_both_classes_alike_however_few_pixels_one_has() -> None:
    """One foreground pixel of 16, both classes equally wrong: each is half of the loss."""
    teacher = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])[None]
    teacher[0, :, 0, 0] = torch.tensor([0.0, 1.0])
    learner = ClassBalancedMeanTeacher(Fixed(teacher))
    logits = torch.zeros(1, 2, 4, 4)
    logits[0, :, 0, 0] = torch.tensor([3.0, 0.0])  # wrong on the one pixel alone
    learner.network = Fixed(logits)
    wrong, undecided = np.log1p(np.exp(3.0)), np.log(2.0)
    loss = float(learner.loss(torch.zeros(1, 1, 4, 4), STEP))
    assert loss == pytest.approx((wrong + undecided) / 2, rel=1e-5)


def test_dpl_believes_what_is_sure_and_typical(network) -> None:
    images, labels = pictures(5)
    images[0, 0, :3] = 1.2  # grey between both: neither sure nor typical
    learner = DenoisedPseudoLabels(network, noise=0.5)
    torch.manual_seed(0)
    label, believed = learner.labels(torch.from_numpy(images)[:, None])
    label, believed = label.numpy(), believed.numpy() > 0
    assert 0.3 < believed.mean() < 1.0
    right = label == labels
    assert right[believed].mean() > right[~believed].mean()
    assert right[believed].mean() > 0.97
