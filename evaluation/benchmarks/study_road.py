"""Run a whole study as people would: every hospital and the coordinator by their own commands.

Each command is a process with its own home directory, configuration and database. This driver
only calls commands and keeps a mark for each that has ended, so that a second run continues where
a killed one stopped.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError
from evaluation.benchmarks.studies import Hospital, Study

TransportName = Literal["embedded", "flower"]
console = Console(stderr=True, highlight=False)

# Starts a command that the system ends together with this driver. PR_SET_PDEATHSIG (1) is asked for
# in the new process, because a preexec_fn is not safe beside threads; SIGTERM lets the coordinator
# stop its transport. The parent is compared for the case that it is gone already.
_ENDS_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Road:
    """One run of a study below one folder."""

    study: Study
    folder: Path
    seed: int
    transport: TransportName

    def home(self, hospital: Hospital) -> Path:
        """Home directory of a hospital."""
        return self.folder / "sites" / hospital.name

    @property
    def coordinator(self) -> Path:
        """Home directory of the coordinator."""
        return self.folder / "coordinator"

    @property
    def report(self) -> Path:
        """Folder of the study report."""
        return self.folder / "report"


Steps = Sequence[tuple[str, Callable[[Road, Hospital], None]]]


def run_study(road: Road) -> dict[str, Any]:
    """Take a study from images to report, or continue one that was stopped.

    Returns:
        The study report as JSON, with the source model's Dice at home under "source".

    Raises:
        DataError: a command failed; the message says which, and where its log is.
    """
    _claim(road)
    began = time.monotonic()
    study, targets = road.study, road.study.targets
    _once(road, "set up the coordinator", lambda: _init_coordinator(road))
    key = _run(road, "public key", ["fedgtv-coordinator", "public-key", "--home", road.coordinator])
    for hospital in study.hospitals:
        _once(road, f"set up {hospital.name}", partial(_init_site, road, hospital, key.strip()))
    # The source is longest under way: it starts first and keeps a core of its own, while the
    # targets take turns on the others.
    steps = [_SOURCE_STEPS] + [_INTAKE] * len(targets)
    _each(road, study.hospitals, steps, at_once=max(2, os.cpu_count() or 2))
    _once(road, "sign and deliver the package", lambda: _tick(road, "delivered"))
    _once(road, "draft and sign the plan", lambda: _sign_plan(road))
    _once(road, "have the plan signed by the hospitals", lambda: _tick(road, "approved"))
    # Each with the same work and at most one core: all end at about the same time, none waits.
    _each(road, targets, [_ADAPTATION_STEPS] * len(targets), at_once=len(targets))
    _once(road, "collect the reports", lambda: _tick(road, "reported"))
    _once(road, "write the study report", lambda: _write_report(road))
    console.print(f"[dim]{time.monotonic() - began:.0f} s[/dim]")
    report: dict[str, Any] = json.loads((road.report / "study.json").read_bytes())
    return report | {"source": source_validation(road)}


def source_validation(road: Road) -> dict[str, Any]:
    """Return what the package says about the source model at home."""
    manifest = json.loads(
        (road.home(road.study.source) / "source-package/manifest.json").read_bytes()
    )
    found: dict[str, Any] = manifest["source_validation"]
    return found


def _claim(road: Road) -> None:
    """Refuse to continue a folder that was begun with anything that would give other results."""
    study = road.study
    identity = {
        "study": study.name,
        "hospitals": [[hospital.name, *hospital.roi_names] for hospital in study.hospitals],
        "inputs": study.inputs_digest,
        "shares": [study.source_test_share, study.test_share, study.validation_share],
        "minimum group size": study.minimum_group_size,
        "plan": study.plan.model_dump(mode="json"),
        "seed": road.seed,
        "transport": road.transport,
        "version of fedgtv": version("fedgtv"),
    }
    mark = road.folder / "study.json"
    if mark.is_file():
        begun = json.loads(mark.read_bytes())
        other = [name for name, value in identity.items() if begun.get(name) != value]
        if other:
            raise DataError(
                f"{road.folder}: was begun with other {', '.join(other)}: remove it or give "
                "another --output"
            )
    _write_whole(mark, canonical_json(identity))


def _init_coordinator(road: Road) -> None:
    if (road.coordinator / "coordinator.toml").exists():  # is written last
        return
    command: list[str | Path] = ["fedgtv-coordinator", "init", "--home", road.coordinator]
    command += ["--study", road.study.name, "--source-site", road.study.source.name]
    for target in road.study.targets:
        command += ["--target-site", target.name]
    _run(road, "coordinator init", command)


def _init_site(road: Road, hospital: Hospital, public_key: str) -> None:
    home = road.home(hospital)
    role = "source" if hospital == road.study.source else "target"
    if not (home / "site.toml").exists():  # is written last
        _lay_pseudonym_key(home, hospital)
        command: list[str | Path] = ["fedgtv-site", "init", "--home", home]
        command += ["--name", hospital.name, "--study", road.study.name, "--role", role]
        _run(road, f"{hospital.name} init", [*command, "--trusted-key", public_key])
    settings = {
        "roi_names": list(hospital.roi_names),
        "minimum_group_size": road.study.minimum_group_size,
        "test_share": road.study.source_test_share if role == "source" else road.study.test_share,
        "validation_share": road.study.validation_share,
        "seed": road.seed,
        "auto_approve": True,
        # Hospitals work side by side, one core each; small networks gain little from a second.
        "threads": 1,
    }
    _add_settings(home / "site.toml", settings)


def _lay_pseudonym_key(home: Path, hospital: Hospital) -> None:
    """Give a hospital of a benchmark a fixed pseudonym key, which its init keeps.

    Patients are split in order of their pseudonyms. A drawn key, as a real hospital has it, would
    make another split in every run. Nothing here is secret: the patients are invented or public.
    """
    secrets = home / "secrets"
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_whole(secrets / "pseudonym.key", sha256_hex(hospital.name.encode()).encode())


def _add_settings(file: Path, settings: Mapping[str, object]) -> None:
    """Add the settings that are not there yet; the file is the old one or the new one."""
    text = file.read_text("utf-8")
    present = tomllib.loads(text)
    # TOML and JSON write these values alike.
    lines = [f"{k} = {json.dumps(v)}\n" for k, v in settings.items() if k not in present]
    _write_whole(file, "".join([text, *lines]).encode())


def _write_whole(file: Path, content: bytes) -> None:
    """Write a file in one step, so that a kill leaves no half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".part")
    temporary.write_bytes(content)
    temporary.replace(file)


def _write_images(road: Road, hospital: Hospital) -> None:
    """Write a hospital's images in a process of its own, beside what other hospitals do."""
    writers = road.study.image_writers(hospital.name, road.folder / "input", road.seed)
    context, parent = get_context("spawn"), os.getpid()
    try:
        with ProcessPoolExecutor(1, context, _end_with_parent, (parent,)) as pool:
            for done, writer in enumerate(writers, start=1):
                pool.submit(writer).result()
                if done == len(writers) or done % 5 == 0:
                    console.print(
                        f"  [dim]{hospital.name}: {done} of {len(writers)} patients[/dim]"
                    )
    except BrokenProcessPool as error:
        raise DataError("writing images was ended from outside: run again") from error


def _end_with_parent(parent: int) -> None:
    """Ask the system to end this new process together with the driver, as `_run` does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


def _ingest(road: Road, hospital: Hospital) -> None:
    images = road.folder / "input" / hospital.name
    _site(road, hospital, "ingest", images)


def _give_t_stages(road: Road, hospital: Hospital) -> None:
    """Give the hospital's invented T stages, where the study has any, as its staff would."""
    if road.study.t_stages is None:
        return
    stages = road.study.t_stages(hospital.name, road.seed)
    table = road.folder / "input" / f"{hospital.name}-t-stages.csv"
    lines = ["patient,t_stage", *(f"{patient},{stage}" for patient, stage in stages.items())]
    _write_whole(table, "\n".join(lines).encode())
    _site(road, hospital, "t-stages", table)


def _train_source(road: Road, hospital: Hospital) -> None:
    plan = road.folder / "plan.json"
    _write_whole(plan, canonical_json(road.study.plan.model_dump(mode="json")))
    _site(road, hospital, "train-source", "--plan", plan)


def _work(road: Road, hospital: Hospital) -> None:
    _site(road, hospital, "work")


def _simulate(road: Road, hospital: Hospital) -> None:
    _site(road, hospital, "simulate-doctors")


_INTAKE: Steps = (
    ("write images", _write_images),
    ("ingest and de-identify", _ingest),
    ("give T stages (invented)", _give_t_stages),
)
_SOURCE_STEPS: Steps = (*_INTAKE, ("train the source model", _train_source))
_ADAPTATION_STEPS: Steps = (
    ("select slices", _work),
    ("annotate (simulated annotator)", _simulate),
    ("fine-tune in three stages and segment", _work),
    ("review (simulated annotator)", _simulate),
    ("measure", _work),
)


def _site(road: Road, hospital: Hospital, command: str, *arguments: str | Path) -> None:
    _run(
        road,
        f"{hospital.name} {command}",
        ["fedgtv-site", command, *arguments, "--home", road.home(hospital)],
    )


def _tick(road: Road, until: str) -> None:
    command: list[str | Path] = ["fedgtv-coordinator", "tick", "--home", road.coordinator]
    command += ["--transport", road.transport, "--until", until, "--patience-s", "600"]
    for hospital in road.study.hospitals:
        command += ["--site", f"{hospital.name}={road.home(hospital)}"]
    _run(road, f"coordinator tick until {until}", command)


def _sign_plan(road: Road) -> None:
    draft = road.folder / "federation-plan.json"
    smallest = str(road.study.minimum_group_size)
    command: list[str | Path] = ["fedgtv-coordinator", "plan", "draft", "--output", draft]
    command += ["--minimum-patients", smallest, "--minimum-group-size", smallest]
    _run(road, "coordinator plan draft", [*command, "--home", road.coordinator])
    command = ["fedgtv-coordinator", "plan", "sign", draft, "--home", road.coordinator, "--yes"]
    _run(road, "coordinator plan sign", command)


def _write_report(road: Road) -> None:
    command: list[str | Path] = ["fedgtv-coordinator", "report", "--home", road.coordinator]
    _run(road, "coordinator report", [*command, "--output", road.report])


# -- running commands -----------------------------------------------------------------------


def _once(road: Road, step: str, action: Callable[[], None]) -> None:
    """Do a step unless its mark says that it has ended."""
    mark = road.folder / "steps" / step.replace(" ", "-")
    if mark.is_file():
        return
    console.print(f"[bold]{step}[/bold]")
    began = time.monotonic()
    action()
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(f"{time.monotonic() - began:.1f} s\n", "utf-8")


def _each(
    road: Road, hospitals: Sequence[Hospital], steps: Sequence[Steps], *, at_once: int
) -> None:
    """Take every hospital through its own steps, `at_once` of them side by side.

    A failure is shown when it happens. The other hospitals come to the end of their steps, which a
    second run need not repeat.
    """

    def go(hospital: Hospital, steps: Steps) -> None:
        for step, action in steps:
            try:
                _once(road, f"{hospital.name}: {step}", partial(action, road, hospital))
            except DataError as error:
                console.print(f"{hospital.name}: {error}; the others go on", markup=False)
                raise

    with ThreadPoolExecutor(max_workers=at_once) as pool:
        for future in [pool.submit(go, *pair) for pair in zip(hospitals, steps, strict=True)]:
            future.result()


def _run(road: Road, name: str, command: Sequence[str | Path]) -> str:
    """Run one command, show its last lines, keep all of them in a log."""
    logs = road.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name.replace(' ', '-')}.log"
    program = str(Path(sys.executable).with_name(str(command[0])))
    words = [program, *map(str, command[1:])]
    if sys.platform == "linux":
        words = [sys.executable, "-c", _ENDS_WITH_PARENT, str(os.getpid()), *words]
    environment = os.environ | {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    environment |= {"COLUMNS": "118"}  # a command whose output is read takes 80, too few for tables
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        lines = []
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            if name != "public key":
                console.print(f"  [dim]{line.rstrip()}[/dim]", markup=True, soft_wrap=True)
        if process.wait() != 0:
            last = lines[-1].strip() if lines else "no output"
            raise DataError(f"'{name}' failed: {last} (log: {log}); mend it and run again")
    return "".join(lines)
