import json

import numpy as np
import pytest
import torch

from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import TrainingSchedule
from algorithms.networks import UNet
from algorithms.scribble_comparators.full_supervision import FullSupervision
from evaluation.benchmarks import few_labels
from evaluation.benchmarks.few_labels import (
    FewLabelStudy,
    TestCase,
    few_label_summary,
    few_label_table,
    run_few_labels,
)

SIDE = 16


def half(side: int = SIDE) -> np.ndarray:
    label = np.zeros((2, side, side), dtype=np.uint8)
    label[:, :, : side // 2] = 1
    return label


def learner(seed: int) -> FullSupervision:
    torch.manual_seed(seed)
    return FullSupervision(UNet(base_channels=2, levels=2))


def draw(rng: np.random.Generator):
    images = torch.from_numpy(rng.random((2, 1, SIDE, SIDE), dtype=np.float32))
    return images, torch.from_numpy(half().astype(np.int64))


def study(found: np.ndarray | None = None, **changes) -> FewLabelStudy:
    """A study whose prediction is known in advance."""
    label = half()
    predicted = label if found is None else found
    case = TestCase("c1", "p1", label.astype(np.float32), label, (2.0, 1.0, 1.0))
    fields = {
        "name": "toy",
        "settings": {"split": {"test": ["p1"]}, "size": 1},
        "schedule": TrainingSchedule(
            iterations=4, batch_size=2, learning_rate=0.01, validate_every=2
        ),
        "methods": {
            "one": lambda seed: (learner(seed), draw),
            "two words": lambda seed: (learner(seed), draw),
        },
        "classes": {"left": 1},
        "test_cases": [case],
        "predict": lambda network, image: predicted,
        "upper_bound": "one",
    }
    return FewLabelStudy(**fields | changes)


def run(folder, *, of: FewLabelStudy | None = None, **more):
    return run_few_labels(of or study(), folder, **{"log": lambda _: None, "seeds": [0, 1]} | more)


def test_every_method_and_seed_is_trained_and_tested(tmp_path) -> None:
    lines: list[str] = []
    rows = run_few_labels(study(), tmp_path, seeds=[0, 1], log=lines.append)
    assert [(r["method"], r["seed"]) for r in rows] == [
        ("one", 0),
        ("two words", 0),
        ("one", 1),
        ("two words", 1),
    ]
    for row in rows:
        assert (row["dsc"], row["hd95_mm"], row["assd_mm"]) == (1.0, 0.0, 0.0)
        assert row["training_seconds"] >= 0
    assert "two words, seed 1: Dice 100.0 %" in lines
    assert any("2 of 4" in line for line in lines)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {f"{m}-seed{s}.json" for m in ("one", "two-words") for s in (0, 1)}


def test_what_is_done_is_read_and_not_trained_again(tmp_path, monkeypatch) -> None:
    before = run(tmp_path)

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(few_labels, "train_resumably", never)
    assert run(tmp_path) == before
    assert len(run(tmp_path, only=["one"])) == 2


def test_a_killed_run_goes_on_and_its_time_is_not_claimed(tmp_path) -> None:
    class KilledError(Exception):
        pass

    def kill(line: str) -> None:
        if "two words, seed 0: 2 of 4" in line:
            raise KilledError

    weights: list[dict] = []

    def keep(network, image):
        weights.append({k: v.clone() for k, v in network.state_dict().items()})
        return half()

    with pytest.raises(KilledError):
        run(tmp_path, of=study(predict=keep), log=kill)
    assert {f.name for f in tmp_path.iterdir()} == {
        "one-seed0.json",
        "two-words-seed0.checkpoint",
    }
    rows = run(tmp_path, of=study(predict=keep), seeds=[0])
    assert [r["training_seconds"] is None for r in rows] == [False, True]
    run(tmp_path / "whole", of=study(predict=keep), seeds=[0])
    # weights: one (killed run), two (resumed), then both again in a run that was not killed
    assert len(weights) == 4
    assert all(torch.equal(weights[1][k], weights[3][k]) for k in weights[1])


def test_results_of_other_settings_are_not_mixed_in(tmp_path) -> None:
    run(tmp_path, seeds=[0])
    other = study(settings={"split": {"test": ["p1"]}, "size": 2})
    with pytest.raises(DataError, match="--output"):
        run(tmp_path, of=other, seeds=[0])
    (tmp_path / "one-seed0.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match="broken"):
        run(tmp_path, seeds=[0])


def test_an_unknown_method_is_named_before_anything_is_trained(tmp_path) -> None:
    with pytest.raises(DataError, match="'three' is unknown: one of one, two words"):
        run(tmp_path, only=["one", "three"])
    assert not list(tmp_path.iterdir())


def test_a_missed_target_counts_as_zero_and_has_no_distance(tmp_path) -> None:
    rows = run(tmp_path, of=study(np.zeros_like(half())))
    assert {r["dsc"] for r in rows} == {0.0}
    json.dumps(rows, allow_nan=False)
    (summary, _) = few_label_summary(rows)
    assert (summary["dsc"], summary["hd95_mm"], summary["missed"]) == (0.0, None, 2)
    assert "| one | 0.0 ± 0.0 | - | - | 2 |" in few_label_table([summary], "one")


def row(method: str, seed: int, name: str, dsc: float, hd95_mm: float | None = 1.0) -> dict:
    return {
        "method": method,
        "seed": seed,
        "class": name,
        "dsc": dsc,
        "hd95_mm": hd95_mm,
        "assd_mm": hd95_mm,
        "training_seconds": 10.0,
    }


def test_the_summary_is_mean_and_deviation_over_seeds() -> None:
    rows = [
        row("a", 0, "x", 0.5, 2.0),
        row("a", 0, "y", 0.7, 4.0),
        row("a", 1, "x", 0.9, 1.0),
        row("a", 1, "y", 0.7, None),
        row("all", 0, "x", 0.8),
    ]
    a, everything = few_label_summary(rows)
    assert a["seeds"] == 2
    assert (a["dsc"], a["dsc_sd"]) == (
        pytest.approx(0.7),
        pytest.approx(np.std([0.6, 0.8], ddof=1)),
    )
    assert a["hd95_mm"] == pytest.approx((3.0 + 1.0) / 2)
    assert (a["dsc of x"], a["dsc of y"]) == (pytest.approx(0.7), pytest.approx(0.7))
    assert a["missed"] == 0  # no distance, but not Dice 0: cannot be a miss
    assert everything["dsc_sd"] is None
    lines = few_label_table([everything, a], "all").splitlines()
    assert lines[0].startswith("| method | Dice % | ")
    assert lines[2].startswith("| a | 70.0 ± 14.1 | ")
    assert "| 87.5 % |" in lines[2]
    assert lines[-1].startswith("| all | 80.0 | ")
    assert len({line.count("|") for line in lines}) == 1
