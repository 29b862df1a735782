import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.dual_task_consistency import (
    consistency_loss,
    consistency_weight,
    dual_task_loss,
)
from algorithms.signed_distance import level_set


@pytest.fixture
def reference(vectors):
    with np.load(vectors / "dtc_loss.npz", allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def of(reference, name: str) -> torch.Tensor:
    return torch.from_numpy(reference[name])


def total(reference, weight: float, **more) -> float:
    labels = of(reference, "label")[:2, None]
    return dual_task_loss(
        of(reference, "seg_logits"),
        of(reference, "lsf_logits").tanh(),
        labels,
        of(reference, "target_Tnorm")[:, None],
        weight=weight,
        **more,
    ).item()


def test_every_term_reproduces_the_reference_vectors(reference) -> None:
    assert total(reference, 0.0, level_set_weight=0.0) == pytest.approx(
        float(reference["L_seg"]), abs=1e-6
    )
    distance = total(reference, 0.0, level_set_weight=1.0) - float(reference["L_seg"])
    assert distance == pytest.approx(float(reference["L_lsf"]), abs=1e-6)
    consistency = consistency_loss(
        of(reference, "seg_logits").sigmoid(), of(reference, "lsf_logits").tanh()
    )
    assert consistency.item() == pytest.approx(float(reference["L_dtc"]), abs=1e-6)


def test_the_whole_loss_reproduces_the_reference_vectors(reference) -> None:
    for weight, expected in zip(
        reference["ramp_code"],
        reference["L_total"],
        strict=True,
    ):
        assert total(reference, float(weight)) == pytest.approx(expected, abs=1e-6)


def test_level_sets_of_the_reference_labels(reference) -> None:
    for label, expected in zip(reference["label"][:2], reference["target_Tnorm"], strict=True):
        np.testing.assert_allclose(level_set(label > 0), expected, atol=1e-6)


def test_the_ramp_reproduces_the_reference_vectors(reference) -> None:
    found = [consistency_weight(int(step), 6000) for step in reference["iterations"]]
    np.testing.assert_allclose(found, reference["ramp_thesis"], atol=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_the_ramp_rises_from_nearly_nothing_to_one(step: int, total_steps: int) -> None:
    here, next_one = (consistency_weight(s, total_steps) for s in (step, step + 1))
    assert math.exp(-5.0) <= here <= next_one <= 1.0
    assert consistency_weight(total_steps, total_steps) == 1.0


def test_heads_that_agree_have_no_consistency_loss() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:7, 3:8] = True
    distance = torch.from_numpy(level_set(mask))
    inside = torch.from_numpy(mask).float()
    edge = distance == 0
    # On the boundary T^-1 is one half, which no mask is: only there the two differ.
    expected = 0.25 * edge.float().mean().item()
    assert consistency_loss(inside, distance).item() == pytest.approx(expected, rel=1e-6)
    assert consistency_loss(1 - inside, distance).item() > 0.7


def test_the_gradient_is_that_of_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2, 4, 5)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    distance = (torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5) / 10
    distance.requires_grad_()
    labels = (torch.rand(2, *shape[1:], generator=generator) > 0.5).double()
    targets = torch.rand(2, *shape[1:], generator=generator, dtype=torch.float64)

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return dual_task_loss(a, b, labels, targets, weight=0.7, steepness=15.0)

    assert torch.autograd.gradcheck(loss, (logits, distance))


def test_images_without_labels_teach_by_consistency_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 1, 5, 6, generator=generator)
    distance = torch.randn(4, 1, 5, 6, generator=generator).tanh()
    labels = (torch.rand(2, 1, 5, 6, generator=generator) > 0.5).float()
    without = dual_task_loss(logits, distance, labels[:0], labels[:0], weight=0.5)
    expected = 0.5 * consistency_loss(logits.sigmoid(), distance)
    torch.testing.assert_close(without, expected)
    # What the unlabelled ones say changes nothing but the consistency.
    other = logits.clone()
    other[2:] += 1.0
    one, two = (dual_task_loss(x, distance, labels, labels, weight=0.0) for x in (logits, other))
    torch.testing.assert_close(one, two)


def test_what_a_label_does_not_say_carries_no_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, distance = (torch.randn(2, 1, 8, 8, generator=generator) for _ in range(2))
    label = (torch.rand(1, 1, 8, 8, generator=generator) > 0.5).float()
    known = torch.zeros(1, 1, 8, 8)
    known[..., :4] = 1.0
    truth = torch.randn(1, 1, 8, 8, generator=generator)

    def loss(label, truth, weight) -> float:
        return dual_task_loss(
            logits, distance.tanh(), label, truth, weight=0.0, label_weight=weight
        ).item()

    other, far = label.clone(), truth.clone()
    other[..., 4:] = 1.0 - other[..., 4:]
    far[..., 4:] += 3.0
    assert loss(label, truth, known) == pytest.approx(loss(other, far, known))
    assert loss(label, truth, None) != pytest.approx(loss(other, far, None))
    assert loss(label, truth, torch.ones_like(known)) == pytest.approx(loss(label, truth, None))
    half = dual_task_loss(
        logits[..., :4], distance[..., :4].tanh(), label[..., :4], truth[..., :4], weight=0.0
    )
    assert loss(label, truth, known) == pytest.approx(half.item(), abs=1e-6)
