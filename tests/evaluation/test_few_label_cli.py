import sys

import pytest

from evaluation import cli
from evaluation.benchmarks.studies import phantom_study
from tests.evaluation.benchmarks.few_label_packs import (
    make_few_labels_tiny,
    write_atria,
    write_scribbled,
)
from tests.evaluation.test_interactive_cli import strict_json


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a benchmark in this process: exit code, what it printed, what it complained about."""
    make_few_labels_tiny(monkeypatch)

    def run(*arguments) -> tuple[int, str, str]:
        shared = ["--output", str(tmp_path / "out"), "--json", str(tmp_path / "rows.json")]
        command = ["fedgtv-evaluate", "benchmark", *map(str, arguments), *shared]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return run


@pytest.mark.parametrize(
    ("name", "write", "methods", "targets", "test"),
    [
        ("acdc-scribble", write_scribbled, "partial cross-entropy, DMPLS", 3, "patient004"),
        ("la-dual-task", write_atria, "DTC,labelled alone", 2, "V16, V17"),
    ],
)
def test_a_study_prints_its_split_and_table_and_writes_rows(
    run, tmp_path, name, write, methods, targets, test
) -> None:
    write(tmp_path)
    code, out, err = run(name, "--packs", tmp_path, "--seeds", 2, "--methods", methods)
    assert code == 0
    assert f"test: {test}" in out
    assert "2 of 4" in err
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 2
    record = strict_json(tmp_path / "rows.json")
    assert record["seeds"] == [0, 1]
    assert record["settings"]["split"]["test"] == test.split(", ")
    assert len(record["rows"]) == 2 * 2 * targets
    assert {r["method"] for r in record["summary"]} == {m.strip() for m in methods.split(",")}
    # Another run reads what is there.
    _, again, err = run(name, "--packs", tmp_path, "--seeds", 2, "--methods", methods)
    assert "2 of 4" not in err
    assert again == out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["acdc-scribble"], "give --packs"),
        (["la-dual-task", "--packs", "."], "give --packs, the folder above it"),
        (["acdc-scribble", "--packs", ".", "--preset", "huge"], "'huge' is unknown"),
    ],
)
def test_mistakes_are_one_line(run, arguments, expected) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert expected in err
    assert "Traceback" not in err


def test_an_unknown_method_is_named(run, tmp_path) -> None:
    write_scribbled(tmp_path)
    code, _, err = run("acdc-scribble", "--packs", tmp_path, "--methods", "DMPLS,magic")
    assert code == 2
    assert "'magic' is unknown: one of partial cross-entropy, DMPLS" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--supervision", "clicks"], "--supervision: Input should be 'dense' or 'scribble'"),
        (["--unlabelled", "all"], "--unlabelled: Input should be 'pseudo_labels'"),
        (["--supervision", "scribble", "--unlabelled", "dual_task"], "has no level set"),
    ],
)
def test_a_plan_that_makes_no_sense_is_one_line(monkeypatch, capsys, arguments, expected) -> None:
    monkeypatch.setattr(sys, "argv", ["fedgtv-evaluate", "demo", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert expected in capsys.readouterr().err


def test_another_plan_is_another_study() -> None:
    study = phantom_study("cpu")
    assert cli._planned(study, "dense", "pseudo_labels") is study
    scribbled = cli._planned(study, "scribble", "none")
    assert scribbled.name == "phantom-scribble-none"
    assert scribbled.plan.adaptation.supervision == "scribble"
    changed = scribbled.plan.model_dump()
    for key in ("supervision", "unlabelled"):
        changed["adaptation"][key] = study.plan.model_dump()["adaptation"][key]
    assert changed == study.plan.model_dump()
    assert cli._planned(study, "dense", "dual_task").name == "phantom-dual-task"
