"""Contours that several doctors drew on the same images by themselves: how far raters agree.

They come as structure sets, from the planning system in which each doctor drew alone. What
reviewers left does not count: it began with the model's contour, or with another reviewer's.
"""

from collections import defaultdict
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.case import Case
from algorithms.contracts.contour import Contour
from algorithms.contracts.errors import DataError
from evaluation.case_metrics import CaseMetrics, measure_case
from evaluation.site_summary import RaterRow
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.database import ContourRow
from site_agent.dicom_elements import without_remarks
from site_agent.dicom_series import scan
from site_agent.ingest import target_contour
from site_agent.late_reference import held_case
from site_agent.site_lock import only_worker

SITTINGS = 2
_RATER = "rater-"  # purpose of a contour, before the rater's letter

Measured = tuple[Case, str, str, CaseMetrics]
"""A case, two raters (or one, twice) in the order of the alphabet, and how far they agree."""


def add_rater_contours(
    home: SiteHome, store: CaseStore, folder: Path, *, rater: str, actor: str
) -> int:
    """Keep the structure sets of a folder as contours of one rater; all or none.

    The second contour of the same rater and case is their second sitting; the very same contour
    again changes nothing.

    Args:
        home: of the site.
        store: of its cases.
        folder: with structure sets, of images that are held.
        rater: the letter that the study gave to the doctor.
        actor: for the audit log.

    Returns:
        How many contours were kept.

    Raises:
        DataError: a letter that cannot be, a structure set whose images are not held or of which
            a rater has drawn both sittings already, or none at all.
    """
    if len(rater) != 1 or not "a" <= rater <= "z":
        raise DataError(f"rater '{rater}': give the letter a to z that the study gave")
    purpose = _RATER + rater
    with only_worker(home), without_remarks():
        files = scan(folder).structure_sets if folder.is_dir() else ()
        if not files:
            raise DataError(f"{folder}: holds no structure set: give the folder of one rater")
        contours: list[tuple[str, Contour]] = []
        for structure_set in files:
            case, original = held_case(home, store, structure_set)
            contour = target_contour(structure_set.file, original, home.config.roi_names)
            sittings = [
                *(store.contour_of(row) for row in _rows(store, case.case_id, purpose)),
                *(one for held, one in contours if held == case.case_id),
            ]
            voxels = contour.mask.voxels
            if any(np.array_equal(voxels, one.mask.voxels) for one in sittings):
                continue
            if len(sittings) == SITTINGS:
                raise DataError(
                    f"{structure_set.file}: rater {rater} has drawn this case twice already"
                )
            contours.append((case.case_id, contour))
        store.add_contours(contours, purpose=purpose, author=f"rater {rater}", actor=actor)
    return len(contours)


def measure_raters(store: CaseStore) -> list[Measured]:
    """Compare the raters of every case: first sittings with each other, sittings of one rater."""
    measured: list[Measured] = []
    for case in store.cases():
        drawn = defaultdict(list)
        for row in _rows(store, case.case_id):
            drawn[row.purpose.removeprefix(_RATER)].append(store.contour_of(row).mask.voxels)
        pairs = [
            (one, other, drawn[one][0], drawn[other][0])
            for one, other in combinations(sorted(drawn), 2)
        ]
        pairs += [
            (one, one, masks[0], masks[1]) for one, masks in sorted(drawn.items()) if len(masks) > 1
        ]
        measured += [
            (case, one, other, measure_case(a, b, spacing_zyx_mm=case.spacing_zyx_mm))
            for one, other, a, b in pairs
        ]
    return measured


def rater_rows(measured: list[Measured]) -> list[RaterRow]:
    """Return one row per patient and pair: the average over their cases, NaN left out."""
    of_pair: defaultdict[tuple[str, str, str], list[CaseMetrics]] = defaultdict(list)
    for case, first, second, metrics in measured:
        of_pair[case.patient_id, first, second].append(metrics)
    return [
        RaterRow(first, second, _mean([m.dsc for m in found]), _mean([m.hd95_mm for m in found]))
        for (_, first, second), found in of_pair.items()
    ]


def _mean(figures: list[float]) -> float:
    defined = [figure for figure in figures if not np.isnan(figure)]
    return fmean(defined) if defined else float("nan")


def _rows(store: CaseStore, case_id: str, purpose: str | None = None) -> list[ContourRow]:
    """Return the raters' contours of a case in the order in which they came."""
    drawn = ContourRow.purpose.startswith(_RATER, autoescape=True)
    if purpose is not None:
        drawn = ContourRow.purpose == purpose
    statement = select(ContourRow).where(ContourRow.case_id == case_id, drawn)
    with Session(store.engine) as session:
        return list(session.scalars(statement.order_by(ContourRow.id)))
