import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from algorithms.losses import multiclass_dice_loss
from algorithms.scribble_supervision import (
    dmpls_loss,
    mixed_pseudo_labels,
    partial_cross_entropy,
)

MIXINGS = {"a000": 0.0, "a037": 0.37, "a100": 1.0}


def tensors(file, *names: str) -> list[torch.Tensor]:
    with np.load(file, allow_pickle=False) as data:
        return [torch.from_numpy(data[name]) for name in names]


def random_case(seed: int, classes: int = 3, ignore: int = 255):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 2, classes, 5, 6, generator=generator, dtype=torch.float64)
    scribble = torch.randint(0, classes, (2, 5, 6), generator=generator)
    scribble[torch.rand(2, 5, 6, generator=generator) > 0.2] = ignore
    return logits[0], logits[1], scribble


# -- partial cross-entropy --------------------------------------------------------------------


def test_partial_cross_entropy_reproduces_the_reference_vectors(vectors) -> None:
    file = vectors / "partial_ce.npz"
    one, two, scribble = tensors(file, "logits1", "logits2", "scribble")
    mean_1, mean_2, gradient = tensors(file, "mean_1", "mean_2", "grad_mean_1")
    one.requires_grad_()
    found = partial_cross_entropy(one, scribble, ignore_index=4)
    found.backward()
    assert found.item() == pytest.approx(mean_1.item(), abs=1e-6)
    other = partial_cross_entropy(two, scribble, ignore_index=4)
    assert other.item() == pytest.approx(mean_2.item(), abs=1e-6)
    torch.testing.assert_close(one.grad, gradient, atol=1e-6, rtol=0)


def test_closed_form_of_partial_cross_entropy() -> None:
    logits = torch.tensor([0.0, 0.0, math.log(3.0)]).reshape(1, 3, 1, 1).repeat(1, 1, 1, 4)
    scribble = torch.tensor([[[0, 2, 9, 9]]])
    # y = (1/5, 1/5, 3/5): the mean of log 5 and log 5/3
    expected = 0.5 * (math.log(5.0) + math.log(5.0 / 3.0))
    found = partial_cross_entropy(logits, scribble, ignore_index=9)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_a_batch_on_which_nobody_drew_teaches_nothing() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = partial_cross_entropy(logits, torch.full((2, 4, 4), 255), ignore_index=255)
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), value=st.floats(-50, 50))
def test_what_nobody_drew_on_has_no_influence(seed: int, value: float) -> None:
    logits, _, scribble = random_case(seed)
    before = partial_cross_entropy(logits, scribble, ignore_index=255)
    changed = torch.where((scribble == 255)[:, None], value, logits)
    after = partial_cross_entropy(changed, scribble, ignore_index=255)
    torch.testing.assert_close(before, after)


# -- mixed pseudo labels ----------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXINGS)
def test_pseudo_labels_and_losses_reproduce_the_reference_vectors(vectors, name) -> None:
    file = vectors / "dmpls.npz"
    one, two, scribble = tensors(file, "logits1", "logits2", "scribble")
    labels, pseudo, total = tensors(file, f"{name}_PL", f"{name}_LPLS", f"{name}_Ltotal")
    found = mixed_pseudo_labels(one, two, MIXINGS[name])
    assert torch.equal(found, labels.long())
    dice = [multiclass_dice_loss(y.softmax(dim=1), found).item() for y in (one, two)]
    assert np.mean(dice) == pytest.approx(pseudo.item(), abs=1e-6)
    loss = dmpls_loss(one, two, scribble, mixing=MIXINGS[name], ignore_index=4)
    assert loss.item() == pytest.approx(total.item(), abs=1e-6)


def test_the_gradient_reproduces_the_reference_vectors(vectors) -> None:
    file = vectors / "dmpls.npz"
    one, two, scribble, gradient = tensors(file, "logits1", "logits2", "scribble", "grad_num")
    one.requires_grad_()
    dmpls_loss(one, two, scribble, mixing=0.37, ignore_index=4).backward()
    known = gradient != 0
    assert known.any()
    torch.testing.assert_close(one.grad[known], gradient[known], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_the_gradient_is_that_of_differences(which: int) -> None:
    """Pseudo labels do not change under small steps, so both branches can be checked."""
    *branches, scribble = random_case(3)
    branches[which].requires_grad_()

    def loss(logits: torch.Tensor) -> torch.Tensor:
        pair = [logits, branches[1]] if which == 0 else [branches[0], logits]
        return dmpls_loss(*pair, scribble, mixing=0.4, ignore_index=255)

    assert torch.autograd.gradcheck(loss, (branches[which],), eps=1e-7, atol=1e-5)


def test_ends_of_the_mixing_are_the_branches_own_labels() -> None:
    one, two, _ = random_case(0)
    assert torch.equal(mixed_pseudo_labels(one, two, 1.0), one.argmax(dim=1))
    assert torch.equal(mixed_pseudo_labels(one, two, 0.0), two.argmax(dim=1))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), mixing=st.floats(0, 1))
def test_swapping_branches_and_mixing_changes_nothing(seed: int, mixing: float) -> None:
    one, two, scribble = random_case(seed)
    there = dmpls_loss(one, two, scribble, mixing=mixing, ignore_index=255)
    back = dmpls_loss(two, one, scribble, mixing=1.0 - mixing, ignore_index=255)
    torch.testing.assert_close(there, back)


def test_without_pseudo_labels_it_is_the_mean_partial_cross_entropy() -> None:
    one, two, scribble = random_case(1)
    found = dmpls_loss(one, two, scribble, mixing=0.3, pseudo_label_weight=0.0, ignore_index=255)
    parts = [functional.cross_entropy(y, scribble, ignore_index=255) for y in (one, two)]
    torch.testing.assert_close(found, 0.5 * (parts[0] + parts[1]))


def test_pseudo_labels_carry_no_gradient() -> None:
    one, two, _ = random_case(2)
    assert not mixed_pseudo_labels(one.requires_grad_(), two, 0.5).requires_grad
