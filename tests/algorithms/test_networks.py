import pytest
import torch

from algorithms.contracts.model_package import NetworkSpec
from algorithms.networks import UNet2d, build_network


@pytest.mark.parametrize(("base", "levels"), [(2, 2), (2, 3), (4, 4)])
def test_logits_have_the_size_of_the_image(base: int, levels: int) -> None:
    network = UNet2d(base_channels=base, levels=levels)
    images = torch.zeros(2, 1, 2 * network.stride, 3 * network.stride)
    assert network(images).shape == (2, 2, *images.shape[-2:])
    assert network.penultimate(images).shape == (2, base, *images.shape[-2:])


def test_logits_are_the_head_over_the_penultimate_features() -> None:
    network = UNet2d(base_channels=2, levels=3).eval()
    images = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(images), network.head(network.penultimate(images)))


def test_the_receptive_field_reaches_across_the_image() -> None:
    """A skip or level that is not wired in would leave the far corner without influence."""
    network = UNet2d(base_channels=4, levels=4).eval()
    images = torch.zeros(1, 1, 64, 64, requires_grad=True)
    network(images)[0, 1, 32, 32].backward()
    influence = (images.grad[0, 0] != 0).nonzero()
    assert influence.min() <= 12
    assert influence.max() >= 52


def test_a_seed_gives_the_same_weights_and_another_seed_others() -> None:
    spec = NetworkSpec(base_channels=2, levels=2)
    one, same, other = (build_network(spec, seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_building_keeps_the_global_random_state() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    build_network(NetworkSpec(base_channels=2, levels=2), seed=1)
    assert torch.equal(torch.rand(3), expected)
