import numpy as np
import pytest
import torch

from algorithms.contracts.model_package import NetworkSpec
from algorithms.features import GRID_YX, latent_features, pooled_feature
from algorithms.networks import build_network

VARIANTS = {
    "foreground_mask": "F_thesis",
    "foreground_probability": "F_fgsoft",
    "background_probability": "F_official",
}


@pytest.fixture(scope="module")
def network():
    return build_network(NetworkSpec(base_channels=4, levels=3), seed=1)


def images(*shapes, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("weighting", VARIANTS)
def test_every_reading_of_the_formula_agrees_with_the_reference_vectors(vectors, weighting) -> None:
    with np.load(vectors / "stdr.npz") as data:
        features, logits = (torch.from_numpy(data[name]) for name in ("features", "logits"))
        expected = data[VARIANTS[weighting]]
    found = pooled_feature(features.double(), logits.double(), grid_yx=(4, 4), weighting=weighting)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_closed_form_of_one_bright_patch() -> None:
    """Two channels 2 and 4 in four foreground pixels: mean 3, divided by 4 pixels."""
    features, logits = torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16)
    logits[:, 0] = 5.0
    logits[:, 1, 0:2, 0:2] = 9.0
    features[:, 0], features[:, 1] = 2.0, 4.0
    found = pooled_feature(features, logits, grid_yx=(4, 4))[0]
    assert found[0] == pytest.approx(0.75)
    assert not found[1:].any()


def test_features_of_the_background_do_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 16, 16, generator=generator)
    logits = torch.randn(2, 2, 16, 16, generator=generator)
    background = (logits[:, 1] <= logits[:, 0])[:, None].expand_as(features)
    before = pooled_feature(features, logits, grid_yx=(4, 4))
    after = pooled_feature(features.masked_fill(background, 1e6), logits, grid_yx=(4, 4))
    assert torch.equal(before, after)


def test_an_empty_prediction_gives_exactly_zeros() -> None:
    logits = torch.stack([torch.ones(8, 8), -torch.ones(8, 8)])[None]
    assert not pooled_feature(torch.full((1, 3, 8, 8), 7.0), logits).any()


def test_a_slice_has_one_vector_whatever_its_size_and_its_neighbours(network) -> None:
    different = images((32, 32), (20, 44), (32, 32), (17, 23), (20, 44))
    together = latent_features(network, different, batch_size=2)
    assert together.shape == (5, GRID_YX[0] * GRID_YX[1])
    assert together.dtype == np.float32
    for image, row in zip(different, together, strict=True):
        alone = latent_features(network, [image])[0]
        np.testing.assert_allclose(row, alone, rtol=1e-4, atol=1e-7)


def test_vectors_come_without_augmentation_or_training_mode(network) -> None:
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    one, again = (latent_features(network, images((24, 24), (24, 24))) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert not network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
