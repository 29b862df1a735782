import numpy as np
import pytest
import torch

from algorithms.adapted_share import choose_share, interpolate_weights
from algorithms.finetuning import ValidationCase
from tests.algorithms.test_finetuning import BrightIsTarget


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
    return ValidationCase(
        image, (image > threshold).astype(np.uint8), np.ones(image.shape, dtype=bool)
    )


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
