import numpy as np
import pytest
import torch

from algorithms.dual_task_consistency import DualTaskConsistency
from algorithms.networks import DualBranch, DualTask, UNet, VNet
from algorithms.scribble_supervision import MixedPseudoLabels
from algorithms.training import Step
from evaluation.benchmarks import few_label_speed
from evaluation.benchmarks.few_label_speed import few_label_speed_table, run_few_label_speed


@pytest.fixture(scope="module")
def rows():
    return run_few_label_speed(repeats=2, small=True, log=lambda _: None)


def test_every_step_is_timed_and_counted(rows) -> None:
    steps = {(r["what"], r["step"]) for r in rows}
    assert steps == {
        *(("DMPLS", step) for step in ("published", "ours", "single network")),
        *(("DTC", step) for step in ("published", "ours", "single network")),
        *(
            (f"{name} in use", step)
            for name in ("DMPLS", "DTC")
            for step in ("ours", "single network")
        ),
    }
    assert all(r["seconds"] > 0 for r in rows)
    trained = [r for r in rows if "in use" not in r["what"]]
    assert all(r["kept_mb"] > 0 for r in trained)
    weights = {(r["what"], r["step"]): r["parameters"] for r in trained}
    for name in ("DMPLS", "DTC"):
        assert weights[name, "ours"] == weights[name, "published"] > weights[name, "single network"]


def test_the_table_shows_ratios_of_steps_alone(rows) -> None:
    lines = few_label_speed_table(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| DMPLS | published |" in lines[2]
    assert " 1.0 |" in lines[2]
    assert sum("in use" in line for line in lines) == 4


def loss_of(learner, batch, number: int = 50) -> float:
    torch.manual_seed(0)  # features are dropped alike
    return learner.loss(batch, Step(number, 100, np.random.default_rng(0))).item()


def test_the_published_steps_minimise_what_ours_do(monkeypatch) -> None:
    """Else the ratio would compare nothing; the level set is the crop's own there."""
    monkeypatch.setattr("algorithms.training.half_precision", lambda _: False)
    torch.manual_seed(1)
    branches = DualBranch(UNet(out_channels=4, base_channels=4, levels=2))
    scribbles = few_label_speed._scribbles((3, 16, 16))
    ours = loss_of(MixedPseudoLabels(branches), scribbles)
    published = loss_of(few_label_speed._PublishedMixedLabels(branches), scribbles)
    assert published == pytest.approx(ours, abs=1e-5)
    tasks = DualTask(VNet(base_channels=2, convolutions=(1, 1)))
    partly = few_label_speed._partly_labelled((2, 8, 8, 8))
    assert loss_of(few_label_speed._PublishedDualTask(tasks), partly) == pytest.approx(
        loss_of(DualTaskConsistency(tasks), partly), abs=0.1
    )
