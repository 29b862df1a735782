import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import NetworkSpec, PreprocessingRecipe, TrainingSchedule
from algorithms.contracts.volume import Geometry
from evaluation.benchmarks import adaptation_study as module
from evaluation.benchmarks.adaptation_study import (
    HISTOGRAM_MATCHING,
    LABEL_FREE,
    AdaptationPreset,
    AdaptationStudy,
    Arm,
    folds_of,
    gentle,
    home_patients,
    run_adaptation,
)
from evaluation.benchmarks.hospital_images import HospitalImages, HospitalPatient, prepare_image

RECIPE = PreprocessingRecipe(in_plane_spacing_mm=2.0, patch_yx=(16, 16))


def patient(name: str, seed: int) -> HospitalPatient:
    """Four slices of noise; on the middle two there is a bright square, the target."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.3, (4, 16, 16)).astype(np.float32)
    mask = np.zeros(image.shape, dtype=bool)
    mask[1:3, 4:11, 5:12] = True
    image[mask] += 3.0
    geometry = Geometry((4, 16, 16), (4.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    return HospitalPatient(name, (prepare_image(image, mask, geometry, RECIPE),))


def hospitals(seed: int) -> tuple[HospitalImages, tuple[HospitalImages, ...]]:
    home = HospitalImages("home", tuple(patient(f"h{i}", 100 * seed + i) for i in range(5)))
    away = HospitalImages("away", tuple(patient(f"a{i}", 100 * seed + 50 + i) for i in range(4)))
    return home, (away,)


def schedule(iterations: int, rate: float) -> TrainingSchedule:
    return TrainingSchedule(
        iterations=iterations, batch_size=4, learning_rate=rate, validate_every=5
    )


def study(**changes) -> AdaptationStudy:
    preset = AdaptationPreset(
        recipe=RECIPE,
        network=NetworkSpec(base_channels=4, levels=2),
        source_training=schedule(30, 0.1),
        stage1=schedule(4, 0.01),
        stage3=schedule(2, 0.01),
        folds=2,
        reference_points=2,
    )
    return AdaptationStudy("toy", "noise", **{"preset": preset, "hospitals": hospitals} | changes)


ARMS = [Arm("random", 0.25), Arm("stdr", 0.5, stages=True), Arm("entropy", 0.5, per_patient=True)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, run_adaptation(study(), folder, ARMS, seeds=[0, 1], jobs=1)


def test_every_patient_is_tested_once_per_arm_and_seed(finished) -> None:
    _, rows = finished
    keys = [(r["arm"], r["seed"], r["patient"]) for r in rows]
    arms = {"direct", "all labels", *(arm.name for arm in ARMS)}
    assert len(keys) == len(set(keys)) == len(arms) * 2 * 4
    assert {k[0] for k in keys} == arms
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_budgets_and_who_was_asked_are_told(finished) -> None:
    _, rows = finished
    by_arm = {r["arm"]: r for r in rows}
    assert by_arm["direct"]["annotated"] == 0
    assert by_arm["all labels"]["annotated"] == 8  # two patients of four slices
    assert by_arm["all labels"]["annotated_with_target"] == 4
    assert by_arm["random, 25 %"]["annotated"] == 2
    both = by_arm["entropy per patient, 50 %"]
    assert (both["annotated"], both["annotated_patients"]) == (4, 2)


def test_the_source_model_knows_its_own_hospital(finished) -> None:
    """It learns a bright square within 30 steps: the harness trains, predicts and measures."""
    _, rows = finished
    assert np.mean([r["home_dsc"] for r in rows if r["arm"] == "direct"]) > 0.6
    assert all(r["home_dsc"] is None for r in rows if r["arm"] == "random, 25 %")
    assert all(r["hd95_mm"] is None or r["hd95_mm"] >= 0 for r in rows)


def test_nobody_is_learnt_from_and_tested() -> None:
    home, (away,) = hospitals(0)
    parts = folds_of(away.patients, 3, 0)
    assert sorted(name for part in parts for name in part) == ["a0", "a1", "a2", "a3"]
    assert {len(part) for part in parts} == {1, 2}
    assert folds_of(away.patients, 3, 1) != parts
    learnt, tested = home_patients(home, 0)
    assert len(tested) == 1
    assert {p.name for p in learnt} | {p.name for p in tested} == {p.name for p in home.patients}
    assert not {p.name for p in learnt} & {p.name for p in tested}


def test_a_preset_may_test_one_part_of_the_patients_of_every_seed(finished, tmp_path) -> None:
    _, rows = finished
    part = study(preset=replace(study().preset, tested_folds=1))
    fewer = run_adaptation(part, tmp_path, ARMS[:1], seeds=[0], jobs=1)
    first = {r["patient"] for r in rows if (r["seed"], r["fold"]) == (0, 0)}
    assert {r["patient"] for r in fewer} == first
    assert {r["fold"] for r in fewer} == {0}


def test_methods_without_labels_learn_gently() -> None:
    whole = schedule(7, 0.02)
    assert (gentle(whole).iterations, gentle(whole).learning_rate) == (4, pytest.approx(0.0001))
    assert gentle(whole).batch_size == whole.batch_size


def test_share_zero_is_direct_use_and_one_is_the_fine_tuned_model(tmp_path) -> None:
    none, whole = Arm("random", 0.5, share=0.0), Arm("random", 0.5, share=1.0)
    rows = run_adaptation(study(), tmp_path, [none, whole], seeds=[0], jobs=1)
    score = {
        arm: [r["dsc"] for r in rows if r["arm"] == arm]
        for arm in ("direct", none.name, whole.name)
    }
    assert score[none.name] == score["direct"]
    assert score[whole.name] != score["direct"]
    assert none.name == "random, share 0, 50 %"


def test_a_finished_unit_is_read_and_only_a_new_arm_is_run(finished, tmp_path, monkeypatch) -> None:
    folder, rows = finished
    shutil.copytree(folder, tmp_path / "again")
    ran: list[str] = []
    run = module.Unit.run
    monkeypatch.setattr(
        module.Unit, "run", lambda self, arm: ran.append(arm.name) or run(self, arm)
    )
    again = run_adaptation(study(), tmp_path / "again", ARMS, seeds=[0, 1], jobs=1)
    assert (again, ran) == (rows, [])
    run_adaptation(study(), tmp_path / "again", [Arm("margin", 0.25)], seeds=[0], jobs=1)
    assert ran == ["margin, 25 %"] * 2


def test_a_killed_run_goes_on_to_the_same_figures(finished, tmp_path, monkeypatch) -> None:
    _, rows = finished
    run = module.Unit.run

    def pull_the_plug(self, arm):
        if arm.strategy == "stdr" and self.fold == 1:
            raise KeyboardInterrupt
        return run(self, arm)

    monkeypatch.setattr(module.Unit, "run", pull_the_plug)
    with pytest.raises(KeyboardInterrupt):
        run_adaptation(study(), tmp_path, ARMS, seeds=[0, 1], jobs=1)
    monkeypatch.undo()
    assert run_adaptation(study(), tmp_path, ARMS, seeds=[0, 1], jobs=1) == rows


def test_results_of_other_settings_are_refused(finished) -> None:
    folder, _ = finished
    with pytest.raises(DataError, match="other settings"):
        run_adaptation(study(revision=99), folder, ARMS, seeds=[0], jobs=1)


def test_fewer_patients_than_folds_are_refused_before_any_training(tmp_path) -> None:
    def few(seed: int):
        home, (away,) = hospitals(seed)
        return home, (HospitalImages("away", away.patients[:1]),)

    with pytest.raises(DataError, match="'away' has 1 patients: at least 2"):
        run_adaptation(study(hospitals=few), tmp_path, ARMS, seeds=[0], jobs=1)
    assert not list(tmp_path.iterdir())


def test_settings_are_json_and_say_everything_but_where_the_images_lie() -> None:
    one, other = (study(hospitals=partial(hospitals_of, p)).settings for p in ("here", "there"))
    assert json.loads(json.dumps(one)) == one == other
    assert one["stage1"]["iterations"] == 4


def hospitals_of(_place: str, seed: int):
    return hospitals(seed)


def test_methods_without_labels_ask_nobody_and_change_something(tmp_path) -> None:
    arms = [Arm(without_labels=method) for method in (HISTOGRAM_MATCHING, *LABEL_FREE)]
    quick = replace(study().preset, stage1=schedule(8, 0.05))
    rows = run_adaptation(study(preset=quick), tmp_path, arms, seeds=[0], jobs=1)
    scores = {arm.name: [r["dsc"] for r in rows if r["arm"] == arm.name] for arm in arms}
    direct = [r["dsc"] for r in rows if r["arm"] == "direct"]
    assert all(len(score) == len(direct) for score in scores.values())
    assert sum(score != direct for score in scores.values()) >= 3
    assert {r["annotated"] for r in rows if r["arm"] in scores} == {0}


def test_global_random_state_is_left_alone(tmp_path) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    run_adaptation(study(), tmp_path, [Arm("random", 0.25)], seeds=[0], jobs=1)
    assert torch.equal(torch.random.get_rng_state(), before)
