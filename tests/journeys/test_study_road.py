"""The whole road of a study, by the commands that people use, on three small phantom hospitals.

Each hospital and the coordinator is a process with a home of its own. The images that go in carry
names, ids, dates and UIDs; afterwards everything the coordinator holds or received is searched for
them, and for pixels.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest

from algorithms.contracts.model_package import (
    AdaptationPlan,
    NetworkSpec,
    PreprocessingRecipe,
    StudyPlan,
    TrainingSchedule,
)
from evaluation.benchmarks.phantom_hospitals import HOSPITALS, write_patient
from evaluation.benchmarks.studies import Hospital, Study
from evaluation.benchmarks.study_road import Road, run_study
from evaluation.benchmarks.study_table import site_rows

# In one worker, so that the tests share the finished studies.
pytestmark = [pytest.mark.journey, pytest.mark.xdist_group("study road")]

PROFILES = [
    replace(profile, patients=8, matrix=64, pixel_mm=3.0, slices=12, slice_mm=9.0)
    for profile in HOSPITALS[:3]
]


def _image_writers(hospital: str, folder: Path, seed: int) -> list[Callable[[], None]]:
    (profile,) = (profile for profile in PROFILES if profile.name == hospital)
    return [
        partial(write_patient, profile, index, folder / hospital, seed)
        for index in range(profile.patients)
    ]


def _schedule(iterations: int) -> TrainingSchedule:
    return TrainingSchedule(
        iterations=iterations, batch_size=16, learning_rate=0.05, validate_every=10
    )


def tiny_study() -> Study:
    """Three hospitals with eight coarse patients each, and a network that trains in seconds.

    Stage 1 is long enough to be killed in.
    """
    hospitals = [Hospital(profile.name, (profile.roi_name,)) for profile in PROFILES]
    return Study(
        name="tiny",
        source=hospitals[0],
        targets=tuple(hospitals[1:]),
        plan=StudyPlan(
            preprocessing=PreprocessingRecipe(in_plane_spacing_mm=3.0, patch_yx=(64, 64)),
            network=NetworkSpec(base_channels=8, levels=3),
            source_training=_schedule(300),
            adaptation=AdaptationPlan(
                stage1=_schedule(60),
                stage3=_schedule(10),
                target_trained=_schedule(10),
            ),
            reference_points=4,
        ),
        image_writers=_image_writers,
        inputs_digest="tiny",
        source_test_share=0.3,
        test_share=0.3,
        validation_share=0.1,
        minimum_group_size=2,
    )


def _planted(inputs: Path) -> set[str]:
    """Collect everything in the input that must never reach the coordinator."""
    found = set()
    for file in inputs.rglob("*.dcm"):
        dataset = pydicom.dcmread(file, stop_before_pixels=True)
        names = [part for part in str(dataset.PatientName).replace("^", " ").split() if part]
        found.update(names)
        for keyword in (
            "PatientID",
            "SOPInstanceUID",
            "SeriesInstanceUID",
            "StudyInstanceUID",
            "FrameOfReferenceUID",
            "AccessionNumber",
            "InstitutionName",
        ):
            if dataset.get(keyword):
                found.add(str(dataset.get(keyword)))
    return found


def _pixel_rows(inputs: Path) -> Iterator[bytes]:
    """Yield rows of pixels through the head, as the scanner wrote them and as float32."""
    for file in sorted(inputs.rglob("MR*.dcm"))[::5]:
        pixels = pydicom.dcmread(file).pixel_array
        row = pixels[pixels.shape[0] // 2]
        if len(np.unique(row)) > 16:
            middle = row[len(row) // 4 : len(row) // 4 + 16]
            yield middle.astype("<u2").tobytes()
            yield middle.astype("<f4").tobytes()


def _assert_nothing_private(road: Road) -> None:
    inputs = road.folder / "input"
    planted = _planted(inputs)
    pixels = set(_pixel_rows(inputs))
    assert len(planted) > 100
    assert len(pixels) > 10
    files = [f for f in [*road.coordinator.rglob("*"), *road.report.rglob("*")] if f.is_file()]
    received = [f for f in files if f.suffix == ".bin"]
    assert received, "the coordinator kept no copy of what it received: nothing was searched"
    for file in files:
        data = file.read_bytes()
        leaked = [
            text for text in planted if text.encode() in data or text.encode("utf-16-le") in data
        ]
        assert leaked == [], file.name
        assert not any(row in data for row in pixels), file.name
        assert not re.search(rb"(case|patient)-[0-9a-f]{12}", data), file.name


def _finished_road(road: Road) -> Road:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDGTV_COORDINATOR_RECORD_RECEIVED", "true")
        run_study(road)
    return road


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """Finish a study that nothing disturbs."""
    folder = tmp_path_factory.mktemp("embedded") / "study"
    return _finished_road(Road(tiny_study(), folder, seed=0, transport="embedded"))


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """Finish a study that was killed, with everything of it, while a site was in stage 1."""
    folder = tmp_path_factory.mktemp("flower") / "study"
    road = Road(tiny_study(), folder, seed=0, transport="flower")
    driver = _start_driver(road)
    try:
        rounds = road.folder / "sites" / "hospital-b" / "rounds"
        checkpoint = _wait_for_checkpoint(rounds, driver)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert checkpoint.is_file()
    return _finished_road(road)


@pytest.mark.parametrize("transport", ["embedded", "flower"])
def test_whole_study_ends_in_a_report_and_nothing_private_leaves(
    transport: str, request: pytest.FixtureRequest
) -> None:
    road: Road = request.getfixturevalue(transport)
    done = _times(road)

    report = run_study(road)  # finished by the fixture: it is shown again, nothing is done again

    assert _times(road) == done
    rows = site_rows(report)
    assert [row["site"] for row in rows] == ["hospital-b", "hospital-c"]
    for row in rows:
        assert row["direct_patients"] == row["adapted_patients"] == 3
        assert 0.0 <= row["adapted_dsc"] <= 1.0
        assert row["annotators_simulated"] is True
        assert row["selected_slices"] == pytest.approx(0.2 * row["training_slices"], abs=1)
    page = (road.report / "study.html").read_text("utf-8")
    assert "Research use only, not a medical device" in page
    assert "simulated" in page.casefold()
    _assert_nothing_private(road)


def test_a_site_killed_in_stage_1_resumes_and_ends_in_the_same_weights(
    embedded: Road, flower: Road
) -> None:
    for site in ("hospital-b", "hospital-c"):
        for name in ("stage3.safetensors", "adapted.safetensors"):
            first, second = (
                next((road.folder / "sites" / site / "rounds").rglob(name))
                for road in (embedded, flower)
            )
            assert first.read_bytes() == second.read_bytes(), (site, name)
    assert _figures(embedded) == _figures(flower)


def _start_driver(road: Road) -> "subprocess.Popen[bytes]":
    """Run the study in a process group of its own, so that all of it can be killed at once."""
    code = (
        "import sys; from pathlib import Path;"
        "from tests.journeys.test_study_road import tiny_study;"
        "from evaluation.benchmarks.study_road import Road, run_study;"
        "run_study(Road(tiny_study(), Path(sys.argv[1]), 0, sys.argv[2]))"
    )
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", code, str(road.folder), road.transport],
        cwd=root,
        env=os.environ | {"FEDGTV_COORDINATOR_RECORD_RECEIVED": "true"},
        start_new_session=True,
    )


def _wait_for_checkpoint(rounds: Path, driver: "subprocess.Popen[bytes]") -> Path:
    end = time.monotonic() + 600
    while time.monotonic() < end and driver.poll() is None:
        found = list(rounds.rglob("stage1.checkpoint.safetensors"))
        if found:
            return found[0]
        time.sleep(0.02)
    raise AssertionError("no checkpoint of stage 1 appeared")


def _times(road: Road) -> dict[str, int]:
    """When each step ended, the report among them, in ns."""
    marks = [*(road.folder / "steps").iterdir(), road.report / "study.json"]
    return {mark.name: mark.stat().st_mtime_ns for mark in marks}


def _figures(road: Road) -> list[object]:
    report = json.loads((road.report / "study.json").read_bytes())
    return [site["report"]["arms"] for site in report["packages"][0]["sites"]]
