import pytest
import torch

from algorithms.contracts.model_package import NetworkSpec
from algorithms.networks import DualBranch, DualTask, UNet, UNet2d, VNet, build_network


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


# -- dual networks ----------------------------------------------------------------------------


def pictures(dimensions: int = 2, count: int = 2) -> torch.Tensor:
    shape = (count, 1, *[16] * dimensions)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", [UNet, VNet])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_any_network_can_be_made_dual(dimensions, kind, classes) -> None:
    size = {"levels": 3} if kind is UNet else {"convolutions": (1, 2, 2)}
    network = kind(out_channels=classes, base_channels=2, dimensions=dimensions, **size)
    images = pictures(dimensions)
    main, auxiliary = DualBranch(network).both(images)
    assert main.shape == auxiliary.shape == (2, classes, *images.shape[2:])
    masks, level_sets = DualTask(network).both(images)
    assert masks.shape == level_sets.shape == (2, max(classes - 1, 1), *images.shape[2:])
    assert level_sets.abs().max() <= 1


@pytest.mark.parametrize("classes", [2, 4])
def test_the_sigmoid_of_a_mask_is_the_softmax_of_its_class(classes) -> None:
    network = UNet(out_channels=classes, base_channels=2, levels=2).eval()
    masks, _ = DualTask(network).both(pictures())
    expected = network(pictures()).softmax(dim=1)[:, 1:]
    torch.testing.assert_close(masks.sigmoid(), expected)


def test_the_second_branch_is_drawn_anew_or_a_copy() -> None:
    network = UNet(base_channels=4, levels=3).eval()
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    new, copy = (
        DualBranch(network, seed=1, dropout=0.0),
        DualBranch(network, seed=None, dropout=0.0),
    )
    assert torch.equal(torch.rand(2), expected)  # the global state is kept
    one, other = copy.eval().both(pictures())
    assert torch.equal(one, other)
    one, other = new.eval().both(pictures())
    assert not torch.allclose(one, other)
    assert torch.equal(new.eval()(pictures()), network(pictures()))
    # A copy is no twin: what one learns the other does not.
    assert copy.auxiliary.head.weight is not copy.main.head.weight
    assert not any("encoder" in name for name, _ in copy.auxiliary.named_parameters())


def test_the_second_branch_sees_other_features_each_time_in_use_too() -> None:
    network = UNet(base_channels=4, levels=3)
    dual = DualBranch(network).eval()
    (main, first), (again, second) = dual.both(pictures()), dual.both(pictures())
    assert torch.equal(main, again)
    assert not torch.equal(first, second)
    bottleneck = DualBranch(network, dropout=1.0 - 1e-7, everywhere=False).eval()
    _, seen = bottleneck.both(pictures())
    # All but the coarsest features arrive: the picture is still seen.
    assert seen[0].std() > 0


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_half_precision_gradients_of_few_slices_are_those_of_full_precision(slices: int) -> None:
    """A convolution of two slices is where torch 2.13 computes garbage in bfloat16."""
    torch.manual_seed(0)
    network = VNet(base_channels=8, convolutions=(1,))
    images = torch.randn(2, 1, slices, 16, 16)
    gradients = []
    for half in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = network(images).float().square().mean()
        loss.backward()
        gradients.append(network.encoder[0][0].weight.grad.flatten().clone())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


def test_the_heads_of_a_dual_task_compute_in_full_precision() -> None:
    network = DualTask(UNet(base_channels=4, levels=2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masks, level_sets = network.both(pictures())
    assert masks.dtype == level_sets.dtype == torch.float32


def test_the_v_nets_dropout_is_for_training_alone() -> None:
    network = VNet(base_channels=4, convolutions=(1, 1), dropout=0.5)
    images = pictures(3)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
