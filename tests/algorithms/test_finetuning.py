import numpy as np
import pytest
import torch
from torch import nn

from algorithms.finetuning import ValidationCase, interpolate_weights, mean_dice
from algorithms.networks import UNet2d


class BrightIsTarget(UNet2d):
    """A U-Net in name: calls what is above zero target, so that Dice is known in advance."""

    def __init__(self) -> None:
        super().__init__(base_channels=2, levels=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([-images, images], dim=1)


def case(prediction, label, known=None) -> ValidationCase:
    label = np.asarray(label, np.uint8)
    known = np.ones(len(label), bool) if known is None else np.asarray(known, bool)
    return ValidationCase(np.where(prediction, 1, -1).astype(np.float32), label, known)


def row(*values: int) -> np.ndarray:
    return np.array(values).reshape(1, 2, 2)


def test_the_mean_is_over_patients_not_over_pixels() -> None:
    perfect = case(np.repeat(row(1, 1, 1, 0), 9, axis=0), np.repeat(row(1, 1, 1, 0), 9, axis=0))
    missed = case(row(0, 0, 0, 0), row(0, 0, 0, 1))
    half = case(row(1, 1, 0, 0), row(0, 1, 1, 0))
    score = mean_dice([perfect, missed, half])
    assert score is not None
    assert score(BrightIsTarget()) == pytest.approx((1.0 + 0.0 + 0.5) / 3)


def test_only_known_slices_are_scored() -> None:
    prediction = np.concatenate([row(1, 0, 0, 0), row(1, 1, 1, 1)])
    label = np.concatenate([row(1, 0, 0, 0), row(0, 0, 0, 0)])
    scores = [
        mean_dice([case(prediction, label, known)])(BrightIsTarget())
        for known in ([True, False], [True, True])
    ]
    assert scores == [1.0, pytest.approx(2 / 6)]


def test_a_patient_without_target_and_prediction_agrees() -> None:
    assert mean_dice([case(row(0, 0, 0, 0), row(0, 0, 0, 0))])(BrightIsTarget()) == 1.0


def test_without_patients_there_is_no_score() -> None:
    assert mean_dice([]) is None


def test_another_network_is_a_programming_mistake() -> None:
    score = mean_dice([case(row(0, 0, 0, 0), row(0, 0, 0, 0))])
    with pytest.raises(TypeError, match="Linear"):
        score(nn.Linear(1, 1))


def test_interpolated_weights_lie_between_and_end_where_they_should() -> None:
    source = {"w": torch.tensor([0.0, 2.0]), "steps": torch.tensor(3)}
    adapted = {"w": torch.tensor([1.0, 4.0]), "steps": torch.tensor(9)}
    for share, expected in ((0.0, [0.0, 2.0]), (0.25, [0.25, 2.5]), (1.0, [1.0, 4.0])):
        between = interpolate_weights(source, adapted, share)
        assert between["w"].tolist() == expected
        assert between["steps"].item() == 9
    with pytest.raises(ValueError, match="two different networks"):
        interpolate_weights(source, {"v": torch.zeros(2)}, 0.5)
