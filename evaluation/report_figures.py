"""The drawings of the study report: each from the report's own figures, none from a patient's.

What a hospital suppressed, or merged until the bins were groups, is drawn hatched, and the caption
says so. Every drawing has its numbers in a table of the report, too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from algorithms.contracts.scale import SECOND
from algorithms.contracts.site_report import ArmSummary, Distribution
from evaluation.aggregate_report import (
    PackageResult,
    PooledArm,
    PooledDistribution,
    SiteResult,
    StudyReport,
)
from evaluation.cross_site_tests import paired_t_test
from evaluation.pooled_sketch import (
    QUARTILES,
    BoundedFigure,
    bounded_quantile,
    merge,
    spread,
)
from evaluation.revision import REVISION_BIN_LABELS
from evaluation.site_summary import ARMS, PAIRS
from evaluation.svg_drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LETTER_PX,
    LINE,
    ORANGE,
    SHADES,
    SOFT,
    Axis,
    Drawing,
    Shape,
    number,
    spanning,
)

ALL_SITES = "All sites"
ARM_LABELS = {
    "direct": "Direct use",
    "adapted": "Adapted",
    "target_trained": "Trained on target",
}
WHISKERS = (0.1, 0.9)
_COLOURS = {"direct": GREY, "adapted": BLUE, "target_trained": ORANGE}
_SHAPES: dict[str, Shape] = {"direct": "circle", "adapted": "square", "target_trained": "diamond"}
_SITE_SHAPES: tuple[Shape, ...] = ("circle", "square", "diamond")
_SITE_COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", "#56b4e9", INK)
_ROW, _TOP, _FOOT = 44.0, 34.0, 46.0
_HATCHED = "Hatched: suppressed, or not told, since too few patients stand behind it. "

_Summary = Distribution | PooledDistribution
_ArmFigures = ArmSummary | PooledArm


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption.

    Attributes:
        anchor: id on the page.
        wide: over the width of the page, not half of it.
    """

    anchor: str
    svg: Markup
    caption: str
    wide: bool = False


def why_not(summary: _Summary) -> str:
    """Say why a figure is not there."""
    if isinstance(summary, PooledDistribution):
        return "not given"
    return "suppressed" if summary.n else "undefined"


def package_figures(package: PackageResult, name: str) -> dict[str, Figure]:
    """Draw what the report shows of one package; `name` keeps ids apart on the page.

    A kind of which no hospital said anything is left out.
    """
    makers: dict[str, Callable[[PackageResult, str], Figure | None]] = {
        "dice": _dice,
        "hd95": _hd95,
        "gap": _gap,
        "forest": _forest,
        "failures": _failures,
        "revision": _revision,
        "time": _time,
        "scanners": _scanners,
    }
    drawn = {kind: make(package, f"{name}-{kind}") for kind, make in makers.items()}
    return {kind: figure for kind, figure in drawn.items() if figure is not None}


def study_figures(report: StudyReport) -> dict[str, Figure]:
    """Draw what is about all packages together; what has no two points is left out."""
    drawn = {
        "budget": _budget(report, "budget-curve"),
        "learning": _learning(report, "learning-curve"),
    }
    return {kind: figure for kind, figure in drawn.items() if figure is not None}


# --- figures with a line per hospital ------------------------------------------------------------


class _Rows:
    """A drawing with a line per hospital from the top, and all of them together below."""

    def __init__(
        self, name: str, labels: Sequence[str], *, plot: float, right: float = 26.0
    ) -> None:
        left = 20.0 + LETTER_PX * max(map(len, labels))
        self.labels = labels
        self.drawing = Drawing(name, left + plot + right, _TOP + _ROW * len(labels) + _FOOT)
        self.left, self.right = left, left + plot
        self.bottom = _TOP + _ROW * len(labels)

    def middle(self, row: int) -> float:
        """Return the height of a line's middle."""
        return _TOP + _ROW * (row + 0.5)

    def frame(self, axis: Axis, title: str, *, digits: int = 0, unit: str = "") -> None:
        """Draw scale, grid and names; the last line is set apart when it is of all sites."""
        for tick in axis.ticks():
            x = axis.at(tick)
            self.drawing.line((x, _TOP), (x, self.bottom), colour=LINE)
            label = f"{number(tick, digits)}{unit}"
            self.drawing.text(x, self.bottom + 13, label, anchor="middle", colour=SOFT, size=11)
        self.drawing.text(
            (self.left + self.right) / 2, self.bottom + 33, title, anchor="middle", colour=SOFT
        )
        for row, label in enumerate(self.labels):
            together = label == ALL_SITES
            if together:
                y = _TOP + _ROW * row
                self.drawing.line((0, y), (self.drawing.width, y), colour=SOFT)
            self.drawing.text(self.left - 10, self.middle(row), label, anchor="end", bold=together)

    def hatch(self, y: float, words: str, *, height: float = 12.0) -> None:
        """Draw what was not given as a hatched band with words in it."""
        width = 12.0 + 5.8 * len(words)
        self.drawing.box(self.left, y - height / 2, self.right - self.left, height, hatched=True)
        self.drawing.box(self.left + 8, y - height / 2, width, height, fill="#ffffff")
        self.drawing.text(self.left + 14, y, words, size=10.5, italic=True, colour=SOFT)

    def legend(self, arms: Sequence[str]) -> None:
        """Name the arms above the plot."""
        x = self.left
        for arm in arms:
            self.drawing.mark(_SHAPES[arm], x + 6, 14, colour=_COLOURS[arm])
            self.drawing.text(x + 17, 14, ARM_LABELS[arm])
            x += 40 + LETTER_PX * len(ARM_LABELS[arm])


def _names(package: PackageResult) -> list[str]:
    return [*(site.report.site for site in package.sites), ALL_SITES]


def _by_row(package: PackageResult, arm: str) -> list[_ArmFigures | None]:
    pooled = next((one for one in package.pooled if one.arm == arm), None)
    return [*(site.arm(arm) for site in package.sites), pooled]


def _arms_of(package: PackageResult) -> list[str]:
    return [arm.arm for arm in package.pooled]


_SPREAD = {1: (0.0,), 2: (-9.0, 9.0), 3: (-13.0, 0.0, 13.0)}


def _dice(package: PackageResult, name: str) -> Figure | None:
    caption = "Dice per hospital and model: mean; bars show one SD and end at 0 and 100 %. "
    return _arms(package, name, "dsc", 100.0, "Dice, %", caption, wide=True)


def _hd95(package: PackageResult, name: str) -> Figure | None:
    caption = "HD95 per hospital (lower is better): mean of the patients who have one; ± SD. "
    return _arms(package, name, "hd95_mm", 1.0, "HD95, mm", caption, wide=False)


def _arms(
    package: PackageResult,
    name: str,
    field: str,
    scale: float,
    title: str,
    caption: str,
    *,
    wide: bool,
) -> Figure | None:
    """Draw mean and SD of a figure per hospital and arm."""
    arms = _arms_of(package)
    if not arms:
        return None
    rows = _Rows(name, _names(package), plot=760 if wide else 330)
    share = scale == 100.0
    found = {arm: [getattr(one, field, None) for one in _by_row(package, arm)] for arm in arms}
    given = [d for summaries in found.values() for d in summaries if d and d.mean is not None]
    ends = [scale * (d.mean + side * (d.sd or 0)) for d in given for side in (-1, 1)]
    if share:
        lowest = max(0.0, min([90.0, *ends]))
        axis = Axis(10.0 * (lowest // 10.0), 100.0, rows.left, rows.right)
    else:
        axis = spanning(ends, start=rows.left, end=rows.right, least=0.0)
        axis = Axis(0.0, axis.high, axis.start, axis.end)
    rows.frame(axis, title, digits=0 if axis.high - axis.low >= 5 else 1)
    rows.legend(arms)
    silent = _silent_rows(
        [[s and (s.n, _has_mean(s)) for s in summaries] for summaries in found.values()]
    )
    for row, patients in silent.items():
        rows.hatch(rows.middle(row), _too_few(patients), height=30)
    for arm, offset in zip(arms, _SPREAD[len(arms)], strict=True):
        for row, summary in enumerate(found[arm]):
            y = rows.middle(row) + offset
            if summary is None or row in silent:
                continue
            if summary.mean is None:
                rows.hatch(y, f"{ARM_LABELS[arm]}: {why_not(summary)}", height=11)
                continue
            mean, sd = scale * summary.mean, scale * (summary.sd or 0.0)
            colour = _COLOURS[arm]
            low, high = axis.at(mean - sd), axis.at(mean + sd)
            rows.drawing.line((low, y), (high, y), colour=colour, width=1.6)
            for end in (low, high):
                rows.drawing.line((end, y - 3), (end, y + 3), colour=colour, width=1.6)
            rows.drawing.mark(_SHAPES[arm], axis.at(mean), y, colour=colour)
    return _figure(rows.drawing, caption, wide=wide)


def _has_mean(summary: _Summary) -> bool:
    return summary.mean is not None or (isinstance(summary, Distribution) and summary.n == 0)


def _silent_rows(columns: Sequence[Sequence[tuple[int, bool] | None]]) -> dict[int, int]:
    """Return row -> patients of the lines of which no arm says anything.

    Args:
        columns: per arm and line the patients, and whether it says anything; None without the arm.
    """
    silent = {}
    for row, ones in enumerate(zip(*columns, strict=True)):
        there = [one for one in ones if one is not None]
        if there and not any(tells for _, tells in there):
            silent[row] = max(patients for patients, _ in there)
    return silent


def _too_few(patients: int) -> str:
    if not patients:
        return "not given"
    return f"suppressed: {patients} patient{'' if patients == 1 else 's'}"


def _gap(package: PackageResult, name: str) -> Figure | None:
    if not package.pooled:
        return None
    rows = _Rows(name, _names(package), plot=330)
    gaps = [*(site.gap_closed for site in package.sites), package.gap_closed]
    percents = [None if gap.fraction is None else 100.0 * gap.fraction for gap in gaps]
    given = [percent for percent in percents if percent is not None]
    axis = spanning(given, start=rows.left, end=rows.right - 30, least=0.0, most=100.0)
    rows.frame(axis, "gap closed, %")
    for value, colour in ((0.0, INK), (100.0, ORANGE)):
        x = axis.at(value)
        rows.drawing.line((x, _TOP - 8), (x, rows.bottom), colour=colour, dashed=value > 0)
    rows.drawing.text(axis.at(100.0), 14, ARM_LABELS["target_trained"], anchor="end", colour=ORANGE)
    for row, percent in enumerate(percents):
        y = rows.middle(row)
        if percent is None:
            rows.hatch(y, "not given", height=14)
            continue
        zero, end = axis.at(0.0), axis.at(percent)
        rows.drawing.box(min(zero, end), y - 9, abs(end - zero), 18, fill=BLUE)
        rows.drawing.text(max(zero, end) + 6, y, f"{number(percent, 0)} %")
    return _figure(
        rows.drawing,
        "Share of the Dice gap between direct use and training on the target that is closed. ",
    )


def _forest(package: PackageResult, name: str) -> Figure | None:
    """Draw every hospital's paired difference with its interval, and both pooled ones."""
    pooled = next((p for p in package.paired if (p.first, p.second) == PAIRS[0]), None)
    if pooled is None:
        return None
    sites = [(site.report.site, _gain(site)) for site in package.sites]
    told = {site: gain for site, gain in sites if gain is not None and gain.mean is not None}
    tests = {
        site: paired_t_test([(gain.n, gain.mean, gain.sd)])
        for site, gain in told.items()
        if gain.mean is not None and gain.sd is not None
    }
    all_together = [t for t in (pooled.all_patients, pooled.sites_differ) if t is not None]
    ends = [100 * v for t in (*tests.values(), *all_together) if t for v in (t.low, t.high)]
    ends += [100 * g.mean for g in told.values() if g.mean is not None]
    labels = [site for site, _ in sites] + ["All patients", "Hospitals may differ"]
    rows = _Rows(name, labels, plot=520, right=250)
    axis = spanning(ends, start=rows.left, end=rows.right, least=0.0, most=0.0 if ends else 1.0)
    rows.frame(axis, "Dice gained by adaptation, points", digits=_digits(axis))
    zero = axis.at(0.0)
    rows.drawing.line((zero, _TOP - 8), (zero, rows.bottom), colour=INK)
    rows.drawing.text(rows.right + 56, 14, "patients", anchor="end", colour=SOFT, size=11)
    rows.drawing.text(rows.right + 76, 14, "gain (95 % interval)", colour=SOFT, size=11)
    weights = [1 / (t.high - t.low) ** 2 for t in tests.values() if t]
    for row, (site, _) in enumerate(sites):
        y = rows.middle(row)
        gain, test = told.get(site), tests.get(site)
        if gain is None or gain.mean is None:
            rows.hatch(y, "suppressed, or not the same patients in both arms", height=14)
            continue
        if test is None:  # all alike: there is no interval
            rows.drawing.mark("square", axis.at(100 * gain.mean), y, colour=BLUE)
            _gain_words(rows, y, gain.n, f"{_points(gain.mean)}")
            continue
        share = (1 / (test.high - test.low) ** 2) / max(weights)
        low, high = axis.at(100 * test.low), axis.at(100 * test.high)
        rows.drawing.line((low, y), (high, y), colour=BLUE, width=1.6)
        rows.drawing.mark(
            "square", axis.at(100 * test.mean), y, colour=BLUE, radius=3.5 + 5 * math.sqrt(share)
        )
        _gain_words(rows, y, test.n, _interval(test.mean, test.low, test.high))
    top = _TOP + _ROW * len(sites)
    rows.drawing.line((0, top), (rows.drawing.width, top), colour=SOFT)
    for row, (test, colour) in enumerate(
        ((pooled.all_patients, INK), (pooled.sites_differ, ORANGE)), start=len(sites)
    ):
        y = rows.middle(row)
        if test is None:
            rows.hatch(y, "needs more hospitals or patients whose figures are given", height=14)
            continue
        low, high = axis.at(100 * test.low), axis.at(100 * test.high)
        rows.drawing.diamond(low, max(high, low + 4), y, 8, colour=colour)
        _gain_words(rows, y, test.n, _interval(test.mean, test.low, test.high))
    differs = pooled.sites_differ
    caption = (
        "Paired difference in Dice, adapted less direct use, with its 95 % interval; squares are "
        "larger where the interval is shorter. "
    )
    if differs is not None and differs.heterogeneity is not None:
        caption += (
            f"I² = {100 * differs.heterogeneity:.0f} %: the share of the variation between "
            "hospitals that is not chance. "
        )
    return _figure(rows.drawing, caption, wide=True)


def _gain(site: SiteResult) -> Distribution | None:
    return next((p.difference for p in site.report.paired if (p.first, p.second) == PAIRS[0]), None)


def _gain_words(rows: _Rows, y: float, n: int, words: str) -> None:
    rows.drawing.text(rows.right + 56, y, str(n), anchor="end")
    rows.drawing.text(rows.right + 76, y, words)


def _points(value: float) -> str:
    text = number(100 * value, 1)
    return text if text.startswith("−") else f"+{text}"


def _interval(mean: float, low: float, high: float) -> str:
    return f"{_points(mean)} ({number(100 * low)} to {number(100 * high)})"


def _failures(package: PackageResult, name: str) -> Figure | None:
    """Draw how many patients' tumours were missed altogether, per hospital and arm."""
    arms = _arms_of(package)
    if not arms:
        return None
    rows = _Rows(name, _names(package), plot=330)
    found = {arm: _by_row(package, arm) for arm in arms}
    shares = [
        100 * one.failures / one.patients
        for ones in found.values()
        for one in ones
        if one is not None and one.failures is not None and one.patients
    ]
    axis = spanning(shares, start=rows.left, end=rows.right - 76, least=0.0, most=1.0)
    rows.frame(axis, "tumours missed, % of patients", digits=_digits(axis))
    rows.legend(arms)
    silent = {
        row: patients
        for row, patients in _silent_rows(
            [
                [None if o is None else (o.patients, o.failures is not None) for o in ones]
                for ones in found.values()
            ]
        ).items()
        if row < len(package.sites)
    }
    for row, patients in silent.items():
        rows.hatch(rows.middle(row), _too_few(patients), height=30)
    for arm, offset in zip(arms, _SPREAD[len(arms)], strict=True):
        for row, one in enumerate(found[arm]):
            y = rows.middle(row) + offset
            if one is None or row in silent:
                continue
            if one.failures is None:
                rows.hatch(y, f"{ARM_LABELS[arm]}: suppressed", height=11)
                continue
            patients = told_patients(package, arm) if row == len(package.sites) else one.patients
            x = axis.at(100 * one.failures / patients) if patients else axis.start
            rows.drawing.line((axis.start, y), (x, y), colour=_COLOURS[arm], width=4)
            rows.drawing.mark(_SHAPES[arm], x, y, colour=_COLOURS[arm], radius=4)
            rows.drawing.text(
                x + 9, y, f"{one.failures} of {patients}", size=10.5, bold=one.failures > 0
            )
    return _figure(rows.drawing, "Failures: patients whose prediction missed the tumour (Dice 0). ")


def told_patients(package: PackageResult, arm: str) -> int:
    """Count the patients of the hospitals that say how many failed in an arm."""
    told = (site.arm(arm) for site in package.sites)
    return sum(one.patients for one in told if one is not None and one.failures is not None)


# --- review --------------------------------------------------------------------------------------


def _reviewed(package: PackageResult) -> list[SiteResult]:
    return [site for site in package.sites if site.report.revision is not None]


def _revision(package: PackageResult, name: str) -> Figure | None:
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
    height = max(230.0, _TOP + 34.0 * len(labels) + 24.0)
    drawing = Drawing(name, bars_left + 400.0, height + 24.0)
    _columns(drawing, pooled, untold, width=columns_width, bottom=height - 22.0)

    axis = Axis(0.0, 100.0, bars_left, bars_left + 380.0)
    shown = [*zip(bins, patients, strict=True), (tuple(pooled) or None, sum(patients))]
    for row, (label, (counts, n)) in enumerate(zip(labels, shown, strict=True)):
        y = _TOP + 34.0 * (row + 0.5)
        together = row == len(reviewed)
        if together:
            drawing.line((bars_left - left, y - 17), (axis.end, y - 17), colour=SOFT)
        drawing.text(bars_left - 10, y, label, anchor="end", bold=together)
        _stacked(drawing, axis, y, counts, n)
    bottom = _TOP + 34.0 * len(labels)
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
    return _figure(drawing, f"{caption} in per cent of each hospital's (right). ", wide=True)


def _columns(
    drawing: Drawing, counts: Sequence[int], untold: int, *, width: float, bottom: float
) -> None:
    """Draw a column per bin, and a hatched one of the patients whose bin was not given."""
    bins = len(counts)
    labels = [*REVISION_BIN_LABELS[:bins]] + (["not given"] if untold else [])
    values = [*counts] + ([untold] if untold else [])
    step = (width - 30.0) / len(labels)
    axis = spanning([float(v) for v in values], start=bottom, end=_TOP, least=0.0, most=1.0)
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


def _time(package: PackageResult, name: str) -> Figure | None:
    """Draw boxes of the active time: quartiles, and a line from the 10th to the 90th percentile."""
    reviewed = _reviewed(package)
    if not reviewed:
        return None
    boxes: list[tuple[str, _Box | None]] = [
        (site.report.site, _site_box(site.report.revision.active_s))
        for site in reviewed
        if site.report.revision
    ]
    boxes.append((ALL_SITES, _pooled_box(reviewed)))
    rows = _Rows(name, [label for label, _ in boxes], plot=760)
    ends = [end for _, box in boxes if box is not None for end in box.ends]
    axis = spanning(ends, start=rows.left, end=rows.right, least=0.0, most=1.0)
    rows.frame(axis, "active time per patient, s")
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
    return _figure(
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


# --- groups and curves ---------------------------------------------------------------------------


def _scanners(package: PackageResult, name: str) -> Figure | None:
    """Draw the Dice of each group of hospitals by the makers of their scanners."""
    groups = package.scanners
    if len([group for group in groups if group.group != "not told"]) < 2:
        return None
    arms = _arms_of(package)
    labels = [f"{group.group} ({group.patients})" for group in groups]
    rows = _Rows(name, labels, plot=330)
    found = [group.dsc[arm] for group in groups for arm in arms if arm in group.dsc]
    ends = [100 * (d.mean + side * (d.sd or 0)) for d in found if d.mean for side in (-1, 1)]
    axis = Axis(10.0 * (max(0.0, min([90.0, *ends])) // 10.0), 100.0, rows.left, rows.right)
    rows.frame(axis, "Dice, %")
    rows.legend(arms)
    for row, group in enumerate(groups):
        if not any(_has_mean(dsc) for dsc in group.dsc.values()):
            rows.hatch(rows.middle(row), _too_few(group.patients), height=30)
            continue
        for arm, offset in zip(arms, _SPREAD[len(arms)], strict=True):
            summary, y = group.dsc.get(arm), rows.middle(row) + offset
            if summary is None:
                continue
            if summary.mean is None:
                rows.hatch(y, f"{ARM_LABELS[arm]}: not given", height=11)
                continue
            mean, sd = 100 * summary.mean, 100 * (summary.sd or 0)
            rows.drawing.line(
                (axis.at(mean - sd), y), (axis.at(mean + sd), y), colour=_COLOURS[arm], width=1.6
            )
            rows.drawing.mark(_SHAPES[arm], axis.at(mean), y, colour=_COLOURS[arm])
    return _figure(
        rows.drawing, "Dice by the makers of the hospitals' scanners (patients): mean ± SD. "
    )


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


def _budget(report: StudyReport, name: str) -> Figure | None:
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


def _learning(report: StudyReport, name: str) -> Figure | None:
    if len(report.packages) < 2:
        return None
    curves = learning_points(report)
    if not any(len(points) > 1 for points in curves.values()):
        return None
    caption = "Learning curve: mean Dice of the adapted model, model version after model version. "
    versions = [package.model_version for package in report.packages]
    return _curves(name, curves, "model version", caption, most=len(versions), ticks=versions)


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
    left, right, bottom = 46.0, 396.0, 288.0
    drawing = Drawing(name, right + 40.0 + LETTER_PX * max(map(len, curves)), bottom + 46.0)
    lowest = min(y for points in curves.values() for _, y in points)
    upward = Axis(10.0 * (min(lowest, 90.0) // 10.0), 100.0, bottom, 30.0)
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
        {label: upward.at(points[-1][1]) for label, points in curves.items()}, gap=15.0
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
    return _figure(drawing, caption)


def _spread_labels(heights: dict[str, float], *, gap: float) -> dict[str, float]:
    """Move labels upwards until each is `gap` px from the next one below."""
    placed: dict[str, float] = {}
    lower = math.inf
    for label, y in sorted(heights.items(), key=lambda item: (-item[1], item[0])):
        lower = min(y, lower - gap)
        placed[label] = lower
    return placed


def _digits(axis: Axis) -> int:
    """Return how many digits the ticks of an axis need."""
    return 0 if all(float(tick).is_integer() for tick in axis.ticks()) else 1


def _figure(
    drawing: Drawing, caption: str, *, wide: bool = False, hatched: str = _HATCHED
) -> Figure:
    told = caption + (hatched if drawing.hatched else "")
    return Figure(drawing.name, drawing.svg(told.strip()), told.strip(), wide)
