"""The study report as tables to compute with: CSV, one fact per cell, every row of one kind.

An empty cell is a figure that was suppressed, is undefined or was not asked for. Medians and
quartiles of "all sites" are estimates from the hospitals' counts on a public scale.
"""

import csv
import io
from collections.abc import Iterator, Sequence

from algorithms.contracts.site_report import (
    ArmSummary,
    Distribution,
    PairedSummary,
    RaterAgreement,
    SubgroupArm,
)
from evaluation.aggregate_report import (
    GapClosed,
    PackageResult,
    PooledAgreement,
    PooledArm,
    PooledDistribution,
    PooledPair,
    PooledSubgroupArm,
    SiteResult,
    StudyReport,
)
from evaluation.site_summary import ARMS, PAIRS

ALL_SITES = "all sites"

Cell = str | int | float | None
TableRow = dict[str, Cell]

_STATISTICS = ("mean", "sd", "median", "q1", "q3")
_ARM_FIGURES = ("dsc", "hd95_mm", "assd_mm", "asd_predicted_to_reference_mm", "nsd_at_1mm")
_SUBGROUP_FIGURES = ("dsc", "hd95_mm", "asd_predicted_to_reference_mm")
_RATER_FIGURES = ("dsc", "hd95_mm")
_HEAD = ("study", "package_id", "model_version", "site")
SUBGROUP_COLUMNS = (
    *_HEAD,
    *("attribute", "group", "arm", "patients", "failures"),
    *(f"{figure}_{part}" for figure in _SUBGROUP_FIGURES for part in ("n", *_STATISTICS)),
)
RATER_COLUMNS = (
    *_HEAD,
    *("first", "second", "patients"),
    *(f"{figure}_{part}" for figure in _RATER_FIGURES for part in ("n", *_STATISTICS)),
)


def render_csv(report: StudyReport) -> str:
    """Render `table_rows` as CSV."""
    rows = table_rows(report)
    return _write(list(rows[0]), rows)


def render_subgroups_csv(report: StudyReport) -> str:
    """Render `subgroup_rows` as CSV; the header alone where nobody tells a subgroup."""
    return _write(SUBGROUP_COLUMNS, subgroup_rows(report))


def render_raters_csv(report: StudyReport) -> str:
    """Render `rater_rows` as CSV; the header alone where nobody compared raters."""
    return _write(RATER_COLUMNS, rater_rows(report))


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


def subgroup_rows(report: StudyReport) -> list[TableRow]:
    """Flatten the subgroups: one row per package, attribute, group, arm and hospital that tells it.

    After the hospitals of a group comes "all sites".
    """
    return [
        {**_row_head(report.study, package, site), "attribute": attribute, "group": group}
        | {"arm": arm.arm, "patients": arm.patients, "failures": arm.failures}
        | _figure_columns(arm, _SUBGROUP_FIGURES)
        for package in report.packages
        for attribute, group, site, arms in _told_subgroups(package)
        for arm in arms
    ]


def rater_rows(report: StudyReport) -> list[TableRow]:
    """Flatten the agreement of raters: one row per package, hospital and pair of raters.

    After the hospitals comes "all sites". First and second are the same letter where one person
    contoured twice.
    """
    return [
        {**_row_head(report.study, package, site), "first": one.first, "second": one.second}
        | {"patients": one.patients}
        | _figure_columns(one, _RATER_FIGURES)
        for package in report.packages
        for site, pairs in _told_agreements(package)
        for one in pairs
    ]


_ToldArms = Sequence[SubgroupArm] | Sequence[PooledSubgroupArm]
_ToldPairs = Sequence[RaterAgreement] | Sequence[PooledAgreement]


def _told_subgroups(package: PackageResult) -> Iterator[tuple[str, str, str, _ToldArms]]:
    """Yield attribute, group, site and arms."""
    for pooled in package.subgroups:
        for group in pooled.groups:
            for site in package.sites:
                for one in site.report.subgroups:
                    if (one.attribute, one.group) == (pooled.attribute, group.group):
                        yield one.attribute, one.group, site.report.site, one.arms
            yield pooled.attribute, group.group, ALL_SITES, group.arms


def _told_agreements(package: PackageResult) -> Iterator[tuple[str, _ToldPairs]]:
    for site in package.sites:
        yield site.report.site, site.report.agreement
    yield ALL_SITES, package.agreement


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
    row |= _gain_columns(next((p.difference for p in report.paired if _is_gain(p)), None))
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
    row |= _row_head(study, package, ALL_SITES)
    row |= {
        "training_patients": sum(a.training_patients for a in annotations),
        "training_slices": sum(a.training_slices for a in annotations),
        "selected_slices": sum(a.selected_slices for a in annotations),
    }
    pooled = {arm.arm: arm for arm in package.pooled}
    for name in ARMS:
        row |= _arm_columns(name, pooled.get(name))
    row |= _gap_columns(package.gap_closed)
    row |= _gain_columns(next((p.difference for p in package.paired if _is_gain(p)), None))
    revision, time = package.revision_degree_percent, package.revision_active_s
    close = time is not None and time.close_median is not None
    q1, median, q3 = time.quantiles if time is not None and close else (None, None, None)
    row |= {
        "revision_patients": revision.n,
        "revision_degree_percent_mean": revision.mean,
        "revision_degree_percent_sd": revision.sd,
        "revision_active_s_median": median.estimate if median else None,
        "revision_active_s_q1": q1.estimate if q1 else None,
        "revision_active_s_q3": q3.estimate if q3 else None,
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
    columns: TableRow = {
        "patients": arm.patients if arm else None,
        "failures": arm.failures if arm else None,
    }
    columns |= _figure_columns(arm, _ARM_FIGURES)
    return {f"{name}_{column}": value for column, value in columns.items()}


def _figure_columns(noun: object, figures: Sequence[str]) -> TableRow:
    """Flatten figures, each None where the noun lacks it; pooled quartiles are estimates."""
    columns: TableRow = {}
    for figure in figures:
        values: Distribution | PooledDistribution | None = getattr(noun, figure, None)
        columns[f"{figure}_n"] = values.n if values else None
        for statistic in _STATISTICS:
            columns[f"{figure}_{statistic}"] = getattr(values, statistic, None)
        if isinstance(values, PooledDistribution) and values.close_median is not None:
            for statistic, one in zip(("q1", "median", "q3"), values.quantiles, strict=True):
                columns[f"{figure}_{statistic}"] = one.estimate
    return columns


def _is_gain(pair: PairedSummary | PooledPair) -> bool:
    return (pair.first, pair.second) == PAIRS[0]


def _gain_columns(difference: Distribution | PooledDistribution | None) -> TableRow:
    return {
        f"adapted_minus_direct_dsc_{statistic}": getattr(difference, statistic, None)
        for statistic in ("n", "mean", "sd")
    }


def _gap_columns(gap: GapClosed) -> TableRow:
    return {
        "gap_closed": gap.fraction,
        "gap_closed_reason": gap.reason.value if gap.reason else None,
    }


def _write(columns: Sequence[str], rows: Sequence[TableRow]) -> str:
    """Write CSV (RFC 4180, header first).

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns)
    writer.writeheader()
    for row in rows:
        writer.writerow({column: _safe_cell(value) for column, value in row.items()})
    return text.getvalue()


def _safe_cell(value: Cell) -> Cell:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
