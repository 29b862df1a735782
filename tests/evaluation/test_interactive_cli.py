import functools
import json
import platform
import sys
from pathlib import Path

import pytest

from algorithms.interactive_network import from_bytes
from evaluation import cli
from evaluation.benchmarks import interactive_speed, interactive_study
from tests.evaluation.benchmarks.test_interactive_networks import (
    ball,
    make_tiny,
    write_case,
    write_packs,
)

TRAIN, BENCHMARK = "train-interactive", "benchmark"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process: exit code, what it printed, what it complained about."""
    make_tiny(monkeypatch)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedgtv-evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return run


def strict_json(file: Path) -> dict:
    """Read JSON as others do, to whom NaN and Infinity are no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{file.name} holds {word}, which is no JSON")

    return json.loads(file.read_text("utf-8"), parse_constant=refuse)


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((TRAIN, "new", "--encoding", "disc"), "egd, euclidean, gaussian, geodesic, box"),
        ((TRAIN, "new", "--preset", "full"), "one of cpu, gpu"),
        ((TRAIN, "there"), "give another name, or remove it"),
        ((TRAIN, "new", "--sets", "sts"), "--sets needs --packs"),
        ((TRAIN, "new", "--packs", ".", "--sets", "liver"), "one of sts, la, hippocampus"),
        ((TRAIN, "new", "--packs", ".", "--sets", "sts,la"), "give --packs, the folder above it"),
        ((BENCHMARK, "interactive"), "give --packs"),
        ((BENCHMARK, "interactive", "--packs", "."), "give --packs, the folder above it"),
        (
            (BENCHMARK, "interactive", "--packs", ".", "--sets", "liver"),
            "one of sts, la, hippocampus",
        ),
        ((BENCHMARK, "interactive", "--packs", ".", "--preset", "gpu"), "use 'cpu' or 'full'"),
        ((BENCHMARK, "interactive-speed", "--preset", "gpu"), "use 'cpu' or 'full'"),
        ((BENCHMARK, "interactive-fast", "--packs", "."), "interactive, interactive-speed"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, monkeypatch, arguments, expected) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_bytes(b"kept")
    code, out, err = run(*arguments)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert expected in err
    assert out == ""
    assert [f.name for f in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_bytes() == b"kept"


def test_sets_that_teach_nothing_are_one_line(run, tmp_path) -> None:
    write_case(tmp_path, "scd", "p1", ball(), 3)  # single slices
    ask = ("--packs", tmp_path, "--sets", "scd", "--dimensions", "3", "--iterations", "1")
    code, _, err = run(TRAIN, tmp_path / "net.safetensors", *ask)
    assert code == 2
    assert len(err.splitlines()) == 1


# -- training ---------------------------------------------------------------------------------


def test_training_writes_a_network(run, tmp_path) -> None:
    file = tmp_path / "[new]" / "net.safetensors"  # brackets are markup to some
    code, out, err = run(TRAIN, file, "--iterations", "2", "--encoding", "gaussian")
    assert (code, err) == (0, "")
    assert "iteration 2 of 2: Dice loss 0." in out
    assert f"Wrote {file}" in out
    network = from_bytes(file.read_bytes())
    assert (network.spec.dimensions, network.spec.encoding) == (2, "gaussian")
    code, _, err = run(TRAIN, file)
    assert code == 2
    assert str(file) in err


def test_training_on_packs_in_3d(run, tmp_path) -> None:
    write_packs(tmp_path, "sts", "la", patients=("p1",))
    file = tmp_path / "net.safetensors"
    ask = ("--packs", tmp_path, "--sets", " sts, la,", "--dimensions", "3", "--iterations", "2")
    code, _, err = run(TRAIN, file, *ask)
    assert (code, err) == (0, "")
    assert from_bytes(file.read_bytes()).spec.dimensions == 3


# -- benchmarks -------------------------------------------------------------------------------


def test_the_study_prints_three_tables_and_writes_json(run, tmp_path, monkeypatch) -> None:
    write_packs(tmp_path, "sts", "la", "hippocampus", patients=("p1", "p2", "p3"))
    few = functools.partial(interactive_study.StudySize, iterations={2: 1, 3: 1})
    monkeypatch.setattr(interactive_study, "StudySize", few)
    file = tmp_path / "json" / "rows.json"
    ask = ("--packs", tmp_path, "--sets", "sts,hippocampus", "--cases", "1", "--clicks", "1")
    ask += ("--seeds", "1")
    code, out, err = run(
        BENCHMARK, "interactive", *ask, "--output", tmp_path / "out", "--json", file
    )
    assert code == 0, err
    titles = [line for line in out.splitlines() if line.startswith("### ")]
    assert len(titles) == 3
    for part in out.split("### ")[1:]:
        table = [line for line in part.splitlines() if line.startswith("|")]
        assert len(table) > 2
        assert len({line.count("|") for line in table}) == 1
        for label in ("2-D sts", "3-D sts", "2-D hippocampus", "3-D hippocampus"):
            assert any(line.startswith(f"| {label}") for line in table)
    assert "2-D, clicks as egd, seed 0" in err
    record = strict_json(file)
    assert record["benchmark"] == "interactive"
    assert record["command"].startswith("fedgtv-evaluate benchmark interactive --packs ")
    assert record["versions"]["python"] == platform.python_version()
    assert {"fedgtv", "torch", "numpy"} <= set(record["versions"])
    assert record["seeds"] == [0]
    assert record["networks"]["2d"]["encoding"] == "egd"
    assert record["size"] == {"cases": 1, "clicks": 1, "iterations": {"2": 1, "3": 1}}
    assert {(r["dimensions"], r["set"]) for r in record["rows"]} == {
        (axes, name) for axes in (2, 3) for name in ("sts", "hippocampus")
    }
    assert len(list((tmp_path / "out" / "interactive-networks").iterdir())) == 10


@pytest.fixture
def study_one(run, tmp_path):
    """Let the robot click on one target with the shipped networks."""
    write_packs(tmp_path, "hippocampus", patients=("p1", "p2", "p3"))
    ask = ("--packs", tmp_path, "--sets", "hippocampus", "--cases", "1", "--shipped-only")
    return functools.partial(run, BENCHMARK, "interactive", *ask)


def test_one_dimension_alone_is_studied(study_one) -> None:
    code, out, err = study_one("--dimensions", "2")
    assert code == 0, err
    assert "| 2-D hippocampus | if-gc |" in out
    assert "3-D" not in out
    code, _, err = study_one("--dimensions", "4")
    assert code == 2


def test_without_clicks_there_are_first_contours_alone(study_one) -> None:
    code, out, err = study_one("--clicks", "0")
    assert code == 0, err
    assert "### First contours, network that comes with the package" in out
    assert "| set | method | first contour |\n" in out
    assert "| 3-D hippocampus | if-gc |" in out
    assert "random-walker" not in out


@pytest.fixture
def fast(monkeypatch) -> None:
    monkeypatch.setattr(interactive_speed, "SHAPES", {2: (24, 24), 3: (8, 12, 12)})
    short = functools.partial(interactive_speed.run_speed, images=1, repeats=1, clicks=1)
    monkeypatch.setattr(interactive_speed, "run_speed", short)


def test_speed_prints_a_table_and_writes_json(run, fast, tmp_path) -> None:
    write_packs(tmp_path, "sts", "la", patients=("p1",))
    file = tmp_path / "speed.json"
    code, out, err = run(BENCHMARK, "interactive-speed", "--packs", tmp_path, "--json", file)
    assert (code, err) == (0, "")
    assert out.startswith("| what | engine |")
    assert "| geodesic 3-D | exact |" in out
    record = json.loads(file.read_text("utf-8"))
    assert record["benchmark"] == "interactive-speed"
    assert record["command"].startswith("fedgtv-evaluate benchmark interactive-speed")
    assert record["images"] == "packs"
    assert "numpy" in record["versions"]
    assert record["rows"]


def test_speed_without_the_packs_is_one_line(run, fast, tmp_path) -> None:
    code, out, err = run(BENCHMARK, "interactive-speed", "--packs", tmp_path)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "give --packs, the folder above it" in err


def test_others_can_read_the_json_of_speed(run, fast, tmp_path) -> None:
    file = tmp_path / "speed.json"
    assert run(BENCHMARK, "interactive-speed", "--json", file)[0] == 0
    assert strict_json(file)["images"] == "phantoms"
