"""Shared fixtures."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, not whether it holds.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Before torch is imported: one thread and the CPU, so that weights can be compared bit by bit.
# A person who sets CUDA_VISIBLE_DEVICES gets the accelerator.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

gc.disable()  # what is imported and collected stays


def pytest_collection_finish() -> None:
    """Look for garbage only among what the tests make: the rest is a million objects."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def data_packs() -> Path:
    """Folder of the development packs (acdc/, sts/, dicom/, ...); skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FEDGTV_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("development data packs are absent (set FEDGTV_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Folder of the numeric test vectors; skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "vectors"
    folder = Path(os.environ.get("FEDGTV_TEST_VECTORS", default))
    if not folder.is_dir():
        pytest.skip("numeric test vectors are absent (set FEDGTV_TEST_VECTORS)")
    return folder
