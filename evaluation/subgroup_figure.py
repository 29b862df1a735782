"""The forest-like plot of the subgroups: Dice by T stage, volume and scanner over all hospitals."""

import math

from scipy import stats

from algorithms.contracts.subgroups import ATTRIBUTE_LABELS
from evaluation.aggregate_report import PackageResult, PooledDistribution
from evaluation.report_drawing import (
    ARM_LABELS,
    COLOURS,
    OFFSETS_PX,
    SHAPES,
    Figure,
    HospitalRows,
    arms_of,
    finish,
)
from evaluation.svg_drawing import SOFT, Axis, number

_CONFIDENCE = 0.95


def mean_interval(figure: PooledDistribution) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean by the t distribution; None without an SD."""
    if figure.mean is None or figure.sd is None or figure.n < 2:
        return None
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, figure.n - 1)) * figure.sd
    reach /= math.sqrt(figure.n)
    return figure.mean - reach, figure.mean + reach


def subgroups_figure(package: PackageResult, name: str) -> Figure | None:
    """Draw mean Dice with its interval per subgroup and arm; None where nobody tells any."""
    if not package.subgroups:
        return None
    arms = arms_of(package)
    labels: list[str] = []
    for one in package.subgroups:
        labels += [
            "",
            *(group.group for group in one.groups),
            *(["not told"] if one.untold else []),
        ]
    rows = HospitalRows(name, labels, plot=430, right=310)
    told = [arm for one in package.subgroups for group in one.groups for arm in group.arms]
    ends = [100 * v for arm in told for v in mean_interval(arm.dsc) or ()]
    lowest = max(0.0, min([90.0, *ends]))
    axis = Axis(10.0 * (lowest // 10.0), 100.0, rows.left, rows.right)
    rows.frame(axis, "Dice, %")
    rows.legend(arms)
    rows.drawing.text(rows.right + 56, 14, "patients", anchor="end", colour=SOFT, size=11)
    shown = "adapted" if "adapted" in arms else arms[-1]
    title = f"{ARM_LABELS[shown]}: mean (95 % interval)"
    rows.drawing.text(rows.right + 76, 14, title, colour=SOFT, size=11)
    row = 0
    for one in package.subgroups:
        rows.drawing.text(0, rows.middle(row) + 8, ATTRIBUTE_LABELS[one.attribute], bold=True)
        row += 1
        for group in one.groups:
            y = rows.middle(row)
            row += 1
            if not group.arms:
                rows.hatch(y, "suppressed everywhere, or nobody", height=30)
                continue
            for arm, offset in zip(arms, OFFSETS_PX[len(arms)], strict=True):
                part = group.arm(arm)
                if part is None or part.dsc.mean is None:
                    rows.hatch(y + offset, f"{ARM_LABELS[arm]}: not given", height=11)
                    continue
                interval = mean_interval(part.dsc)
                if interval is not None:
                    low, high = (axis.at(100 * end) for end in interval)
                    rows.drawing.line(
                        (low, y + offset), (high, y + offset), colour=COLOURS[arm], width=1.6
                    )
                rows.drawing.mark(
                    SHAPES[arm], axis.at(100 * part.dsc.mean), y + offset, colour=COLOURS[arm]
                )
                if arm == shown:
                    rows.drawing.text(rows.right + 56, y, str(part.patients), anchor="end")
                    rows.drawing.text(rows.right + 76, y, _words(part.dsc.mean, interval))
        if one.untold:
            untold, tested = (
                sum(getattr(left, of) for left in one.untold) for of in ("patients", "tested")
            )
            where = f"{len(one.untold)} hospital{'s' if len(one.untold) > 1 else ''}"
            words = f"{untold} of {tested} patients of {where}"
            rows.hatch(rows.middle(row), f"{words}: too few, or not known", height=30)
            row += 1
    caption = (
        "Dice by subgroup over the hospitals that tell it: mean with its 95 % interval, all "
        "patients together. Hospitals are not told apart in it: a subgroup that one hospital has "
        "more of carries that hospital's habits, too. "
    )
    return finish(rows.drawing, caption, wide=True)


def _words(mean: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return number(100 * mean)
    low, high = (number(100 * end) for end in interval)
    return f"{number(100 * mean)} ({low} to {high})"
