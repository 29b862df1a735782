from dataclasses import replace

import numpy as np
import pytest

from evaluation.benchmarks.adaptation_study import run_adaptation
from evaluation.benchmarks.averaging_study import (
    ADAPTATION,
    ADAPTED,
    AVERAGED,
    DIRECT,
    NOISE_MULTIPLIERS,
    averaging_table,
    run_averaging,
)
from evaluation.benchmarks.hospital_images import HospitalImages
from tests.evaluation.benchmarks.test_adaptation_study import hospitals, patient, study


def two_targets(seed: int) -> tuple[HospitalImages, tuple[HospitalImages, ...]]:
    home, (away,) = hospitals(seed)
    far = HospitalImages("far", tuple(patient(f"f{i}", 100 * seed + 80 + i) for i in range(4)))
    return home, (away, far)


def test_every_model_is_tested_on_the_same_patients(tmp_path) -> None:
    two = replace(study(), hospitals=two_targets)
    rows = run_averaging(two, tmp_path, seeds=[0])
    models = list(dict.fromkeys(row["model"] for row in rows))
    assert models[:3] == [DIRECT, ADAPTED, AVERAGED]
    assert len(rows) == 2 * len(models)
    assert {row["patients"] for row in rows} == {2}
    by_model = {model: [row["dsc"] for row in rows if row["model"] == model] for model in models}
    assert all(0 <= one <= 1 for figures in by_model.values() for one in figures)
    assert len(models) == 3 + len(NOISE_MULTIPLIERS)
    other = run_adaptation(two, tmp_path, [ADAPTATION], seeds=[0], jobs=1)
    first = [row for row in other if row["fold"] == 0]
    for model, arm in ((DIRECT, DIRECT), (ADAPTED, ADAPTATION.name)):
        expected = [
            np.mean([r["dsc"] for r in first if (r["arm"], r["hospital"]) == (arm, h)])
            for h in ("away", "far")
        ]
        assert by_model[model] == pytest.approx(expected)
    table = averaging_table(rows)
    assert len(table.splitlines()) == 2 + len(models)
    assert table.splitlines()[0] == "| model | away | far | all |"


def test_a_table_gives_the_spread_over_seeds() -> None:
    rows = [
        {"seed": seed, "hospital": "b", "model": "direct", "dsc": dsc, "patients": 2}
        for seed, dsc in enumerate((0.5, 0.7))
    ]
    assert averaging_table(rows).splitlines()[-1] == "| direct | 60.0 | 60.0 ± 14.1 |"
    assert averaging_table(rows[:1]).splitlines()[-1] == "| direct | 50.0 | 50.0 |"
