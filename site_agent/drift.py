"""Does what comes now look like what the model was made for? Measured by the worker, kept as files.

The distance of a case to the package's reference points is that of the selection (6-5): in the
latent space of the package's own network, whatever the site's doctors taught since. It lies beside
the image of the case, so that whoever erases the case erases it too.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.case import Split
from algorithms.contracts.model_package import REFERENCE_POINTS_FILE
from algorithms.contracts.volume import FloatArray
from evaluation.control_chart import ControlChart, robust_chart
from site_agent.case_store import CaseStore
from site_agent.database import CaseRow, ReviewRow
from site_agent.progress import progress_bar

if TYPE_CHECKING:  # with torch, which pages do without
    from site_agent.adaptation_round import Round

MEASURING = "measuring distances to the source"


@dataclass(frozen=True)
class CaseDistance:
    """How far a case is from the source, in order of intake.

    Attributes:
        case_id: pseudonym.
        ingested_at: UTC.
        later: the patient came after the study's.
        distance: median over the slices on which the package's model sees the target, of the
            squared distance to the nearest reference point; NaN where it sees none.
        slices_with_target, slices: of the case.
    """

    case_id: str
    ingested_at: datetime
    later: bool
    distance: float
    slices_with_target: int
    slices: int


@dataclass(frozen=True)
class DistanceDrift:
    """Every measured case beside the limits that the study's own cases set.

    Attributes:
        chart: its baseline are the cases of the study, not those that came later.
        cases: in order of intake.
        waiting: how many cases nobody measured yet.
    """

    chart: ControlChart
    cases: tuple[CaseDistance, ...]
    waiting: int

    @property
    def alarms(self) -> tuple[CaseDistance, ...]:
        """Return those who came later and are unlike the study's."""
        places = ("above", "below", "undefined")
        return tuple(c for c in self.cases if c.later and self.chart.place(c.distance) in places)


@dataclass(frozen=True)
class ReviewedCase:
    """One review in order of time: what the reviewer changed."""

    case_id: str
    round_id: str
    author: str
    simulated: bool
    verdict: str
    degree_percent: float
    reviewed_at: datetime


def measure_distances(current: "Round") -> int:
    """Measure every case of the package's modality that is not yet; return how many were."""
    from algorithms.features import describe_slices
    from algorithms.sample_selection import distances_to_reference_points
    from site_agent.learning_data import prepare

    store, manifest = current.store, current.manifest
    package_id = store.round(current.round_id).package_id
    waiting = [
        case
        for case in store.cases()
        if case.modality == manifest.modality
        and _read(_file(store, case.case_id, package_id)) is None
    ]
    if not waiting:
        return 0
    network = current.source_network()
    points = np.load(current.package / REFERENCE_POINTS_FILE, allow_pickle=False)
    with progress_bar(MEASURING, store.home) as progress:
        for done, case in enumerate(waiting, start=1):
            (ready,) = prepare(store, [case], manifest.preprocessing)
            patch_yx = manifest.preprocessing.patch_yx
            described = describe_slices(network, ready.slices, patch_yx=patch_yx)
            distances = distances_to_reference_points(described.features, points)
            _write(_file(store, case.case_id, package_id), distances)
            progress(done, len(waiting), -1.0)
    return len(waiting)


def case_distance(distances: FloatArray | Sequence[float]) -> float:
    """Return the distance of a case: the median over slices that have one; NaN where none has.

    >>> case_distance([4.0, math.nan, 1.0, 2.0])
    2.0
    """
    found = [distance for distance in distances if not math.isnan(distance)]
    return float(np.median(found)) if found else math.nan


def distance_drift(store: CaseStore, package_id: str) -> DistanceDrift:
    """Gather what was measured with a package; nothing is computed but the limits."""
    order = (CaseRow.ingested_at, CaseRow.case_id)
    columns = (CaseRow.case_id, CaseRow.ingested_at, CaseRow.split, CaseRow.modality)
    with Session(store.engine) as session:
        rows = session.execute(select(*columns).order_by(*order)).all()
    measured, missing = [], []
    for row in rows:
        distances = _read(_file(store, row.case_id, package_id))
        if distances is None:
            missing.append(row)
            continue
        seen = sum(not math.isnan(distance) for distance in distances)
        later = row.split == Split.UNASSIGNED.value
        distance = case_distance(distances)
        measured.append(
            CaseDistance(row.case_id, row.ingested_at, later, distance, seen, len(distances))
        )
    taking_part = {row.modality for row in rows if row.split != Split.UNASSIGNED.value}
    return DistanceDrift(
        chart=robust_chart([case.distance for case in measured if not case.later]),
        cases=tuple(measured),
        waiting=sum(row.modality in taking_part for row in missing),
    )


def reviews_in_order(store: CaseStore) -> list[ReviewedCase]:
    """Return every review of every round, the earliest first."""
    order = (ReviewRow.reviewed_at, ReviewRow.id)
    with Session(store.engine) as session:
        return [
            ReviewedCase(
                case_id=row.case_id,
                round_id=row.round_id,
                author=row.author,
                simulated=row.simulated,
                verdict=row.verdict,
                degree_percent=row.revision_degree_percent,
                reviewed_at=row.reviewed_at,
            )
            for row in session.scalars(select(ReviewRow).order_by(*order))
        ]


def _file(store: CaseStore, case_id: str, package_id: str) -> Path:
    return store.home.cases / case_id / f"distance-{package_id[:16]}.json"


def _write(file: Path, distances: FloatArray) -> None:
    said = [None if math.isnan(distance) else float(distance) for distance in distances]
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps({"distances": said}), "utf-8")
    part.replace(file)


def _read(file: Path) -> list[float] | None:
    """Return the distance of every slice, NaN where no target is seen; None if not measured."""
    try:
        said = json.loads(file.read_text("utf-8"))["distances"]
        return [math.nan if distance is None else float(distance) for distance in said]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: measured again
        return None
