"""Drawings with a line per hospital: Dice, HD95, gap closed, failures."""

from evaluation.aggregate_report import PackageResult
from evaluation.report_drawing import (
    ARM_LABELS,
    COLOURS,
    OFFSETS_PX,
    SHAPES,
    TOP_PX,
    Figure,
    HospitalRows,
    arms_of,
    by_row,
    digits_of,
    finish,
    has_mean,
    names_of,
    silent_rows,
    too_few,
    why_not,
)
from evaluation.svg_drawing import BLUE, INK, ORANGE, Axis, number, spanning


def dice_figure(package: PackageResult, name: str) -> Figure | None:
    """Draw mean and SD of Dice per hospital and arm."""
    caption = "Dice per hospital and model: mean; bars show one SD and end at 0 and 100 %. "
    return _arms(package, name, "dsc", 100.0, "Dice, %", caption, wide=True)


def hd95_figure(package: PackageResult, name: str) -> Figure | None:
    """Draw mean and SD of HD95 per hospital and arm."""
    caption = "HD95 per hospital (lower is better): mean of the patients who have one; ± SD. "
    return _arms(package, name, "hd95_mm", 1.0, "HD95, mm", caption, wide=False)


def gap_figure(package: PackageResult, name: str) -> Figure | None:
    """Draw the share of the gap that each hospital closed."""
    if not package.pooled:
        return None
    rows = HospitalRows(name, names_of(package), plot=330)
    gaps = [*(site.gap_closed for site in package.sites), package.gap_closed]
    percents = [None if gap.fraction is None else 100.0 * gap.fraction for gap in gaps]
    given = [percent for percent in percents if percent is not None]
    axis = spanning(given, start=rows.left, end=rows.right - 30, least=0.0, most=100.0)
    rows.frame(axis, "gap closed, %")
    for value, colour in ((0.0, INK), (100.0, ORANGE)):
        x = axis.at(value)
        rows.drawing.line((x, TOP_PX - 8), (x, rows.bottom), colour=colour, dashed=value > 0)
    rows.drawing.text(axis.at(100.0), 14, ARM_LABELS["target_trained"], anchor="end", colour=ORANGE)
    for row, percent in enumerate(percents):
        y = rows.middle(row)
        if percent is None:
            rows.hatch(y, "not given", height=14)
            continue
        zero, end = axis.at(0.0), axis.at(percent)
        rows.drawing.box(min(zero, end), y - 9, abs(end - zero), 18, fill=BLUE)
        words = f"{number(percent, 0)} %"
        if percent >= 30:  # inside: beside it, the comparator's line may cross the words
            rows.drawing.text(zero + 8, y, words, colour="#ffffff", bold=True)
        else:
            rows.drawing.text(max(zero, end) + 6, y, words)
    return finish(
        rows.drawing,
        "Share of the Dice gap between direct use and training on the target that is closed. ",
    )


def failures_figure(package: PackageResult, name: str) -> Figure | None:
    """Draw how many patients' tumours were missed altogether, per hospital and arm."""
    arms = arms_of(package)
    if not arms:
        return None
    rows = HospitalRows(name, names_of(package), plot=330)
    found = {arm: by_row(package, arm) for arm in arms}
    shares = [
        100 * one.failures / one.patients
        for ones in found.values()
        for one in ones
        if one is not None and one.failures is not None and one.patients
    ]
    axis = spanning(shares, start=rows.left, end=rows.right - 76, least=0.0, most=1.0)
    rows.frame(axis, "tumours missed, % of patients", digits=digits_of(axis))
    rows.legend(arms)
    silent = silent_rows(
        [
            [None if o is None else (o.patients, o.failures is not None) for o in ones]
            for ones in found.values()
        ]
    )
    for row, patients in silent.items():
        rows.hatch(rows.middle(row), too_few(patients), height=30)
    for arm, offset in zip(arms, OFFSETS_PX[len(arms)], strict=True):
        for row, one in enumerate(found[arm]):
            y = rows.middle(row) + offset
            if one is None or row in silent:
                continue
            if one.failures is None:
                rows.hatch(y, f"{ARM_LABELS[arm]}: suppressed", height=11)
                continue
            patients = told_patients(package, arm) if row == len(package.sites) else one.patients
            x = axis.at(100 * one.failures / patients) if patients else axis.start
            rows.drawing.line((axis.start, y), (x, y), colour=COLOURS[arm], width=4)
            rows.drawing.mark(SHAPES[arm], x, y, colour=COLOURS[arm], radius=4)
            rows.drawing.text(
                x + 9, y, f"{one.failures} of {patients}", size=10.5, bold=one.failures > 0
            )
    return finish(rows.drawing, "Failures: patients whose prediction missed the tumour (Dice 0). ")


def told_patients(package: PackageResult, arm: str) -> int:
    """Count the patients of the hospitals that say how many failed in an arm."""
    told = (site.arm(arm) for site in package.sites)
    return sum(one.patients for one in told if one is not None and one.failures is not None)


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
    arms = arms_of(package)
    if not arms:
        return None
    rows = HospitalRows(name, names_of(package), plot=760 if wide else 330)
    share = scale == 100.0
    found = {arm: [getattr(one, field, None) for one in by_row(package, arm)] for arm in arms}
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
    silent = silent_rows(
        [[s and (s.n, has_mean(s)) for s in summaries] for summaries in found.values()]
    )
    for row, patients in silent.items():
        rows.hatch(rows.middle(row), too_few(patients), height=30)
    for arm, offset in zip(arms, OFFSETS_PX[len(arms)], strict=True):
        for row, summary in enumerate(found[arm]):
            y = rows.middle(row) + offset
            if summary is None or row in silent:
                continue
            if summary.mean is None:
                rows.hatch(y, f"{ARM_LABELS[arm]}: {why_not(summary)}", height=11)
                continue
            mean, sd = scale * summary.mean, scale * (summary.sd or 0.0)
            colour = COLOURS[arm]
            low, high = axis.at(mean - sd), axis.at(mean + sd)
            rows.drawing.line((low, y), (high, y), colour=colour, width=1.6)
            for end in (low, high):
                rows.drawing.line((end, y - 3), (end, y + 3), colour=colour, width=1.6)
            rows.drawing.mark(SHAPES[arm], axis.at(mean), y, colour=colour)
    return finish(rows.drawing, caption, wide=wide)
