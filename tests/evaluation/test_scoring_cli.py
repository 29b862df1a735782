"""The commands on real files: score, compare, agreement."""

import csv
import math
import sys

import numpy as np
import pytest

from evaluation import cli
from evaluation.case_metrics import measure_case
from evaluation.scoring import read_scores
from tests.evaluation.test_interactive_cli import strict_json
from tests.evaluation.test_mask_files import structure_set, write

SPACING = (3.0, 1.0, 1.0)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process: exit code, what it printed, what it complained about."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedgtv-evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return run


def tumour(seed, noise=0.8):
    """A ragged ball of its own size per seed."""
    rng = np.random.default_rng(seed)
    shape = (8, 26, 26)
    away = np.linalg.norm((np.indices(shape).T - np.array(shape) / 2) * (2, 1, 1), axis=-1).T
    return away + np.random.default_rng(seed + 1000).normal(0, noise, shape) < rng.uniform(5, 8)


def save(folder, case, mask, **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{case}.npz", mask=mask, spacing=SPACING, **arrays)


@pytest.fixture
def folders(tmp_path):
    """Twelve references, a worse and a better method; the worse one misses a tumour."""
    for k in range(12):
        case, reference = f"p{k:02d}", tumour(k, noise=0.0)
        better, worse = tumour(k, noise=0.4), tumour(k, noise=1.5)
        if k == 3:
            worse = np.zeros_like(worse)
        for name, mask in (("ref", reference), ("worse", worse), ("better", better)):
            save(tmp_path / name, case, mask)
    return tmp_path


def test_a_folder_is_scored_with_its_failure_named(run, folders):
    code, out, err = run(
        "score", folders / "worse", folders / "ref", "--csv", folders / "w.csv", "--json",
        folders / "w.json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    rows = read_scores(folders / "w.csv")
    assert len(rows) == 12
    for k, row in enumerate(rows):
        one, other = (
            np.load(folders / name / f"p{k:02d}.npz")["mask"] for name in ("ref", "worse")
        )
        expected = measure_case(one, other, spacing_zyx_mm=SPACING)
        assert row["case"] == f"p{k:02d}"
        assert row["dsc"] == expected.dsc
        assert row["hd95_mm"] == pytest.approx(expected.hd95_mm, nan_ok=True)
        assert row["nsd_voxel_at_2mm"] == expected.nsd_voxel[2.0]
        assert row["failure"] == (k == 3)
    assert "| p03 (failure) | all | 0.00 |" in out
    assert "Failures (Dice 0): 1 of 12: p03." in out
    # The mean Dice holds the failure as 0, the mean distance says that it is without it.
    mean = np.mean([100 * row["dsc"] for row in rows])
    (line,) = [line for line in out.splitlines() if line.startswith("| mean")]
    assert f"| {mean:.2f} ± " in line
    assert line.count("(1 undefined)") == 3
    record = strict_json(folders / "w.json")["rows"]
    assert record[3]["hd95_mm"] is None
    again = read_scores(folders / "w.json")
    assert [row["dsc"] for row in again] == [row["dsc"] for row in rows]
    assert math.isnan(again[3]["hd95_mm"])
    with (folders / "w.csv").open() as stream:
        assert list(csv.DictReader(stream))[3]["hd95_mm"] == ""


def test_two_files_of_several_labels(run, tmp_path):
    labels = np.where(tumour(1), 1, 0)
    labels[4, 13, 12:15] = 2
    predicted = np.where(tumour(2), 1, 0)
    np.savez(tmp_path / "a.npz", mask=predicted)
    np.savez(tmp_path / "b.npz", mask=labels)
    files = tmp_path / "a.npz", tmp_path / "b.npz"
    code, out, _ = run(
        "score", *files, "--labels", "1,2", "--spacing", "3,1,1", "--tolerances", "1.5",
        "--csv", tmp_path / "s.csv",
    )  # fmt: skip
    assert code == 0
    rows = read_scores(tmp_path / "s.csv")
    assert [(row["label"], row["failure"]) for row in rows] == [(1, False), (2, True)]
    assert 0 < rows[0]["nsd_at_1.5mm"] < 1
    assert "1 of 2: a (label 2)" in out
    code, _, err = run("score", *files)
    assert (code, err.count("\n")) == (2, 1)
    assert "give --spacing z,y,x" in err


def test_scoring_mistakes_are_one_line(run, folders, tmp_path):
    (folders / "better" / "p05.npz").unlink()
    small = tmp_path / "small.npz"
    np.savez(small, mask=np.ones((2, 2, 2), dtype=bool))
    (tmp_path / "none").mkdir()
    reference = folders / "ref"
    for arguments, said in (
        ((folders / "better", reference), "has no file for p05: add it"),
        ((reference, folders / "better"), "has no file for p05"),
        ((small, reference / "p00.npz"), "shapes (2, 2, 2) and (8, 26, 26) differ"),
        ((folders / "nowhere", reference), "is not there"),
        ((small, reference), "two files or two folders"),
        ((tmp_path / "none", reference), "holds no mask"),
        ((small, small, "--spacing", "1,0,1"), "numbers above 0"),
        ((small, small, "--spacing", "1"), "1 spacings for masks of 3 axes"),
        ((small, small, "--labels", "one"), "whole numbers above 0"),
        ((small, small, "--tolerances", "-1"), "numbers above 0"),
    ):
        code, out, err = run("score", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert said in err


def test_two_methods_are_compared_on_the_same_cases(run, folders):
    for name in ("worse", "better"):
        run("score", folders / name, folders / "ref", "--csv", folders / f"{name}.csv")
    groups = "case,site,t_stage\n" + "".join(
        f"p{k:02d},{'north' if k % 2 else 'south'},{'T2' if k < 6 else 'T4'}\n" for k in range(12)
    )
    (folders / "groups.csv").write_text(groups)
    code, out, err = run(
        "compare", folders / "worse.csv", folders / "better.csv", "--groups",
        folders / "groups.csv", "--margin", "0.02", "--json", folders / "c.json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = strict_json(folders / "c.json")
    dice, hd95 = found["figures"][:2]
    one, other = (
        np.array([row["dsc"] for row in read_scores(folders / f"{name}.csv")])
        for name in ("worse", "better")
    )
    assert dice["difference"] == pytest.approx((other - one).mean())
    assert dice["low"] < dice["difference"] < dice["high"]
    assert (dice["pairs"], hd95["pairs"], hd95["left_out"]) == (12, 11, 1)
    assert dice["wilcoxon_p"] == pytest.approx(2 / 2**12)  # better on all twelve
    assert dice["wilcoxon_p_holm"] >= dice["wilcoxon_p"]
    assert found["failures"] == {"first": ["p03"], "second": [], "both": []}
    assert "first: p03; second: none; both: none" in out
    assert found["non_inferiority"]["non_inferior"] is True
    assert "not inferior" in out
    assert found["groups"]["mixed_model"]["sites"] == 2
    assert "Across 2 sites (mixed model, 12 cases): +" in out
    by = {test["attribute"]: test for test in found["groups"]["subgroups"]}
    assert set(by) == {"volume", "site", "t_stage"}
    assert set(by["t_stage"]["groups"]) == {"T1+2", "T3+4"}
    again = run("compare", folders / "worse.csv", folders / "better.csv")
    assert again[1].splitlines()[2] == out.splitlines()[2]
    # The other way round, the margin is missed.
    _, back, _ = run("compare", folders / "better.csv", folders / "worse.csv", "--margin", "0.02")
    assert "non-inferiority is not shown" in back


def test_comparing_mistakes_are_one_line(run, folders):
    for name in ("worse", "better"):
        run("score", folders / name, folders / "ref", "--csv", folders / f"{name}.csv")
    one, other = folders / "worse.csv", folders / "better.csv"
    other.write_text("\n".join(other.read_text().splitlines()[:-1]))
    (folders / "text.csv").write_text("hello\n")
    (folders / "list.json").write_text("[1, 2]")
    (folders / "twice.csv").write_text(one.read_text() + one.read_text().splitlines()[-1])
    for arguments, said in (
        ((one, other), "only one method has case p11"),
        ((one, folders / "nowhere.csv"), "is not there"),
        ((folders / "list.json", one), "holds no scores"),
        ((folders / "twice.csv", one), "comes twice"),
        ((folders / "text.csv", one), "holds no scores"),
        ((one, one, "--groups", folders / "text.csv"), "no column 'case'"),
        ((one, one, "--groups", folders / "nowhere.csv"), "is not there"),
        ((one, one, "--margin", "0"), "must be above 0"),
    ):
        code, out, err = run("compare", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert said in err


def test_raters_are_compared(run, folders):
    code, out, err = run(
        "agreement", folders / "ref", folders / "better", folders / "worse", "--json",
        folders / "a.json", "--csv", folders / "a.csv",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = strict_json(folders / "a.json")
    assert len(found["rows"]) == 3 * 12
    mean = np.array(found["dsc"]["mean"])
    np.testing.assert_allclose(mean, mean.T)
    assert mean[0, 1] > mean[0, 2]
    assert found["failures"][0] == [0, 0, 1]
    assert "1 of 12 patients share nothing" in out
    icc = found["volume_icc"]["between raters"]["icc_2_1"]
    assert icc["low"] < icc["value"] < icc["high"]
    assert f"| better | {100 * mean[0, 1]:.2f} ± " in out
    same, _, _ = run(
        "agreement", folders / "ref", "--second", folders / "ref", "--json", folders / "s.json"
    )
    assert same == 0
    alone = strict_json(folders / "s.json")
    assert alone["dsc"]["mean"] == [[1.0]]
    assert alone["volume_icc"]["ref"]["icc_3_1"]["value"] == 1.0
    assert alone["voxel_kappa"] == [1.0] * 12


def test_rater_mistakes_are_one_line(run, folders):
    (folders / "better" / "p05.npz").unlink()
    ref = folders / "ref"
    for arguments, said in (
        ((ref,), "two raters, or --second"),
        ((ref, folders / "better"), "differ in case p05"),
        ((ref, ref), "given twice"),
        ((ref, folders / "worse", "--second", ref), "give one each"),
        ((ref, folders / "nowhere"), "is not a folder"),
    ):
        code, out, err = run("agreement", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert said in err


def scored(run, folders, *names):
    for name in names:
        run("score", folders / name, folders / "ref", "--csv", folders / f"{name}.csv")
    return [folders / f"{name}.csv" for name in names]


def test_the_surface_dice_that_was_asked_for_is_shown(run, folders):
    code, out, _ = run("score", folders / "better", folders / "ref", "--tolerances", "0.5,3")
    assert code == 0
    assert "| nsd at 0.5mm, % | nsd at 3mm, % |" in out.splitlines()[0]


def test_tables_from_a_spreadsheet_are_read(run, folders):
    """A spreadsheet puts a mark before the first name of a UTF-8 file."""
    one, other = scored(run, folders, "worse", "better")
    groups = folders / "groups.csv"
    lines = [f"p{k:02d},{'north' if k % 2 else 'south'}" for k in range(12)]
    groups.write_text("\n".join(["case,site", *lines]), "utf-8")
    _, plain, _ = run("compare", one, other, "--groups", groups)
    for file in (one, groups):
        file.write_text(file.read_text("utf-8"), "utf-8-sig")
    code, out, err = run("compare", one, other, "--groups", groups)
    assert (code, out, err) == (0, plain, "")
    assert "Across 2 sites" in out


def test_scores_that_would_mislead_are_refused(run, folders):
    one, other = scored(run, folders, "worse", "better")
    text = other.read_text()
    (folders / "cut.csv").write_text(text[:-60])  # a kill, or a full disk, in the last line
    header, *rows = text.splitlines()
    (folders / "percent.csv").write_text(
        "\n".join([header, *(row.replace(",0.", ",80.", 1) for row in rows)])
    )
    (folders / "names.csv").write_text("case,site\np00.npz,north\n")
    (folders / "two.csv").write_text("case,site\np00,north\np00,south\n")
    for arguments, said in (
        ((one, folders / "cut.csv"), "a line is cut off"),
        ((one, folders / "percent.csv"), "not percent"),
        ((one, other, "--groups", folders / "names.csv"), "names no case of the scores"),
        ((one, other, "--groups", folders / "two.csv"), "case p00 comes twice"),
        ((one, other, "--margin", "2"), "below 1"),
        ((one, other, "--margin", "nan"), "below 1"),
        ((one, other, "--label", "3"), "holds label 0"),
    ):
        code, out, err = run("compare", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert said in err


def test_what_a_comparison_cannot_say_is_told_and_the_rest_is_kept(run, folders):
    one, other = scored(run, folders, "worse", "better")
    groups = folders / "groups.csv"
    groups.write_text("case,site\np00,north\np01,south\n")
    code, out, err = run("compare", one, other, "--groups", groups, "--json", folders / "c.json")
    assert (code, err) == (0, "")
    assert "No mixed model across sites: 2 patients are too few" in out
    assert "does not name them: p02, p03, p04" in out
    found = strict_json(folders / "c.json")
    assert found["groups"]["mixed_model"] is None
    assert found["not_in_groups"] == [f"p{k:02d}" for k in range(2, 12)]
    # The same file twice has no spread at all.
    groups.write_text("case,site\n" + "".join(f"p{k:02d},{'ab'[k % 2]}\n" for k in range(12)))
    code, out, _ = run("compare", one, one, "--groups", groups)
    assert (code, "no spread" in out) == (0, True)


def test_methods_whose_files_have_one_name_are_told_apart(run, folders):
    for name in ("worse", "better"):
        run("score", folders / name, folders / "ref", "--csv", folders / name / "scores.csv")
    files = [folders / name / "scores.csv" for name in ("worse", "better")]
    _, out, _ = run("compare", *files)
    assert out.splitlines()[0].startswith(f"| | {files[0]} | {files[1]} | second - first (95 %")


def test_a_case_with_two_labels_counts_once(run, folders, tmp_path):
    labels = {}
    for name in ("ref", "better"):
        with np.load(folders / name / "p00.npz") as archive:
            labels[name] = archive["mask"].astype(np.uint8)
        labels[name][4:] *= 2
    for name, found in labels.items():
        for case in ("a", "b"):
            save(tmp_path / f"two-{name}", case, found)
    file = tmp_path / "two.csv"
    run("score", tmp_path / "two-better", tmp_path / "two-ref", "--labels", "1,2,1", "--csv", file)
    assert [row["label"] for row in read_scores(file)] == [1, 2, 1, 2]
    code, out, err = run("compare", file, file)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "label 1, 2: choose one by --label" in err
    code, out, _ = run("compare", file, file, "--label", "2")
    assert (code, out.splitlines()[2].split(" | ")[-2:]) == (0, ["2", "0 |"])
    code, out, _ = run(
        "agreement", tmp_path / "two-ref", tmp_path / "two-better", "--label", "2",
        "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert code == 0
    dice = strict_json(tmp_path / "a.json")["dsc"]["mean"][0][1]
    assert dice == pytest.approx(read_scores(file)[1]["dsc"])


def test_coefficients_that_are_undefined_are_said_to_be(run, tmp_path):
    box = np.ones((3, 4, 5), dtype=bool)
    for rater in ("a", "b"):
        save(tmp_path / rater, "p", box)
    code, out, _ = run("agreement", tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert "no intraclass correlation, which needs two cases" in out
    assert "in the box of all contours: - (1 undefined" in out
    save(tmp_path / "a", "q", box)
    save(tmp_path / "b", "q", box)
    _, out, _ = run("agreement", tmp_path / "a", tmp_path / "b")
    assert "ICC(2,1) - (the cases do not differ)" in out
    code, _, err = run("agreement", tmp_path / "a", tmp_path / "b" / ".." / "a")
    assert (code, "given twice" in err) == (2, True)


def test_structure_sets_of_raters_are_compared_on_the_images_they_were_drawn_on(run, tmp_path):
    for rater, shift in (("a", 0.0), ("b", 1.0), ("ref", 0.0)):
        (tmp_path / rater).mkdir()
        for case in ("p1", "p2"):
            structure_set(tmp_path / rater / f"{case}.dcm", shift=(0, shift * (case == "p2"), 0))
    (tmp_path / "mr").mkdir()
    for case in ("p1", "p2"):
        write(tmp_path / "mr" / f"{case}.nii.gz", np.zeros((6, 8, 9), np.int16))
    a, b, mr = tmp_path / "a", tmp_path / "b", tmp_path / "mr"
    code, out, err = run("agreement", a, b, "--grid", mr)
    assert (code, err) == (0, "")
    assert "| b | 83.33 ± 23.57 |" in out  # 3 rows of the square, 2 of them shared
    code, out, _ = run("score", b, tmp_path / "ref", "--grid", mr, "--csv", tmp_path / "s.csv")
    assert code == 0
    assert [row["dsc"] for row in read_scores(tmp_path / "s.csv")] == [
        1.0,
        pytest.approx(2 / 3),
    ]
    assert run("agreement", a, b)[2].strip().endswith("or one of them as NIfTI")
    (mr / "p2.nii.gz").unlink()
    assert "has no image of p2" in run("agreement", a, b, "--grid", mr)[2]
    assert "is not a folder" in run("agreement", a, b, "--grid", mr / "p1.nii.gz")[2]
