"""The drawings are read back: what stands at which pixel is the report's own figure."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from scipy import stats

from algorithms.contracts.site_report import Distribution
from evaluation.aggregate_report import aggregate
from evaluation.benchmarks.simulated_reports import simulate_study
from evaluation.cross_site_tests import paired_t_test
from evaluation.curve_figures import budget_points, learning_points
from evaluation.report_figures import package_figures, study_figures
from evaluation.report_rendering import render_html
from evaluation.site_figures import told_patients
from evaluation.subgroup_figure import mean_interval
from tests.evaluation.report_builders import report

SVG = "{http://www.w3.org/2000/svg}"
SIZES = {"north": 60, "south": 45, "east": 30, "island": 3}


def of_rounds(rounds=1, **changes):
    generator = np.random.default_rng(1)
    return aggregate(
        [
            hospital.report()
            for number in range(1, rounds + 1)
            for hospital in simulate_study(generator, sites=SIZES, round_number=number, **changes)
        ]
    )


@pytest.fixture(scope="module")
def package():
    return of_rounds().packages[0]


@pytest.fixture(scope="module")
def drawn(package):
    return package_figures(package, "p0")


def root_of(figure):
    return ElementTree.fromstring(figure.svg)  # noqa: S314 - our own


def words(figure):
    return [text.text for text in root_of(figure).iter(f"{SVG}text")]


def scale_of(figure):
    """Fit value = a + b pixel to the tick labels under the plot."""
    texts = list(root_of(figure).iter(f"{SVG}text"))
    ticks = [t for t in texts if re.fullmatch(r"−?[0-9.]+", t.text or "")]
    lowest = max(float(t.get("y")) for t in ticks if t.get("text-anchor") == "middle")
    row = [t for t in ticks if float(t.get("y")) == lowest]
    xs = [float(t.get("x")) for t in row]
    return np.polyfit(xs, [float(t.text.replace("−", "-")) for t in row], 1)


def test_every_kind_is_drawn_once_and_under_its_own_name(drawn):
    assert set(drawn) == {
        "dice", "hd95", "gap", "forest", "failures", "revision", "time", "subgroups",
    }  # fmt: skip
    assert [figure.anchor for figure in drawn.values()] == [f"p0-{kind}" for kind in drawn]


def test_dice_marks_stand_at_the_means(package, drawn):
    slope, offset = scale_of(drawn["dice"])
    circles = [float(c.get("cx")) for c in root_of(drawn["dice"]).iter(f"{SVG}circle")][1:]
    means = [site.arm("direct").dsc.mean for site in package.sites]
    means = [100 * mean for mean in means if mean is not None] + [100 * package.pooled[0].dsc.mean]
    assert [slope * x + offset for x in circles] == pytest.approx(means, abs=0.06)


def test_what_a_small_hospital_suppressed_is_hatched_and_said(drawn):
    for kind, figure in drawn.items():
        hatched = [r for r in root_of(figure).iter(f"{SVG}rect") if "url" in r.get("fill", "")]
        assert hatched, kind
        assert "hatched" in figure.caption.lower(), kind
    assert "suppressed: 3 patients" in words(drawn["dice"])


def test_where_nothing_is_suppressed_nothing_is_hatched():
    whole = aggregate([report("north", direct=[0.5, 0.6], adapted=[0.7, 0.8])]).packages[0]
    figure = package_figures(whole, "p0")["dice"]
    assert "pattern" not in figure.svg
    assert "Hatched" not in figure.caption


def test_the_forest_gives_every_hospitals_paired_difference_and_i_squared(package, drawn):
    said = words(drawn["forest"])
    for site in package.sites:
        pairs = [p for p in site.report.paired if p.second == "adapted"]
        if not pairs:
            assert site.report.site == "island"
            continue
        gain = pairs[0].difference
        test = paired_t_test([(gain.n, gain.mean, gain.sd)])
        shown = f"+{100 * test.mean:.1f} ({100 * test.low:.1f} to {100 * test.high:.1f})"
        assert shown in said
    slope, offset = scale_of(drawn["forest"])
    first, second = root_of(drawn["forest"]).findall(f"{SVG}polygon")
    for diamond, test in (
        (first, package.paired[0].all_patients),
        (second, package.paired[0].sites_differ),
    ):
        xs = [float(point.split(",")[0]) for point in diamond.get("points").split()]
        assert slope * min(xs) + offset == pytest.approx(100 * test.low, abs=0.06)
        assert slope * max(xs) + offset == pytest.approx(100 * test.high, abs=0.06)
    share = 100 * package.paired[0].sites_differ.heterogeneity
    assert f"I² = {share:.0f} %" in drawn["forest"].caption


def test_the_histogram_counts_every_reviewed_patient_once():
    generator = np.random.default_rng(6)
    sizes = {"north": 420, "west": 120, "island": 3}
    hospitals = simulate_study(generator, sites=sizes)
    package = aggregate([hospital.report() for hospital in hospitals]).packages[0]
    reviews = [site.report.revision for site in package.sites]
    binned = [r.bins for r in reviews if r.bins is not None]
    columns = [str(sum(counts)) for counts in zip(*binned, strict=True)]
    untold = sum(r.patients for r in reviews if r.bins is None)
    said = words(package_figures(package, "p0")["revision"])
    assert len(columns) == 4
    assert all(count in said for count in [*columns, str(untold)])
    assert sum(map(int, columns)) + untold == sum(sizes.values())
    assert "not given" in said


def test_where_no_bin_is_told_there_is_no_column_of_nobody(package, drawn):
    assert all(site.report.revision.bins is None for site in package.sites)
    said = words(drawn["revision"])
    assert said.count(">10-15 %") == 1  # in the legend
    assert str(sum(SIZES.values())) in said


def test_time_boxes_stand_at_the_hospitals_own_quartiles(package, drawn):
    slope, offset = scale_of(drawn["time"])
    boxes = [r for r in root_of(drawn["time"]).iter(f"{SVG}rect") if r.get("stroke") == "#1b2430"]
    told = [s.report.revision.active_s for s in package.sites if s.report.revision.active_s.q1]
    assert len(boxes) == len(told) + 1  # and all together
    for box, times in zip(boxes, told, strict=False):
        left, width = float(box.get("x")), float(box.get("width"))
        assert slope * left + offset == pytest.approx(times.q1, abs=0.3)
        assert slope * (left + width) + offset == pytest.approx(times.q3, abs=0.3)


def test_where_nobody_took_the_time_there_is_no_box_and_nothing_is_called_suppressed(package):
    site = package.sites[2].report
    untimed = Distribution(n=0, undefined=site.revision.patients)
    revision = site.revision.model_copy(update={"active_s": untimed})
    study = aggregate([site.model_copy(update={"revision": revision})])
    assert "time" not in package_figures(study.packages[0], "p0")
    page = render_html(study, title="t", generated_at="now")
    assert '<td class="n">undefined</td>' in page  # and neither hatched nor suppressed


def test_failures_are_counted_of_those_whose_hospital_says(package, drawn):
    assert told_patients(package, "adapted") == 135
    assert "1 of 135" in words(drawn["failures"])
    assert "1 of 60" in words(drawn["failures"])


def test_where_no_hospital_says_how_many_failed_nobody_says_none_did():
    (small,) = simulate_study(np.random.default_rng(1), sites={"small": 3})
    study = aggregate([small.report()])
    assert [arm.failures for arm in study.packages[0].pooled] == [None, None, None]
    figures = package_figures(study.packages[0], "p0")
    assert words(figures["failures"]).count("suppressed: 3 patients") == 2  # and all sites
    assert not [word for word in words(figures["failures"]) if re.match("[0-9]+ of", word)]
    ticks = [word for word in words(figures["time"]) if re.fullmatch(r"[0-9.]+", word)]
    assert len(ticks) == len(set(ticks)) > 2


def test_labels_of_many_curves_stay_inside_and_apart():
    generator = np.random.default_rng(6)
    names = [f"hospital-{i:02d}" for i in range(25)]
    hospitals = simulate_study(generator, sites=dict.fromkeys(names, 12), failures=0)
    study = aggregate([hospital.report() for hospital in hospitals])
    root = root_of(study_figures(study)["budget"])
    height = float(root.get("viewBox").split()[3])
    labels = sorted(float(t.get("y")) for t in root.iter(f"{SVG}text") if t.text in names)
    assert len(labels) == 25
    assert labels[0] > 12
    assert labels[-1] < height
    assert min(np.diff(labels)) >= 14.9


def test_a_budget_curve_goes_from_direct_use_over_rounds_to_the_comparator():
    study = of_rounds(3)
    curves = budget_points(study)
    assert set(curves) == {"north", "south", "east"}
    assert [round(x) for x, _ in curves["north"]] == [0, 20, 40, 60, 100]
    first, last = study.packages[0].sites, study.packages[-1].sites
    north = [next(s for s in sites if s.report.site == "north") for sites in (first, last)]
    assert curves["north"][0][1] == pytest.approx(100 * north[0].arm("direct").dsc.mean)
    assert curves["north"][-1][1] == pytest.approx(100 * north[1].arm("target_trained").dsc.mean)
    assert "training slices annotated, %" in words(study_figures(study)["budget"])


def test_a_learning_curve_needs_two_rounds_and_follows_their_numbers():
    assert "learning" not in study_figures(of_rounds())
    study = of_rounds(11)
    curves = learning_points(study)
    assert [x for x, _ in curves["All sites"]] == list(range(1, 12))
    versions = [package.model_version for package in study.packages]
    assert versions == [f"v{i}" for i in range(1, 12)]  # v10 after v9
    assert curves["All sites"][4][1] == pytest.approx(100 * study.packages[4].pooled[1].dsc.mean)
    figure = study_figures(study)["learning"]
    assert len(list(root_of(figure).iter(f"{SVG}polyline"))) == 4  # three hospitals and all


def test_subgroup_marks_stand_at_the_means_and_bars_at_the_t_intervals(package, drawn):
    slope, offset = scale_of(drawn["subgroups"])
    circles = [float(c.get("cx")) for c in root_of(drawn["subgroups"]).iter(f"{SVG}circle")][1:]
    told = [group for one in package.subgroups for group in one.groups if group.arms]
    means = [100 * group.arm("direct").dsc.mean for group in told]
    assert len(means) >= 4
    assert [slope * x + offset for x in circles] == pytest.approx(means, abs=0.06)
    assert [group.group for group in told] == [
        word for word in words(drawn["subgroups"]) if word in {group.group for group in told}
    ]
    dsc = told[0].arm("adapted").dsc
    low, high = mean_interval(dsc)
    expected = stats.t.interval(0.95, dsc.n - 1, loc=dsc.mean, scale=dsc.sd / np.sqrt(dsc.n))
    assert (low, high) == pytest.approx(expected)


def test_a_subgroup_that_nobody_tells_is_drawn_hatched_and_said():
    generator = np.random.default_rng(1)
    (hospital,) = simulate_study(generator, sites={"north": 60})
    report = hospital.report()
    kept = tuple(one for one in report.subgroups if one.group == "T1+2")
    assert kept
    package = aggregate([report.model_copy(update={"subgroups": kept})]).packages[0]
    figure = package_figures(package, "p0")["subgroups"]
    assert words(figure).count("suppressed everywhere, or nobody") == 4  # T3+4, three volumes
    tested = report.arms[0].patients
    left = tested - kept[0].arms[0].patients
    told = [word for word in words(figure) if "too few, or not known" in word]
    assert told == [
        f"{patients} of {tested} patients of 1 hospital: too few, or not known"
        for patients in (left, tested, tested)
    ]
    assert "Hatched" in figure.caption
    page = render_html(
        aggregate([report.model_copy(update={"subgroups": ()})]), title="x", generated_at="y"
    )
    assert "No hospital tells of subgroups." in page
