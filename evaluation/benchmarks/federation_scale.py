"""What a study costs its coordinator as it grows: one package to 3, 30 and 300 hospitals.

The commands are the users' own. With the embedded transport `fedgtv-coordinator tick` carries all
messages in its own process (Flower's serialisation included), so time and memory are those of the
coordinator and of all its hospitals together, on one machine: an upper bound of the coordinator's.
With Flower's, every hospital is a SuperNode and an executor, and memory is that of the
coordinator's own processes: the SuperLink, the run and the command; the time includes the start of
all of them, as does that of the round with nothing to do, which is to be taken from it.
Hospitals are copies of one home without patients, for what grows here is the number of hospitals.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import (
    MANIFEST_FILE,
    MODEL_FILE,
    REFERENCE_POINTS_FILE,
    AdaptationPlan,
    FileEntry,
    Manifest,
    NetworkSpec,
    PreprocessingRecipe,
    SourceValidation,
    TrainingSchedule,
)

Row = dict[str, Any]
NUMBERS_OF_SITES = {"embedded": (3, 30, 300), "flower": (3, 10, 30)}  # by transport
BASE_CHANNELS = 32  # weights of 31 MB
_STUDY, _SOURCE = "scale", "source-hospital"
_REFERENCE_POINTS = 4
_AUTOMATIC = {"FEDGTV_SITE_AUTO_APPROVE": "true"}
_PATIENCE_S = 7200
LOOK_S = 0.5


def run_federation_scale(
    folder: Path,
    *,
    numbers_of_sites: Mapping[str, Sequence[int]] = NUMBERS_OF_SITES,
    base_channels: int = BASE_CHANNELS,
    log: Callable[[str], None] = print,
) -> list[Row]:
    """Deliver a package to so many target hospitals each, below `folder`, which is removed.

    Raises:
        DataError: a command failed, or `folder` exists.
    """
    if folder.exists():
        raise DataError(f"{folder}: is there already: move it away, or give another --output")
    rows = []
    sizes = [(way, number) for way, numbers in numbers_of_sites.items() for number in numbers]
    for transport, number in sizes:
        try:
            row = _one_size(folder, number, base_channels, transport)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        rows.append(row)
        log(f"  {transport}, {number} sites: {row['seconds']:.1f} s, {row['peak_mib']:.0f} MiB")
    return rows


def federation_scale_table(rows: list[Row]) -> str:
    """Show the rows as Markdown."""
    lines = [
        "| transport | target sites | package, MB | delivered to all, s | s / site | "
        "peak memory, MiB | a round with nothing to do, s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['transport']} | {row['sites']} | {row['package_bytes'] / 1e6:.1f} | "
        f"{row['seconds']:.1f} | "
        f"{row['seconds'] / row['sites']:.2f} | {row['peak_mib']:.0f} | {row['idle_seconds']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _one_size(folder: Path, number: int, base_channels: int, transport: str) -> Row:
    study = folder / "study"
    targets = [f"hospital-{index:03d}" for index in range(number)]
    named = [word for target in targets for word in ("--target-site", target)]
    source = ("--study", _STUDY, "--source-site", _SOURCE)
    _run("coordinator", "init", "--home", study, *source, *named)
    key = _run("coordinator", "public-key", "--home", study)["said"].strip()
    homes = {name: folder / name for name in (_SOURCE, *targets)}
    for name in (_SOURCE, targets[0]):
        words = ("--name", name, "--study", _STUDY, "--trusted-key", key)
        role = "source" if name == _SOURCE else "target"
        _run("site", "init", "--home", homes[name], "--role", role, *words)
    for name in targets[1:]:
        _copy_home(homes[targets[0]], homes[name])
    package_bytes = _write_package(homes[_SOURCE] / "source-package", base_channels)
    tick = ("tick", "--home", study, "--patience-s", str(_PATIENCE_S), "--until")
    _run("coordinator", *tick, "published", "--site", f"{_SOURCE}={homes[_SOURCE]}")
    everybody = [word for name, home in homes.items() for word in ("--site", f"{name}={home}")]
    with _watch_memory(study) as peak:
        carried = ("--transport", transport, *everybody)
        delivery = _run("coordinator", *tick, "delivered", *carried)
    peak_mib = delivery["peak_mib"] if transport == "embedded" else delivery["peak_mib"] + peak()
    idle = _run("coordinator", *tick, "one-tick", *carried)
    return {
        "transport": transport,
        "sites": number,
        "package_bytes": package_bytes,
        "seconds": delivery["seconds"],
        "cpu_seconds": delivery["cpu_seconds"],
        "peak_mib": peak_mib,
        "idle_seconds": idle["seconds"],
    }


@contextmanager
def _watch_memory(folder: Path) -> Iterator[Callable[[], float]]:
    """Yield what says, afterwards, the most memory that all processes at work in `folder` had.

    In MiB, looked at every half second: pages that they share count for each.
    """
    peak_mib, done = 0.0, threading.Event()

    def look() -> None:
        nonlocal peak_mib
        while not done.wait(LOOK_S):
            resident = (_resident_mib(process, folder) for process in Path("/proc").glob("[0-9]*"))
            peak_mib = max(peak_mib, sum(resident))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: peak_mib
    finally:
        done.set()
        thread.join()


def _resident_mib(process: Path, folder: Path) -> float:
    try:
        if not (process / "cwd").resolve().is_relative_to(folder.resolve()):
            return 0.0
        pages = int((process / "statm").read_text("ascii").split()[1])
    except OSError:  # it ended, or is somebody else's
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _copy_home(home: Path, copy: Path) -> None:
    shutil.copytree(home, copy)
    settings = copy / "site.toml"
    text = settings.read_text("utf-8").replace(f'"{home.name}"', f'"{copy.name}"')
    settings.write_text(text, "utf-8")


def _write_package(folder: Path, base_channels: int) -> int:
    """Write what training at the source hospital ends with, and return the bytes of its files."""
    from safetensors.numpy import save

    from algorithms.features import GRID_YX
    from algorithms.networks import build_network

    network = NetworkSpec(base_channels=base_channels)
    weights = build_network(network, seed=0).state_dict()
    dimension = int(np.prod(GRID_YX))
    points = BytesIO()
    np.save(points, np.zeros((_REFERENCE_POINTS, dimension), np.float32))
    files = {
        MODEL_FILE: save({name: tensor.numpy() for name, tensor in weights.items()}),
        REFERENCE_POINTS_FILE: points.getvalue(),
    }
    schedule = TrainingSchedule(iterations=1)
    manifest = Manifest(
        study=_STUDY,
        model_version="1.0.0",
        preprocessing=PreprocessingRecipe(),
        network=network,
        adaptation=AdaptationPlan(stage1=schedule, stage3=schedule),
        reference_point_count=_REFERENCE_POINTS,
        reference_point_dimension=dimension,
        source_training_slices=1,
        source_validation=SourceValidation(
            validation_patients=5, validation_dsc=None, test_patients=5, test_dsc=None
        ),
        seed=0,
        files={
            name: FileEntry(sha256=sha256_hex(data), size_bytes=len(data))
            for name, data in files.items()
        },
    )
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST_FILE).write_bytes(manifest.signed_bytes())
    return sum(map(len, files.values()))


def _run(party: str, *words: object) -> Row:
    """Run a command; return what it said, its seconds on the clock and its peak memory.

    Raises:
        DataError: when it fails.
    """
    program = Path(sys.executable).with_name(f"fedgtv-{party}")
    began = time.perf_counter()
    child = subprocess.Popen(
        [program, *map(str, words)], stdout=subprocess.PIPE, env=os.environ | _AUTOMATIC
    )
    assert child.stdout is not None  # noqa: S101 - PIPE was asked for
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise DataError(f"'{program.name} {words[0]}' failed: see above")
    return {
        "said": said.decode("utf-8", "replace"),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024.0,
    }
