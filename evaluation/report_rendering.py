"""The study report as a page to read and print, and as CSV and JSON to compute with.

The page is one file: style and drawings inline, no script, nothing fetched from anywhere. The same
report, title and time give the same bytes.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from algorithms.contracts.canonical_json import canonical_json
from algorithms.contracts.site_report import (
    ArmSummary,
    Distribution,
    SiteReport,
    YardstickSummary,
)
from evaluation.aggregate_report import (
    GapClosed,
    PackageResult,
    PooledArm,
    PooledDistribution,
    StudyReport,
    table_rows,
)
from evaluation.case_metrics import EMPTY_MASK_POLICY
from evaluation.disclosure_control import SUPPRESSION_RULE
from evaluation.plain_notes import plain_notes
from evaluation.revision import REVISION_BIN_LABELS
from evaluation.site_summary import ARMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESEARCH_USE_NOTICE = "Research use only, not a medical device"
ALL_SITES = "All sites"

ARM_LABELS = {
    "direct": "Direct use",
    "adapted": "Adapted",
    "target_trained": "Trained on target",
}
ARM_DEFINITIONS = {
    "direct": "the package's model as it came, without any change",
    "adapted": "the same model after adaptation in the hospital with the annotated slices",
    "target_trained": "a model trained on all reference contours of the hospital (comparator)",
}
METRIC_DEFINITIONS = {
    "Dice": "2 |R and P| / (|R| + |P|) of reference R and prediction P, per patient in 3-D.",
    "HD95": (
        "the larger of the two directed 95th percentiles of the distances between boundary "
        "voxels (foreground voxels with a face neighbour outside), in mm."
    ),
    "ASSD": "mean of the boundary distances of both directions pooled, in mm.",
    "ASD P→R": "mean distance from predicted to reference boundary only, in mm.",
    "NSD 1 mm": (
        "normalised surface Dice: share of both surfaces, by area, that lies within 1 mm of "
        "the other."
    ),
    "Failure": "a patient whose prediction missed the tumour altogether (Dice 0).",
    "Gap closed": (
        "(adapted - direct) / (trained on target - direct) in mean Dice: 100 % is as good as "
        "training on the target."
    ),
    "Revision degree": "100 (1 - Dice between the model's contour and the revised one) %.",
    "Active time": "time at work on the review, pauses left out.",
    "All sites": (
        "patient-weighted mean over the sites that gave the figure; the SD combines the spread "
        "within and between sites. Medians cannot be pooled from aggregates."
    ),
}

YARDSTICK_RULE = (
    "A patient is measured against the reference contour that came in with the images; where there "
    "is none, against the reviewed contour, which a reviewer made by editing the adapted model's."
)
YARDSTICK_WARNING = (
    "Not every patient was measured against a reference contour, or a site does not say so. A "
    "reviewed contour was edited from the adapted model's: it favours “Adapted” over the other "
    "models, and with it the gap closed."
)

_Summary = Distribution | PooledDistribution


@dataclass(frozen=True)
class _Drawing:
    svg: Markup
    caption: str
    wide: bool


def render_html(report: StudyReport, *, title: str, generated_at: str) -> str:
    """Render a study report as one self-contained HTML page.

    Args:
        report: what `evaluation.aggregate_report.aggregate` made.
        title: heading of the page.
        generated_at: when, UTC in ISO 8601; printed as given.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        mean_sd=_mean_sd,
        median_iqr=_median_iqr,
        percent=_percent,
        gap=_gap_text,
        yardstick=_yardstick_text,
    )
    environment.tests["none_reviewed"] = _none_reviewed
    template = files("evaluation").joinpath("report_template.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        report=report,
        title=title,
        generated_at=generated_at,
        notice=RESEARCH_USE_NOTICE,
        all_sites=ALL_SITES,
        simulated_annotators=_simulated_annotators(report),
        simulated_reviewers=_simulated_reviewers(report),
        notes=[plain_notes(package) for package in report.packages],
        drawings=[_drawings(package, f"p{i}") for i, package in enumerate(report.packages)],
        arm_labels=ARM_LABELS,
        arm_definitions=ARM_DEFINITIONS,
        metric_definitions=METRIC_DEFINITIONS,
        bin_labels=REVISION_BIN_LABELS,
        empty_mask_policy=EMPTY_MASK_POLICY,
        suppression_rule=SUPPRESSION_RULE,
        yardstick_rule=YARDSTICK_RULE,
        yardstick_warning=YARDSTICK_WARNING,
    )


def render_csv(report: StudyReport) -> str:
    """Render the rows of a study report as CSV (RFC 4180, header first).

    An empty cell is a figure that was suppressed, is undefined or was not asked for. A text that a
    spreadsheet would take for a formula gets an apostrophe in front.
    """
    rows = table_rows(report)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({column: _safe_cell(value) for column, value in row.items()})
    return text.getvalue()


def render_json(report: StudyReport) -> str:
    """Render a study report as canonical JSON, which `StudyReport.model_validate_json` reads."""
    return canonical_json(report.model_dump(mode="json")).decode("utf-8")


def _safe_cell(value: str | int | float | None) -> str | int | float | None:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _simulated_annotators(report: StudyReport) -> list[str]:
    return sorted({r.site for r in _site_reports(report) if r.annotation.simulated})


def _simulated_reviewers(report: StudyReport) -> list[str]:
    return sorted({r.site for r in _site_reports(report) if r.revision and r.revision.simulated})


def _site_reports(report: StudyReport) -> list[SiteReport]:
    return [site.report for package in report.packages for site in package.sites]


def _mean_sd(summary: _Summary, digits: int = 1, scale: float = 1.0) -> str:
    """Write mean ± SD, or why there is none."""
    if summary.mean is None:
        return _why_not(summary)
    mean = f"{summary.mean * scale:.{digits}f}"
    return mean if summary.sd is None else f"{mean} ± {summary.sd * scale:.{digits}f}"


def _median_iqr(summary: Distribution, digits: int = 1, scale: float = 1.0) -> str:
    """Write median (IQR), the median alone where quartiles are suppressed, or why there is none."""
    if summary.median is None:
        return _why_not(summary)
    median = f"{summary.median * scale:.{digits}f}"
    if summary.q1 is None or summary.q3 is None:
        return median
    return f"{median} ({summary.q1 * scale:.{digits}f}-{summary.q3 * scale:.{digits}f})"


def _why_not(summary: _Summary) -> str:
    if isinstance(summary, PooledDistribution):
        return "not given"
    return "suppressed" if summary.n else "undefined"


def _percent(part: int, whole: int) -> str:
    return f"{100.0 * part / whole:.1f} %" if whole else "-"


def _gap_text(gap: GapClosed) -> str:
    if gap.fraction is not None:
        return f"{100.0 * gap.fraction:.0f} %"
    return f"not given: {gap.reason.explanation}" if gap.reason else "not given"


def _yardstick_text(yardstick: YardstickSummary | None) -> str:
    """Say how many test patients were measured against which contour."""
    if yardstick is None:
        return "measured against: not stated"
    if yardstick.reviewed_contour is None:
        return "measured against: reference or reviewed contours (numbers suppressed)"
    return (
        f"measured against: reference contour {yardstick.reference_contour} patients, "
        f"reviewed contour {yardstick.reviewed_contour} patients"
    )


def _none_reviewed(yardstick: YardstickSummary | None) -> bool:
    return yardstick is not None and yardstick.reviewed_contour == 0


# --- drawings ------------------------------------------------------------------------------------

_COLOURS = {"direct": "#6b7280", "adapted": "#0b5cad", "target_trained": "#b45309"}
_MARKERS = {"direct": "o", "adapted": "s", "target_trained": "D"}  # told apart in grey, too
_OFFSETS = {"direct": -0.24, "adapted": 0.0, "target_trained": 0.24}
_INK, _FAINT = "#1f2937", "#d1d5db"


def _drawings(package: PackageResult, name: str) -> list[_Drawing]:
    """Draw one package's figures; `name` keeps their element ids apart on the page."""
    from matplotlib import rc_context, rcdefaults, rcParams

    drawings = []
    with rc_context():
        rcdefaults()  # a reader's own matplotlibrc must not change the report
        rcParams.update(
            {
                "font.size": 9,
                "axes.edgecolor": _INK,
                "axes.labelcolor": _INK,
                "text.color": _INK,
                "xtick.color": _INK,
                "ytick.color": _INK,
                "svg.fonttype": "path",  # the same letters whatever fonts the reader has
            }
        )
        for kind, figure, caption, wide in (
            ("dice", _dice_figure(package), _DICE_CAPTION, True),
            ("hd95", _hd95_figure(package), _HD95_CAPTION, False),
            ("gap", _gap_figure(package), _GAP_CAPTION, False),
        ):
            svg = _inline_svg(figure, f"{name}-{kind}", caption)
            drawings.append(_Drawing(svg=svg, caption=caption, wide=wide))
    return drawings


_DICE_CAPTION = "Dice per site: mean over test patients; bars show one SD and end at 0 and 100 %."
_HD95_CAPTION = (
    "HD95 per site (lower is better): mean of the patients for whom it is defined; ± SD."
)
_GAP_CAPTION = "Share of the Dice gap between direct use and training on the target that is closed."


def _dice_figure(package: PackageResult) -> "Figure":
    figure, axes = _site_axes(package, width_inches=9.2)
    lowest = _draw_arms(axes, package, "dsc", scale=100.0, ceiling=100.0)
    axes.set_xlim(min(90.0, 10.0 * (lowest // 10.0)), 100.0)
    axes.set_xlabel("Dice, %")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    return figure


def _hd95_figure(package: PackageResult) -> "Figure":
    figure, axes = _site_axes(package, width_inches=4.5)
    _draw_arms(axes, package, "hd95_mm")
    axes.set_xlim(left=0.0)
    axes.set_xlabel("HD95, mm")
    return figure


def _gap_figure(package: PackageResult) -> "Figure":
    figure, axes = _site_axes(package, width_inches=4.5)
    gaps = [*(site.gap_closed for site in package.sites), package.gap_closed]
    percents = [None if gap.fraction is None else 100.0 * gap.fraction for gap in gaps]
    given = [percent for percent in percents if percent is not None]
    for y, percent in enumerate(percents):
        if percent is None:
            _note(axes, y, "not given")
            continue
        axes.barh(y, percent, height=0.5, color=_COLOURS["adapted"])
        inside = percent >= 30.0
        axes.annotate(
            f"{percent:.0f} %",
            (0.0 if inside else max(percent, 0.0), y),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color="white" if inside else _INK,
        )
    axes.axvline(100.0, color=_COLOURS["target_trained"], linestyle="--", linewidth=1)
    axes.axvline(0.0, color=_INK, linewidth=0.8)
    axes.set_xlim(min([0.0, *given]) * 1.1, max([100.0, *given]) * 1.1)
    axes.set_xlabel("gap closed, % (dashed: trained on target)")
    return figure


def _site_axes(package: PackageResult, *, width_inches: float) -> "tuple[Figure, Axes]":
    """Make axes with one line per site from the top, and all sites set apart below."""
    from matplotlib.figure import Figure

    names = [*(site.report.site for site in package.sites), ALL_SITES]
    figure = Figure(figsize=(width_inches, 1.1 + 0.5 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.axhline(len(names) - 1.5, color=_INK, linewidth=0.6)
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _draw_arms(
    axes: "Axes",
    package: PackageResult,
    field: str,
    *,
    scale: float = 1.0,
    ceiling: float | None = None,
) -> float:
    """Draw mean and SD of `field` per site and arm; return the smallest value drawn."""
    pooled = {arm.arm: arm for arm in package.pooled}
    lowest = 0.0 if ceiling is None else ceiling
    for name in ARMS:
        lines: Sequence[ArmSummary | PooledArm | None] = [
            *(site.arm(name) for site in package.sites),
            pooled.get(name),
        ]
        label: str | None = ARM_LABELS[name]
        for y, arm in enumerate(lines):
            summary: _Summary | None = getattr(arm, field, None)
            if summary is None:
                continue
            if summary.mean is None:
                _note(axes, y + _OFFSETS[name], f"{ARM_LABELS[name]}: {_why_not(summary)}")
                continue
            mean, sd = summary.mean * scale, (summary.sd or 0.0) * scale
            left, right = min(sd, mean), sd if ceiling is None else min(sd, ceiling - mean)
            axes.errorbar(
                mean,
                y + _OFFSETS[name],
                xerr=[[left], [right]],
                fmt=_MARKERS[name],
                color=_COLOURS[name],
                markersize=5.5,
                capsize=2.5,
                linewidth=1.2,
                label=label,
            )
            label = None  # one entry per arm in the legend
            lowest = min(lowest, mean - left)
    return lowest


def _note(axes: "Axes", y: float, text: str) -> None:
    axes.text(
        0.01,
        y,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        style="italic",
    )


def _inline_svg(figure: "Figure", name: str, description: str) -> Markup:
    """Write a figure as an SVG element that can stand in a page beside others.

    Ids get `name` in front, or drawings would share them; matplotlib's style sheet is left to the
    page, or it would rule all of it; no date, so that the same report gives the same bytes.
    """
    from matplotlib import rc_context

    text = io.StringIO()
    unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata=unsaid, transparent=True)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*</defs>", "", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace("<svg ", Markup('<svg role="img" aria-label="{}" ').format(description), 1)
    return Markup(svg)  # noqa: S704 - matplotlib's own output; site names in it are drawn as paths
