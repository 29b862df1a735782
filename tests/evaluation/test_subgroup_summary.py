"""Subgroups: what may be told, and attacks on what is told."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from algorithms.contracts.federation_plan import REPORT_FIELDS, fields_said, planned_part
from algorithms.contracts.scale import FRACTION
from algorithms.contracts.site_report import SiteReport, SubgroupSummary, tells_of_a_small_subgroup
from algorithms.contracts.subgroups import SUBGROUPS
from evaluation.differencing import differencing_rule, follows_about_few, subgroup_of
from evaluation.disclosure_control import count_in_bins
from evaluation.site_summary import PatientRow, summarise_site
from tests.evaluation.attacks import sums_that_follow
from tests.evaluation.report_builders import annotation, metrics, report, subject

GROUP = 5
FIGURES = ("dsc", "hd95_mm", "asd_predicted_to_reference_mm")


def patients(*lines, arm="adapted"):
    """Make rows from (how many, T stage group, volume group, Dice)."""
    rows = []
    for size, t_stage, volume, dsc in lines:
        for _ in range(size):
            groups = {"t_stage": t_stage, "volume": volume, "scanner": "ge"}
            # Every patient has figures of their own, so that nobody's can be told from others'.
            own = dsc and round(dsc + 0.001 * len(rows), 4)
            rows.append(
                PatientRow(arm, metrics(own, 2.0 + 0.1 * len(rows)), False, str(len(rows)), groups)
            )
    return rows


def summarised(rows, minimum=GROUP):
    return summarise_site(
        rows, subject=subject(), annotation=annotation(), minimum_group_size=minimum
    )


def told(made):
    return [(one.attribute, one.group, one.arms[0].patients) for one in made.subgroups]


def test_figures_of_a_subgroup_are_those_of_its_patients():
    rows = patients((8, "T1+2", "below 10 ml", 0.7), (9, "T3+4", "above 30 ml", 0.8))
    made = summarised(rows)
    assert told(made) == [
        ("t_stage", "T1+2", 8),
        ("t_stage", "T3+4", 9),
        ("volume", "below 10 ml", 8),
        ("volume", "above 30 ml", 9),
        ("scanner", "ge", 17),
    ]
    early = made.subgroups[0].arms[0]
    dice = [row.metrics.dsc for row in rows[:8]]
    assert early.dsc.mean == pytest.approx(np.mean(dice), abs=1e-4)
    assert early.dsc.sd == pytest.approx(np.std(dice, ddof=1), abs=1e-4)
    assert early.dsc.median is early.dsc.q1 is early.dsc.q3 is None
    assert early.dsc.sketch.patients == 8
    assert SiteReport.model_validate_json(made.model_dump_json()) == made


def test_a_unique_patient_is_in_no_told_subgroup_and_follows_from_none():
    """The only early tumour among twenty: neither told, nor all less the late ones."""
    rows = patients((1, "T1+2", "below 10 ml", 0.6), (19, "T3+4", "above 30 ml", 0.8))
    assert told(summarised(rows)) == [("scanner", "ge", 20)]


def test_the_rest_of_an_attribute_is_a_group_too():
    """Two told groups and four of unknown stage: all less both would be the four."""
    rows = patients((8, "T1+2", "", 0.7), (8, "T3+4", "", 0.8), (4, "", "", 0.6))
    assert told(summarised(rows)) == [("t_stage", "T3+4", 8), ("scanner", "ge", 20)]
    five = patients((8, "T1+2", "", 0.7), (8, "T3+4", "", 0.8), (5, "", "", 0.6))
    assert told(summarised(five))[:2] == [("t_stage", "T1+2", 8), ("t_stage", "T3+4", 8)]


def test_two_attributes_that_differ_by_one_patient_are_not_both_told():
    """T1+2 less the small ones would be one patient: n against n - 1 inside a single report."""
    rows = patients(
        (9, "T1+2", "below 10 ml", 0.7),
        (1, "T1+2", "above 30 ml", 0.5),
        (10, "T3+4", "above 30 ml", 0.8),
    )
    assert told(summarised(rows)) == [
        ("t_stage", "T1+2", 10),
        ("t_stage", "T3+4", 10),
        ("scanner", "ge", 20),
    ]


def test_whoever_did_not_fail_is_not_given_away_by_a_subgroup():
    """Of six early tumours four were missed: all less the late ones would be the other two."""
    rows = patients((4, "T1+2", "", 0.0), (2, "T1+2", "", 0.7), (14, "T3+4", "", 0.8))
    made = summarised(rows)
    assert ("t_stage", "T3+4", 14) not in told(made)
    assert made.arms[0].dsc.mean is not None


def test_an_arm_of_few_patients_keeps_no_subgroup_of_the_others_back():
    rows = patients((8, "T1+2", "", 0.7), (8, "T3+4", "", 0.8))
    few = [replace(row, arm="direct") for row in rows[:3]]
    made = summarised(few + rows)
    assert [[arm.arm for arm in one.arms] for one in made.subgroups] == [["adapted"]] * 3


cohorts = st.lists(
    st.tuples(
        st.integers(1, 7),
        st.sampled_from(["T1+2", "T3+4", ""]),
        st.sampled_from([*SUBGROUPS["volume"], ""]),
        st.sampled_from([0.0, 0.5, 0.7, 0.9]),
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=250, deadline=None)
@given(cohorts, st.integers(2, 4))
def test_no_sum_or_difference_of_told_groups_is_about_few(lines, minimum):
    """By brute force over all weights from -2 to 2, for all patients and those with open values."""
    rows = patients(*lines)
    made = summarised(rows, minimum)
    if not made.subgroups:
        return
    assert made.arms[0].dsc.mean is not None
    for counted in ("patients", *FIGURES):
        there = {row.patient for row in rows if counted == "patients" or not row.metrics.is_failure}
        sets = [frozenset(there)] + [
            frozenset(
                row.patient
                for row in rows
                if row.patient in there and row.subgroups[one.attribute] == one.group
            )
            for one in made.subgroups
            if one.attribute != "scanner"  # the same set as all
        ]
        if len(sets) > 6:
            sets = sets[:6]
        assert all(
            not following or len(following) >= minimum for following in sums_that_follow(sets)
        )


@settings(max_examples=100, deadline=None)
@given(cohorts, st.integers(2, 4))
def test_no_bin_of_all_less_those_of_subgroups_holds_few(lines, minimum):
    rows = patients(*lines)
    made = summarised(rows, minimum)
    for attribute, figure in itertools.product(SUBGROUPS, FIGURES):
        parts = [
            getattr(one.arms[0], figure).sketch
            for one in made.subgroups
            if one.attribute == attribute
        ]
        parts = [part for part in parts if part is not None]
        if not parts:
            continue
        whole = getattr(made.arms[0], figure).sketch
        held = np.cumsum(whole.counts)
        ends = dict(zip(whole.last_steps, held.tolist(), strict=True))
        cumulated = [0, *(ends[last] for last in parts[0].last_steps)]  # a KeyError: not nested
        rest = np.diff(cumulated) - np.sum([part.counts for part in parts], axis=0)
        counts = np.concatenate([rest, *(part.counts for part in parts)])
        assert all(count == 0 or count >= minimum for count in counts.tolist())


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.tuples(*[st.booleans()] * 3).filter(any), st.integers(1, 9), min_size=1, max_size=7
    ),
    st.integers(1, 5),
)
def test_what_is_let_through_has_no_sum_about_few(cells, minimum):
    """`follows_about_few` against the same brute force: it may be stricter, and never laxer."""
    sets = [
        frozenset(f"{cell}{i}" for cell, size in cells.items() if cell[place] for i in range(size))
        for place in range(3)
    ]
    sums = [following for following in sums_that_follow(sets) if following]
    if not follows_about_few(cells, minimum_group_size=minimum):
        assert all(len(following) >= minimum for following in sums)
    if len(cells) == 1:
        assert follows_about_few(cells, minimum_group_size=minimum) == (
            min(cells.values()) < minimum
        )


def members(rows, **moved):
    groups = {"adapted": {row.patient: "seen" for row in rows}}
    for row in rows:
        stage = moved.get(f"p{row.patient}", row.subgroups["t_stage"])
        name = subgroup_of("adapted", "t_stage", stage)
        groups.setdefault(name, {})[row.patient] = "seen"
    return groups


def test_a_stage_that_is_corrected_between_two_rounds_does_not_show():
    """T1+2 with and without one patient: n against n - 1 over two rounds."""
    rows = patients((10, "T1+2", "", 0.7), (10, "T3+4", "", 0.8))
    before = members(rows)
    assert differencing_rule(before, [before], minimum_group_size=GROUP) is None
    one = members(rows, p0="T3+4")
    assert differencing_rule(one, [before], minimum_group_size=GROUP) == "few_patients_differ"
    five = members(rows, p0="T3+4", p1="T3+4", p2="T3+4", p3="T3+4", p4="T3+4")
    assert differencing_rule(five, [before], minimum_group_size=GROUP) is None


def test_groups_of_different_attributes_are_seen_together_over_rounds():
    """Ten early tumours now, nine of them as the small ones before: the tenth would follow."""
    everybody = {str(i): "" for i in range(20)}
    ten, nine = ({str(i): "" for i in range(n)} for n in (10, 9))
    earlier = {"adapted": everybody, subgroup_of("adapted", "volume", "small"): nine}
    asked = {"adapted": everybody, subgroup_of("adapted", "t_stage", "T1+2"): ten}
    assert differencing_rule(asked, [earlier], minimum_group_size=GROUP) == "few_patients_differ"
    other = {"direct": everybody, subgroup_of("direct", "volume", "small"): nine}
    assert differencing_rule(asked, [other], minimum_group_size=GROUP) is None


def test_few_changed_figures_inside_a_subgroup_do_not_leave():
    """Six contours were corrected, three of each stage: all may be told again, no stage."""
    rows = patients((10, "T1+2", "", 0.7), (10, "T3+4", "", 0.8))
    before = members(rows)
    corrected = {"0", "1", "2", "10", "11", "12"}
    now = {
        group: {patient: "new" if patient in corrected else "seen" for patient in who}
        for group, who in before.items()
    }
    assert differencing_rule(now, [before], minimum_group_size=GROUP) == "few_figures_changed"
    only_all = {"adapted": now["adapted"]}
    assert (
        differencing_rule(only_all, [{"adapted": before["adapted"]}], minimum_group_size=GROUP)
        is None
    )


def tampered(made, place, **changes):
    """Change one figure of one subgroup, as a hospital with other software could."""
    subgroups = list(made.subgroups)
    arm = subgroups[place].arms[0].model_copy(update=changes)
    subgroups[place] = subgroups[place].model_copy(update={"arms": (arm,)})
    return made.model_copy(update={"subgroups": tuple(subgroups)})


def test_reports_whose_subgroups_tell_of_few_are_refused_where_they_arrive():
    made = summarised(patients((8, "T1+2", "", 0.7), (12, "T3+4", "", 0.8)))
    early = made.subgroups[0].arms[0]
    bad = [
        tampered(made, 0, patients=3),
        tampered(made, 0, patients=7),  # leaves one of twenty
        tampered(made, 0, patients=9),  # more than there are
        tampered(made, 0, failures=1),
        tampered(made, 0, hd95_mm=early.hd95_mm.model_copy(update={"n": 7, "sketch": None})),
        tampered(made, 0, dsc=early.dsc.model_copy(update={"sketch": made.arms[0].dsc.sketch})),
        made.model_copy(update={"subgroups": made.subgroups[::-1]}),
        made.model_copy(update={"subgroups": (made.subgroups[0], *made.subgroups)}),
    ]
    for one in bad:
        with pytest.raises(ValidationError):
            SiteReport.model_validate(one.model_dump())
    assert not tells_of_a_small_subgroup(made, 8)
    assert tells_of_a_small_subgroup(made, 9)
    with pytest.raises(ValidationError, match="every study knows"):
        SubgroupSummary(attribute="t_stage", group="Dr Someone's", arms=(early,))


def test_a_plan_without_the_field_leaves_it_out_and_the_rest_as_it_was():
    made = summarised(patients((8, "T1+2", "", 0.7), (12, "T3+4", "", 0.8)))
    fields = [name for name in REPORT_FIELDS if name not in ("subgroups", "vendors")]
    part = planned_part(made, fields)
    assert fields_said(made) - fields_said(part) == {"subgroups", "vendors"}
    assert part.arms == made.arms
    assert planned_part(made, REPORT_FIELDS) == made


def test_patients_without_any_known_group_make_no_subgroups():
    assert report("north", adapted=[0.7] * 20, minimum_group_size=GROUP).subgroups == ()


@settings(max_examples=50, deadline=None)
@given(cohorts, st.randoms(use_true_random=False))
def test_the_order_of_the_patients_leaves_no_trace(lines, shuffler):
    rows = patients(*lines)
    other = list(rows)
    shuffler.shuffle(other)
    assert summarised(other, 3) == summarised(rows, 3)


@settings(max_examples=100, deadline=None)
@given(cohorts)
def test_sizes_are_those_of_the_cohort(lines):
    rows = patients(*lines)
    sizes = Counter(
        (attribute, group) for row in rows for attribute, group in row.subgroups.items() if group
    )
    for attribute, group, size in told(summarised(rows, 3)):
        assert size == sizes[attribute, group] >= 3


def counted(rows, made):
    """Return the patients' Dice and the sketch of everybody and of every told subgroup."""
    sets = [(rows, made.arms[0].dsc.sketch)]
    for one in made.subgroups:
        inside = [row for row in rows if row.subgroups.get(one.attribute) == one.group]
        sets.append((inside, one.arms[0].dsc.sketch))
    return [
        ({row.patient: row.metrics.dsc for row in inside}, sketch)
        for inside, sketch in sets
        if sketch is not None
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.305, 0.505, 0.515, 0.705, 0.905]), min_size=20, max_size=40),
    st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_sketches_of_two_attributes_taken_from_one_another_tell_of_no_few_in_any_bin(dice, ends):
    """Those of stage T1 or T2 lie among the small tumours, or the other way round."""
    rows = [
        PatientRow(
            "adapted",
            metrics(dsc),
            patient=f"p{i}",
            subgroups={
                "t_stage": "T1+2" if i < ends[0] else "T3+4",
                "volume": "below 10 ml" if i < ends[1] else "above 30 ml",
            },
        )
        for i, dsc in enumerate(dice)
    ]
    for (smaller, fine), (larger, coarse) in itertools.permutations(
        counted(rows, summarised(rows, GROUP)), 2
    ):
        if smaller.items() <= larger.items():
            shared = sorted(set(fine.last_steps) & set(coarse.last_steps))
            others = [dsc for patient, dsc in larger.items() if patient not in smaller]
            left = count_in_bins(others, shared, FRACTION).counts
            assert not any(0 < count < GROUP for count in left)
