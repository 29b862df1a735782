import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from algorithms.contracts.errors import DataError
from coordinator.cli import main as coordinator_main
from evaluation.benchmarks import study_road
from evaluation.benchmarks.studies import Hospital, Study, phantom_study, sts_study
from evaluation.benchmarks.study_road import Road
from site_agent.config import open_home

KEY = "ab" * 32


@pytest.fixture
def road(tmp_path: Path) -> Road:
    return Road(phantom_study("cpu"), tmp_path / "road", seed=3, transport="embedded")


# -- whose folder it is -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "other"}, "study"),
        ({"source": Hospital("hospital-z", ("GTV",))}, "hospitals"),
        ({"targets": (Hospital("hospital-b", ("another name",)),)}, "hospitals"),
        ({"inputs_digest": "other"}, "inputs"),
        ({"source_test_share": 0.4}, "shares"),
        ({"test_share": 0.4}, "shares"),
        ({"validation_share": 0.1}, "shares"),
        ({"minimum_group_size": 3}, "minimum group size"),
        ({"plan": phantom_study("full").plan}, "plan"),
    ],
)
def test_a_folder_of_another_study_is_not_continued(
    road: Road, change: dict[str, object], named: str
) -> None:
    study_road._claim(road)
    study_road._claim(road)
    other: Study = replace(road.study, **change)
    with pytest.raises(DataError, match=f"begun with other {named}: remove it"):
        study_road._claim(replace(road, study=other))


@pytest.mark.parametrize(
    ("change", "named"), [({"seed": 4}, "seed"), ({"transport": "flower"}, "transport")]
)
def test_a_folder_of_another_run_is_not_continued(
    road: Road, change: dict[str, object], named: str
) -> None:
    study_road._claim(road)
    with pytest.raises(DataError, match=f"begun with other {named}: remove it"):
        study_road._claim(replace(road, **change))


def test_a_folder_of_another_version_is_not_continued(road: Road) -> None:
    study_road._claim(road)
    mark = road.folder / "study.json"
    mark.write_text(json.dumps(json.loads(mark.read_bytes()) | {"version of fedgtv": "0.0.1"}))
    with pytest.raises(DataError, match="other version of fedgtv"):
        study_road._claim(road)


def test_a_changed_pack_is_another_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cases\.csv: no such file"):
        sts_study(tmp_path, "cpu")
    (tmp_path / "cases.csv").write_text("case,site\n")
    (tmp_path / "one.npz").write_bytes(b"1")
    digests = [sts_study(tmp_path, "cpu").inputs_digest]
    assert sts_study(tmp_path, "full").inputs_digest == digests[0]
    (tmp_path / "one.npz").write_bytes(b"12")
    digests.append(sts_study(tmp_path, "cpu").inputs_digest)
    (tmp_path / "two.npz").write_bytes(b"1")
    digests.append(sts_study(tmp_path, "cpu").inputs_digest)
    (tmp_path / "cases.csv").write_text("case,site,more\n")
    digests.append(sts_study(tmp_path, "cpu").inputs_digest)
    assert len(set(digests)) == 4


# -- what a kill may leave behind -------------------------------------------------------------


def test_a_coordinator_that_was_set_up_before_the_kill_is_kept(road: Road) -> None:
    study_road._init_coordinator(road)
    key = (road.coordinator / "secrets" / "signing.key").read_bytes()
    study_road._init_coordinator(road)
    assert (road.coordinator / "secrets" / "signing.key").read_bytes() == key


def test_a_coordinator_with_half_a_home_is_finished(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_road._init_coordinator(road)
    key = (road.coordinator / "secrets" / "signing.key").read_bytes()
    whole = (road.coordinator / "coordinator.toml").read_bytes()
    # Killed between the key and the configuration.
    draft = road.coordinator / ".draft"
    draft.mkdir()
    (road.coordinator / "coordinator.toml").rename(draft / "coordinator.toml")
    study_road._init_coordinator(road)
    assert (road.coordinator / "secrets" / "signing.key").read_bytes() == key
    assert (road.coordinator / "coordinator.toml").read_bytes() == whole
    assert not draft.exists()
    # A finished home is refused to people: a new key would orphan every site.
    arguments = ["--study", "x", "--source-site", "a", "--target-site", "b"]
    home = str(road.coordinator)
    monkeypatch.setattr(sys, "argv", ["fedgtv-coordinator", "init", "--home", home, *arguments])
    with pytest.raises(SystemExit, match="2"):
        coordinator_main()


def test_a_site_without_the_drivers_settings_gets_them(road: Road) -> None:
    hospital = road.study.targets[0]
    study_road._init_site(road, hospital, KEY)
    file = road.home(hospital) / "site.toml"
    whole = file.read_text("utf-8")
    assert tomllib.loads(whole)["seed"] == 3
    file.write_text(whole[: whole.index("roi_names")], "utf-8")  # killed after init
    study_road._init_site(road, hospital, KEY)
    assert file.read_text("utf-8") == whole
    config = open_home(road.home(hospital)).config
    assert config.roi_names == hospital.roi_names
    assert config.auto_approve
    assert config.threads == 1


# -- hospitals side by side -------------------------------------------------------------------


def test_images_come_from_another_process_with_the_same_bytes(road: Road, tmp_path: Path) -> None:
    hospital, writers = road.study.targets[0], road.study.image_writers
    writers(hospital.name, tmp_path / "here", road.seed)[0]()
    one_patient = replace(road.study, image_writers=lambda *where: writers(*where)[:1])
    study_road._write_images(replace(road, study=one_patient), hospital)
    here, there = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.dcm")}
        for folder in (tmp_path / "here", road.folder / "input")
    )
    assert len(here) > 20
    assert here == there


def test_a_writer_that_fails_is_told_as_it_failed(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case,vendor_site,model\nSTS_103,siemens,Avanto\n")
    road = Road(sts_study(tmp_path, "cpu"), tmp_path / "road", 0, "embedded")
    siemens = road.study.targets[1]
    with pytest.raises(DataError, match=r"STS_103\.npz: missing in the pack"):
        study_road._write_images(road, siemens)


def test_a_failing_hospital_is_shown_at_once_and_the_others_finish(
    road: Road, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = road.study.targets
    shown_before_the_last = []

    def work(_: Road, hospital: Hospital) -> None:
        if hospital == first:
            raise DataError("disk is full: make room")
        if hospital == third:
            shown_before_the_last.append(capsys.readouterr().err)

    steps = [[("work", work)]] * 3
    with pytest.raises(DataError, match="disk is full"):
        study_road._each(road, (first, second, third), steps, at_once=1)
    assert f"{first.name}: disk is full: make room" in shown_before_the_last[0]
    marks = {mark.name for mark in (road.folder / "steps").iterdir()}
    assert marks == {f"{hospital.name}:-work" for hospital in (second, third)}


# -- a killed driver --------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_commands_end_with_their_driver(tmp_path: Path) -> None:
    work = (
        "import os, pathlib, sys, time;"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(300)"
    )
    drive = (
        "import sys; from pathlib import Path;"
        "from evaluation.benchmarks.studies import phantom_study;"
        "from evaluation.benchmarks.study_road import Road, _each, _run;"
        "road = Road(phantom_study('cpu'), Path(sys.argv[1]) / 'road', 0, 'embedded');"
        "program = Path(sys.executable).name;"
        "command = [program, '-c', sys.argv[2], str(Path(sys.argv[1]) / 'pid')];"
        "steps = [('work', lambda *_: _run(road, 'work', command))];"
        "_each(road, road.study.targets[:1], [steps], at_once=1)"
    )
    driver = subprocess.Popen([sys.executable, "-c", drive, str(tmp_path), work])
    worker = int(_wait_for_text(tmp_path / "pid"))
    _assert_ends_with(driver, worker)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_writing_images_ends_with_its_driver(tmp_path: Path) -> None:
    drive = (
        "import sys; from dataclasses import replace; from pathlib import Path;"
        "from evaluation.benchmarks.studies import phantom_study;"
        "from evaluation.benchmarks.study_road import Road, _write_images;"
        "from tests.evaluation.benchmarks.test_study_road import slow_writers;"
        "study = replace(phantom_study('cpu'), image_writers=slow_writers);"
        "_write_images(Road(study, Path(sys.argv[1]), 0, 'embedded'), study.source)"
    )
    root = Path(__file__).resolve().parents[3]
    driver = subprocess.Popen([sys.executable, "-c", drive, str(tmp_path)], cwd=root)
    worker = int(_wait_for_text(tmp_path / "input" / "pid"))
    _assert_ends_with(driver, worker)


def slow_writers(_hospital: str, folder: Path, _seed: int) -> list[partial[None]]:
    """One patient who takes five minutes."""
    return [partial(_write_slowly, folder)]


def _write_slowly(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(300)


def _assert_ends_with(driver: "subprocess.Popen[bytes]", worker: int) -> None:
    assert _alive(worker)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    end = time.monotonic() + 30
    while _alive(worker) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _alive(worker)


def _wait_for_text(file: Path) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if file.is_file() and file.read_text():
            return file.read_text()
        time.sleep(0.02)
    raise AssertionError(f"no {file.name} appeared")


def _alive(process_id: int) -> bool:
    """Tell whether a process runs; one that ended and was not asked for yet does not."""
    try:
        os.kill(process_id, 0)
        return ") Z " not in Path(f"/proc/{process_id}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
