"""The drawings of the study report: each from the report's own figures, none from a patient's.

Every drawing has its numbers in a table of the report, too.
"""

from collections.abc import Callable

from evaluation.aggregate_report import PackageResult, StudyReport
from evaluation.curve_figures import budget_figure, learning_figure
from evaluation.forest_figure import forest_figure
from evaluation.report_drawing import Figure
from evaluation.review_figures import revision_figure, time_figure
from evaluation.site_figures import (
    dice_figure,
    failures_figure,
    gap_figure,
    hd95_figure,
)
from evaluation.subgroup_figure import subgroups_figure


def package_figures(package: PackageResult, name: str) -> dict[str, Figure]:
    """Draw what the report shows of one package; `name` keeps ids apart on the page.

    A kind of which no hospital said anything is left out.
    """
    makers: dict[str, Callable[[PackageResult, str], Figure | None]] = {
        "dice": dice_figure,
        "hd95": hd95_figure,
        "gap": gap_figure,
        "forest": forest_figure,
        "failures": failures_figure,
        "revision": revision_figure,
        "time": time_figure,
        "subgroups": subgroups_figure,
    }
    drawn = {kind: make(package, f"{name}-{kind}") for kind, make in makers.items()}
    return {kind: figure for kind, figure in drawn.items() if figure is not None}


def study_figures(report: StudyReport) -> dict[str, Figure]:
    """Draw what is about all packages together; what has no two points is left out."""
    drawn = {
        "budget": budget_figure(report, "budget-curve"),
        "learning": learning_figure(report, "learning-curve"),
    }
    return {kind: figure for kind, figure in drawn.items() if figure is not None}
