import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.augmentation import augment
from tests.phantoms import ball


def batch(count: int = 6, side: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    disc = ball((1, side, side), (0, 0.4 * side, 0.62 * side), side / 5)[0]
    labels = torch.from_numpy(np.stack([disc] * count).astype(np.uint8))
    images = 10.0 * labels[:, None].float()
    return images, labels, torch.ones(count, side, side)


def test_image_and_label_move_together() -> None:
    changed, labels, weights = augment(*batch(), np.random.default_rng(0))
    for image, label, weight in zip(changed[:, 0], labels, weights, strict=True):
        # Mirrored from outside the patch, the disc may be seen again where nothing counts.
        seen = (image > 0.5 * (image.max() + image.min())) & (weight > 0)
        dice = 2 * (seen & (label > 0)).sum() / (seen.sum() + label.sum())
        assert dice > 0.93


def test_batches_are_turned_scaled_and_flipped() -> None:
    _, labels, _ = augment(*batch(count=40), np.random.default_rng(1))
    sizes = labels.sum(dim=(1, 2)).float()
    columns = torch.stack([label.nonzero()[:, 1].float().mean() for label in labels])
    assert sizes.max() / sizes.min() > 1.5  # 0.6 to 1.65 along each side
    assert (columns < 18).any()
    assert (columns > 22).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_labels_stay_0_or_1_and_every_shape_is_kept(seed: int) -> None:
    images, labels, weights = batch(count=2, side=24)
    changed = augment(images, labels, weights, np.random.default_rng(seed))
    assert [tuple(part.shape) for part in changed] == [(2, 1, 24, 24), (2, 24, 24), (2, 24, 24)]
    assert changed[1].dtype == torch.int64
    assert set(changed[1].unique().tolist()) <= {0, 1}
    assert set(changed[2].unique().tolist()) <= {0.0, 1.0}


def test_what_comes_from_outside_the_patch_carries_no_loss() -> None:
    _, labels, weights = augment(*batch(count=40), np.random.default_rng(2))
    assert (weights == 0).any()
    assert not labels[weights == 0].any()


def test_the_generator_alone_decides() -> None:
    torch.manual_seed(1)
    one = augment(*batch(), np.random.default_rng(5))
    torch.manual_seed(2)
    same = augment(*batch(), np.random.default_rng(5))
    other = augment(*batch(), np.random.default_rng(6))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


def test_what_came_in_is_left_as_it_was() -> None:
    images, labels, weights = batch()
    copies = [part.clone() for part in (images, labels, weights)]
    augment(images, labels, weights, np.random.default_rng(0))
    assert all(torch.equal(a, b) for a, b in zip(copies, (images, labels, weights), strict=True))


def test_noise_gain_and_offset_are_small() -> None:
    images = torch.zeros(64, 1, 16, 16)
    flat = torch.zeros(64, 16, 16)
    changed, _, _ = augment(images, flat.byte(), flat, np.random.default_rng(3))
    means, deviations = changed.mean(dim=(1, 2, 3)), changed.std(dim=(1, 2, 3))
    assert means.abs().max() < 0.25
    assert deviations.max() < 0.12
    assert deviations.max() > 5 * deviations.min()
    assert means.std() == pytest.approx(0.4 / np.sqrt(12), rel=0.3)  # uniform in -0.2..0.2


def test_more_maps_are_turned_like_the_weights() -> None:
    images, labels, weights = batch()
    rng = np.random.default_rng(4)
    _, turned, _, same, other = augment(images, labels, weights, rng, labels.float(), 3.0 * weights)
    assert torch.equal(same, turned.float())
    assert set(other.unique().tolist()) == {0.0, 3.0}
    plain = augment(images, labels, weights, np.random.default_rng(4))
    assert torch.equal(plain[1], turned)


def test_at_strength_0_only_flips_are_left() -> None:
    images, labels, weights = batch(count=20)
    changed, turned, same = augment(images, labels, weights, np.random.default_rng(6), strength=0.0)
    flips = 0
    for before, after, label, now in zip(images, changed, labels, turned, strict=True):
        flipped = not torch.allclose(after, before, atol=1e-4)
        flips += flipped
        assert torch.allclose(after, before.flip(-1) if flipped else before, atol=1e-4)
        assert torch.equal(now, (label.flip(-1) if flipped else label).long())
    assert 3 < flips < 17
    assert (same == 1).all()


@settings(max_examples=20, deadline=None)
@given(strength=st.floats(0.0, 1.0), seed=st.integers(0, 1000))
def test_sizes_stay_within_the_strength(strength: float, seed: int) -> None:
    """A disc of radius r covers exp(2 s u) of its area, |u| <= 0.5, but for the raster."""
    disc = ball((1, 60, 60), (0, 29.5, 29.5), 10.0)[0]
    labels = torch.from_numpy(np.stack([disc] * 4).astype(np.uint8))
    images = labels[:, None].float()
    rng = np.random.default_rng(seed)
    _, turned, _ = augment(images, labels, torch.ones(4, 60, 60), rng, strength=strength)
    growth = turned.sum(dim=(1, 2)).numpy() / disc.sum()
    assert growth.max() < np.exp(strength) * 1.08
    assert growth.min() > np.exp(-strength) / 1.08
