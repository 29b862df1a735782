import pickle
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import NetworkSpec, TrainingSchedule
from algorithms.sample_selection import STRATEGIES
from evaluation import cli
from evaluation.benchmarks import adaptation_benchmarks as benchmarks
from evaluation.benchmarks.adaptation_benchmarks import (
    CURVE,
    HEART,
    OWN,
    PHANTOMS,
    VENDORS,
    adaptation_study,
    standard_arms,
)
from evaluation.benchmarks.phantom_hospitals import HOSPITALS
from tests.evaluation.test_interactive_cli import strict_json


def test_every_strategy_is_compared_and_three_have_curves() -> None:
    arms = standard_arms()
    assert len({arm.name for arm in arms}) == len(arms)
    at_a_fifth = {arm.strategy for arm in arms if arm.budget == 0.2 and not arm.stages}
    assert at_a_fifth == set(STRATEGIES)
    for strategy in ("random", "stdr", OWN):
        plain = {
            a.budget for a in arms if a.strategy == strategy and a.name.startswith(f"{strategy},")
        }
        assert plain >= set(CURVE)


def test_chosen_strategies_have_curves_and_stages() -> None:
    arms = standard_arms(["entropy"])
    assert {(a.budget, a.stages) for a in arms} == {(b, False) for b in CURVE} | {(0.2, True)}
    with pytest.raises(DataError, match="'luck' is unknown: one of coverage"):
        standard_arms(["luck"])


def test_phantoms_are_four_hospitals(monkeypatch) -> None:
    few = tuple(replace(profile, patients=1) for profile in HOSPITALS)
    monkeypatch.setattr(benchmarks, "HOSPITALS", few)
    study = pickle.loads(pickle.dumps(adaptation_study(PHANTOMS, "cpu")))  # noqa: S301  # our own
    source, targets = study.hospitals(0)
    assert source.name == "hospital-a"
    assert [h.name for h in targets] == ["hospital-b", "hospital-c", "hospital-d"]


def test_presets_fit_their_networks() -> None:
    for name, presets in benchmarks.PRESETS.items():
        assert set(presets) == {"cpu", "full"}, name
        for preset in presets.values():
            stride = 2 ** (preset.network.levels - 1)
            assert all(side % stride == 0 for side in preset.recipe.patch_yx)


def write_sarcomas(packs) -> None:
    rng = np.random.default_rng(0)
    lines = ["case,vendor_site,model"]
    for index in range(8):
        scanner = (
            "ge,SIGNA EXCITE" if index < 4 else ("ge,Signa HDxt" if index < 6 else "siemens,Avanto")
        )
        label = np.zeros((3, 24, 24), dtype=np.uint8)
        label[1:, 6:14, 8:15] = 1
        image = (rng.integers(0, 60, label.shape) + 120 * label).astype(np.uint8)
        (packs / "sts").mkdir(exist_ok=True)
        np.savez(
            packs / "sts" / f"S{index}.npz",
            image=image,
            label=label,
            spacing_zyx=np.array([3.0, 1.0, 1.0]),
        )
        lines.append(f"S{index},{scanner}")
    (packs / "sts" / "cases.csv").write_text("\n".join(lines))


def test_all_scanners_but_the_sources_are_one_target(tmp_path) -> None:
    write_sarcomas(tmp_path)
    source, (target,) = adaptation_study(VENDORS, "cpu", tmp_path).hospitals(0)
    assert [p.name for p in source.patients] == ["S0", "S1", "S2", "S3"]
    assert [p.name for p in target.patients] == ["S4", "S5", "S6", "S7"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a benchmark in this process, with one job and a tiny preset."""
    quick = TrainingSchedule(iterations=2, batch_size=2, learning_rate=0.01, validate_every=2)
    for name, presets in benchmarks.PRESETS.items():
        tiny = replace(
            presets["cpu"],
            network=NetworkSpec(base_channels=2, levels=2),
            recipe=presets["cpu"].recipe.model_copy(
                update={"patch_yx": (16, 16), "in_plane_spacing_mm": 1.0}
            ),
            source_training=quick.model_copy(
                update={"iterations": 40, "batch_size": 4, "learning_rate": 0.1}
            ),
            stage1=quick,
            stage3=quick,
            folds=2,
            reference_points=2,
        )
        monkeypatch.setitem(benchmarks.PRESETS, name, {"cpu": tiny, "full": tiny})
    monkeypatch.setattr("os.cpu_count", lambda: 1)

    def run(*arguments) -> tuple[int, str, str]:
        shared = ["--output", str(tmp_path / "out"), "--json", str(tmp_path / "rows.json")]
        command = ["fedgtv-evaluate", "benchmark", *map(str, arguments), *shared]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return run


def test_the_command_prints_splits_and_tables_and_writes_rows(run, tmp_path) -> None:
    write_sarcomas(tmp_path)
    ask = (VENDORS, "--packs", tmp_path, "--seeds", 2, "--methods", "coverage, random")
    code, out, err = run(*ask)
    assert code == 0, err
    assert "tested, other-scanners, seed 0, fold 0: S" in out
    assert "| coverage + stages, 20 % |" in out
    assert "coverage is ahead by" in out
    record = strict_json(tmp_path / "rows.json")
    arms = 2 + 2 * (len(CURVE) + 1)
    assert len(record["rows"]) == arms * 2 * 4
    assert {r["arm"] for r in record["summary"]} == {r["arm"] for r in record["rows"]}
    assert record["settings"]["inputs"] == "sts"
    _, again, err = run(*ask)
    assert again == out
    assert "Dice" not in err  # nothing is run twice


def test_the_heart_benchmark_takes_any_pack(run, tmp_path) -> None:
    write_sarcomas(tmp_path)
    (tmp_path / "sts").rename(tmp_path / "mine")
    shutil.copytree(tmp_path / "mine", tmp_path / "other one")
    ask = (HEART, "--packs", tmp_path, "--source", "mine:1", "--seeds", 1, "--methods", "random")
    code, out, err = run(*ask, "--target", "other one:1")
    assert code == 0, err
    assert "tested, other one:1, seed 0, fold 1:" in out
    # One's own patients would be learnt from and tested.
    code, _, err = run(*ask, "--target", "mine")
    assert code == 2
    assert "the same images" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((HEART,), "give --packs"),
        ((VENDORS, "--packs", "."), "give --packs, the folder above it"),
        ((PHANTOMS, "--source", "x"), "--source and --target choose packs"),
        ((HEART, "--packs", ".", "--target", "a", "--target", "b"), "give one --target"),
        ((PHANTOMS, "--preset", "huge"), "'huge' is unknown"),
        ((PHANTOMS, "--methods", "luck"), "'luck' is unknown"),
    ],
)
def test_mistakes_are_one_line(run, arguments, words) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
