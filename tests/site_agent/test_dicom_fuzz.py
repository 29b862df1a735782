"""Damaged files: each ends in a whole case or in one line; nothing crashes, hangs or half succeeds.

FEDGTV_FUZZ_FILES=2000 runs the full number (about a minute); the seeds are 0, 1, 2, ...
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Volume
from site_agent.case_store import CaseStore
from site_agent.dicom_series import read_series
from site_agent.ingest import take_in
from site_agent.rtstruct import read_rtstruct
from tests.phantoms import make_home
from tests.site_agent.damaged_dicom import SHAPE, damaged, undamaged, within
from tests.site_agent.dicom_builder import PLANTED

FILES = int(os.environ.get("FEDGTV_FUZZ_FILES", "250"))
PATIENCE_S = 10


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return undamaged(tmp_path_factory.mktemp("undamaged"))


def damage_one(source: Path, to: Path, rng: np.random.Generator) -> Path:
    """Copy a folder with one of its files damaged; return that file."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to)
    files = sorted(to.iterdir())
    file = files[int(rng.integers(len(files)))]
    file.write_bytes(damaged(file.read_bytes(), rng))
    return file


def check_reason(error: DataError) -> None:
    message = str(error)
    assert message
    assert "\n" not in message
    assert not [word for word in PLANTED if word.lower() in message.lower()]


def test_reading_a_damaged_file_ends_in_a_whole_volume_or_in_a_reason(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    volume = read_series(folders["explicit"])
    kinds = list(folders)
    ends = {"read": 0, "refused": 0}
    for seed in range(FILES):
        rng = np.random.default_rng(seed)
        kind = kinds[seed % len(kinds)]
        file = damage_one(folders[kind], tmp_path / "damaged", rng)
        try:
            with within(PATIENCE_S):
                if kind == "structure_set":
                    masks = read_rtstruct(file, volume)
                    assert all(mask.voxels.shape == SHAPE for mask in masks.values())
                else:
                    check_whole(read_series(tmp_path / "damaged"))
            ends["read"] += 1
        except DataError as error:
            check_reason(error)
            ends["refused"] += 1
    assert min(ends.values()) > FILES / 20  # the damage is neither always fatal nor never


def check_whole(found: Volume) -> None:
    assert found.image.shape == SHAPE or found.image.shape[0] == SHAPE[0]
    assert len(found.sop_instance_uids) == found.image.shape[0]
    assert np.isfinite(found.image).all()


def test_ingesting_a_damaged_file_stores_whole_cases_or_nothing(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    home = make_home(tmp_path / "site")
    store = CaseStore(home)
    stored = 0
    for seed in range(FILES // 10):
        rng = np.random.default_rng([seed, 1])
        kind = ("explicit", "enhanced", "rle")[seed % 3]
        damage_one(folders[kind], tmp_path / "damaged", rng)
        held = {case.case_id for case in store.cases()}
        with within(PATIENCE_S), suppress(DataError):
            take_in(home, store, tmp_path / "damaged", actor="fuzz")
        now = {case.case_id for case in store.cases()}
        stored += len(now - held)
        on_disk = {folder.name for folder in home.cases.iterdir()} if home.cases.is_dir() else set()
        assert on_disk == now
        for case_id in now - held:
            assert store.volume(case_id).image.shape[0] in range(1, SHAPE[0] + 1)
    assert stored > 0
