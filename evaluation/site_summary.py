"""From one row per patient to the one report that leaves a hospital."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean
from typing import Any

from algorithms.contracts.scale import (
    DIFFERENCE_DECIMALS,
    FRACTION,
    FRACTION_DIFFERENCE,
    MILLIMETRE,
    PERCENT,
    SECOND,
    Scale,
)
from algorithms.contracts.site_report import (
    AnnotationSummary,
    ArmSummary,
    Distribution,
    PairedSummary,
    RaterAgreement,
    RevisionSummary,
    SiteReport,
    YardstickSummary,
)
from algorithms.contracts.subgroups import Attribute, Vendor
from evaluation.case_metrics import CaseMetrics
from evaluation.disclosure_control import distribution, suppressed_bins
from evaluation.revision import revision_bin_counts
from evaluation.subgroup_summary import summarise_subgroups

ARMS = ("direct", "adapted", "target_trained")
PAIRS = (("direct", "adapted"), ("adapted", "target_trained"))
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
        patient: what the rows of one patient share, to pair the arms; it never leaves. None: the
            row is in no pair.
        subgroups: attribute -> the patient's group, the same in every arm; "" or nothing: not
            known.
    """

    arm: str
    metrics: CaseMetrics
    against_reviewed: bool = False
    patient: str | None = None
    subgroups: Mapping[Attribute, str] = field(default_factory=dict)


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
class RaterRow:
    """How far two people agree about one patient.

    Attributes:
        first: a letter that the study gave.
        second: another one, or the same for a person who drew twice.
        dsc: Dice of their contours; NaN when both are empty.
        hd95_mm: NaN when one is empty.
    """

    first: str
    second: str
    dsc: float
    hd95_mm: float


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
    raters: Sequence[RaterRow] = (),
    minimum_group_size: int,
) -> SiteReport:
    """Summarise a hospital's test patients and reviews under the rules of disclosure control.

    The report is the same for any order of the rows.

    Args:
        rows: one per test patient and arm.
        subject: study, site, package and model.
        annotation: what the doctors were asked for.
        revisions: one per reviewed patient; none gives no revision summary.
        raters: one per patient and pair of people who drew both.
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
        paired=_summarise_pairs(rows, minimum_group_size),
        agreement=_summarise_raters(raters, minimum_group_size),
        subgroups=summarise_subgroups(
            rows,
            [arm for arm in arms if arm.patients],
            minimum_group_size=minimum_group_size,
        ),
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

    names = [one.name for one in fields(CaseMetrics)]
    return CaseMetrics(**{name: average([getattr(case, name) for case in cases]) for name in names})


def _summarise_arm(arm: str, metrics: Sequence[CaseMetrics], minimum_group_size: int) -> ArmSummary:
    if any(NSD_TOLERANCE_MM not in m.nsd for m in metrics):
        raise ValueError(f"arm '{arm}': a row has no NSD at {NSD_TOLERANCE_MM} mm: measure it")

    hidden = len(metrics) < minimum_group_size
    failed = [m.is_failure for m in metrics]

    def over(values: Iterable[float], scale: Scale, decimals: int) -> Distribution:
        if hidden:  # how many are undefined would tell how many failed
            return Distribution(n=len(metrics))
        return distribution(
            values,
            scale=scale,
            minimum_group_size=minimum_group_size,
            decimals=decimals,
            failed=failed if scale is FRACTION else None,
        )

    nsd = over((m.nsd[NSD_TOLERANCE_MM] for m in metrics), FRACTION, _FRACTION_DECIMALS)
    # A contour that is there and misses the tumour may touch it within the tolerance. Where all
    # failed, the NSD of those few would follow from that of the others, who have none: 0.
    touching = sum(m.is_failure and not math.isnan(m.hd95_mm) for m in metrics)
    if all(failed) and 0 < touching < minimum_group_size:
        nsd = Distribution(n=nsd.n, undefined=nsd.undefined)
    return ArmSummary(
        arm=arm,
        patients=len(metrics),
        failures=None if hidden else sum(failed),
        dsc=over((m.dsc for m in metrics), FRACTION, _FRACTION_DECIMALS),
        hd95_mm=over((m.hd95_mm for m in metrics), MILLIMETRE, _MM_DECIMALS),
        assd_mm=over((m.assd_mm for m in metrics), MILLIMETRE, _MM_DECIMALS),
        asd_predicted_to_reference_mm=over(
            (m.asd_predicted_to_reference_mm for m in metrics), MILLIMETRE, _MM_DECIMALS
        ),
        nsd_at_1mm=nsd,
    )


def _summarise_pairs(
    rows: Sequence[PatientRow], minimum_group_size: int
) -> tuple[PairedSummary, ...]:
    """Summarise how far the Dice of the same patients differ between two arms."""
    dsc = {(row.arm, row.patient): row.metrics.dsc for row in rows if row.patient is not None}
    pairs = []
    for first, second in PAIRS:
        both = [
            (before, dsc[second, patient])
            for (arm, patient), before in dsc.items()
            if arm == first and (second, patient) in dsc
        ]
        defined = [pair for pair in both if not any(map(math.isnan, pair))]
        missed = [[pair[i] == 0 for pair in defined] for i in (0, 1)]
        # Means over other patients than the arms' would give away those by whom they differ.
        same = all(
            len(defined) == sum(row.arm == arm and not math.isnan(row.metrics.dsc) for row in rows)
            for arm in (first, second)
        )
        told = same and all(
            len(one) >= minimum_group_size and not 0 < one.count(False) < minimum_group_size
            for one in missed
        )
        if told:
            difference = distribution(
                (round(after - before, DIFFERENCE_DECIMALS) for before, after in defined),
                scale=FRACTION_DIFFERENCE,
                minimum_group_size=minimum_group_size,
                decimals=_FRACTION_DECIMALS,
                failed=[any(flags) for flags in zip(*missed, strict=True)],
            )
            if difference.mean is not None:
                pairs.append(PairedSummary(first=first, second=second, difference=difference))
    return tuple(pairs)


def _summarise_raters(
    raters: Sequence[RaterRow], minimum_group_size: int
) -> tuple[RaterAgreement, ...]:
    """Summarise every pair of people; a pair is the same in either order."""
    by_pair: dict[tuple[str, str], list[RaterRow]] = {}
    for row in raters:
        first, second = sorted((row.first, row.second))
        by_pair.setdefault((first, second), []).append(row)

    def summarise(first: str, second: str, found: Sequence[RaterRow]) -> RaterAgreement:
        if len(found) < minimum_group_size:  # how many are undefined would tell who drew nothing
            hidden = Distribution(n=len(found))
            dsc = hd95_mm = hidden
        else:
            dsc = distribution(
                [row.dsc for row in found],
                scale=FRACTION,
                minimum_group_size=minimum_group_size,
                decimals=_FRACTION_DECIMALS,
                failed=[row.dsc == 0 for row in found],
            )
            hd95_mm = distribution(
                [row.hd95_mm for row in found],
                scale=MILLIMETRE,
                minimum_group_size=minimum_group_size,
                decimals=_MM_DECIMALS,
            )
        return RaterAgreement(
            first=first, second=second, patients=len(found), dsc=dsc, hd95_mm=hd95_mm
        )

    return tuple(summarise(*pair, found) for pair, found in sorted(by_pair.items()))


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
    if len(revisions) < minimum_group_size:  # how many took no time would be about few, too
        hidden_figure = Distribution(n=len(revisions))
        return RevisionSummary(
            patients=len(revisions),
            degree_percent=hidden_figure,
            bins=None,
            active_s=hidden_figure,
            simulated=any(row.simulated for row in revisions),
        )
    degrees = [row.degree_percent for row in revisions]
    redrawn = [degree >= 100.0 for degree in degrees]
    counts = revision_bin_counts(degrees)
    others = revision_bin_counts(d for d, anew in zip(degrees, redrawn, strict=True) if not anew)
    # The report gives all bins or none; it has no way to say that only some are hidden. They are
    # also landmarks of the sketch: two divisions of the same patients would give away what lies
    # between their ends.
    hidden = any(
        None in suppressed_bins(c, minimum_group_size=minimum_group_size) for c in (counts, others)
    )
    return RevisionSummary(
        patients=len(revisions),
        degree_percent=distribution(
            degrees,
            scale=PERCENT,
            minimum_group_size=minimum_group_size,
            decimals=_PERCENT_DECIMALS,
            failed=redrawn,
        ),
        bins=None if hidden else counts,
        active_s=distribution(
            (row.active_s for row in revisions),
            scale=SECOND,
            minimum_group_size=minimum_group_size,
            decimals=_SECOND_DECIMALS,
        ),
        simulated=any(row.simulated for row in revisions),
    )
