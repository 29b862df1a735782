"""From the reports of the hospitals to the report of the study, out of aggregates alone.

Nothing here sees a patient's row: what a hospital suppressed stays suppressed, and a pooled figure
is computed only from figures the hospitals gave.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.scale import (
    FRACTION,
    FRACTION_DIFFERENCE,
    MILLIMETRE,
    PERCENT,
    SECOND,
    Scale,
)
from algorithms.contracts.site_report import (
    ArmSummary,
    Distribution,
    PairedSummary,
    RaterAgreement,
    SiteReport,
    SubgroupSummary,
)
from algorithms.contracts.subgroups import ORDERED, SUBGROUPS, Attribute
from evaluation.cross_site_tests import (
    BoundedTest,
    MeanDifference,
    difference_within_sites,
    paired_t_test,
    pairs_test,
    pooled_moments,
    random_effects,
    sign_test,
    trend_test,
    wilcoxon_test,
)
from evaluation.pooled_sketch import (
    QUARTILES,
    BoundedFigure,
    Spread,
    between,
    bounded_quantile,
    merge,
    spread,
)
from evaluation.site_summary import ARMS, PAIRS
from evaluation.study_record import StudyRecord

MINIMUM_GAP = 0.005  # Dice: below half a point the share of a gap closed is noise over noise

_SUBGROUP_FIGURES = (
    ("dsc", FRACTION, 0.0),
    ("hd95_mm", MILLIMETRE, None),
    ("asd_predicted_to_reference_mm", MILLIMETRE, None),
)


class _Noun(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GapReason(StrEnum):
    """Why the share of the gap closed is not given."""

    ARM_ABSENT = "arm_absent"
    SUPPRESSED = "suppressed"
    DIFFERENT_PATIENTS = "different_patients"
    NO_GAP = "no_gap"

    @property
    def explanation(self) -> str:
        """Say it in words."""
        return {
            GapReason.ARM_ABSENT: "one of the three models was not tested",
            GapReason.SUPPRESSED: "too few patients to give a mean Dice",
            GapReason.DIFFERENT_PATIENTS: "the models were not tested on the same patients",
            GapReason.NO_GAP: (
                f"training on the target gains at most {MINIMUM_GAP} Dice over direct use: "
                "there is no gap to close"
            ),
        }[self]


class GapClosed(_Noun):
    """Share of the distance from direct use to training on the target that adaptation covers.

    Attributes:
        fraction: (adapted - direct) / (target_trained - direct), in mean Dice. 1 is as good as
            training on the target; it may lie below 0 or above 1. None when `reason` says so.
        reason: why there is no fraction.
    """

    fraction: float | None = None
    reason: GapReason | None = None


class SiteResult(_Noun):
    """One hospital's report, and what follows from it."""

    report: SiteReport
    gap_closed: GapClosed

    def arm(self, name: str) -> ArmSummary | None:
        """Return one way of segmenting the test patients, None when it was not tested."""
        return _arm(self.report, name)


class PooledDistribution(_Noun):
    """A figure over the patients of all hospitals that gave it (patient-weighted).

    Attributes:
        sites: hospitals that gave it; those that suppressed it are left out.
        n: their patients with a defined value.
        undefined: their patients without one.
        mean: sum(n_i mean_i) / sum(n_i).
        sd: of all patients together, from each hospital's n, mean and SD; None when one lacks it.
        quantiles: first quartile, median and third quartile of the patients of the hospitals that
            gave a sketch, each with its bounds; none without any.
    """

    sites: int
    n: int
    undefined: int
    mean: float | None
    sd: float | None
    quantiles: tuple[BoundedFigure, ...] = ()

    @property
    def close_median(self) -> BoundedFigure | None:
        """Return the median where its bounds say something: no wider than the SD, or 5 % of it.

        From few patients hospitals count in one bin over all of the scale; its middle is no median.
        """
        if len(self.quantiles) != len(QUARTILES) or self.mean is None:
            return None
        median = self.quantiles[1]
        if median.high is None:
            return None
        close = median.high - median.low <= max(self.sd or 0.0, 0.05 * abs(self.mean))
        return median if close else None


class PooledArm(_Noun):
    """One way of segmenting, over all hospitals that tested it.

    Attributes:
        failures: of those that say; None where none does.
    """

    arm: str
    sites: int
    patients: int
    failures: int | None
    dsc: PooledDistribution
    hd95_mm: PooledDistribution
    assd_mm: PooledDistribution
    asd_predicted_to_reference_mm: PooledDistribution
    nsd_at_1mm: PooledDistribution


class PooledPair(_Noun):
    """What the same patients gained in Dice from one arm to another, over all hospitals that say.

    Attributes:
        difference: second minus first.
        all_patients: paired t test of all differences together.
        sites_differ: where each hospital may have its own difference.
        sign: gains against losses.
        wilcoxon: signed ranks.
    """

    first: str
    second: str
    difference: PooledDistribution
    all_patients: MeanDifference | None
    sites_differ: MeanDifference | None
    sign: BoundedTest | None
    wilcoxon: BoundedTest | None


class PooledAgreement(_Noun):
    """How far two of the study's raters agree, over the patients of all hospitals that say."""

    first: str
    second: str
    patients: int
    dsc: PooledDistribution
    hd95_mm: PooledDistribution


class PooledSubgroupArm(_Noun):
    """One way of segmenting, on the patients of a subgroup over all hospitals that tell it."""

    arm: str
    patients: int
    failures: int
    dsc: PooledDistribution
    hd95_mm: PooledDistribution
    asd_predicted_to_reference_mm: PooledDistribution


class PooledSubgroup(_Noun):
    """The patients of one subgroup over all hospitals that tell it.

    Attributes:
        sites: their names; none where nobody tells it.
    """

    group: str
    sites: tuple[str, ...]
    arms: tuple[PooledSubgroupArm, ...]

    def arm(self, name: str) -> PooledSubgroupArm | None:
        """Return one way of segmenting, None when no hospital tells of it."""
        return next((arm for arm in self.arms if arm.arm == name), None)


class UntoldPatients(_Noun):
    """Patients of one hospital who are in no subgroup that it tells: too few, or not known."""

    site: str
    patients: int
    tested: int


class PooledAttribute(_Noun):
    """All subgroups of one attribute.

    Attributes:
        groups: in their order; of scanners, those that anybody tells.
        tests: figure -> the adapted model between the subgroups; none without two that are told.
        difference: Dice of the adapted model in the last group less that in the first, inside each
            hospital that tells both; None where the groups have no order, or nobody tells both.
        untold: hospital by hospital, where there are any.
    """

    attribute: Attribute
    groups: tuple[PooledSubgroup, ...]
    tests: dict[str, BoundedTest]
    difference: MeanDifference | None
    untold: tuple[UntoldPatients, ...]


class PackageResult(_Noun):
    """Every hospital's result with one package, and all of them together.

    Attributes:
        subgroups: attribute by attribute; none where nobody tells any.
        missing_sites: hospitals of the study from which no report on this package has arrived.
    """

    package_id: str
    model_version: str
    sites: tuple[SiteResult, ...]
    pooled: tuple[PooledArm, ...]
    gap_closed: GapClosed
    revision_degree_percent: PooledDistribution
    revision_active_s: PooledDistribution | None = None
    paired: tuple[PooledPair, ...] = ()
    agreement: tuple[PooledAgreement, ...] = ()
    subgroups: tuple[PooledAttribute, ...] = ()
    missing_sites: tuple[str, ...] = ()


class StudyReport(_Noun):
    """The result of a study: one section per package, in the order of model version.

    Attributes:
        record: what is known beside the sites' figures.
    """

    schema_version: Literal[1] = 1
    study: str
    packages: tuple[PackageResult, ...]
    record: StudyRecord = StudyRecord()


def aggregate(
    reports: Sequence[SiteReport],
    *,
    expected_sites: Iterable[str] = (),
    record: StudyRecord | None = None,
) -> StudyReport:
    """Aggregate the hospitals' reports into the study's.

    The result is the same for any order of `reports`; a report sent twice counts once. Those of
    `expected_sites` that did not report on a package are named there. `record` goes in as it is.

    Raises:
        ProtocolError: without reports, for reports of different studies, for two different
            reports of one site on one package, or for one package under two model versions.
    """
    if not reports:
        raise ProtocolError("no site report has arrived: a study report needs at least one")
    studies = sorted({report.study for report in reports})
    if len(studies) > 1:
        raise ProtocolError(f"reports of different studies: {' and '.join(studies[:2])}")
    packages: dict[str, dict[str, SiteReport]] = {}
    for report in reports:
        check_arms(report)
        known = packages.setdefault(report.package_id, {}).setdefault(report.site, report)
        if known != report:
            raise ProtocolError(
                f"site '{report.site}' sent two different reports on package "
                f"{report.package_id[:12]}: a report is final once released"
            )
    expected = frozenset(expected_sites)
    results = [
        _package_result(package_id, sites, expected) for package_id, sites in packages.items()
    ]
    results.sort(key=lambda result: (_by_number(result.model_version), result.package_id))
    return StudyReport(study=studies[0], packages=tuple(results), record=record or StudyRecord())


def _by_number(version: str) -> list[tuple[int, str]]:
    """Order versions as people do: v9 before v10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _PARTS.findall(version)]


_PARTS = re.compile(r"[0-9]+|[^0-9]+")


def check_arms(report: SiteReport) -> None:
    """Check that every arm of a report is a known one, and there once.

    Raises:
        ProtocolError: naming the site and the arm.
    """
    names = [arm.arm for arm in report.arms]
    unknown = sorted(set(names) - set(ARMS))
    if unknown:
        raise ProtocolError(f"site '{report.site}': unknown arm '{unknown[0]}' in its report")
    if len(names) != len(set(names)):
        raise ProtocolError(f"site '{report.site}': its report holds an arm twice")


def _package_result(
    package_id: str, reports: Mapping[str, SiteReport], expected_sites: frozenset[str]
) -> PackageResult:
    ordered = [reports[site] for site in sorted(reports)]
    versions = sorted({report.model_version for report in ordered})
    if len(versions) > 1:
        raise ProtocolError(
            f"package {package_id[:12]} is reported as model versions "
            f"{' and '.join(versions[:2])}: a package has one"
        )
    pooled = tuple(
        _pool_arm(name, arms)
        for name in ARMS
        if (arms := [arm for report in ordered if (arm := _arm(report, name))])
    )
    return PackageResult(
        package_id=package_id,
        model_version=versions[0],
        sites=tuple(
            SiteResult(
                report=report, gap_closed=_gap_closed({arm.arm: arm.dsc for arm in report.arms})
            )
            for report in ordered
        ),
        pooled=pooled,
        gap_closed=_gap_closed({arm.arm: arm.dsc for arm in pooled}),
        revision_degree_percent=_pool(
            [r.revision.degree_percent for r in ordered if r.revision],
            decimals=2,
            scale=PERCENT,
            known_as=100.0,
        ),
        revision_active_s=_pool(
            [r.revision.active_s for r in ordered if r.revision], decimals=1, scale=SECOND
        ),
        paired=tuple(
            _pool_pair(*names, pairs)
            for names in PAIRS
            if (pairs := [p for r in ordered for p in r.paired if (p.first, p.second) == names])
        ),
        agreement=_pool_agreement([a for report in ordered for a in report.agreement]),
        subgroups=_pool_subgroups(ordered),
        missing_sites=tuple(sorted(expected_sites - reports.keys())),
    )


def _arm(report: SiteReport, name: str) -> ArmSummary | None:
    return next((arm for arm in report.arms if arm.arm == name), None)


def _pool_arm(name: str, arms: Sequence[ArmSummary]) -> PooledArm:
    def millimetres(figure: str) -> PooledDistribution:
        return _pool([getattr(arm, figure) for arm in arms], decimals=2, scale=MILLIMETRE)

    told = [arm.failures for arm in arms if arm.failures is not None]
    return PooledArm(
        arm=name,
        sites=len(arms),
        patients=sum(arm.patients for arm in arms),
        failures=sum(told) if told else None,
        dsc=_pool([arm.dsc for arm in arms], decimals=4, scale=FRACTION, known_as=0.0),
        hd95_mm=millimetres("hd95_mm"),
        assd_mm=millimetres("assd_mm"),
        asd_predicted_to_reference_mm=millimetres("asd_predicted_to_reference_mm"),
        # The NSD of a failure is 0 where a contour is empty, and not known where it is astray.
        nsd_at_1mm=_pool(
            [arm.nsd_at_1mm for arm in arms],
            decimals=4,
            scale=FRACTION,
            known_as=0.0,
            astray=[
                (arm.failures or 0) - (arm.hd95_mm.undefined - arm.dsc.undefined) for arm in arms
            ],
        ),
    )


def _pool_pair(first: str, second: str, pairs: Sequence[PairedSummary]) -> PooledPair:
    differences = [pair.difference for pair in pairs]
    moments = [(d.n, d.mean, d.sd) for d in differences if d.mean is not None and d.sd is not None]
    # Who failed in either arm may have gained or lost anything.
    patients = _spread(differences, FRACTION_DIFFERENCE, None, [d.n for d in differences])
    return PooledPair(
        first=first,
        second=second,
        difference=_pool(
            differences,
            decimals=4,
            scale=FRACTION_DIFFERENCE,
            astray=[d.n for d in differences],
        ),
        all_patients=paired_t_test(moments),
        sites_differ=random_effects(moments),
        sign=sign_test(patients),
        wilcoxon=wilcoxon_test(patients),
    )


def _pool_agreement(agreements: Sequence[RaterAgreement]) -> tuple[PooledAgreement, ...]:
    pairs = sorted({(one.first, one.second) for one in agreements})
    pooled = []
    for first, second in pairs:
        found = [one for one in agreements if (one.first, one.second) == (first, second)]
        pooled.append(
            PooledAgreement(
                first=first,
                second=second,
                patients=sum(one.patients for one in found),
                dsc=_pool([one.dsc for one in found], decimals=4, scale=FRACTION, known_as=0.0),
                hd95_mm=_pool([one.hd95_mm for one in found], decimals=2, scale=MILLIMETRE),
            )
        )
    return tuple(pooled)


def _pool_subgroups(reports: Sequence[SiteReport]) -> tuple[PooledAttribute, ...]:
    if not any(report.subgroups for report in reports):
        return ()
    return tuple(_pool_attribute(attribute, reports) for attribute in SUBGROUPS)


def _pool_attribute(attribute: Attribute, reports: Sequence[SiteReport]) -> PooledAttribute:
    told = {
        group: [
            (report.site, one)
            for report in reports
            for one in report.subgroups
            if (one.attribute, one.group) == (attribute, group)
        ]
        for group in SUBGROUPS[attribute]
    }
    if attribute not in ORDERED:
        told = {group: found for group, found in told.items() if found}
    adapted = [
        arms
        for found in told.values()
        if (arms := [arm for _, one in found for arm in one.arms if arm.arm == "adapted"])
    ]
    tests = {}
    for figure, scale, known_as in _SUBGROUP_FIGURES:
        groups = [
            _spread([getattr(arm, figure) for arm in arms], scale, known_as, None)
            for arms in adapted
        ]
        test = (trend_test if attribute in ORDERED else pairs_test)(groups)
        if test is not None:
            tests[figure] = test
    return PooledAttribute(
        attribute=attribute,
        groups=tuple(_pool_subgroup(group, found) for group, found in told.items()),
        tests=tests,
        difference=_difference_inside(attribute, reports) if attribute in ORDERED else None,
        untold=tuple(
            UntoldPatients(site=report.site, patients=tested - inside, tested=tested)
            for report in reports
            if (tested := max((arm.patients for arm in report.arms), default=0))
            and (inside := _patients_inside(report, attribute)) < tested
        ),
    )


def _difference_inside(
    attribute: Attribute, reports: Sequence[SiteReport]
) -> MeanDifference | None:
    """Compare the outermost groups, in their order, inside each hospital that tells both."""
    first, last = SUBGROUPS[attribute][0], SUBGROUPS[attribute][-1]
    pairs = []
    for report in reports:
        dsc = {
            one.group: (arm.dsc.n, arm.dsc.mean, arm.dsc.sd)
            for one in report.subgroups
            for arm in one.arms
            if one.attribute == attribute
            and arm.arm == "adapted"
            and arm.dsc.mean is not None
            and arm.dsc.sd is not None
        }
        if first in dsc and last in dsc:
            pairs.append((dsc[first], dsc[last]))
    return difference_within_sites(pairs)


def _patients_inside(report: SiteReport, attribute: Attribute) -> int:
    parts = [one.arms for one in report.subgroups if one.attribute == attribute]
    return sum(max((arm.patients for arm in arms), default=0) for arms in parts)


def _pool_subgroup(group: str, told: Sequence[tuple[str, SubgroupSummary]]) -> PooledSubgroup:
    arms = []
    for name in ARMS:
        found = [arm for _, one in told for arm in one.arms if arm.arm == name]
        if not found:
            continue
        figures = {
            figure: _pool(
                [getattr(arm, figure) for arm in found],
                decimals=4 if scale is FRACTION else 2,
                scale=scale,
                known_as=known_as,
            )
            for figure, scale, known_as in _SUBGROUP_FIGURES
        }
        arms.append(
            PooledSubgroupArm(
                arm=name,
                patients=sum(arm.patients for arm in found),
                failures=sum(arm.failures for arm in found),
                **figures,
            )
        )
    return PooledSubgroup(group=group, sites=tuple(site for site, _ in told), arms=tuple(arms))


def _pool(
    distributions: Sequence[Distribution],
    *,
    decimals: int,
    scale: Scale,
    known_as: float | None = None,
    astray: Sequence[int] | None = None,
) -> PooledDistribution:
    """Pool the figures that were given.

    Args:
        distributions: one per hospital.
        decimals: digits kept.
        scale: of their sketches.
        known_as: value of the patients that a sketch leaves out.
        astray: of these, per hospital, at most how many have any value on the scale instead.
    """
    given = [d for d in distributions if d.mean is not None]
    moments = [(d.n, d.mean or 0.0, d.sd or 0.0) for d in given]
    n = sum(count for count, *_ in moments)
    mean = math.fsum(count * m for count, m, _ in moments) / n if n else None
    sd = None
    if n > 1 and all(d.sd is not None or d.n == 1 for d in given):
        sd = round(pooled_moments(moments)[2], decimals)
    patients = _spread(distributions, scale, known_as, astray)
    quantiles = (bounded_quantile(patients, q, decimals=decimals) for q in QUARTILES)
    return PooledDistribution(
        sites=len(given),
        n=n,
        undefined=sum(d.undefined for d in given),
        mean=None if mean is None else round(mean, decimals),
        sd=sd,
        quantiles=tuple(quantile for quantile in quantiles if quantile is not None),
    )


def _spread(
    distributions: Sequence[Distribution],
    scale: Scale,
    known_as: float | None,
    astray: Sequence[int] | None,
) -> Spread:
    """Read the sketches of all hospitals that gave one, and add the patients they leave out."""
    found = []
    for i, one in enumerate(distributions):
        if one.sketch is None:
            continue
        left_out = one.n - one.sketch.patients
        anywhere = min(left_out, max(astray[i], 0)) if astray is not None else 0
        found.append(spread(one.sketch, scale))
        found.append(between(scale.lower[0], scale.upper[-1], anywhere))
        if left_out > anywhere and known_as is not None:
            found.append(between(known_as, known_as, left_out - anywhere))
    return merge(found)


def _gap_closed(dsc: Mapping[str, Distribution] | Mapping[str, PooledDistribution]) -> GapClosed:
    if any(arm not in dsc for arm in ARMS):
        return GapClosed(reason=GapReason.ARM_ABSENT)
    direct, adapted, target_trained = (dsc[arm] for arm in ARMS)
    if direct.mean is None or adapted.mean is None or target_trained.mean is None:
        return GapClosed(reason=GapReason.SUPPRESSED)
    if not direct.n == adapted.n == target_trained.n:
        return GapClosed(reason=GapReason.DIFFERENT_PATIENTS)
    gap = target_trained.mean - direct.mean
    # Means are rounded to four digits: so is the gap, lest 0.605 - 0.6 pass as more than 0.005.
    if round(gap, 4) <= MINIMUM_GAP:
        return GapClosed(reason=GapReason.NO_GAP)
    return GapClosed(fraction=round((adapted.mean - direct.mean) / gap, 4))
