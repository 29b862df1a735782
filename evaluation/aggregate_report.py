"""From the reports of the hospitals to the report of the study, out of aggregates alone.

Nothing here sees a patient's row: what a hospital suppressed stays suppressed, and a pooled figure
is computed only from figures the hospitals gave.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.site_report import ArmSummary, Distribution, SiteReport
from evaluation.site_summary import ARMS

MINIMUM_GAP = 0.005  # Dice: below half a point the share of a gap closed is noise over noise

TableRow = dict[str, str | int | float | None]


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
    """

    sites: int
    n: int
    undefined: int
    mean: float | None
    sd: float | None


class PooledArm(_Noun):
    """One way of segmenting, over all hospitals that tested it; `failures` of those that say."""

    arm: str
    sites: int
    patients: int
    failures: int
    dsc: PooledDistribution
    hd95_mm: PooledDistribution
    assd_mm: PooledDistribution
    asd_predicted_to_reference_mm: PooledDistribution
    nsd_at_1mm: PooledDistribution


class PackageResult(_Noun):
    """Every hospital's result with one package, and all of them together."""

    package_id: str
    model_version: str
    sites: tuple[SiteResult, ...]
    pooled: tuple[PooledArm, ...]
    gap_closed: GapClosed
    revision_degree_percent: PooledDistribution


class StudyReport(_Noun):
    """The result of a study: one section per package, in the order of model version."""

    schema_version: Literal[1] = 1
    study: str
    packages: tuple[PackageResult, ...]


def aggregate(reports: Sequence[SiteReport]) -> StudyReport:
    """Aggregate the hospitals' reports into the study's.

    The result is the same for any order of `reports`; a report sent twice counts once.

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
    results = [_package_result(package_id, sites) for package_id, sites in packages.items()]
    results.sort(key=lambda result: (result.model_version, result.package_id))
    return StudyReport(study=studies[0], packages=tuple(results))


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


def table_rows(report: StudyReport) -> list[TableRow]:
    """Flatten a study report: one row per package and site, and one "all sites" row per package.

    Every row has the same columns in the same order. None is a figure that was suppressed, is
    undefined or was not asked for.
    """
    rows: list[TableRow] = []
    for package in report.packages:
        rows += [_site_row(report.study, package, site) for site in package.sites]
        rows.append(_pooled_row(report.study, package))
    return rows


def _package_result(package_id: str, reports: Mapping[str, SiteReport]) -> PackageResult:
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
            [r.revision.degree_percent for r in ordered if r.revision], decimals=2
        ),
    )


def _arm(report: SiteReport, name: str) -> ArmSummary | None:
    return next((arm for arm in report.arms if arm.arm == name), None)


def _pool_arm(name: str, arms: Sequence[ArmSummary]) -> PooledArm:
    return PooledArm(
        arm=name,
        sites=len(arms),
        patients=sum(arm.patients for arm in arms),
        failures=sum(arm.failures or 0 for arm in arms),
        dsc=_pool([arm.dsc for arm in arms], decimals=4),
        hd95_mm=_pool([arm.hd95_mm for arm in arms], decimals=2),
        assd_mm=_pool([arm.assd_mm for arm in arms], decimals=2),
        asd_predicted_to_reference_mm=_pool(
            [arm.asd_predicted_to_reference_mm for arm in arms], decimals=2
        ),
        nsd_at_1mm=_pool([arm.nsd_at_1mm for arm in arms], decimals=4),
    )


def _pool(distributions: Sequence[Distribution], *, decimals: int) -> PooledDistribution:
    """Pool the figures that were given.

    mean = sum(n_i m_i) / n;  sd^2 = (sum((n_i - 1) s_i^2) + sum(n_i (m_i - mean)^2)) / (n - 1).
    """
    given = [(d.n, d.mean, d.sd, d.undefined) for d in distributions if d.mean is not None]
    n = sum(count for count, *_ in given)
    mean = math.fsum(count * m for count, m, *_ in given) / n if n else None
    sd = None
    if mean is not None and n > 1 and all(s is not None or c == 1 for c, _, s, _ in given):
        within = math.fsum((count - 1) * (s or 0.0) ** 2 for count, _, s, _ in given)
        between = math.fsum(count * (m - mean) ** 2 for count, m, *_ in given)
        sd = round(math.sqrt((within + between) / (n - 1)), decimals)
    return PooledDistribution(
        sites=len(given),
        n=n,
        undefined=sum(undefined for *_, undefined in given),
        mean=None if mean is None else round(mean, decimals),
        sd=sd,
    )


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


def _site_row(study: str, package: PackageResult, site: SiteResult) -> TableRow:
    report = site.report
    annotation, yardstick, revision = report.annotation, report.yardstick, report.revision
    row = _row_head(study, package, report.site)
    row |= {
        "code_version": report.code_version,
        "seed": report.seed,
        "adapted_model_sha256": report.adapted_model_sha256,
        "minimum_group_size": report.minimum_group_size,
        "selection_strategy": annotation.strategy,
        "training_patients": annotation.training_patients,
        "training_slices": annotation.training_slices,
        "selected_slices": annotation.selected_slices,
        "earlier_slices": annotation.earlier_slices,
        "annotator_simulated": str(annotation.simulated).lower(),
        "patients_against_reference": yardstick.reference_contour if yardstick else None,
        "patients_against_reviewed": yardstick.reviewed_contour if yardstick else None,
    }
    for name in ARMS:
        row |= _arm_columns(name, site.arm(name))
    row |= _gap_columns(site.gap_closed)
    row |= {
        "revision_patients": revision.patients if revision else None,
        "revision_degree_percent_mean": revision.degree_percent.mean if revision else None,
        "revision_degree_percent_sd": revision.degree_percent.sd if revision else None,
        "revision_active_s_median": revision.active_s.median if revision else None,
        "revision_active_s_q1": revision.active_s.q1 if revision else None,
        "revision_active_s_q3": revision.active_s.q3 if revision else None,
        "reviewer_simulated": str(revision.simulated).lower() if revision else None,
    }
    return row


def _pooled_row(study: str, package: PackageResult) -> TableRow:
    annotations = [site.report.annotation for site in package.sites]
    # Start from a site's columns, so that the table cannot fall out of step, and empty them.
    row: TableRow = dict.fromkeys(_site_row(study, package, package.sites[0]))
    row |= _row_head(study, package, "all sites")
    row |= {
        "training_patients": sum(a.training_patients for a in annotations),
        "training_slices": sum(a.training_slices for a in annotations),
        "selected_slices": sum(a.selected_slices for a in annotations),
    }
    pooled = {arm.arm: arm for arm in package.pooled}
    for name in ARMS:
        row |= _arm_columns(name, pooled.get(name))
    row |= _gap_columns(package.gap_closed)
    revision = package.revision_degree_percent
    row |= {
        "revision_patients": revision.n,
        "revision_degree_percent_mean": revision.mean,
        "revision_degree_percent_sd": revision.sd,
    }
    return row


def _row_head(study: str, package: PackageResult, site: str) -> TableRow:
    return {
        "study": study,
        "package_id": package.package_id,
        "model_version": package.model_version,
        "site": site,
    }


def _arm_columns(name: str, arm: ArmSummary | PooledArm | None) -> TableRow:
    """Flatten one arm; pooled figures have no median, which needs the patients' own values."""
    columns: TableRow = {
        f"{name}_patients": arm.patients if arm else None,
        f"{name}_failures": arm.failures if arm else None,
    }
    for figure in ("dsc", "hd95_mm", "assd_mm", "asd_predicted_to_reference_mm", "nsd_at_1mm"):
        values = getattr(arm, figure, None)
        columns[f"{name}_{figure}_n"] = getattr(values, "n", None)
        for statistic in ("mean", "sd", "median"):
            columns[f"{name}_{figure}_{statistic}"] = getattr(values, statistic, None)
    return columns


def _gap_columns(gap: GapClosed) -> TableRow:
    return {
        "gap_closed": gap.fraction,
        "gap_closed_reason": gap.reason.value if gap.reason else None,
    }
