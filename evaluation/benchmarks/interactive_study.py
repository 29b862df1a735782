"""The robot-user study: how good the first contour is, and how many clicks a good one takes.

Two questions, on targets of a kind the networks learned from ("seen") and of kinds they never saw
("unseen"), in 2-D and 3-D: which encoding of the first clicks gives the best first contour, and
which method needs the fewest correction clicks. Every figure is a robot's: no person clicked.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from algorithms.contracts.volume import ImageArray, MaskArray
from algorithms.interactive_network import Encoding, InteractiveNetwork, default_network
from evaluation.benchmarks.image_packs import pack_patients, pack_target, read_pack
from evaluation.benchmarks.interactive_networks import (
    SMALLEST_TARGET_PIXELS,
    Dimensions,
    Preset,
    held_back_patients,
    largest_piece,
    train_network,
)
from evaluation.benchmarks.robot_user import METHODS, ClickCurve, play

SEEN = ("sts", "la")
UNSEEN = ("hippocampus", "acdc-lv", "acdc-rv")
SHIPPED = "shipped"
ENOUGH_DSC = 0.98  # a robot stops here; what a curve would do beyond is not asked
Row = dict[str, Any]
Log = Callable[[str], None]


@dataclass(frozen=True)
class StudySize:
    """How much of the packs is used.

    Attributes:
        cases: most targets per set, one per patient.
        clicks: most corrections per target; 0 asks for first contours alone.
        iterations: of the training of one network, by dimension.
    """

    cases: int = 12
    clicks: int = 20  # a person would have drawn the contour by then
    iterations: dict[int, int] = field(default_factory=lambda: {2: 1500, 3: 600})


@dataclass(frozen=True, eq=False)
class StudyCase:
    """One target to segment."""

    name: str
    image: ImageArray
    mask: MaskArray
    spacing_mm: tuple[float, ...] | None


def study_cases(packs: Path, name: str, dimensions: Dimensions, most: int) -> list[StudyCase]:
    """Read one target per patient, of patients that neither networks nor settings saw.

    Of seen sets these are the patients held back from training. The settings of the fusion were
    chosen on those of the unseen sets, so there it is the other way round.
    """
    held_back = held_back_patients(packs, name)
    patients = held_back if name in SEEN else set(pack_patients(packs, name)) - held_back
    order = np.random.default_rng(0).permutation(sorted(patients))
    cases: list[StudyCase] = []
    for patient in order:
        case = _one_case(packs, name, dimensions, str(patient))
        if case is not None:
            cases.append(case)
        if len(cases) == most:
            break
    return cases


def _one_case(packs: Path, name: str, dimensions: Dimensions, patient: str) -> StudyCase | None:
    if dimensions == 3 and not pack_target(name).volumes:
        return None
    for case in read_pack(packs, name, {patient}):
        if dimensions == 3:
            return StudyCase(case.name, case.image, case.mask, case.spacing_zyx_mm)
        pieces = [largest_piece(mask) for mask in case.mask]
        large = [z for z, piece in enumerate(pieces) if piece.sum() >= SMALLEST_TARGET_PIXELS]
        if large:
            z = large[len(large) // 3]  # neither the middle nor an end
            spacing = case.spacing_zyx_mm and case.spacing_zyx_mm[1:]
            return StudyCase(f"{case.name}-z{z}", case.image[z], pieces[z], spacing)
    return None


def run_study(
    packs: Path,
    output: Path,
    *,
    sets: Sequence[str] = (*SEEN, *UNSEEN),
    dimensions: Iterable[Dimensions] = (2, 3),
    seeds: int = 1,
    preset: Preset = "cpu",
    size: StudySize | None = None,
    log: Log = print,
) -> list[Row]:
    """Train what is missing below `output`, then let the robot click.

    Args:
        packs: folder of the packs.
        output: networks go here and are used again.
        sets: keys of `image_packs.PACK_TARGETS`.
        dimensions: 2, 3 or both.
        seeds: networks per encoding, with seeds 0 to n - 1; 0 trains none, so that only the network
            that comes with the package clicks.
        preset: of the training.
        size: how many targets, clicks and training iterations.
        log: told what is going on.

    Returns:
        One row per target, network and method.
    """
    size = size or StudySize()
    rows: list[Row] = []
    for axes in dimensions:
        cases = {name: study_cases(packs, name, axes, size.cases) for name in sets}
        for label, seed, network in _networks(packs, output, axes, seeds, preset, size, log):
            # The comparators of stage 2 start from the thesis's encoding and from what we ship.
            corrected = size.clicks > 0 and label in ("egd", SHIPPED)
            methods = METHODS if corrected else {"if-gc": METHODS["if-gc"]}
            if seed > 0:  # the walker takes nothing from the network
                methods = {k: v for k, v in methods.items() if k != "random-walker"}
            for name, targets in cases.items():
                for method, make in methods.items():
                    for index, case in enumerate(targets):
                        curve = play(
                            make(network),
                            case.image,
                            case.mask,
                            case.spacing_mm,
                            rng=np.random.default_rng([seed, index]),
                            most_clicks=size.clicks if corrected else 0,
                            enough=ENOUGH_DSC,
                        )
                        rows.append(_row(axes, name, case, label, method, seed, curve))
                log(f"  {name}: {len(targets)} targets done")
    return rows


def _networks(
    packs: Path,
    output: Path,
    dimensions: Dimensions,
    seeds: int,
    preset: Preset,
    size: StudySize,
    log: Log,
) -> Iterator[tuple[str, int, InteractiveNetwork]]:
    """Give the network that comes with the package, then one per encoding and seed."""
    yield SHIPPED, 0, default_network(dimensions)
    for encoding in get_args(Encoding):
        for seed in range(seeds):
            iterations = size.iterations[dimensions]
            file = output / f"{dimensions}d-{encoding}-seed{seed}-{preset}-{iterations}.safetensors"
            log(f"{dimensions}-D, clicks as {encoding}, seed {seed}: {file}")
            network = train_network(
                file,
                dimensions=dimensions,
                packs=packs,
                names=SEEN,
                encoding=encoding,
                preset=preset,
                seed=seed,
                iterations=iterations,
                progress=lambda i, n, loss: log(f"  iteration {i} of {n}, loss {loss:.3f}"),
            )
            yield encoding, seed, network


def _row(
    dimensions: Dimensions,
    name: str,
    case: StudyCase,
    label: str,
    method: str,
    seed: int,
    curve: ClickCurve,
) -> Row:
    return {
        "dimensions": dimensions,
        "set": name,
        # La counts as seen for the shipped network too, so that "unseen" means the same organs
        # everywhere.
        "seen": name in SEEN,
        "case": case.name,
        "network": label,
        "method": method,
        "seed": seed,
        "first_points": curve.first_points,
        "dice": [round(value, 4) for value in curve.dice],
        "seconds": [round(value, 4) for value in curve.seconds],
    }


def curve_of(row: Row) -> ClickCurve:
    """Return the curve that a row holds."""
    return ClickCurve(row["first_points"], tuple(row["dice"]), tuple(row["seconds"]))
