"""Whom a report is about, so that the door can tell what it gives away beside earlier ones.

Nothing of this leaves: it is kept in the ledger's entry of the release, which stays in the site's
database. Patients and their figures are there as digests.
"""

from collections import Counter, defaultdict
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.site_report import SiteReport
from algorithms.contracts.subgroups import SUBGROUPS
from evaluation.differencing import Told, differencing_rule, subgroup_of, unknown_members
from site_agent.database import CaseRow, LedgerRow, MeasurementRow, ReviewRow, RoundRow

REVISION = "revision"
_DIGITS = 16


def agreement_of(first: str, second: str) -> str:
    """Name the figures of how far two raters agree, who are letters."""
    return f"agreement {first} {second}"


def told_by(session: Session, report: SiteReport) -> Told:
    """Return whom the figures of a report are about, group by group, and a digest of their figures.

    The members are those who were measured and reviewed in the round that made the report, in the
    subgroups that they were in then. Where the database does not know them all, only their number
    counts.
    """
    said = report.model_dump(mode="json")
    rounds = session.scalars(select(RoundRow).where(RoundRow.package_id == report.package_id))
    made_by = [row.round_id for row in rounds if row.report is not None and _same(row.report, said)]
    return _told(report, _members(session, made_by[0]) if made_by else {})


def beside_earlier(session: Session, round_id: str, report: SiteReport) -> SiteReport:
    """Leave out of a report those subgroups and pairs of raters that earlier ones do not allow.

    Without them a report may still be refused at the door; with them it could be, although it need
    not.

    Args:
        session: in which the round's measurements are stored.
        round_id: that made the report.
        report: about to be stored.
    """
    released = select(LedgerRow).where(
        LedgerRow.state == "released", LedgerRow.kind == "site_report"
    )
    earlier = [row.detail["told"] for row in session.scalars(released) if "told" in row.detail]
    members = _members(session, round_id)
    kept = report.model_copy(update={"subgroups": (), "agreement": ()})
    for attribute in SUBGROUPS:
        more = tuple(one for one in report.subgroups if one.attribute == attribute)
        kept = _with(kept, "subgroups", more, members, earlier)
    for pair in report.agreement:
        kept = _with(kept, "agreement", (pair,), members, earlier)
    return kept


def _with(
    report: SiteReport, field: str, more: tuple[BaseModel, ...], members: Told, earlier: list[Told]
) -> SiteReport:
    """Add to a field of a report what may be said beside earlier ones; else leave it as it is."""
    wider = report.model_copy(update={field: (*getattr(report, field), *more)})
    minimum = report.minimum_group_size
    rule = differencing_rule(_told(wider, members), earlier, minimum_group_size=minimum)
    return wider if rule is None else report


def _told(report: SiteReport, known: Told) -> dict[str, dict[str, str]]:
    """Return group -> members: the known ones where their number is the report's, of all parts."""
    told: dict[str, dict[str, str]] = {}
    for groups in _groups(report).values():
        if all(len(known.get(group, {})) == patients for group, patients, _, _ in groups):
            told |= {group: dict(known.get(group, {})) for group, _, _, _ in groups}
            continue
        placed: Counter[str] = Counter()
        # One digest for all: a patient's figures are the same in every part of the whole.
        digest = _digest([figures for _, _, _, figures in groups])
        for group, patients, attribute, _ in groups:
            told[group] = unknown_members(patients, digest, first=placed[attribute])
            placed[attribute] += patients
    return told


def _groups(report: SiteReport) -> dict[str, list[tuple[str, int, str, Any]]]:
    """Return whole -> its groups of figures: name, patients, attribute, figures."""
    groups: dict[str, list[tuple[str, int, str, Any]]] = {
        arm.arm: [(arm.arm, arm.patients, "", arm.model_dump(mode="json"))] for arm in report.arms
    }
    for subgroup in report.subgroups:
        for part in subgroup.arms:
            name = subgroup_of(part.arm, subgroup.attribute, subgroup.group)
            figures = part.model_dump(mode="json")
            groups[part.arm].append((name, part.patients, subgroup.attribute, figures))
    for pair in report.agreement:
        name = agreement_of(pair.first, pair.second)
        groups[name] = [(name, pair.patients, "", pair.model_dump(mode="json"))]
    if report.revision is not None:
        figures = report.revision.model_dump(mode="json")
        groups[REVISION] = [(REVISION, report.revision.patients, "", figures)]
    return groups


def _same(stored: dict[str, Any], said: dict[str, Any]) -> bool:
    """Say whether a stored report, of this version or an older one, is the one that is said."""
    return SiteReport.model_validate(stored).model_dump(mode="json") == said


def _members(session: Session, round_id: str) -> dict[str, dict[str, str]]:
    """Gather group -> patient -> digest of the figures of all their cases."""
    figures: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    measured = (
        select(
            MeasurementRow.arm,
            CaseRow.patient_id,
            MeasurementRow.metrics,
            MeasurementRow.subgroups,
        )
        .join(CaseRow, CaseRow.case_id == MeasurementRow.case_id)
        .where(MeasurementRow.round_id == round_id)
        .order_by(MeasurementRow.case_id)
    )
    for arm, patient, metrics, subgroups in session.execute(measured):
        figures[arm, patient].append(metrics)
        for attribute, group in subgroups.items():
            figures[subgroup_of(arm, attribute, group), patient].append(metrics)
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
