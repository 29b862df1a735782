"""What reviewers changed, and how long it took: bins of the revision degree, boxes of the time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from algorithms.contracts.scale import SECOND
from algorithms.contracts.site_report import Distribution
from evaluation.aggregate_report import PackageResult, SiteResult
from evaluation.pooled_sketch import QUARTILES, BoundedFigure, bounded_quantile, merge, spread
from evaluation.report_drawing import (
    ALL_SITES,
    TOP_PX,
    Figure,
    HospitalRows,
    digits_of,
    finish,
)
from evaluation.revision import REVISION_BIN_LABELS
from evaluation.svg_drawing import BLUE, INK, LETTER_PX, LINE, SHADES, SOFT, Axis, Drawing, spanning

WHISKERS = (0.1, 0.9)


def revision_figure(package: PackageResult, name: str) -> Figure | None:
    """Draw in which bin of the revision degree patients lie: all together, and per hospital."""
    reviewed = _reviewed(package)
    if not reviewed:
        return None
    bins = [site.report.revision.bins for site in reviewed if site.report.revision]
    patients = [site.report.revision.patients for site in reviewed if site.report.revision]
    told = [counts for counts in bins if counts is not None]
    pooled = [sum(each) for each in zip(*told, strict=True)]  # no columns where no bin is told
    untold = sum(n for n, counts in zip(patients, bins, strict=True) if counts is None)

    labels = [*(site.report.site for site in reviewed), ALL_SITES]
    left = 20.0 + LETTER_PX * max(map(len, labels))
    columns_width, bars_left = 380.0, 440.0 + left
    height = max(230.0, TOP_PX + 34.0 * len(labels) + 24.0)
    drawing = Drawing(name, bars_left + 400.0, height + 24.0)
    _columns(drawing, pooled, untold, width=columns_width, bottom=height - 22.0)

    axis = Axis(0.0, 100.0, bars_left, bars_left + 380.0)
    shown = [*zip(bins, patients, strict=True), (tuple(pooled) or None, sum(patients))]
    for row, (label, (counts, n)) in enumerate(zip(labels, shown, strict=True)):
        y = TOP_PX + 34.0 * (row + 0.5)
        together = row == len(reviewed)
        if together:
            drawing.line((bars_left - left, y - 17), (axis.end, y - 17), colour=SOFT)
        drawing.text(bars_left - 10, y, label, anchor="end", bold=together)
        _stacked(drawing, axis, y, counts, n)
    bottom = TOP_PX + 34.0 * len(labels)
    for tick in axis.ticks():
        drawing.text(
            axis.at(tick), bottom + 12, f"{tick:.0f}", anchor="middle", colour=SOFT, size=11
        )
    drawing.text(
        (axis.start + axis.end) / 2, bottom + 32, "% of patients", anchor="middle", colour=SOFT
    )
    x = axis.start
    for label, shade in zip(REVISION_BIN_LABELS, SHADES, strict=True):
        drawing.box(x, 8, 12, 12, fill=shade)
        drawing.text(x + 17, 14, label, size=11)
        x += 36 + LETTER_PX * len(label)
    caption = "Revision degree: how much reviewers changed, in patients of all hospitals (left) and"
    return finish(drawing, f"{caption} in per cent of each hospital's (right). ", wide=True)


def time_figure(package: PackageResult, name: str) -> Figure | None:
    """Draw boxes of the active time: quartiles, and a line from the 10th to the 90th percentile."""
    # Where nobody took the time, as a simulated reviewer does not, nothing was suppressed.
    reviewed = [
        site
        for site in _reviewed(package)
        if site.report.revision is not None and site.report.revision.active_s.n
    ]
    if not reviewed:
        return None
    boxes: list[tuple[str, _Box | None]] = [
        (site.report.site, _site_box(site.report.revision.active_s))
        for site in reviewed
        if site.report.revision
    ]
    boxes.append((ALL_SITES, _pooled_box(reviewed)))
    rows = HospitalRows(name, [label for label, _ in boxes], plot=760)
    ends = [end for _, box in boxes if box is not None for end in box.ends]
    axis = spanning(ends, start=rows.left, end=rows.right, least=0.0, most=1.0)
    rows.frame(axis, "active time per patient, s", digits=digits_of(axis))
    for row, (_, box) in enumerate(boxes):
        y = rows.middle(row)
        if box is None:
            rows.hatch(y, "suppressed", height=16)
            continue
        if box.whiskers is not None:
            low, high = (axis.at(end) for end in box.whiskers)
            rows.drawing.line((low, y), (high, y), colour=INK)
            for end in (low, high):
                rows.drawing.line((end, y - 5), (end, y + 5), colour=INK)
        if box.quartiles is not None:
            q1, q3 = (axis.at(end) for end in box.quartiles)
            rows.drawing.box(q1, y - 11, q3 - q1, 22, fill=SHADES[0], colour=INK)
        for low, high in box.unsure:
            left, right = axis.at(low), axis.at(high)
            rows.drawing.box(left, y - 11, max(right - left, 2), 22, hatched=True)
        x = axis.at(box.median)
        rows.drawing.line((x, y - 11), (x, y + 11), colour=BLUE, width=3)
    return finish(
        rows.drawing,
        "Active review time: median (blue), quartiles (box), 10th to 90th percentile (line), from "
        "counts on a public scale. Where counts were merged until each bin was a group, a figure "
        "is known only within bounds: hatched from bound to bound, or all along where nothing is "
        "told. ",
        wide=True,
        hatched="",
    )


@dataclass(frozen=True)
class _Box:
    """What is drawn of a distribution; `unsure` are bounds of figures wider than a step."""

    median: float
    quartiles: tuple[float, float] | None
    whiskers: tuple[float, float] | None
    unsure: tuple[tuple[float, float], ...]

    @property
    def ends(self) -> list[float]:
        """Return what an axis must hold."""
        return [self.median, *(self.quartiles or ()), *(self.whiskers or ())]


def _reviewed(package: PackageResult) -> list[SiteResult]:
    return [site for site in package.sites if site.report.revision is not None]


def _columns(
    drawing: Drawing, counts: Sequence[int], untold: int, *, width: float, bottom: float
) -> None:
    """Draw a column per bin, and a hatched one of the patients whose bin was not given."""
    bins = len(counts)
    labels = [*REVISION_BIN_LABELS[:bins]] + (["not given"] if untold else [])
    values = [*counts] + ([untold] if untold else [])
    step = (width - 30.0) / len(labels)
    axis = spanning([float(v) for v in values], start=bottom, end=TOP_PX, least=0.0, most=1.0)
    for tick in axis.ticks(4):
        drawing.line((30, axis.at(tick)), (width, axis.at(tick)), colour=LINE)
        drawing.text(24, axis.at(tick), f"{tick:.0f}", anchor="end", colour=SOFT, size=11)
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        x, top = 30.0 + step * (i + 0.5), axis.at(value)
        hatched = i >= bins
        fill = BLUE if not hatched else "none"
        drawing.box(x - 0.36 * step, top, 0.72 * step, bottom - top, fill=fill, hatched=hatched)
        drawing.text(x, top - 9, str(value), anchor="middle", bold=True)
        drawing.text(x, bottom + 13, label, anchor="middle", size=11)
    drawing.line((30, bottom), (width, bottom))
    drawing.text((30 + width) / 2, bottom + 33, "revision degree", anchor="middle", colour=SOFT)
    drawing.text(0, 14, "patients", colour=SOFT, size=11)


def _stacked(
    drawing: Drawing, axis: Axis, y: float, counts: Sequence[int] | None, patients: int
) -> None:
    """Draw shares of bins side by side; hatched is what was not given."""
    start = axis.start
    for i, count in enumerate(counts or ()):
        end = start + (axis.end - axis.start) * count / max(patients, 1)
        drawing.box(start, y - 11, end - start, 22, fill=SHADES[i])
        if end - start > 8 + 6.4 * len(str(count)):
            colour = "#ffffff" if i > 1 else INK
            drawing.text((start + end) / 2, y, str(count), anchor="middle", size=11, colour=colour)
        start = end
    if start < axis.end - 0.5 and patients:
        drawing.box(start, y - 11, axis.end - start, 22, hatched=True)
        if counts is None:
            drawing.box(start + 8, y - 8, 74, 16, fill="#ffffff")
            drawing.text(start + 13, y, "suppressed", size=10.5, italic=True, colour=SOFT)


def _site_box(times: Distribution) -> _Box | None:
    """Take the hospital's own median and quartiles; the whiskers are from its sketch."""
    if times.median is None:
        return None
    quartiles = None if times.q1 is None or times.q3 is None else (times.q1, times.q3)
    if times.sketch is None or quartiles is None:
        return _Box(times.median, quartiles, None, ())
    patients = spread(times.sketch, SECOND)
    figures = [bounded_quantile(patients, q, decimals=1) for q in WHISKERS]
    low, high = (figure for figure in figures if figure is not None)
    return _Box(
        times.median, quartiles, (low.estimate, high.estimate), _unsure((low, high), quartiles)
    )


def _pooled_box(reviewed: Sequence[SiteResult]) -> _Box | None:
    """Take estimates from all sketches together, and their bounds."""
    sketches = [
        review.active_s.sketch
        for site in reviewed
        if (review := site.report.revision) is not None and review.active_s.sketch is not None
    ]
    patients = merge([spread(sketch, SECOND) for sketch in sketches])
    figures = [
        figure
        for q in (WHISKERS[0], *QUARTILES, WHISKERS[1])
        if (figure := bounded_quantile(patients, q, decimals=1)) is not None
    ]
    if not figures:
        return None
    low, q1, median, q3, high = figures
    unsure = _unsure(figures, (-math.inf, math.inf))
    return _Box(median.estimate, (q1.estimate, q3.estimate), (low.estimate, high.estimate), unsure)


def _unsure(
    figures: Sequence[BoundedFigure], outside: tuple[float, float]
) -> tuple[tuple[float, float], ...]:
    """Return bounds wider than a step of the scale, as far as they do not hide the quartiles."""
    found = []
    for figure in figures:
        if figure.high is None or not _is_wide(figure.low, figure.high):
            continue
        low, high = figure.low, figure.high
        if figure.estimate <= outside[0]:
            high = min(high, outside[0])
        elif figure.estimate >= outside[1]:
            low = max(low, outside[1])
        if low < high:
            found.append((low, high))
    return tuple(found)


def _is_wide(low: float, high: float) -> bool:
    """Say whether bounds span more than a step and a half of the scale of seconds."""
    step = int(SECOND.steps_of([low])[0])
    return high - low > 1.5 * (SECOND.upper[step] - SECOND.lower[step] or SECOND.upper[1])
