import numpy as np
import pytest
import torch

from algorithms.contracts.model_package import NetworkSpec, PreprocessingRecipe
from algorithms.contracts.volume import Geometry, Volume
from algorithms.inference import predict, predict_probability, torch_predictor
from algorithms.networks import build_network
from tests.phantoms import tiny_volume, turned_axes


@pytest.fixture(scope="module")
def network():
    return build_network(NetworkSpec(base_channels=2, levels=3), seed=1)


def threshold(slices):
    """Call bright pixels target, as a perfect network would."""
    return (slices > 0.5 * (slices.min() + slices.max())).astype(np.float32)


@pytest.mark.parametrize("spacing", [(3.0, 0.6, 1.3), (2.0, 1.7, 0.9), (5.0, 1.0, 1.0)])
def test_a_mask_comes_back_on_the_images_own_oblique_grid(spacing) -> None:
    volume, reference = tiny_volume(1, shape_zyx=(12, 50, 44), spacing_zyx_mm=spacing)
    geometry = Geometry(
        volume.image.shape, spacing, (4.0, -7.0, 12.0), turned_axes((0.3, -0.2, 0.5))
    )
    found = predict(
        Volume(volume.image, geometry), PreprocessingRecipe(in_plane_spacing_mm=1.0), threshold
    )
    assert found.geometry is geometry
    assert found.voxels.dtype == bool
    dice = 2 * (found.voxels & reference).sum() / (found.voxels.sum() + reference.sum())
    assert dice > 0.85
    offset = np.argwhere(found.voxels).mean(axis=0) - np.argwhere(reference).mean(axis=0)
    assert np.abs(offset).max() < 0.3  # voxels


def test_the_mask_is_the_probability_above_one_half(network) -> None:
    volume, _ = tiny_volume(2)
    recipe, predictor = PreprocessingRecipe(in_plane_spacing_mm=1.3), torch_predictor(network)
    probability = predict_probability(volume, recipe, predictor)
    assert probability.dtype == np.float32
    assert 0.0 <= probability.min() < probability.max() <= 1.0
    np.testing.assert_array_equal(predict(volume, recipe, predictor).voxels, probability > 0.5)


@pytest.mark.parametrize("shape", [(5, 16, 16), (3, 19, 30), (1, 7, 5)])
def test_any_number_and_size_of_slices_in_any_batches(network, shape) -> None:
    slices = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    one_by_one = torch_predictor(network, batch_size=1)(slices)
    together = torch_predictor(network, batch_size=4)(slices)
    assert one_by_one.shape == shape
    np.testing.assert_allclose(one_by_one, together, atol=1e-6)


def test_prediction_agrees_with_the_network_and_changes_nothing_in_it(network) -> None:
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    slices = np.random.default_rng(1).normal(size=(2, 16, 24)).astype(np.float32)
    found = torch_predictor(network)(slices)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(slices)[:, None]).softmax(dim=1)[:, 1]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
