"""A report that no hospital can have measured is refused by its own fields."""

from typing import Any

import pytest
from pydantic import ValidationError

from algorithms.contracts.messages import SiteReportMessage
from algorithms.contracts.site_report import SiteReport
from tests.evaluation.report_builders import report

ARM = ("arms", 0)
DSC, HD95, NSD = (*ARM, "dsc"), (*ARM, "hd95_mm"), (*ARM, "nsd_at_1mm")
DEGREE = ("revision", "degree_percent")


def _fields() -> dict[str, Any]:
    made = report(direct=[0.5, 0.0, 0.7], adapted=[0.8, 0.7, 0.9], degrees=[1, 2, 30])
    return made.model_dump(mode="json")


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


def test_a_report_of_a_version_without_a_yardstick_is_read() -> None:
    fields = _fields()
    del fields["yardstick"]
    assert SiteReport.model_validate(fields).yardstick is None
