import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState
from algorithms.contracts.model_package import MANIFEST_FILE
from site_agent.case_store import CaseStore
from site_agent.config import open_home
from site_agent.database import utc_now
from site_agent.plan_store import PlanRefused, approve_plan, reject_plan
from site_agent.simulated_annotator import annotate_open_tasks
from site_agent.site_lock import only_worker
from site_agent.worker import work
from tests.phantoms import filled_store, make_home, sign_folder, tiny_plan
from tests.site_agent.tiny_road import SHARES, make_package, make_target

COMMAND = Path(sys.executable).with_name("fedgtv-site")


def test_without_an_approved_package_there_is_nothing_to_do(tmp_path) -> None:
    home = make_home(tmp_path, **SHARES)
    store = filled_store(home)
    assert work(home, store) is RoundState.NONE
    assert store.latest_round() is None
    assert store.counts() == {"unassigned": 6}


def test_one_worker_runs_at_a_time(tmp_path) -> None:
    home = make_home(tmp_path)
    with only_worker(home), pytest.raises(DataError, match=r"another worker.*wait"):
        work(home, CaseStore(home))
    with only_worker(home):
        pass


def test_a_worker_that_failed_lets_the_next_one_in(tmp_path) -> None:
    home = make_home(tmp_path)
    with pytest.raises(OSError, match="full"), only_worker(home):
        raise OSError("the disk is full")
    assert work(home, CaseStore(home)) is RoundState.NONE


def test_a_model_for_another_modality_gets_no_case(tmp_path) -> None:
    plan = tiny_plan(target_trained=False)
    package = make_package(tmp_path, plan)
    manifest = package.manifest.model_copy(update={"modality": "CT"})
    (package.source.source_package / MANIFEST_FILE).write_bytes(manifest.signed_bytes())
    signed = sign_folder(package.source.source_package, tmp_path / "for_ct", package.key)
    home, store = make_target(tmp_path / "home", replace(package, folder=signed))
    with pytest.raises(DataError, match="for CT, and no case here is"):
        work(home, store)
    assert store.latest_round() is None
    assert store.counts() == {"unassigned": 6}


def test_no_round_begins_without_a_plan_in_force(tmp_path) -> None:
    package = make_package(tmp_path, tiny_plan(target_trained=False))
    home, store = make_target(tmp_path / "home", package)
    reject_plan(store.engine, 1, actor="it", now=utc_now())
    with pytest.raises(PlanRefused, match=r"no plan for it is approved.*plan list") as refused:
        work(home, store)
    assert refused.value.rule == "no_plan"
    assert store.latest_round() is None
    assert store.counts() == {"unassigned": 6}
    approve_plan(home, store.engine, 1, actor="it", now=utc_now())
    assert work(home, store) is RoundState.AWAITING_ANNOTATION


def test_no_round_begins_with_fewer_patients_than_the_plan_asks_for(tmp_path) -> None:
    package = make_package(tmp_path, tiny_plan(target_trained=False))
    home, store = make_target(tmp_path / "home", package, patients=1)
    with pytest.raises(DataError, match=r"asks for 2 patients with MR, and here are 1: ingest"):
        work(home, store)
    assert store.latest_round() is None


# -- killed for real --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> tuple[Path, Path]:
    """Make two equal homes that wait for training; stage 1 takes a while."""
    folder = tmp_path_factory.mktemp("killed")
    plan = tiny_plan(target_trained=False)
    slow = plan.adaptation.stage1.model_copy(update={"iterations": 300, "validate_every": 5})
    adaptation = plan.adaptation.model_copy(update={"stage1": slow})
    package = make_package(folder, plan.model_copy(update={"adaptation": adaptation}))
    homes = folder / "killed", folder / "whole"
    for name in homes:
        home, store = make_target(name, package)
        assert work(home, store) is RoundState.AWAITING_ANNOTATION
        annotate_open_tasks(store)
        # The same images and package under another pseudonym key would be another case set; the
        # tiny cases have fixed names, so both homes have the same round.
    return homes


def start_work(home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [COMMAND, "work", "--home", home], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def round_folder(home: Path) -> Path:
    store = CaseStore(open_home(home))
    latest = store.latest_round()
    assert latest is not None
    return store.home.rounds / latest.round_id


def kill_at_next_checkpoint(stage: str, home: Path) -> None:
    """Start a worker and kill it as soon as it has written a checkpoint of `stage`."""
    checkpoint = round_folder(home) / f"{stage}.checkpoint.safetensors"
    before = checkpoint.stat().st_ino if checkpoint.is_file() else None
    worker = start_work(home)
    deadline = time.monotonic() + 120
    while not checkpoint.is_file() or checkpoint.stat().st_ino == before:
        assert worker.poll() is None, worker.communicate()[0].decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL


@pytest.mark.journey
def test_a_killed_worker_goes_on_and_ends_in_the_same_weights(annotated) -> None:
    killed, whole = annotated
    for _ in range(2):
        kill_at_next_checkpoint("stage1", killed)
        names = {file.name for file in round_folder(killed).glob("*.safetensors")}
        assert names == {"stage1.checkpoint.safetensors"}
    for home in (killed, whole):
        worker = start_work(home)
        said = worker.communicate()[0].decode()
        assert worker.returncode == 0, said
        assert "awaiting review" in said
    assert round_folder(killed).name == round_folder(whole).name
    for stage in ("stage1", "stage3"):
        one, other = (
            (round_folder(home) / f"{stage}.safetensors").read_bytes() for home in annotated
        )
        assert one == other
    start = open_home(whole).packages.glob("*/model.safetensors")
    assert next(start).read_bytes() != (round_folder(whole) / "stage1.safetensors").read_bytes()
