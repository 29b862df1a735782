import numpy as np
import pytest
from scipy import ndimage

from algorithms.contracts.errors import DataError
from evaluation.benchmarks import interactive_networks as networks
from evaluation.benchmarks import interactive_study as study
from evaluation.benchmarks.interactive_tables import click_table, encoding_table
from evaluation.benchmarks.robot_user import METHODS
from tests.evaluation.benchmarks.test_interactive_networks import (
    HELD_BACK,
    PATIENTS,
    ball,
    make_tiny,
    write_case,
    write_packs,
)

# -- which targets ----------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
def test_seen_sets_give_held_back_patients_and_unseen_the_others(tmp_path, dimensions) -> None:
    for name in (*study.SEEN, *study.UNSEEN):
        write_packs(tmp_path / name, name)  # two of them lie in folders of one name
        cases = study.study_cases(tmp_path / name, name, dimensions, 99)
        patients = [case.name.split("-z")[0] for case in cases]
        expected = HELD_BACK if name in study.SEEN else set(PATIENTS) - HELD_BACK
        assert sorted(patients) == sorted(expected)
        for case in cases:
            assert case.image.ndim == case.mask.ndim == dimensions
            assert case.image.shape == case.mask.shape


def test_no_case_of_a_seen_set_was_learned_from(tmp_path) -> None:
    write_packs(tmp_path, "sts")
    learned = networks.training_targets(tmp_path, ["sts"], 3)
    for case in study.study_cases(tmp_path, "sts", 3, 99):
        assert all(case.mask.sum() != target.mask.sum() for target in learned)


def test_one_target_per_patient(tmp_path) -> None:
    for patient in ("a", "b"):
        for frame in (1, 7):
            write_case(tmp_path, "acdc-lv", f"{patient}_frame{frame:02}", ball(), 3)
    for dimensions in (2, 3):
        names = [c.name for c in study.study_cases(tmp_path, "acdc-lv", dimensions, 99)]
        assert sorted(name.split("_")[0] for name in names) == ["a", "b"]


def test_the_choice_is_the_same_each_time_and_grows(tmp_path) -> None:
    write_packs(tmp_path, "hippocampus", patients=tuple(f"p{i:02}" for i in range(12)))
    eight = study.study_cases(tmp_path, "hippocampus", 2, 99)
    again = study.study_cases(tmp_path, "hippocampus", 2, 99)
    three = study.study_cases(tmp_path, "hippocampus", 2, 3)
    assert len(eight) == 8
    assert [c.name for c in eight] == [c.name for c in again]
    assert [c.name for c in three] == [c.name for c in eight][:3]
    assert [c.name for c in eight] != sorted(c.name for c in eight)
    for one, other in zip(eight, again, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)


def test_slices_have_a_piece_that_is_large_enough(tmp_path) -> None:
    mask = np.zeros((8, 40, 40), dtype=bool)
    mask[0, 5:12, 5:12] = True  # 49 pixels
    for z in (2, 3, 5):
        mask[z, 5:15, 5 : 10 + z] = True
        mask[z, 30:34, 30:34] = True  # a second piece
    write_case(tmp_path, "hippocampus", "p1", mask)
    (case,) = study.study_cases(tmp_path, "hippocampus", 2, 99)
    assert case.name == "p1-z3"
    assert case.mask.sum() == 10 * 8 >= networks.SMALLEST_TARGET_PIXELS
    assert ndimage.label(case.mask)[1] == 1
    assert case.image[case.mask].mean() > 80


def test_patients_without_a_large_slice_count_for_nothing(tmp_path) -> None:
    for patient in ("p1", "p2"):
        write_case(tmp_path, "hippocampus", patient, ball(radius=2.0))
    write_case(tmp_path, "hippocampus", "p3", ball())
    for patient in ("p4", "p5"):
        write_case(tmp_path, "hippocampus", patient, ball())
    found = study.study_cases(tmp_path, "hippocampus", 2, 2)
    assert sorted(c.name.split("-")[0] for c in found) == ["p4", "p5"]
    assert len(study.study_cases(tmp_path, "hippocampus", 3, 99)) == 4


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("hippocampus", {"spacing_zyx": np.array([3.0, 1.0, 0.5])}, (3.0, 1.0, 0.5)),
        ("hippocampus", {}, None),
        ("la", {}, (0.625, 0.625, 0.625)),
    ],
)
def test_spacing_is_passed_on(tmp_path, name, more, expected) -> None:
    for patient in ("p1", "p2", "p3"):
        write_case(tmp_path, name, patient, ball(), **more)
    assert study.study_cases(tmp_path, name, 3, 1)[0].spacing_mm == expected
    flat = study.study_cases(tmp_path, name, 2, 1)[0].spacing_mm
    assert flat == (None if expected is None else expected[1:])


def test_single_slices_are_no_3d_targets(tmp_path) -> None:
    write_packs(tmp_path, "scd")
    assert len(study.study_cases(tmp_path, "scd", 2, 99)) == 4
    assert study.study_cases(tmp_path, "scd", 3, 99) == []


def test_missing_and_unknown_sets_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"la: no .npz files"):
        study.study_cases(tmp_path, "la", 2, 1)
    with pytest.raises(DataError, match="'liver' is unknown"):
        study.study_cases(tmp_path, "liver", 2, 1)


# -- the study --------------------------------------------------------------------------------


def test_a_study_and_its_second_run(tmp_path, monkeypatch) -> None:
    make_tiny(monkeypatch)
    packs, output = tmp_path / "packs", tmp_path / "out"
    write_packs(packs, "sts", "la", "hippocampus")
    size = study.StudySize(cases=1, clicks=2, iterations={2: 1, 3: 1})
    lines: list[str] = []
    ask = {"sets": ("sts", "la", "hippocampus"), "dimensions": (2,), "seeds": 2, "size": size}
    rows = study.run_study(packs, output, **ask, log=lines.append)
    assert sorted(f.name for f in output.iterdir()) == sorted(
        f"2d-{encoding}-seed{seed}-cpu-1.safetensors"
        for encoding in ("egd", "euclidean", "gaussian", "geodesic", "box")
        for seed in (0, 1)
    )
    # Comparators start from two kinds of networks, the other networks make a first contour only.
    # The walker, which no network changes, plays for the first seed only.
    assert len(rows) == 3 * ((1 + 2) * len(METHODS) - 1 + 4 * 2)
    assert len({(r["network"], r["seed"], r["method"], r["set"]) for r in rows}) == len(rows)
    for row in rows:
        corrected = row["network"] in ("egd", "shipped")
        assert 1 <= len(row["dice"]) <= (3 if corrected else 1)
        assert len(row["seconds"]) == len(row["dice"])
        assert row["method"] == "if-gc" or corrected
        assert all(0 <= value <= 1 for value in row["dice"])
        assert all(value < study.ENOUGH_DSC for value in row["dice"][:-1])
        assert row["seen"] == (row["set"] != "hippocampus")
        curve = study.curve_of(row)
        assert curve.dice == tuple(row["dice"])
        assert curve.first_points == row["first_points"]
    assert any("hippocampus: 1 targets done" in line for line in lines)

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(networks, "train_resumably", never)
    again = study.run_study(packs, output, **ask, log=lines.append)
    for one, other in zip(rows, again, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    for table in (encoding_table(rows), click_table(rows, "egd", limit=2)):
        assert_even(table)


def test_sets_are_looked_for_before_anything_is_trained(tmp_path, monkeypatch) -> None:
    make_tiny(monkeypatch)
    write_packs(tmp_path, "sts", "la")
    with pytest.raises(DataError, match="hippocampus"):
        study.run_study(tmp_path, tmp_path / "out", sets=("sts", "hippocampus"), log=lambda _: None)
    assert not (tmp_path / "out").exists()


# -- tables -----------------------------------------------------------------------------------


def row(name: str, case: str, dice: list[float], **more) -> dict:
    standard = {
        "dimensions": 2,
        "set": name,
        "seen": name == "sts",
        "case": case,
        "network": "egd",
        "method": "if-gc",
        "seed": 0,
        "first_points": 4,
        "dice": dice,
        "seconds": [9.0] * len(dice),
    }
    return standard | more


def cells(table: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]


def assert_even(table: str) -> None:
    lines = table.splitlines()
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines)
    assert len({line.count("|") for line in lines}) == 1
    assert set(cells(table)[1]) == {"---"}


def test_encodings_by_set_and_seed() -> None:
    rows = [
        row("sts", "a", [0.8, 1.0]),
        row("sts", "b", [0.6]),
        row("la", "c", [0.5]),
        row("sts", "a", [0.9], seed=1),
        row("sts", "b", [0.7], seed=1),
        row("la", "c", [0.7], seed=1),
        row("sts", "a", [0.4], network="box"),
        row("sts", "b", [0.6], network="box"),
        row("la", "c", [0.9], network="box"),
        row("sts", "a", [0.0], network="shipped"),
        row("sts", "a", [0.0], method="graph-cut"),
        row("la", "c", [0.25], dimensions=3),
    ]
    table = encoding_table([r for r in rows if r["dimensions"] == 2])
    assert_even(table)
    assert cells(table) == [
        ["set", "targets", "egd", "box"],
        ["---"] * 4,
        ["2-D sts (seen)", "2", "75.0 ± 7.1", "50.0"],
        ["2-D la (unseen)", "1", "60.0 ± 14.1", "90.0"],
        # Sets count alike, however many targets they have.
        ["**2-D, mean of sets**", "", "67.5 ± 10.6", "70.0"],
    ]
    both = encoding_table([r for r in rows if r["network"] != "box"])
    assert_even(both)
    assert cells(both)[5:] == [
        ["3-D la (unseen)", "1", "25.0"],
        ["**3-D, mean of sets**", "", "25.0"],
    ]


CURVES = [
    row("la", "a", [0.5, 0.7, 0.86, 0.92], seconds=[9.0, 1.0, 2.0, 3.0]),
    row("la", "b", [0.8, 0.84], seconds=[9.0, 4.0]),  # stopped early
]


def test_clicks_of_a_method() -> None:
    rows = [
        *CURVES,
        row("sts", "c", [0.96]),
        row("la", "a", [0.1, 0.3], method="graph-cut", seconds=[9.0, 7.0]),
        row("la", "a", [0.0], network="shipped"),
    ]
    table = click_table(rows, "egd", limit=10)
    assert_even(table)
    head, _, *body = cells(table)
    assert head == [
        "set",
        "method",
        "first contour",
        "after 1",
        "after 3",
        "after 5",
        "after 10",
        "least step of the mean",
        "clicks to 85 %",
        "clicks to 90 %",
        "seconds per click",
    ]
    ours = ["65.0", "77.0", "88.0", "88.0", "88.0", "+0.00", "6.00", "6.50", "2.500"]
    theirs = ["10.0", "30.0", "30.0", "30.0", "30.0", "+0.00", "10.00", "10.00", "7.000"]
    assert body == [
        ["2-D la", "if-gc", *ours],
        ["2-D la", "graph-cut", *theirs],
        ["2-D sts", "if-gc", *["96.0"] * 5, "+0.00", "0.00", "0.00", "-"],
        ["**2-D, all unseen**", "if-gc", *ours],
        ["**2-D, all unseen**", "graph-cut", *theirs],
    ]


def test_clicks_are_capped() -> None:
    table = cells(click_table(CURVES, "egd", limit=2))
    assert table[0][2:5] == ["first contour", "after 1", "least step of the mean"]
    (line,) = [c for c in table[2:] if c[0] == "2-D la"]
    assert line[2:] == ["65.0", "77.0", "+8.00", "2.00", "2.00", "2.500"]


def test_without_clicks_first_contours_are_shown() -> None:
    table = cells(click_table(CURVES, "egd", limit=0))
    assert table[0] == ["set", "method", "first contour"]
    assert table[2] == ["2-D la", "if-gc", "65.0"]


def test_the_least_step_is_of_the_mean_and_may_fall() -> None:
    rows = [row("la", "a", [0.5, 0.6, 0.9]), row("la", "b", [0.5, 0.6, 0.1])]
    (line,) = [c for c in cells(click_table(rows, "egd", limit=2))[2:] if c[0] == "2-D la"]
    assert line[4] == "-10.00"


def test_all_unseen_is_over_targets_of_each_dimension() -> None:
    rows = [
        row("la", "a", [0.5]),
        row("la", "b", [0.5]),
        row("hippocampus", "c", [0.8]),
        row("la", "a", [0.3], dimensions=3),
    ]
    body = cells(click_table(rows, "egd", limit=3))[2:]
    assert [line[:3] for line in body] == [
        ["2-D la", "if-gc", "50.0"],
        ["2-D hippocampus", "if-gc", "80.0"],
        ["**2-D, all unseen**", "if-gc", "60.0"],
        ["3-D la", "if-gc", "30.0"],
        ["**3-D, all unseen**", "if-gc", "30.0"],
    ]


def test_without_unseen_sets_there_is_no_such_line() -> None:
    table = click_table([row("sts", "a", [0.5])], "egd", limit=3)
    assert_even(table)
    assert [line[0] for line in cells(table)[2:]] == ["2-D sts"]
