"""Whom a report is about, so that the door can tell what it gives away beside earlier ones.

Nothing of this leaves: it is kept in the ledger's entry of the release, which stays in the site's
database. Patients and their figures are there as digests.
"""

from collections import defaultdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.site_report import SiteReport
from evaluation.differencing import unknown_members
from site_agent.database import CaseRow, MeasurementRow, ReviewRow, RoundRow

REVISION = "revision"
_DIGITS = 16


def told_by(session: Session, report: SiteReport) -> dict[str, dict[str, str]]:
    """Return whom the arms and the revisions of a report are about, and a digest of their figures.

    The members are those who were measured and reviewed in the round that made the report. Where
    the database does not know them all, only their number counts.
    """
    said = report.model_dump(mode="json")
    rounds = session.scalars(select(RoundRow).where(RoundRow.package_id == report.package_id))
    made_by = [row.round_id for row in rounds if row.report is not None and _same(row.report, said)]
    known: dict[str, dict[str, str]] = {}
    if made_by:
        known = _members(session, made_by[0])
    groups = {arm.arm: (arm.patients, arm.model_dump(mode="json")) for arm in report.arms}
    if report.revision is not None:
        groups[REVISION] = (report.revision.patients, report.revision.model_dump(mode="json"))
    return {
        group: members
        if len(members := known.get(group, {})) == patients
        else unknown_members(patients, _digest(figures))
        for group, (patients, figures) in groups.items()
    }


def _same(stored: dict[str, Any], said: dict[str, Any]) -> bool:
    """Say whether a stored report, of this version or an older one, is the one that is said."""
    return SiteReport.model_validate(stored).model_dump(mode="json") == said


def _members(session: Session, round_id: str) -> dict[str, dict[str, str]]:
    """Gather group -> patient -> digest of the figures of all their cases."""
    figures: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    measured = (
        select(MeasurementRow.arm, CaseRow.patient_id, MeasurementRow.metrics)
        .join(CaseRow, CaseRow.case_id == MeasurementRow.case_id)
        .where(MeasurementRow.round_id == round_id)
        .order_by(MeasurementRow.case_id)
    )
    for arm, patient, metrics in session.execute(measured):
        figures[arm, patient].append(metrics)
    reviewed = (
        select(CaseRow.patient_id, ReviewRow.revision_degree_percent, ReviewRow.active_s)
        .join(CaseRow, CaseRow.case_id == ReviewRow.case_id)
        .where(ReviewRow.round_id == round_id, CaseRow.split == "test")
        .order_by(ReviewRow.case_id)
    )
    for patient, degree, active_s in session.execute(reviewed):
        figures[REVISION, patient].append([degree, active_s])
    known: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for (group, patient), values in figures.items():
        known[group][sha256_hex(patient.encode())[:_DIGITS]] = _digest(values)
    return dict(known)


def _digest(figures: object) -> str:
    return sha256_hex(canonical_json(figures))[:_DIGITS]
