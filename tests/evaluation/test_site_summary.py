import json
import math
import random

import numpy as np
import pytest

from algorithms.contracts.site_report import SiteReport
from evaluation.case_metrics import measure_case
from evaluation.site_summary import (
    ARMS,
    PatientRow,
    RevisionRow,
    average_cases,
    summarise_site,
)
from tests.evaluation.report_builders import annotation, metrics, report, rows, subject


def test_a_missed_tumour_lowers_the_mean_dice_and_is_counted():
    hit, missed = report(adapted=[0.8, 0.8, 0.8]), report(adapted=[0.8, 0.8, 0.0])
    (before,), (after,) = hit.arms, missed.arms
    assert (before.failures, after.failures) == (0, 1)
    assert after.dsc.mean == pytest.approx(1.6 / 3, abs=1e-4)
    assert after.dsc.n == 3
    assert (after.hd95_mm.n, after.hd95_mm.undefined) == (2, 1)


def test_masks_go_in_and_the_report_comes_out():
    reference = np.zeros((4, 8, 8), dtype=bool)
    reference[1:3, 2:6, 2:6] = True
    shifted = np.roll(reference, 1, axis=2)
    measured = [
        PatientRow("direct", measure_case(reference, p, spacing_zyx_mm=(3.0, 1.0, 1.0)))
        for p in (reference, shifted, np.zeros_like(reference))
    ]
    (arm,) = summarise_site(
        measured, subject=subject(), annotation=annotation(), minimum_group_size=1
    ).arms
    assert (arm.patients, arm.failures) == (3, 1)
    assert arm.dsc.mean == pytest.approx((1 + 0.75 + 0) / 3, abs=1e-4)
    assert arm.hd95_mm.mean == pytest.approx(0.5)


def test_arms_come_in_one_order_and_absent_ones_are_absent():
    both = rows("target_trained", [0.8, 0.9]) + rows("direct", [0.6, 0.7])
    made = summarise_site(both, subject=subject(), annotation=annotation(), minimum_group_size=1)
    assert [arm.arm for arm in made.arms] == ["direct", "target_trained"]
    assert set(ARMS) > {arm.arm for arm in made.arms}


def test_the_order_of_the_patients_leaves_no_trace():
    several = rows("direct", [0.61, 0.72, 0.83, 0.0]) + rows("adapted", [0.8, 0.9, 0.7, 0.4])
    reviews = [RevisionRow(d, 100.0 + d / 3, False) for d in (1.0, 7.0, 13.0, 3.0)]
    shuffled, shuffled_reviews = several[:], reviews[:]
    random.Random(3).shuffle(shuffled)
    random.Random(4).shuffle(shuffled_reviews)
    first, second = (
        summarise_site(
            r, subject=subject(), annotation=annotation(), revisions=v, minimum_group_size=2
        )
        for r, v in ((several, reviews), (shuffled, shuffled_reviews))
    )
    assert first.model_dump_json() == second.model_dump_json()


def test_too_few_patients_leave_no_figure_at_all():
    small = report(adapted=[0.81, 0.64, 0.7], degrees=[1.0, 6.0, 2.0], minimum_group_size=5)
    (arm,) = small.arms
    figures = [*(getattr(arm, name) for name in ("dsc", "hd95_mm", "assd_mm", "nsd_at_1mm"))]
    figures += [small.revision.degree_percent, small.revision.active_s]
    assert all(figure.mean is figure.sd is figure.median is None for figure in figures)
    assert small.revision.bins is None
    assert arm.patients == small.revision.patients == 3


def test_of_too_few_patients_neither_failures_nor_vendors_are_told():
    small = report(adapted=[0.8, 0.0, 0.7], minimum_group_size=4)
    assert small.arms[0].failures is None
    assert (small.arms[0].hd95_mm.n, small.arms[0].hd95_mm.undefined) == (3, 0)
    assert small.vendors == ()
    enough = report(adapted=[0.8, 0.0, 0.7], minimum_group_size=3)
    assert enough.arms[0].failures == 1
    assert enough.vendors == ("siemens",)


@pytest.mark.parametrize(
    ("reference", "reviewed", "told"),
    [(4, 0, (4, 0)), (0, 4, (0, 4)), (2, 3, (2, 3)), (4, 1, (None, None)), (0, 1, (None, None))],
)
def test_the_report_tells_what_its_patients_were_measured_against(reference, reviewed, told):
    flags = [False] * reference + [True] * reviewed
    made = summarise_site(
        [PatientRow(arm, metrics(0.8), flag) for arm in ("direct", "adapted") for flag in flags],
        subject=subject(),
        annotation=annotation(),
        minimum_group_size=2,
    )
    assert (made.yardstick.reference_contour, made.yardstick.reviewed_contour) == told


def test_several_cases_are_one_patient_who_failed_only_if_all_did():
    both = average_cases([metrics(0.6, hd95_mm=4.0), metrics(0.0)])
    assert (both.dsc, both.hd95_mm, both.nsd[1.0]) == (pytest.approx(0.3), 4.0, pytest.approx(0.3))
    assert not both.is_failure
    assert average_cases([metrics(0.0), metrics(0.0)]).is_failure
    assert math.isnan(average_cases([metrics(0.0), metrics(0.0)]).hd95_mm)
    assert average_cases([metrics(0.7)]) == metrics(0.7)


def test_revision_bins_leave_all_or_none():
    assert report(degrees=[1, 2, 3, 11, 12, 13], minimum_group_size=3).revision.bins == (3, 0, 3, 0)
    assert report(degrees=[1, 2, 3, 4, 11, 12], minimum_group_size=3).revision.bins is None


def test_one_simulated_reviewer_marks_the_whole_summary():
    reviews = [RevisionRow(3.0, 60.0, simulated) for simulated in (False, True, False)]
    made = summarise_site(
        rows("adapted", [0.8, 0.9]),
        subject=subject(),
        annotation=annotation(simulated=False),
        revisions=reviews,
        minimum_group_size=2,
    )
    assert made.revision.simulated
    assert report(adapted=[0.8, 0.9]).revision is None


def test_a_report_survives_json():
    made = report(direct=[0.5, 0.0, 0.7], adapted=[0.8, 0.7, 0.9], degrees=[1, 2, 30])
    assert SiteReport.model_validate(json.loads(made.model_dump_json())) == made


def test_unknown_arms_and_missing_tolerances_are_refused():
    with pytest.raises(ValueError, match="unknown arm 'tuned'"):
        summarise_site(
            [PatientRow("tuned", metrics(0.5))],
            subject=subject(),
            annotation=annotation(),
            minimum_group_size=1,
        )
    mask = np.ones((2, 2, 2), dtype=bool)
    measured = measure_case(mask, mask, spacing_zyx_mm=(1, 1, 1), tolerances_mm=(2.0,))
    with pytest.raises(ValueError, match="no NSD at 1"):
        summarise_site(
            [PatientRow("direct", measured)],
            subject=subject(),
            annotation=annotation(),
            minimum_group_size=1,
        )
