"""What stands in the cells of the study report's tables, as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import isnan, nan

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.site_report import (
    Distribution,
    RaterAgreement,
    SiteReport,
    distributions,
)
from algorithms.contracts.subgroups import ATTRIBUTE_LABELS
from evaluation.aggregate_report import (
    PackageResult,
    PooledAgreement,
    PooledAttribute,
    PooledDistribution,
    PooledSubgroup,
    SiteResult,
    StudyReport,
)
from evaluation.cohort_statistics import holm
from evaluation.cross_site_tests import paired_t_test
from evaluation.report_drawing import why_not
from evaluation.site_summary import PAIRS
from evaluation.study_record import SiteTraffic
from evaluation.svg_drawing import number

SIGNIFICANT = 0.05
UNKNOWN = "not known closely"
_SHORT_DIGEST = 16

Summary = Distribution | PooledDistribution


def mean_sd(summary: Summary, digits: int = 1, scale: float = 1.0) -> str:
    """Write mean ± SD, or why there is none."""
    if summary.mean is None:
        return why_not(summary)
    mean = number(summary.mean * scale, digits)
    return mean if summary.sd is None else f"{mean} ± {summary.sd * scale:.{digits}f}"


def median_iqr(summary: Summary, digits: int = 1, scale: float = 1.0) -> str:
    """Write median (IQR), the median alone where quartiles are suppressed, or why there is none.

    Pooled ones are estimates from the hospitals' counts on a public scale.
    """
    if isinstance(summary, PooledDistribution):
        if summary.close_median is None:
            return UNKNOWN if summary.quantiles else "not given"
        q1, median, q3 = (f"{q.estimate * scale:.{digits}f}" for q in summary.quantiles)
        return f"{median} ({q1}-{q3})"
    if summary.median is None:
        return why_not(summary)
    middle = f"{summary.median * scale:.{digits}f}"
    if summary.q1 is None or summary.q3 is None:
        return middle
    return f"{middle} ({summary.q1 * scale:.{digits}f}-{summary.q3 * scale:.{digits}f})"


def percent(part: int, whole: int) -> str:
    """Write a share."""
    return f"{100.0 * part / whole:.1f} %" if whole else "-"


def p_value(p: float, *, at_most: bool = False) -> str:
    """Write a p value as journals do; `at_most` says that it is an upper bound, rounded upwards.

    >>> p_value(0.0004), p_value(0.0312), p_value(0.27, at_most=True), p_value(0.2701, at_most=True)
    ('<0.001', '0.031', '≤0.27', '≤0.28')
    """
    if p < 0.001:
        return "<0.001"
    return f"≤{_rounded(p, ROUND_CEILING)}" if at_most else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def bounded_p(low: float, high: float) -> str:
    """Write a p value that is known within bounds: the upper one, unless that says nothing.

    >>> bounded_p(0.0, 0.2701), bounded_p(0.318, 1.0), bounded_p(0.0, 1.0), bounded_p(1.0, 1.0)
    ('≤0.28', '≥0.31', 'not known closely', '1.00')
    """
    if high <= 0.99:
        return p_value(high, at_most=True)
    if low < SIGNIFICANT:
        return UNKNOWN
    return f"{low:.2f}" if low == high else f"≥{_rounded(low, ROUND_FLOOR)}"


def _rounded(p: float, rounding: str) -> str:
    """Round a bound to the digits of a p value, to the side on which it still is one."""
    step = Decimal("0.001" if p < 0.1 else "0.01")
    return str(Decimal(str(p)).quantize(step, rounding=rounding))


def starred_sites(package: PackageResult) -> frozenset[str]:
    """Name the hospitals where the adapted model differs from direct use (*).

    Paired t test on the hospital's moments, Holm over the hospitals of the package, p < 0.05.
    """
    tested = []
    for site in package.sites:
        gain = next(
            (p.difference for p in site.report.paired if (p.first, p.second) == PAIRS[0]), None
        )
        if gain is not None and gain.mean is not None and gain.sd is not None:
            test = paired_t_test([(gain.n, gain.mean, gain.sd)])
            if test is not None:
                tested.append((site.report.site, test.p))
    adjusted = holm([p for _, p in tested])
    pairs = zip(tested, adjusted, strict=True)
    return frozenset(site for (site, _), p in pairs if p < SIGNIFICANT)


@dataclass(frozen=True)
class RaterMatrix:
    """Raters against raters: Dice below the diagonal, HD95 above, one person twice on it.

    Attributes:
        title: whose patients.
        raters: letters.
        cells: row by row; None for a pair that nobody reports.
        patients: least and most patients of a pair.
    """

    title: str
    raters: tuple[str, ...]
    cells: tuple[tuple[str | None, ...], ...]
    patients: tuple[int, int]


def rater_matrices(package: PackageResult) -> list[RaterMatrix]:
    """Lay out the agreement of raters as the thesis's table 2-4: each hospital, then all."""
    found = [
        _matrix(site.report.site, site.report.agreement)
        for site in package.sites
        if site.report.agreement
    ]
    if len(found) > 1:
        found.append(_matrix("All sites", package.agreement))
    return found


def _matrix(title: str, pairs: Sequence[PooledAgreement] | Sequence[RaterAgreement]) -> RaterMatrix:
    known = {(one.first, one.second): one for one in pairs}
    raters = tuple(sorted({name for pair in known for name in pair}))

    def cell(row: str, column: str) -> str | None:
        one = known.get((min(row, column), max(row, column)))
        if one is None:
            return None
        if row == column:
            return f"{mean_sd(one.dsc, 1, 100)} | {mean_sd(one.hd95_mm, 1)}"
        return mean_sd(one.dsc, 1, 100) if row > column else mean_sd(one.hd95_mm, 1)

    counts = [one.dsc.n + one.dsc.undefined for one in known.values()]
    return RaterMatrix(
        title,
        raters,
        tuple(tuple(cell(row, column) for column in raters) for row in raters),
        (min(counts), max(counts)),
    )


@dataclass(frozen=True)
class SubgroupTable:
    """The subgroups of one attribute, with the tests between them.

    Attributes:
        title: of the attribute.
        test: name of the test; "" where there is none.
        p: figure -> words, adjusted by Holm over the attributes; "-" without a test.
        difference: what the last group has over the first inside hospitals, in words; "" without.
        untold: who is in no told subgroup, in words.
    """

    title: str
    groups: tuple[PooledSubgroup, ...]
    test: str
    p: dict[str, str]
    difference: str
    untold: str


SUBGROUP_FIGURES = ("dsc", "hd95_mm", "asd_predicted_to_reference_mm")
_TEST_NAMES = {
    "mann_whitney": "Mann-Whitney",
    "jonckheere_terpstra": "Jonckheere-Terpstra, trend over the groups",
    "pairs": "Mann-Whitney of every two, Bonferroni",
}


def subgroup_tables(package: PackageResult) -> list[SubgroupTable]:
    """Lay out the subgroups of a package, attribute by attribute."""
    # Holm's p only rises with each p that goes in: adjusted bounds are bounds of the adjusted.
    adjusted = {
        (figure, end): holm(
            [
                getattr(one.tests[figure], end) if figure in one.tests else nan
                for one in package.subgroups
            ]
        )
        for figure in SUBGROUP_FIGURES
        for end in ("p_low", "p_high")
    }

    def words(figure: str, place: int) -> str:
        low, high = (adjusted[figure, end][place] for end in ("p_low", "p_high"))
        return "-" if isnan(high) else bounded_p(low, high)

    return [
        SubgroupTable(
            title=ATTRIBUTE_LABELS[one.attribute],
            groups=one.groups,
            test=next((_TEST_NAMES[test.test] for test in one.tests.values()), ""),
            p={figure: words(figure, place) for figure in SUBGROUP_FIGURES},
            difference=_difference_words(one),
            untold="; ".join(
                f"{left.site} {left.patients} of {left.tested} patients" for left in one.untold
            ),
        )
        for place, one in enumerate(package.subgroups)
    ]


def _difference_words(one: PooledAttribute) -> str:
    test = one.difference
    if test is None:
        return ""
    first, last = one.groups[0].group, one.groups[-1].group
    mean, low, high = (number(100 * value, 1) for value in (test.mean, test.low, test.high))
    hospitals = "1 hospital" if test.sites == 1 else f"each of {test.sites} hospitals"
    return (
        f"Dice of {last} less {first} inside {hospitals}: {mean} points ({low} to {high}), "
        f"p {p_value(test.p)}"
    )


@dataclass(frozen=True)
class BudgetRow:
    """A line of the budget table (6-9): one arm of one hospital and round.

    Attributes:
        share: of the training slices that doctors drew, in words.
    """

    site: str
    model_version: str
    arm: str
    share: str
    dsc: str
    hd95_mm: str
    asd_mm: str


def budget_rows(report: StudyReport) -> list[BudgetRow]:
    """Lay out Dice and distances by the share of slices that were drawn (table 6-9)."""
    sites = sorted({site.report.site for package in report.packages for site in package.sites})
    return [
        row
        for name in sites
        for package in report.packages
        for site in package.sites
        if site.report.site == name
        for row in _budget_of(site)
    ]


def _budget_of(site: SiteResult) -> list[BudgetRow]:
    asked = site.report.annotation
    drawn = asked.selected_slices + asked.earlier_slices
    shares = {
        "direct": "0.0 %",
        "adapted": percent(drawn, asked.training_slices),
        "target_trained": "100.0 %",
    }
    return [
        BudgetRow(
            site=site.report.site,
            model_version=site.report.model_version,
            arm=arm.arm,
            share=shares[arm.arm],
            dsc=mean_sd(arm.dsc, 1, 100),
            hd95_mm=mean_sd(arm.hd95_mm, 1),
            asd_mm=mean_sd(arm.asd_predicted_to_reference_mm, 2),
        )
        for arm in site.report.arms
    ]


@dataclass(frozen=True)
class ReleaseRow:
    """What a hospital released to the study, as far as it is known here.

    Attributes:
        reports: that this report is made of.
        report_bytes: their size as canonical JSON.
        given: distributions with a mean.
        suppressed: distributions of which nothing but numbers is said.
        bins: of all sketches together.
        digests: first digits of the SHA-256 of each report.
        traffic: by the coordinator's count; None where a report is made without it.
    """

    site: str
    reports: int
    report_bytes: int
    given: int
    suppressed: int
    bins: int
    digests: tuple[str, ...]
    traffic: SiteTraffic | None


def release_rows(report: StudyReport) -> list[ReleaseRow]:
    """Count what each hospital said, hospitals that only the coordinator knows included."""
    traffic = {one.site: one for one in report.record.traffic}
    said: dict[str, list[SiteReport]] = {site: [] for site in traffic}
    for package in report.packages:
        for site in package.sites:
            said.setdefault(site.report.site, []).append(site.report)
    return [_release(name, said[name], traffic.get(name)) for name in sorted(said)]


def _release(name: str, reports: Sequence[SiteReport], traffic: SiteTraffic | None) -> ReleaseRow:
    bodies = [canonical_json(one.model_dump(mode="json")) for one in reports]
    figures = [figure for one in reports for figure in distributions(one)]
    return ReleaseRow(
        site=name,
        reports=len(reports),
        report_bytes=sum(map(len, bodies)),
        given=sum(figure.mean is not None for figure in figures),
        suppressed=sum(figure.mean is None and figure.n > 0 for figure in figures),
        bins=sum(len(figure.sketch.counts) for figure in figures if figure.sketch is not None),
        digests=tuple(sha256_hex(body)[:_SHORT_DIGEST] for body in bodies),
        traffic=traffic,
    )
