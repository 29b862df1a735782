import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss, DiceLoss

from algorithms.losses import dice_cross_entropy_loss, soft_dice_loss


def random_case(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 2, 6, 5, generator=generator)
    return logits, (torch.rand(3, 6, 5, generator=generator) > 0.6).long()


def test_closed_forms_of_the_soft_dice_loss() -> None:
    target = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    assert soft_dice_loss(target, target).item() == pytest.approx(0.0, abs=1e-6)
    assert soft_dice_loss(1 - target, target).item() == pytest.approx(1.0, abs=1e-5)
    # 1 - 2 (0.5 + 0.5) / (4 * 0.25 + 2) = 1/3
    assert soft_dice_loss(torch.full_like(target, 0.5), target).item() == pytest.approx(1 / 3, 1e-4)
    assert soft_dice_loss(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).item() == 0.0


def test_closed_form_of_the_whole_loss_without_knowledge() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    target = torch.tensor([[[1, 1, 0, 0]]])
    expected = 0.5 * (math.log(2.0) + 1 / 3)
    assert dice_cross_entropy_loss(logits, target).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_both_losses_agree_with_monai(seed: int) -> None:
    logits, target = random_case(seed)
    probabilities = logits.softmax(dim=1)[:, 1]
    options = {"squared_pred": True, "batch": True, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
    dice = DiceLoss(**options)(probabilities[:, None], target[:, None].float())
    assert soft_dice_loss(probabilities, target.float()).item() == pytest.approx(dice.item(), 1e-5)
    both = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, **options)
    expected = 0.5 * both(logits, target[:, None]).item()
    assert dice_cross_entropy_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), value=st.floats(-50, 50))
def test_a_pixel_of_weight_zero_has_no_influence(seed: int, value: float) -> None:
    logits, target = random_case(seed)
    weight = torch.ones(3, 6, 5)
    weight[:, 2:4, 1:3] = 0.0
    before = dice_cross_entropy_loss(logits, target, weight)
    logits[:, :, 2:4, 1:3] = value
    target[:, 2:4, 1:3] = 1 - target[:, 2:4, 1:3]
    assert torch.allclose(before, dice_cross_entropy_loss(logits, target, weight), atol=1e-6)


def test_weights_of_one_change_nothing_and_weights_of_zero_leave_no_gradient() -> None:
    logits, target = random_case(1)
    plain = dice_cross_entropy_loss(logits, target)
    assert torch.allclose(plain, dice_cross_entropy_loss(logits, target, torch.ones(3, 6, 5)))
    logits.requires_grad_()
    dice_cross_entropy_loss(logits, target, torch.zeros(3, 6, 5)).backward()
    assert not logits.grad.any()
