"""The report's tables as CSV: every figure once, under its own row."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest

from evaluation.aggregate_report import aggregate
from evaluation.benchmarks.simulated_reports import simulate_study
from evaluation.report_csv import (
    RATER_COLUMNS,
    SUBGROUP_COLUMNS,
    rater_rows,
    render_csv,
    render_raters_csv,
    render_subgroups_csv,
    subgroup_rows,
)
from evaluation.site_summary import RaterRow
from tests.evaluation.report_builders import report

SITES = {"north": 80, "south": 60}


@pytest.fixture(scope="module")
def hospitals():
    generator = np.random.default_rng(3)
    return [
        replace(one, raters=tuple(RaterRow("a", "b", 0.8 + i / 100, 2.0 + i) for i in range(12)))
        for one in simulate_study(generator, sites=SITES)
    ]


@pytest.fixture(scope="module")
def study(hospitals):
    return aggregate([one.report() for one in hospitals])


def read(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_subgroups_row_holds_the_figures_of_its_patients(study, hospitals):
    patients = {one.name: one.rows for one in hospitals}
    rows = read(render_subgroups_csv(study))
    assert rows
    for row in rows:
        if row["site"] == "all sites":
            continue
        dice = [
            one.metrics.dsc
            for one in patients[row["site"]]
            if one.arm == row["arm"] and one.subgroups[row["attribute"]] == row["group"]
        ]
        assert int(row["patients"]) == len(dice)
        assert float(row["dsc_mean"]) == pytest.approx(np.mean(dice), abs=1e-4)
        assert float(row["dsc_sd"]) == pytest.approx(np.std(dice, ddof=1), abs=1e-4)


def test_all_sites_are_the_sum_of_the_rows_above(study):
    rows = subgroup_rows(study)
    for row in (row for row in rows if row["site"] == "all sites"):
        kind = ("attribute", "group", "arm")
        parts = [
            one
            for one in rows
            if one["site"] != "all sites" and all(one[k] == row[k] for k in kind)
        ]
        assert row["patients"] == sum(one["patients"] for one in parts)
        total = math.fsum(one["dsc_n"] * one["dsc_mean"] for one in parts)
        assert row["dsc_mean"] == pytest.approx(total / row["dsc_n"], abs=1e-4)


def test_a_row_of_raters_holds_what_they_agree_to(study):
    north, south, everyone = read(render_raters_csv(study))
    assert [one["site"] for one in (north, south, everyone)] == ["north", "south", "all sites"]
    assert (everyone["first"], everyone["second"], everyone["patients"]) == ("a", "b", "24")
    assert float(everyone["dsc_mean"]) == pytest.approx(0.855)
    assert float(north["hd95_mm_mean"]) == pytest.approx(7.5)


def test_without_subgroups_and_raters_the_headers_remain():
    study = aggregate([report("north", adapted=[0.8] * 6)])
    assert subgroup_rows(study) == rater_rows(study) == []
    assert render_subgroups_csv(study).strip().split(",") == list(SUBGROUP_COLUMNS)
    assert render_raters_csv(study).strip().split(",") == list(RATER_COLUMNS)


def test_every_table_begins_alike(study):
    tables = (render_csv(study), render_subgroups_csv(study), render_raters_csv(study))
    for table in tables:
        assert table.startswith("study,package_id,model_version,site,")
        assert {row["study"] for row in read(table)} == {study.study}
