"""From one row per patient to the one report that leaves a hospital."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from algorithms.contracts.site_report import (
    AnnotationSummary,
    ArmSummary,
    Distribution,
    RevisionSummary,
    SiteReport,
    Vendor,
    YardstickSummary,
)
from evaluation.case_metrics import CaseMetrics
from evaluation.disclosure_control import distribution, suppressed_bins
from evaluation.revision import revision_bin_counts

ARMS = ("direct", "adapted", "target_trained")
NSD_TOLERANCE_MM = 1.0

_FRACTION_DECIMALS = 4
_MM_DECIMALS = 2
_PERCENT_DECIMALS = 2
_SECOND_DECIMALS = 1


@dataclass(frozen=True)
class PatientRow:
    """One test patient segmented in one way.

    Attributes:
        arm: one of `ARMS`: the source model as it came ("direct"), after adaptation ("adapted"), or
            a model trained on all labels of this hospital ("target_trained").
        metrics: the patient's figures, with the NSD at 1 mm among them.
        against_reviewed: a reviewed contour was the yardstick of one of the patient's cases at
            least, since no reference contour came in with its images.
    """

    arm: str
    metrics: CaseMetrics
    against_reviewed: bool = False


@dataclass(frozen=True)
class RevisionRow:
    """What an oncologist changed for one patient.

    Attributes:
        degree_percent: 100 * (1 - Dice(model, revised)); 0 when accepted as it was.
        active_s: seconds of work, pauses left out.
        simulated: the reviewer was the demo's simulated annotator.
    """

    degree_percent: float
    active_s: float
    simulated: bool


@dataclass(frozen=True)
class ReportSubject:
    """What a report is about: ids from the signed package, and what made the numbers."""

    study: str
    site: str
    package_id: str
    model_version: str
    adapted_model_sha256: str
    code_version: str
    seed: int
    vendors: tuple[Vendor, ...] = ()


def summarise_site(
    rows: Sequence[PatientRow],
    *,
    subject: ReportSubject,
    annotation: AnnotationSummary,
    revisions: Sequence[RevisionRow] = (),
    minimum_group_size: int,
) -> SiteReport:
    """Summarise a hospital's test patients and reviews under the rules of disclosure control.

    The report is the same for any order of the rows.

    Args:
        rows: one per test patient and arm.
        subject: study, site, package and model.
        annotation: what the doctors were asked for.
        revisions: one per reviewed patient; none gives no revision summary.
        minimum_group_size: at least 1; figures over fewer patients are suppressed.

    Raises:
        ValueError: for an unknown arm, or metrics without the NSD at 1 mm.
    """
    unknown = sorted({row.arm for row in rows} - set(ARMS))
    if unknown:
        raise ValueError(f"unknown arm '{unknown[0]}': use one of {', '.join(ARMS)}")
    arms = [
        _summarise_arm(arm, [row.metrics for row in rows if row.arm == arm], minimum_group_size)
        for arm in ARMS
    ]
    tested = max(arm.patients for arm in arms)
    return SiteReport(
        study=subject.study,
        site=subject.site,
        package_id=subject.package_id,
        model_version=subject.model_version,
        adapted_model_sha256=subject.adapted_model_sha256,
        code_version=subject.code_version,
        seed=subject.seed,
        vendors=tuple(sorted(set(subject.vendors))) if tested >= minimum_group_size else (),
        minimum_group_size=minimum_group_size,
        annotation=annotation,
        arms=tuple(arm for arm in arms if arm.patients),
        yardstick=_summarise_yardsticks(rows, minimum_group_size),
        revision=_summarise_revisions(revisions, minimum_group_size) if revisions else None,
    )


def average_cases(cases: Sequence[CaseMetrics]) -> CaseMetrics:
    """Make one patient's row of the rows of their cases (image series): the mean of every figure.

    NaN is left out of a mean, and the mean of nothing but NaN is NaN. So Dice is 0, a failure, only
    when it is 0 in every case where it is defined.
    """

    def mean(figures: Sequence[float]) -> float:
        defined = [figure for figure in figures if not math.isnan(figure)]
        return fmean(defined) if defined else math.nan

    def average(values: Sequence[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: mean([value[key] for value in values]) for key in values[0]}
        return mean(values)

    names = [field.name for field in fields(CaseMetrics)]
    return CaseMetrics(**{name: average([getattr(case, name) for case in cases]) for name in names})


def _summarise_arm(arm: str, metrics: Sequence[CaseMetrics], minimum_group_size: int) -> ArmSummary:
    if any(NSD_TOLERANCE_MM not in m.nsd for m in metrics):
        raise ValueError(f"arm '{arm}': a row has no NSD at {NSD_TOLERANCE_MM} mm: measure it")

    hidden = len(metrics) < minimum_group_size

    def over(values: Iterable[float], decimals: int) -> Distribution:
        if hidden:  # how many are undefined would tell how many failed
            return Distribution(n=len(metrics))
        return distribution(values, minimum_group_size=minimum_group_size, decimals=decimals)

    return ArmSummary(
        arm=arm,
        patients=len(metrics),
        failures=None if hidden else sum(m.is_failure for m in metrics),
        dsc=over((m.dsc for m in metrics), _FRACTION_DECIMALS),
        hd95_mm=over((m.hd95_mm for m in metrics), _MM_DECIMALS),
        assd_mm=over((m.assd_mm for m in metrics), _MM_DECIMALS),
        asd_predicted_to_reference_mm=over(
            (m.asd_predicted_to_reference_mm for m in metrics), _MM_DECIMALS
        ),
        nsd_at_1mm=over((m.nsd[NSD_TOLERANCE_MM] for m in metrics), _FRACTION_DECIMALS),
    )


def _summarise_yardsticks(
    rows: Sequence[PatientRow], minimum_group_size: int
) -> YardstickSummary | None:
    """Count the yardsticks of the arm with most patients: every arm is measured on the same."""
    if not rows:
        return None
    flags = max(([r.against_reviewed for r in rows if r.arm == arm] for arm in ARMS), key=len)
    reference, reviewed = suppressed_bins(
        (flags.count(False), flags.count(True)), minimum_group_size=minimum_group_size
    )
    return YardstickSummary(reference_contour=reference, reviewed_contour=reviewed)


def _summarise_revisions(
    revisions: Sequence[RevisionRow], minimum_group_size: int
) -> RevisionSummary:
    degrees = [row.degree_percent for row in revisions]
    counts = revision_bin_counts(degrees)
    # The report gives all bins or none; it has no way to say that only some are hidden.
    hidden = None in suppressed_bins(counts, minimum_group_size=minimum_group_size)
    return RevisionSummary(
        patients=len(revisions),
        degree_percent=distribution(
            degrees, minimum_group_size=minimum_group_size, decimals=_PERCENT_DECIMALS
        ),
        bins=None if hidden else counts,
        active_s=distribution(
            (row.active_s for row in revisions),
            minimum_group_size=minimum_group_size,
            decimals=_SECOND_DECIMALS,
        ),
        simulated=any(row.simulated for row in revisions),
    )
