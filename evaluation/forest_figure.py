"""The forest plot: how much Dice adaptation gained for the same patients, hospital by hospital."""

import math

from algorithms.contracts.site_report import Distribution
from evaluation.aggregate_report import PackageResult, SiteResult
from evaluation.cross_site_tests import paired_t_test
from evaluation.report_drawing import ROW_PX, TOP_PX, Figure, HospitalRows, digits_of, finish
from evaluation.site_summary import PAIRS
from evaluation.svg_drawing import BLUE, INK, ORANGE, SOFT, number, spanning


def forest_figure(package: PackageResult, name: str) -> Figure | None:
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
    rows = HospitalRows(name, labels, plot=520, right=250)
    axis = spanning(ends, start=rows.left, end=rows.right, least=0.0, most=0.0 if ends else 1.0)
    rows.frame(axis, "Dice gained by adaptation, points", digits=digits_of(axis))
    zero = axis.at(0.0)
    rows.drawing.line((zero, TOP_PX - 8), (zero, rows.bottom), colour=INK)
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
    top = TOP_PX + ROW_PX * len(sites)
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
    return finish(rows.drawing, caption, wide=True)


def _gain(site: SiteResult) -> Distribution | None:
    return next((p.difference for p in site.report.paired if (p.first, p.second) == PAIRS[0]), None)


def _gain_words(rows: HospitalRows, y: float, n: int, words: str) -> None:
    rows.drawing.text(rows.right + 56, y, str(n), anchor="end")
    rows.drawing.text(rows.right + 76, y, words)


def _points(value: float) -> str:
    text = number(100 * value, 1)
    return text if text.startswith("−") else f"+{text}"


def _interval(mean: float, low: float, high: float) -> str:
    return f"{_points(mean)} ({number(100 * low)} to {number(100 * high)})"
