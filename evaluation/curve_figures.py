"""Curves over budget and rounds: a line per hospital through what its reports say."""

import math
from collections.abc import Sequence

from evaluation.aggregate_report import PackageResult, StudyReport
from evaluation.report_drawing import ALL_SITES, Figure, finish
from evaluation.site_summary import ARMS
from evaluation.svg_drawing import (
    BLUE,
    GREEN,
    INK,
    LETTER_PX,
    LINE,
    ORANGE,
    SOFT,
    Axis,
    Drawing,
    Shape,
)

_SITE_SHAPES: tuple[Shape, ...] = ("circle", "square", "diamond")
_LABEL_PX = 15.0  # from a label to the next one
_SITE_COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", "#56b4e9", INK)


def budget_points(report: StudyReport) -> dict[str, list[tuple[float, float]]]:
    """Return hospital -> (share of its training slices that doctors drew, Dice), both in %.

    From direct use of the first model, at 0, over the adapted model of every round, to training on
    the target in the last one, at 100. Slices of earlier rounds count: the model learnt from them.
    A hospital with fewer than two points has no curve.
    """
    points: dict[str, dict[float, float]] = {}
    for package in report.packages:
        for site in package.sites:
            found = points.setdefault(site.report.site, {})
            dice = {
                name: 100 * arm.dsc.mean
                for name in ARMS
                if (arm := site.arm(name)) is not None and arm.dsc.mean is not None
            }
            asked = site.report.annotation
            drawn = asked.selected_slices + asked.earlier_slices
            if "direct" in dice:
                found.setdefault(0.0, dice["direct"])
            if "target_trained" in dice:
                found[100.0] = dice["target_trained"]
            if "adapted" in dice and 0 < drawn < asked.training_slices:
                found[100 * drawn / asked.training_slices] = dice["adapted"]
    return {site: sorted(found.items()) for site, found in sorted(points.items()) if len(found) > 1}


def budget_figure(report: StudyReport, name: str) -> Figure | None:
    """Draw Dice against the share of slices drawn; None without a curve."""
    curves = budget_points(report)
    if not curves:
        return None
    caption = (
        "Budget: mean Dice against the share of the hospital's training slices that doctors were "
        "asked for. Direct use is at 0 %; training on the target, another method, is at 100 % "
        "(dashed). "
    )
    title = "training slices annotated, %"
    return _curves(name, curves, title, caption, most=100.0, ticks=None)


def learning_points(report: StudyReport) -> dict[str, list[tuple[float, float]]]:
    """Return hospital -> (round, Dice of the adapted model in %), the first round being 1."""
    points: dict[str, list[tuple[float, float]]] = {}
    for place, package in enumerate(report.packages, start=1):
        figures = [
            *((site.report.site, site.arm("adapted")) for site in package.sites),
            (ALL_SITES, next((arm for arm in package.pooled if arm.arm == "adapted"), None)),
        ]
        for label, one in figures:
            if one is not None and one.dsc.mean is not None:
                points.setdefault(label, []).append((float(place), 100 * one.dsc.mean))
    return points


def learning_figure(report: StudyReport, name: str) -> Figure | None:
    """Draw Dice round after round; None with fewer than two rounds."""
    if len(report.packages) < 2:
        return None
    curves = learning_points(report)
    if not any(len(points) > 1 for points in curves.values()):
        return None
    caption = "Learning curve: mean Dice of the adapted model, model version after model version. "
    if len({frozenset(_told_sites(package)) for package in report.packages}) > 1:
        caption += "Not every hospital gives it for each version: all sites are not the same ones. "
    versions = [package.model_version for package in report.packages]
    return _curves(name, curves, "model version", caption, most=len(versions), ticks=versions)


def _told_sites(package: PackageResult) -> list[str]:
    """Name the hospitals behind the pooled Dice of the adapted model."""
    return [
        site.report.site
        for site in package.sites
        if (arm := site.arm("adapted")) is not None and arm.dsc.mean is not None
    ]


def _curves(
    name: str,
    curves: dict[str, list[tuple[float, float]]],
    title: str,
    caption: str,
    *,
    most: float,
    ticks: Sequence[str] | None,
) -> Figure:
    """Draw a line per hospital through its points, Dice upwards."""
    left, right, top = 46.0, 396.0, 30.0
    bottom = max(288.0, top + _LABEL_PX * (len(curves) - 1))
    drawing = Drawing(name, right + 40.0 + LETTER_PX * max(map(len, curves)), bottom + 46.0)
    lowest = min(y for points in curves.values() for _, y in points)
    upward = Axis(10.0 * (min(lowest, 90.0) // 10.0), 100.0, bottom, top)
    across = (
        Axis(0.0, most, left + 8, right) if ticks is None else Axis(0.8, most + 0.2, left, right)
    )
    for tick in upward.ticks():
        drawing.line((left, upward.at(tick)), (right, upward.at(tick)), colour=LINE)
        drawing.text(left - 6, upward.at(tick), f"{tick:.0f}", anchor="end", colour=SOFT, size=11)
    labels = (
        [(tick, f"{tick:.0f}") for tick in across.ticks()]
        if ticks is None
        else [(float(i), label) for i, label in enumerate(ticks, start=1)]
    )
    for place, label in labels:
        drawing.text(across.at(place), bottom + 13, label, anchor="middle", colour=SOFT, size=11)
    drawing.line((left, bottom), (right, bottom))
    drawing.text((left + right) / 2, bottom + 33, title, anchor="middle", colour=SOFT)
    drawing.text(0, 10, "Dice, %", colour=SOFT, size=11)
    names = _spread_labels(
        {label: upward.at(points[-1][1]) for label, points in curves.items()}, highest=top
    )
    for i, (label, points) in enumerate(curves.items()):
        colour = INK if label == ALL_SITES else _SITE_COLOURS[i % len(_SITE_COLOURS)]
        places = [(across.at(x), upward.at(y)) for x, y in points]
        to_comparator = ticks is None and points[-1][0] == most
        drawn = places[:-1] if to_comparator else places
        drawing.path(drawn, colour=colour, dashed=label == ALL_SITES)
        if to_comparator:
            drawing.line(places[-2], places[-1], colour=colour, width=1.5, dashed=True)
        for x, y in places:
            drawing.mark(_SITE_SHAPES[i % len(_SITE_SHAPES)], x, y, colour=colour, radius=4)
        drawing.line(places[-1], (right + 18, names[label]), colour=LINE)
        drawing.mark(
            _SITE_SHAPES[i % len(_SITE_SHAPES)], right + 22, names[label], colour=colour, radius=4
        )
        drawing.text(right + 32, names[label], label, bold=label == ALL_SITES)
    return finish(drawing, caption)


def _spread_labels(heights: dict[str, float], *, highest: float) -> dict[str, float]:
    """Move labels apart: upwards, and from what would be above `highest` downwards again."""
    placed: dict[str, float] = {}
    lower = math.inf
    for label, y in sorted(heights.items(), key=lambda item: (-item[1], item[0])):
        lower = min(y, lower - _LABEL_PX)
        placed[label] = lower
    upper = highest - _LABEL_PX
    for label, y in reversed(list(placed.items())):
        upper = max(y, upper + _LABEL_PX)
        placed[label] = upper
    return placed
