"""A report that no hospital can have measured is refused by its own fields."""

from typing import Any

import pytest
from pydantic import ValidationError

from algorithms.contracts.messages import SiteReportMessage
from algorithms.contracts.site_report import Distribution, PairedSummary, SiteReport
from evaluation.site_summary import RaterRow
from tests.evaluation.report_builders import report

ARM = ("arms", 0)
DSC, HD95, NSD = (*ARM, "dsc"), (*ARM, "hd95_mm"), (*ARM, "nsd_at_1mm")
DEGREE = ("revision", "degree_percent")


def _fields() -> dict[str, Any]:
    raters = [RaterRow("a", "b", 0.8, 3.0)] * 3
    made = report(
        direct=[0.5, 0.0, 0.7], adapted=[0.8, 0.7, 0.9], degrees=[1, 2, 30], raters=raters
    )
    pair = PairedSummary(first="direct", second="adapted", difference=Distribution(n=3, mean=0.4))
    return made.model_copy(update={"paired": (pair,)}).model_dump(mode="json")


def _with(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    fields = _fields()
    place: Any = fields
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return fields


def test_what_a_hospital_measured_is_read() -> None:
    assert SiteReport.model_validate(_fields()).model_dump(mode="json") == _fields()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*DSC, "mean"), -0.5),
        ((*DSC, "mean"), 5.0),
        ((*DSC, "sd"), -1.0),
        ((*DSC, "q1"), -0.1),
        ((*NSD, "median"), 1.01),
        ((*HD95, "mean"), -1.0),
        ((*HD95, "mean"), 1e308),
        ((*HD95, "sd"), float("nan")),
        ((*DEGREE, "mean"), 100.1),
        (("revision", "active_s", "median"), -1.0),
        ((*DSC, "sketch", "last_steps"), (50,)),  # not the whole scale
        ((*DSC, "sketch", "counts"), (3,)),  # a failure counted too
        ((*DSC, "sketch", "counts"), (1, 1)),  # two counts, one bin
        ((*HD95, "sketch"), {"last_steps": (9, 4), "counts": (1, 1)}),
        ((*HD95, "sketch", "counts"), (-2,)),
        (
            ("paired",),
            ({"first": "direct", "second": "adapted", "difference": {"n": 3, "mean": 2}},),
        ),
        (("agreement", 0, "first"), "Dr X"),
        (("agreement", 0, "patients"), 2),
        ((*DSC, "n"), 10**320),
        ((*DSC, "n"), 4),
        ((*HD95, "undefined"), 2),
        ((*ARM, "failures"), 4),
        ((*ARM, "patients"), 10**400),
        (("revision", "patients"), 2),
        (("revision", "bins"), (4, 0, 0, 0)),
        (("annotation", "training_slices"), 10**400),
        (("minimum_group_size",), 10**400),
        (("seed",), 10**400),
    ],
)
def test_what_no_hospital_can_have_measured_is_refused(
    path: tuple[str | int, ...], value: object
) -> None:
    with pytest.raises(ValidationError):
        SiteReportMessage.model_validate({"report": _with(path, value)})


@pytest.mark.parametrize("counts", [(1, 5), (5, 1), (None, 5), (5, None)])
def test_a_yardstick_that_tells_of_a_small_group_is_refused(
    counts: tuple[int | None, int | None],
) -> None:
    named = dict(zip(("reference_contour", "reviewed_contour"), counts, strict=True))
    with pytest.raises(ValidationError, match="minimum group size"):
        SiteReport.model_validate(_with(("yardstick",), named))


def test_a_report_of_a_version_that_said_less_is_read() -> None:
    fields = _fields()
    for key in ("yardstick", "paired", "agreement"):
        del fields[key]
    for arm in fields["arms"]:
        for figure in ("dsc", "hd95_mm", "assd_mm", "asd_predicted_to_reference_mm", "nsd_at_1mm"):
            del arm[figure]["sketch"]
    read = SiteReport.model_validate(fields)
    assert (read.yardstick, read.paired, read.agreement) == (None, (), ())
    assert read.arms[0].dsc.sketch is None
