"""What it costs to take series in: `fedgtv-site` beside SimpleITK and a pydicom loop.

The plain way reads pixels by SimpleITK's series reader (which looks through the folder, then reads
each file) and headers by one `pydicom.dcmread` per file without pixels; it stores nothing. Ours are
`check-dicom`, which reads as much, and `ingest`, which also de-identifies, seals the identities and
stores. All are processes of their own that read the same files, and take turns on blocks of them,
so that a busy machine slows all alike. Time is without the start of Python, on the clock and of the
CPU; memory is the process's peak.

Run as `python -m evaluation.benchmarks.ingest_speed FOLDER`, this file is the plain way.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Geometry
from evaluation.benchmarks.dicom_writer import (
    PatientTags,
    ScannerTags,
    study_uids,
    write_mr_series,
)

Row = dict[str, Any]
_BLOCKS = 4
_PATIENT = PatientTags(
    patient_id="SPEED-1", name="Nobody^Nora", birth_date="19500101", sex="F",
    institution="Nowhere Hospital", referring_physician="Referrer^Invented",
    accession_number="ACC1", study_date="20200304", study_time="101112",
)  # fmt: skip
_SCANNER = ScannerTags("SIEMENS", "Skyra", 3.0, "T1 tra")
_SITE = str(Path(sys.executable).with_name("fedgtv-site"))
_OURS = (_SITE, "check-dicom", "--json")
_STORED = (_SITE, "ingest", "--json", "--home")
_PLAIN = (sys.executable, "-m", "evaluation.benchmarks.ingest_speed")


def run_ingest_speed(
    folder: Path,
    *,
    series: int = 200,
    slices: int = 60,
    side: int = 256,
    log: Callable[[str], None] = print,
) -> list[Row]:
    """Write `series` invented series below `folder`, read them both ways, and remove them.

    Raises:
        DataError: a way failed, the two found different images, or `folder` exists.
    """
    if folder.exists():
        raise DataError(f"{folder}: is there already: move it away, or give another --output")
    blocks = min(_BLOCKS, series)
    totals = {way: _nothing() for way in ("plain", "ours", "stored")}
    try:
        written = _write(folder, series, slices, side, blocks)
        home = folder / "site"
        names = ("--name", "speed", "--study", "speed")
        subprocess.run([_SITE, "init", "--home", home, *names], check=True, capture_output=True)
        ways: dict[str, Callable[[Path], Row]] = {
            "plain": lambda block: _run(_PLAIN, block),
            "ours": lambda block: _run(_OURS, block),
            "stored": lambda block: _run((*_STORED, str(home)), block),
        }
        for number, block in enumerate(written):
            order = list(ways) if number % 2 else list(ways)[::-1]
            found = {way: ways[way](block) for way in order}
            _check_same(found["plain"]["ranges"], found["ours"]["ranges"])
            for way, one in found.items():
                for part in ("seconds", "cpu_seconds", "SimpleITK", "pydicom"):
                    totals[way][part] += one.get(part, 0.0)
                totals[way]["peak_mib"] = max(totals[way]["peak_mib"], one["peak_mib"])
            log(f"  block {number + 1} of {blocks}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    files = series * slices
    common: Row = {"series": series, "files": files, "side": side}
    rows: list[Row] = [
        {"what": "SimpleITK series reader + pydicom loop", **common, **totals["plain"]},
        {"what": "fedgtv-site check-dicom", **common, **totals["ours"]},
        {"what": "fedgtv-site ingest: de-identified and stored", **common, **totals["stored"]},
    ]
    for row in rows:
        row["CPU ms / file"] = 1000.0 * row["cpu_seconds"] / files
    for row in rows[1:]:
        row["plain / this"] = totals["plain"]["seconds"] / row["seconds"]
        row["plain / this, CPU"] = totals["plain"]["cpu_seconds"] / row["cpu_seconds"]
    return rows


def ingest_speed_table(rows: list[Row]) -> str:
    """Show the rows as Markdown."""
    lines = [
        "| | series | files | seconds | of CPU | CPU ms / file | peak memory, MiB | plain / this |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ratio = ""
        if "plain / this" in row:
            ratio = f"{row['plain / this']:.1f} (CPU {row['plain / this, CPU']:.1f})"
        numbers = f"{row['seconds']:.1f} | {row['cpu_seconds']:.1f} | {row['CPU ms / file']:.2f}"
        lines.append(
            f"| {row['what']} | {row['series']} | {row['files']} | {numbers} | "
            f"{row['peak_mib']:.0f} | {ratio} |"
        )
    plain = rows[0]
    lines.append(
        f"\nOf the plain way: SimpleITK {plain['SimpleITK']:.1f} s, pydicom {plain['pydicom']:.1f} "
        f"s. Images of {plain['side']} x {plain['side']}, 16 bits, uncompressed."
    )
    return "\n".join(lines)


def _nothing() -> dict[str, float]:
    return dict.fromkeys(("seconds", "cpu_seconds", "SimpleITK", "pydicom", "peak_mib"), 0.0)


def _write(folder: Path, series: int, slices: int, side: int, blocks: int) -> list[Path]:
    """Write the series in blocks, one folder each; every one has pixels and UIDs of its own."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 4000, size=(slices, side, side)).astype(np.float32)
    geometry = Geometry((slices, side, side), (3.0, 0.9, 0.9), (-115.0, -115.0, -90.0))
    for number in range(series):
        image[0, 0, 0] = 5000 + number  # so that a series can be told from the next
        write_mr_series(
            folder / f"block-{number % blocks}" / f"series-{number:04d}",
            image,
            geometry,
            patient=_PATIENT,
            scanner=_SCANNER,
            uids=study_uids(f"ingest speed {number}", slices),
        )
    return sorted(folder.iterdir())


def _run(command: Sequence[str], folder: Path) -> Row:
    """Run one way over a block; return its seconds, what it found and its peak memory."""
    child = subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE)
    assert child.stdout is not None  # noqa: S101 - PIPE was asked for
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise DataError(f"'{Path(command[0]).name}' failed on {folder}: see above")
    row: Row = json.loads(said)
    ranges = [tuple(one["grey_range"]) for one in row.pop("series", [])]
    return row | {"ranges": sorted(ranges), "peak_mib": usage.ru_maxrss / 1024.0}


def _check_same(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> None:
    if one != other:
        raise DataError("the two ways found different images: their times do not compare")


def _read_plainly(folder: Path) -> Row:
    """Read every series of a folder as a script does that nobody thought about for long."""
    import pydicom
    import SimpleITK

    library: Any = SimpleITK  # without types of its own
    series = []
    spent = {"SimpleITK": 0.0, "pydicom": 0.0}
    began_cpu = time.process_time()
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        began = time.perf_counter()
        reader = library.ImageSeriesReader()
        for uid in reader.GetGDCMSeriesIDs(str(place)):
            reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(place), uid))
            image = library.GetArrayFromImage(reader.Execute()).astype(np.float32)
            series.append({"grey_range": (float(image.min()), float(image.max()))})
        spent["SimpleITK"] += time.perf_counter() - began
        began = time.perf_counter()
        for file in sorted(place.iterdir()):
            header = pydicom.dcmread(file, stop_before_pixels=True)
            _ = (header.PatientID, header.SOPInstanceUID, header.ImagePositionPatient)
        spent["pydicom"] += time.perf_counter() - began
    cpu_seconds = time.process_time() - began_cpu
    return {"seconds": sum(spent.values()), "cpu_seconds": cpu_seconds, **spent, "series": series}


if __name__ == "__main__":
    print(json.dumps(_read_plainly(Path(sys.argv[1]))))
