"""The cells of the report's tables, against closed forms and against statistics of the patients."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.site_report import Distribution, distributions
from evaluation.aggregate_report import PooledDistribution, aggregate
from evaluation.benchmarks.simulated_reports import SITES, simulate_study
from evaluation.pooled_sketch import BoundedFigure
from evaluation.report_tables import (
    bounded_p,
    budget_rows,
    mean_sd,
    median_iqr,
    rater_matrices,
    release_rows,
    starred_sites,
    subgroup_tables,
)
from evaluation.site_summary import PatientRow, RaterRow, summarise_site
from evaluation.study_record import SiteTraffic, StudyRecord
from tests.evaluation.report_builders import annotation, metrics, report, subject


def paired(site, before, after):
    """Report both arms of the same patients."""
    rows = [
        PatientRow(arm, metrics(dsc), patient=str(i))
        for arm, values in (("direct", before), ("adapted", after))
        for i, dsc in enumerate(values)
    ]
    return summarise_site(
        rows, subject=subject(site), annotation=annotation(), minimum_group_size=2
    )


def pooled(mean, sd, low, high):
    figure = BoundedFigure(estimate=(low + high) / 2, low=low, high=high)
    return PooledDistribution(
        sites=1, n=9, undefined=0, mean=mean, sd=sd, quantiles=(figure, figure, figure)
    )


def test_cells_say_the_figure_or_why_there_is_none():
    given_all = Distribution(n=9, mean=0.8125, sd=0.05, median=0.815, q1=0.78, q3=0.85)
    assert mean_sd(given_all, 1, 100) == "81.2 ± 5.0"
    assert median_iqr(given_all, 1, 100) == "81.5 (78.0-85.0)"
    alone = Distribution(n=1, mean=0.5, median=0.5)
    assert (mean_sd(alone), median_iqr(alone)) == ("0.5", "0.5")
    assert mean_sd(Distribution(n=3)) == median_iqr(Distribution(n=3)) == "suppressed"
    assert mean_sd(Distribution(n=0, undefined=4)) == "undefined"


def test_a_pooled_median_is_shown_only_where_its_bounds_say_something():
    assert median_iqr(pooled(0.8, 0.1, 0.79, 0.81), 1, 100) == "80.0 (80.0-80.0)"
    assert median_iqr(pooled(0.8, 0.1, 0.0, 1.0), 1, 100) == "not known closely"
    nothing = PooledDistribution(sites=0, n=0, undefined=0, mean=None, sd=None)
    assert median_iqr(nothing) == "not given"
    assert nothing.close_median is None


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_bound_of_p_is_written_so_that_it_still_is_one(one, other):
    low, high = sorted((one, other))
    said = bounded_p(low, high)
    if said.startswith("≤"):
        assert high <= float(said[1:]) < 1
    elif said.startswith("≥"):
        assert 0.05 <= float(said[1:]) <= low
    elif said == "<0.001":
        assert high < 0.001
    else:
        assert said == ("1.00" if low == high == 1 else "not known closely") or low == high


def test_where_counts_leave_a_p_value_open_it_is_not_called_at_most_one():
    hospitals = simulate_study(np.random.default_rng(6), sites={"north": 200, "south": 150})
    package = aggregate([hospital.report() for hospital in hospitals]).packages[0]
    opened = [
        (table.p[figure], one.tests[figure])
        for table, one in zip(subgroup_tables(package), package.subgroups, strict=True)
        for figure in one.tests
        if one.tests[figure].p_high == 1
    ]
    assert opened
    for said, test in opened:
        assert said == "not known closely" if 3 * test.p_low < 0.05 else said.startswith("≥")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-0.05, 0.05))
def test_stars_are_the_paired_t_tests_of_the_patients_with_holm(seed, shift):
    generator = np.random.default_rng(seed)
    studies = {}
    for name in ("a", "b", "c"):
        before = generator.uniform(0.5, 0.7, 12).round(3)
        after = (before + shift + generator.normal(0, 0.06, 12)).clip(0.05, 0.95).round(3)
        studies[name] = (before, after)
    package = aggregate([paired(name, *map(list, s)) for name, s in studies.items()]).packages[0]
    p = {name: stats.ttest_rel(after, before).pvalue for name, (before, after) in studies.items()}
    ordered = sorted(p, key=p.get)
    adjusted = list(itertools.accumulate(((3 - i) * p[n] for i, n in enumerate(ordered)), max))
    if any(abs(value - 0.05) < 0.002 for value in adjusted):  # moments are rounded to four digits
        return
    expected = {name for name, value in zip(ordered, adjusted, strict=True) if value < 0.05}
    assert starred_sites(package) == expected


def test_the_rater_matrix_has_dice_below_and_hd95_above_the_diagonal():
    raters = [
        RaterRow(first, second, dsc, hd95)
        for first, second, dsc, hd95 in (
            ("b", "a", 0.7, 4.0),
            ("a", "b", 0.8, 6.0),
            ("c", "c", 0.9, 1.0),
            ("c", "c", 0.9, 1.0),
            ("a", "c", 0.6, 8.0),
        )
    ]
    package = aggregate([report("north", adapted=[0.5, 0.6], raters=raters)]).packages[0]
    (matrix,) = rater_matrices(package)
    assert matrix.raters == ("a", "b", "c")
    assert matrix.cells == (
        (None, "5.0 ± 1.4", "suppressed"),
        ("75.0 ± 7.1", None, None),
        ("suppressed", None, "90.0 ± 0.0 | 1.0 ± 0.0"),
    )
    assert matrix.patients == (1, 2)


def test_two_hospitals_raters_are_shown_together_too():
    hospitals = simulate_study(np.random.default_rng(3), sites={"north": 30, "south": 25})
    package = aggregate([hospital.report() for hospital in hospitals]).packages[0]
    north, south, both = rater_matrices(package)
    assert [m.title for m in (north, south, both)] == ["north", "south", "All sites"]
    assert both.patients == (40, 40)
    of_pair = [
        row.dsc for h in hospitals for row in h.raters if (row.first, row.second) == ("a", "b")
    ]
    assert both.cells[1][0] == f"{100 * np.mean(of_pair):.1f} ± {100 * np.std(of_pair, ddof=1):.1f}"


def test_the_budget_table_puts_arms_at_their_share_of_slices():
    first = report("north", direct=[0.5, 0.6], adapted=[0.7, 0.8], target_trained=[0.8, 0.9])
    later = first.model_copy(
        update={
            "package_id": "cd" * 32,
            "model_version": "v2",
            "annotation": annotation().model_copy(update={"earlier_slices": 80}),
        }
    )
    rows = budget_rows(aggregate([later, first]))
    assert [(row.model_version, row.arm, row.share) for row in rows] == [
        ("v1", "direct", "0.0 %"),
        ("v1", "adapted", "20.0 %"),
        ("v1", "target_trained", "100.0 %"),
        ("v2", "direct", "0.0 %"),
        ("v2", "adapted", "40.0 %"),
        ("v2", "target_trained", "100.0 %"),
    ]
    assert rows[1].dsc == "75.0 ± 7.1"


def test_releases_are_counted_from_what_was_said():
    reports = [hospital.report() for hospital in simulate_study(np.random.default_rng(6))]
    rows = {row.site: row for row in release_rows(aggregate(reports))}
    assert set(rows) == set(SITES)
    for one in reports:
        row = rows[one.site]
        body = canonical_json(one.model_dump(mode="json"))
        assert (row.reports, row.report_bytes) == (1, len(body))
        assert row.digests == (sha256_hex(body)[:16],)
        assert row.given + row.suppressed == len(list(distributions(one)))
        assert row.bins == sum(len(d.sketch.counts) for d in distributions(one) if d.sketch)
        assert row.traffic is None
    assert rows["island"].given == rows["island"].bins == 0
    assert rows["north"].suppressed == 0


def test_a_site_that_only_the_coordinator_knows_is_listed_with_its_traffic():
    source = SiteTraffic(
        site="home",
        role="source",
        bytes_from_site=9,
        bytes_to_site=1,
        packages_offered=1,
        reports=0,
    )
    study = aggregate([report("north", adapted=[0.7, 0.8])], record=StudyRecord(traffic=(source,)))
    home, north = release_rows(study)
    assert (home.site, home.reports, home.digests, home.traffic) == ("home", 0, (), source)
    assert (north.site, north.traffic) == ("north", None)


def test_every_distribution_of_a_report_is_found():
    one = simulate_study(np.random.default_rng(0), sites={"north": 40})[0].report()
    said = canonical_json(one.model_dump(mode="json")).decode()
    assert len(list(distributions(one))) == said.count('"undefined":')
