import numpy as np
import pytest
import torch
from torch import nn

from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import TrainingSchedule
from algorithms.training import Learner
from evaluation.benchmarks.training_files import read_rows, train_resumably, write_rows


class Slope(Learner[torch.Tensor]):
    """Finds the factor 3."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1)
        nn.init.zeros_(self.network.weight)
        nn.init.zeros_(self.network.bias)

    def loss(self, batch, step):
        return (self.network(batch) - 3.0 * batch).square().mean()


def draw(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(8, 1)).astype(np.float32))


def fit(learner: Slope, file, settings="s", seed: int = 0, progress=None) -> None:
    schedule = TrainingSchedule(iterations=9, learning_rate=0.1, validate_every=3)
    train_resumably(
        learner,
        draw,
        schedule,
        seed=seed,
        checkpoint=file,
        settings=settings,
        progress=progress,
    )


def test_a_training_that_was_killed_goes_on_from_its_checkpoint(tmp_path) -> None:
    whole, killed, resumed = Slope(), Slope(), Slope()
    fit(whole, tmp_path / "whole")

    def kill(done: int, *_) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(killed, tmp_path / "deep" / "file", progress=kill)
    seen: list[int] = []
    fit(resumed, tmp_path / "deep" / "file", progress=lambda done, *_: seen.append(done))
    assert seen == [9]
    assert torch.equal(whole.network.weight, resumed.network.weight)
    assert whole.network.weight.item() > 0.5
    # What was finished is not trained again.
    fit(Slope(), tmp_path / "whole", progress=lambda *_: pytest.fail("trained again"))


@pytest.mark.parametrize("change", [{"settings": "t"}, {"seed": 1}])
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, change) -> None:
    fit(Slope(), tmp_path / "file")
    with pytest.raises(DataError, match="other settings"):
        fit(Slope(), tmp_path / "file", **change)


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_broken_checkpoint_is_refused_and_kept(tmp_path, damage) -> None:
    file = tmp_path / "file"
    fit(Slope(), file)
    broken = file.read_bytes()[:-9] if damage is None else damage
    file.write_bytes(broken)
    with pytest.raises(DataError, match="broken: remove it"):
        fit(Slope(), file)
    assert file.read_bytes() == broken


def test_rows_are_read_as_they_were_written(tmp_path) -> None:
    file = tmp_path / "deep" / "rows.json"
    rows = [{"method": "a", "dsc": 0.5, "hd95_mm": None}]
    assert read_rows(file, {"side": (1, 2)}) is None
    write_rows(file, {"side": (1, 2)}, rows)
    assert read_rows(file, {"side": (1, 2)}) == rows
    with pytest.raises(DataError, match="other settings"):
        read_rows(file, {"side": (1, 3)})
    file.write_text('{"rows": []}', "utf-8")
    with pytest.raises(DataError, match="broken"):
        read_rows(file, {"side": (1, 2)})
