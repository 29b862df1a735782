"""Whole studies, from patients' rows to the page: what has to hold whatever the patients are.

The oracle is numpy, scipy or statsmodels on all patients together, whom no hospital shows.
"""

import csv
import io
import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from algorithms.contracts.subgroups import SUBGROUPS
from evaluation.aggregate_report import aggregate
from evaluation.benchmarks.simulated_reports import simulate_study
from evaluation.report_csv import render_csv
from evaluation.report_rendering import render_html, render_json
from evaluation.site_summary import ARMS, RaterRow
from tests.evaluation.test_report_rendering import Page

studies = st.builds(
    lambda seed, sizes, failures: simulate_study(
        np.random.default_rng(seed),
        sites={f"h{i}": size for i, size in enumerate(sizes)},
        failures=failures,
    ),
    st.integers(0, 10_000),
    st.lists(st.integers(25, 90), min_size=1, max_size=4),
    st.integers(0, 4),
)
few = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.data_too_large])


def combined(effects, variances):
    """Return statsmodels' mean and SE (the larger of DerSimonian-Laird's and Hartung-Knapp's).

    statsmodels leaves a negative tau^2 as it is; the method sets it to 0: the fixed effect.
    """
    with np.errstate(all="ignore"):
        made = combine_effects(np.array(effects), np.array(variances), method_re="dl")
    if made.tau2 > 0:
        return made.mean_effect_re, max(made.sd_eff_w_re, made.sd_eff_w_re_hksj)
    return made.mean_effect_fe, made.sd_eff_w_fe


def pooled(hospitals):
    return aggregate([one.report() for one in hospitals]).packages[0]


def dice(hospital, arm):
    return {row.patient: row.metrics.dsc for row in hospital.rows if row.arm == arm}


@few
@given(studies)
def test_the_paired_test_of_all_patients_is_the_one_without_a_federation(hospitals):
    (gain, _) = pooled(hospitals).paired
    before, after = (
        np.concatenate([list(dice(one, arm).values()) for one in hospitals])
        for arm in ("direct", "adapted")
    )
    expected = stats.ttest_rel(after, before)
    interval = expected.confidence_interval()
    assert gain.all_patients.n == len(before)
    assert gain.all_patients.mean == pytest.approx(np.mean(after - before), abs=1e-4)
    assert (gain.all_patients.low, gain.all_patients.high) == pytest.approx(
        (interval.low, interval.high), abs=2e-4
    )
    assert gain.wilcoxon.p_low <= stats.wilcoxon(np.round(after - before, 4)).pvalue + 0.02


@few
@given(studies)
def test_hospitals_that_may_differ_are_combined_as_statsmodels_does(hospitals):
    (gain, _) = pooled(hospitals).paired
    sites = [
        np.array([dice(one, "adapted")[p] - value for p, value in dice(one, "direct").items()])
        for one in hospitals
    ]
    if len(sites) < 2:
        assert gain.sites_differ is None
        return
    mean, error = combined(
        [each.mean() for each in sites], [each.var(ddof=1) / len(each) for each in sites]
    )
    assert gain.sites_differ.mean == pytest.approx(mean, abs=3e-4)
    half = (gain.sites_differ.high - gain.sites_differ.low) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, len(sites) - 1) * error, rel=5e-3, abs=5e-4)


@few
@given(studies)
def test_subgroups_and_the_rest_make_up_the_whole(hospitals):
    """Counts add up, no told group is small, and sums of values are those of the members."""
    for hospital in hospitals:
        report = hospital.report()
        for arm, attribute in ((a, b) for a in report.arms for b in SUBGROUPS):
            parts = [
                (one.group, part)
                for one in report.subgroups
                if one.attribute == attribute
                for part in one.arms
                if part.arm == arm.arm
            ]
            inside = sum(part.patients for _, part in parts)
            assert arm.patients - inside == 0 or arm.patients - inside >= 5 or not parts
            for group, part in parts:
                members = [
                    row.metrics.dsc
                    for row in hospital.rows
                    if row.arm == arm.arm and row.subgroups[attribute] == group
                ]
                assert part.patients == len(members) >= 5
                assert part.failures == members.count(0.0)
                assert part.dsc.mean == pytest.approx(np.mean(members), abs=1e-4)


def adapted_in(hospital, attribute, group, figure):
    rows = [
        getattr(row.metrics, figure)
        for row in hospital.rows
        if row.arm == "adapted" and row.subgroups[attribute] == group
    ]
    return np.array([value for value in rows if not np.isnan(value)])


@few
@given(studies)
def test_the_differences_inside_hospitals_are_of_hospitals_that_tell_both_groups(hospitals):
    by = {one.attribute: one for one in pooled(hospitals).subgroups}
    assert "scanner" not in by or not by["scanner"].differences
    for (attribute, first, last), (figure, digits) in itertools.product(
        (("t_stage", "T1+2", "T3+4"), ("volume", "below 10 ml", "above 30 ml")),
        (("dsc", 1e-3), ("hd95_mm", 2e-2), ("asd_predicted_to_reference_mm", 2e-2)),
    ):
        effects, variances = [], []
        for hospital in hospitals:
            said = {
                one.group: getattr(arm, figure).mean
                for one in hospital.report().subgroups
                for arm in one.arms
                if one.attribute == attribute and arm.arm == "adapted"
            }
            if None in (said.get(first), said.get(last)):
                continue
            low, high = (adapted_in(hospital, attribute, group, figure) for group in (first, last))
            effects.append(high.mean() - low.mean())
            variances.append(low.var(ddof=1) / len(low) + high.var(ddof=1) / len(high))
        found = by[attribute].differences.get(figure) if attribute in by else None
        if not effects:
            assert found is None
            continue
        assert found.sites == len(effects)
        expected = effects[0] if len(effects) == 1 else combined(effects, variances)[0]
        assert found.mean == pytest.approx(expected, abs=digits)


@few
@given(studies, st.integers(1, 4))
def test_a_hospital_that_is_too_small_changes_no_pooled_figure(hospitals, patients):
    """Its patients are counted, and that is all."""
    (small,) = simulate_study(np.random.default_rng(0), sites={"small": patients}, failures=0)
    without, with_it = pooled(hospitals), pooled([*hospitals, small])
    for before, after in zip(without.pooled, with_it.pooled, strict=True):
        assert after.patients == before.patients + patients
        ignored = {"sites": after.sites, "patients": after.patients}
        assert after.dsc == before.dsc
        assert after == before.model_copy(update=ignored)
    assert with_it.paired == without.paired
    assert with_it.revision_degree_percent == without.revision_degree_percent
    assert [one.groups for one in with_it.subgroups] == [one.groups for one in without.subgroups]
    assert [one.tests for one in with_it.subgroups] == [one.tests for one in without.subgroups]


@few
@given(st.integers(1, 4), st.integers(0, 1000), st.integers(0, 1000))
def test_what_the_patients_of_a_small_hospital_are_like_leaves_no_trace(patients, one, other):
    made = [
        simulate_study(np.random.default_rng(seed), sites={"small": patients}, failures=0)[0]
        for seed in (one, other)
    ]
    first, second = (replace(hospital, raters=()) for hospital in made)
    assert first.report() == second.report()


@few
@given(studies, st.integers(0, 1000))
def test_neither_the_order_of_patients_nor_that_of_hospitals_is_in_the_bytes(hospitals, seed):
    generator = np.random.default_rng(seed)

    def shuffled(items):
        return tuple(items[i] for i in generator.permutation(len(items)))

    mixed = [
        replace(
            one,
            rows=shuffled(one.rows),
            revisions=shuffled(one.revisions),
            raters=shuffled(one.raters),
        )
        for one in shuffled(hospitals)
    ]
    studied = [aggregate([one.report() for one in of]) for of in (hospitals, mixed)]
    first, second = (
        render_json(study) + render_html(study, title="t", generated_at="x") for study in studied
    )
    assert first == second


@few
@given(studies)
def test_page_csv_and_json_say_the_same(hospitals):
    study = aggregate([one.report() for one in hospitals])
    rows = {row["site"]: row for row in csv.DictReader(io.StringIO(render_csv(study)))}
    (package,) = json.loads(render_json(study))["packages"]
    page = render_html(study, title="t", generated_at="x")
    for site in package["sites"]:
        for arm in site["report"]["arms"]:
            for figure in ("dsc", "hd95_mm"):
                said = rows[site["report"]["site"]][f"{arm['arm']}_{figure}_mean"]
                mean = arm[figure]["mean"]
                assert said == ("" if mean is None else str(mean))
                if mean is not None:
                    scale = 100 if figure == "dsc" else 1
                    assert f"{mean * scale:.1f} ± {arm[figure]['sd'] * scale:.1f}" in page
    for one in package["subgroups"]:
        for group in one["groups"]:
            for arm in group["arms"]:
                assert f"{arm['dsc']['mean'] * 100:.1f} ± {arm['dsc']['sd'] * 100:.1f}" in page


@few
@given(studies)
def test_pages_of_any_study_are_whole_and_name_no_patient(hospitals):
    study = aggregate([one.report() for one in hospitals], expected_sites=["absent"])
    html = render_html(study, title="t", generated_at="x")
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert not {"nan", "inf", "none", "-inf"} & set(page.text.lower().split())
    assert not re.search(r'="(nan|-?inf)', html)  # a place in a drawing
    assert not re.search(r"h\d+-\d+", page.text)  # what pairs a patient's rows
    assert "absent: no report on this package has arrived" in page.text


@given(st.integers(0, 500), st.integers(5, 30))
@settings(max_examples=20, deadline=None)
def test_raters_of_two_hospitals_are_pooled_as_if_they_were_in_one(seed, patients):
    generator = np.random.default_rng(seed)
    hospitals = simulate_study(generator, sites={"north": 30, "south": 30})
    drawn = [
        [
            RaterRow("a", "b", float(generator.uniform(0.6, 0.95)), float(generator.gamma(4.0)))
            for _ in range(patients + extra)
        ]
        for extra in (0, 3)
    ]
    package = pooled(
        [replace(one, raters=tuple(rows)) for one, rows in zip(hospitals, drawn, strict=True)]
    )
    (pair,) = package.agreement
    everybody = [row for rows in drawn for row in rows]
    assert pair.patients == len(everybody)
    for figure in ("dsc", "hd95_mm"):
        values = [getattr(row, figure) for row in everybody]
        said = getattr(pair, figure)
        digits = 2e-4 if figure == "dsc" else 2e-2
        assert said.mean == pytest.approx(np.mean(values), abs=digits)
        assert said.sd == pytest.approx(np.std(values, ddof=1), abs=digits)
        median = said.quantiles[1]
        assert median.low <= np.median(values)
        assert median.high is None or np.median(values) <= median.high


def test_arms_are_in_one_order_everywhere():
    (hospital,) = simulate_study(np.random.default_rng(2), sites={"north": 60})
    package = pooled([hospital])
    assert [arm.arm for arm in package.pooled] == list(ARMS)
    for one in package.subgroups:
        for group in one.groups:
            assert [arm.arm for arm in group.arms] == (list(ARMS) if group.sites else [])
