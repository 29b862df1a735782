"""What is computed from hospitals' reports against what their patients say together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from algorithms.contracts.scale import FRACTION, FRACTION_DIFFERENCE, MILLIMETRE, SECOND
from evaluation.aggregate_report import aggregate
from evaluation.disclosure_control import sketch
from evaluation.pooled_sketch import between, bounded_quantile, merge, spread
from evaluation.site_summary import PatientRow, RevisionRow, summarise_site
from tests.evaluation.report_builders import annotation, metrics, subject

QUARTILES = (25, 50, 75)


def drawn_site(generator, name):
    """Draw rows of one hospital, with ties, failures and, at times, too few patients."""
    patients = int(generator.integers(1, 45))
    share = generator.choice([0.0, 0.1, 0.5])
    direct, adapted = (
        np.where(
            generator.random(patients) < share,
            0.0,
            np.round(generator.beta(a, 2, patients) * 0.98 + 0.01, int(generator.integers(2, 9))),
        )
        for a in (3, 6)
    )
    hd95_mm = generator.gamma(2.0, 4.0, patients)
    rows = [
        PatientRow(arm, metrics(dsc, hd95), patient=str(i))
        for arm, values in (("direct", direct), ("adapted", adapted))
        for i, (dsc, hd95) in enumerate(zip(values.tolist(), hd95_mm.tolist(), strict=True))
    ]
    revisions = [
        RevisionRow(float(d), float(s), False)
        for d, s in zip(
            np.where(generator.random(patients) < 0.05, 100.0, generator.gamma(2, 3, patients)),
            generator.gamma(4, 30, patients),
            strict=True,
        )
    ]
    return summarise_site(
        rows,
        subject=subject(name),
        annotation=annotation(),
        revisions=revisions,
        minimum_group_size=int(generator.integers(2, 9)),
    ), (rows, revisions)


def values_of(rows, arm, figure):
    found = [
        row.metrics.nsd[1.0] if figure == "nsd_at_1mm" else getattr(row.metrics, figure)
        for row in rows
        if row.arm == arm
    ]
    return np.array([value for value in found if not np.isnan(value)])


def check_pooled(pooled, per_site, *, decimals):
    """Check a pooled figure against the patients of the hospitals that gave it."""
    everyone = np.concatenate(per_site) if per_site else np.array([])
    assert (pooled.sites, pooled.n) == (len(per_site), len(everyone))
    if not len(everyone):
        assert pooled.mean is None
        return
    unit = 10.0**-decimals
    assert pooled.mean == pytest.approx(everyone.mean(), abs=unit)  # half at the sites, half here
    if len(everyone) > 1:
        assert pooled.sd == pytest.approx(everyone.std(ddof=1), abs=2 * unit)


def check_quantiles(pooled, per_site):
    everyone = np.concatenate(per_site) if per_site else np.array([])
    assert bool(pooled.quantiles) == bool(len(everyone))
    for quantile, true in zip(
        pooled.quantiles, np.percentile(everyone, QUARTILES) if len(everyone) else (), strict=True
    ):
        high = np.inf if quantile.high is None else quantile.high
        assert quantile.low - 1e-9 <= true <= high + 1e-9
        assert quantile.low <= quantile.estimate <= high


def check_pair(package, sites):
    given = [(report.paired, rows) for report, (rows, _) in sites if report.paired]
    assert bool(package.paired) == bool(given)
    for pair in package.paired:
        told = [p.difference.sketch is not None for (p,), _ in given]
        per_site = [
            np.round(values_of(rows, "adapted", "dsc") - values_of(rows, "direct", "dsc"), 4)
            for _, rows in given
        ]
        check_pooled(pair.difference, per_site, decimals=4)
        counted = [d for d, with_sketch in zip(per_site, told, strict=True) if with_sketch]
        check_quantiles(pair.difference, counted)
        everyone = np.concatenate(counted) if counted else np.array([])
        if not len(everyone):
            assert pair.sign is pair.wilcoxon is None
            continue
        gained, lost = int((everyone > 0).sum()), int((everyone < 0).sum())
        p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        assert pair.sign.p_low - 1e-9 <= p <= pair.sign.p_high + 1e-9
        assert pair.sign.statistic_low <= gained - lost <= pair.sign.statistic_high
        ranks = float((np.sign(everyone) * stats.rankdata(np.abs(everyone))).sum())
        assert pair.wilcoxon.statistic_low <= ranks <= pair.wilcoxon.statistic_high
        n = len(everyone)
        error = np.sqrt(n * (n + 1) * (2 * n + 1) / 6)
        p = 2 * stats.norm.sf(abs(ranks) / error)
        assert pair.wilcoxon.p_low - 1e-9 <= p <= pair.wilcoxon.p_high + 1e-9


FIGURES = (
    ("dsc", 4),
    ("hd95_mm", 2),
    ("assd_mm", 2),
    ("asd_predicted_to_reference_mm", 2),
    ("nsd_at_1mm", 4),
)


@pytest.mark.parametrize("part", range(10))
def test_federated_equals_pooled_on_a_hundred_random_studies(part):
    """Ten parts make 1,000 studies: counts, means, SDs and bins equal, every bound kept."""
    for seed in range(100 * part, 100 * (part + 1)):
        generator = np.random.default_rng(seed)
        sites = [drawn_site(generator, f"s{i}") for i in range(int(generator.integers(1, 6)))]
        package = aggregate([report for report, _ in sites]).packages[0]
        for arm in package.pooled:
            arms = [next(a for a in report.arms if a.arm == arm.arm) for report, _ in sites]
            assert arm.patients == sum(a.patients for a in arms)
            missed = [
                int((values_of(rows, arm.arm, "dsc") == 0).sum())
                for a, (_, (rows, _)) in zip(arms, sites, strict=True)
                if a.failures is not None
            ]
            assert arm.failures == (sum(missed) if missed else None)
            for figure, decimals in FIGURES:
                given = [
                    (getattr(a, figure).sketch is not None, values_of(rows, arm.arm, figure))
                    for a, (_, (rows, _)) in zip(arms, sites, strict=True)
                    if getattr(a, figure).mean is not None
                ]
                pooled = getattr(arm, figure)
                check_pooled(pooled, [values for _, values in given], decimals=decimals)
                check_quantiles(pooled, [values for counted, values in given if counted])
        told = [
            (report.revision, [row.degree_percent for row in revisions])
            for report, (_, revisions) in sites
        ]
        degrees = [
            np.array(values)
            for revision, values in told
            if revision.degree_percent.mean is not None
        ]
        check_pooled(package.revision_degree_percent, degrees, decimals=2)
        for revision, values in told:
            edges = [0, 5, 10, 15, 100]
            if revision.bins is not None:
                true = np.bincount(np.searchsorted(edges, values, side="left").clip(1), minlength=5)
                assert revision.bins == tuple(true[1:])
        check_pair(package, sites)


SCALES = {"fraction": (FRACTION, 1.0), "mm": (MILLIMETRE, 300.0), "s": (SECOND, 9000.0)}


@pytest.mark.parametrize("name", SCALES)
@given(data=st.data())
def test_a_sketch_counts_everybody_once_in_groups(name, data):
    scale, highest = SCALES[name]
    group = data.draw(st.integers(1, 8))
    values = data.draw(st.lists(st.floats(0, highest), min_size=group, max_size=60))
    made = sketch(values, scale, minimum_group_size=group)
    assert made.patients == len(values)
    assert min(made.counts) >= group
    assert made.last_steps[-1] == len(scale) - 1
    found = spread(made, scale)
    assert (found.low <= np.sort(values)).all()
    assert (np.sort(values) <= found.high).all()
    assert (found.low <= found.middle).all() and (found.middle <= found.high).all()


@given(st.lists(st.integers(-10000, 10000), min_size=4, max_size=80))
def test_a_sketch_of_differences_holds_a_group_or_nobody_in_each_bin(units):
    made = sketch([u / 10000 for u in units], FRACTION_DIFFERENCE, minimum_group_size=4)
    assert all(count == 0 or count >= 4 for count in made.counts)
    losses, ties = sum(u < 0 for u in units), units.count(0)
    if all(count == 0 or count >= 4 for count in (losses, ties, len(units) - losses - ties)):
        found = spread(made, FRACTION_DIFFERENCE)
        assert ((found.high < 0).sum(), (found.low > 0).sum()) == (
            losses,
            len(units) - losses - ties,
        )


def test_where_no_step_holds_a_few_a_quantile_is_known_to_one_step():
    generator = np.random.default_rng(1)
    values = np.repeat(generator.uniform(0.01, 1.0, 200), 5)  # five patients each
    found = spread(sketch(values, FRACTION, minimum_group_size=5), FRACTION)
    for fraction in (0.1, 0.25, 0.5, 0.9):
        quantile = bounded_quantile(found, fraction, decimals=4)
        assert quantile.low <= np.quantile(values, fraction) <= quantile.high
        if quantile.low > 0.01:
            assert quantile.high - quantile.low <= 0.02 + 1e-9


def test_bounds_in_closed_form():
    made = sketch([0.62, 0.66, 0.71, 0.78, 0.84, 0.88], FRACTION, minimum_group_size=3)
    assert (made.last_steps, made.counts) == ((71, 100), (3, 3))
    quantile = bounded_quantile(spread(made, FRACTION), 0.5, decimals=4)
    assert (quantile.low, quantile.high) == (pytest.approx(0.355), pytest.approx(0.855))
    assert quantile.estimate == pytest.approx((0.71 * 5 / 6 + 0.71 + 0.29 / 6) / 2, abs=1e-4)


def test_the_open_top_of_a_scale_has_no_upper_bound_and_nobody_no_quantile():
    far = spread(sketch([3.0, 250.0, 900.0], MILLIMETRE, minimum_group_size=1), MILLIMETRE)
    assert bounded_quantile(far, 0.0, decimals=2).high == 3.0
    assert bounded_quantile(far, 1.0, decimals=2).high is None
    assert bounded_quantile(between(0.0, 1.0, 0), 0.5, decimals=2) is None


@given(st.permutations(range(4)))
def test_the_order_of_the_hospitals_leaves_no_trace(order):
    parts = [between(i / 10, i / 5, 3 + i) for i in range(4)]
    mixed = merge([parts[i] for i in order])
    assert np.array_equal(mixed.low, merge(parts).low)
    assert np.array_equal(mixed.high, merge(parts).high)
