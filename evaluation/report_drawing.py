"""What the drawings of the study report share: names, colours, and a line per hospital.

What a hospital suppressed, or merged until the bins were groups, is drawn hatched, and the caption
says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from algorithms.contracts.site_report import ArmSummary, Distribution
from evaluation.aggregate_report import PackageResult, PooledArm, PooledDistribution
from evaluation.svg_drawing import (
    BLUE,
    GREY,
    LETTER_PX,
    LINE,
    ORANGE,
    SOFT,
    Axis,
    Drawing,
    Shape,
    number,
)

ALL_SITES = "All sites"
ARM_LABELS = {
    "direct": "Direct use",
    "adapted": "Adapted",
    "target_trained": "Trained on target",
}
COLOURS = {"direct": GREY, "adapted": BLUE, "target_trained": ORANGE}
SHAPES: dict[str, Shape] = {"direct": "circle", "adapted": "square", "target_trained": "diamond"}
ROW_PX, TOP_PX, FOOT_PX = 44.0, 34.0, 46.0
OFFSETS_PX = {1: (0.0,), 2: (-9.0, 9.0), 3: (-13.0, 0.0, 13.0)}
HATCHED = "Hatched: suppressed, or not told, since too few patients stand behind it. "

Summary = Distribution | PooledDistribution
ArmFigures = ArmSummary | PooledArm


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


def why_not(summary: Summary) -> str:
    """Say why a figure is not there."""
    if isinstance(summary, PooledDistribution):
        return "not given"
    return "suppressed" if summary.n else "undefined"


class HospitalRows:
    """A drawing with a line per hospital from the top, and all of them together below."""

    def __init__(
        self, name: str, labels: Sequence[str], *, plot: float, right: float = 26.0
    ) -> None:
        left = 20.0 + LETTER_PX * max(map(len, labels))
        self.labels = labels
        self.drawing = Drawing(name, left + plot + right, TOP_PX + ROW_PX * len(labels) + FOOT_PX)
        self.left, self.right = left, left + plot
        self.bottom = TOP_PX + ROW_PX * len(labels)

    def middle(self, row: int) -> float:
        """Return the height of a line's middle."""
        return TOP_PX + ROW_PX * (row + 0.5)

    def frame(self, axis: Axis, title: str, *, digits: int = 0, unit: str = "") -> None:
        """Draw scale, grid and names; the last line is set apart when it is of all sites."""
        for tick in axis.ticks():
            x = axis.at(tick)
            self.drawing.line((x, TOP_PX), (x, self.bottom), colour=LINE)
            label = f"{number(tick, digits)}{unit}"
            self.drawing.text(x, self.bottom + 13, label, anchor="middle", colour=SOFT, size=11)
        self.drawing.text(
            (self.left + self.right) / 2, self.bottom + 33, title, anchor="middle", colour=SOFT
        )
        for row, label in enumerate(self.labels):
            together = label == ALL_SITES
            if together:
                y = TOP_PX + ROW_PX * row
                self.drawing.line((0, y), (self.drawing.width, y), colour=SOFT)
            if label:
                y = self.middle(row)
                self.drawing.text(self.left - 10, y, label, anchor="end", bold=together)

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
            self.drawing.mark(SHAPES[arm], x + 6, 14, colour=COLOURS[arm])
            self.drawing.text(x + 17, 14, ARM_LABELS[arm])
            x += 40 + LETTER_PX * len(ARM_LABELS[arm])


def names_of(package: PackageResult) -> list[str]:
    """Return the labels of the lines: hospitals in order, then all of them."""
    return [*(site.report.site for site in package.sites), ALL_SITES]


def by_row(package: PackageResult, arm: str) -> list[ArmFigures | None]:
    """Return an arm's figures line by line; None where it was not tested."""
    pooled = next((one for one in package.pooled if one.arm == arm), None)
    return [*(site.arm(arm) for site in package.sites), pooled]


def arms_of(package: PackageResult) -> list[str]:
    """Return the arms that any hospital tested, in order."""
    return [arm.arm for arm in package.pooled]


def has_mean(summary: Summary) -> bool:
    """Say whether a figure is given, or is about nobody."""
    return summary.mean is not None or (isinstance(summary, Distribution) and summary.n == 0)


def silent_rows(columns: Sequence[Sequence[tuple[int, bool] | None]]) -> dict[int, int]:
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


def too_few(patients: int) -> str:
    """Say how many patients stand behind nothing."""
    if not patients:
        return "not given"
    return f"suppressed: {patients} patient{'' if patients == 1 else 's'}"


def digits_of(axis: Axis) -> int:
    """Return how many digits the ticks of an axis need."""
    return 0 if all(float(tick).is_integer() for tick in axis.ticks()) else 1


def finish(drawing: Drawing, caption: str, *, wide: bool = False, hatched: str = HATCHED) -> Figure:
    """Return a drawing with its caption, which says what is hatched where anything is."""
    told = caption + (hatched if drawing.hatched else "")
    return Figure(drawing.name, drawing.svg(told.strip()), told.strip(), wide)
