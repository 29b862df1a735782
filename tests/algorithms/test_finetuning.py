import numpy as np
import pytest
import torch
from torch import nn

from algorithms.finetuning import ValidationCase, choose_share, interpolate_weights, mean_dice
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


class Shifted(BrightIsTarget):
    """Calls target what is brighter than its one weight."""

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images - self.threshold)


def shifted_case(threshold: float) -> ValidationCase:
    """A patient whose target is what is brighter than `threshold`."""
    image = np.linspace(-1.0, 1.0, 64, dtype=np.float32).reshape(1, 8, 8)
    return ValidationCase(image, (image > threshold).astype(np.uint8), np.ones(1, dtype=bool))


@pytest.mark.parametrize(("truth", "share"), [(0.0, 0.0), (0.24, 0.3), (0.8, 1.0)])
def test_the_share_is_the_one_that_fits_held_out_patients(truth: float, share: float) -> None:
    source, adapted = Shifted(0.0).state_dict(), Shifted(0.8).state_dict()
    folds = [(adapted, [shifted_case(truth)]), (adapted, [shifted_case(truth)])]
    assert choose_share(Shifted(), source, folds) == share
    # A fold without patients says nothing.
    assert choose_share(Shifted(), source, [*folds, (source, [])]) == share


def test_without_anybody_to_measure_it_on_the_adapted_weights_are_taken() -> None:
    weights = Shifted().state_dict()
    assert choose_share(Shifted(), weights, [(weights, [])]) == 1.0
    # No share is better than another: stay with the source model.
    assert choose_share(Shifted(), weights, [(weights, [shifted_case(0.3)])]) == 0.0
