"""The study report as a page to read and print, and as CSV and JSON to compute with.

The page is one file: style and drawings inline, no script, nothing fetched from anywhere. The same
report, title and time give the same bytes.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from algorithms.contracts.canonical_json import canonical_json
from algorithms.contracts.site_report import SiteReport, YardstickSummary
from evaluation.aggregate_report import GapClosed, PackageResult, StudyReport
from evaluation.case_metrics import EMPTY_MASK_POLICY
from evaluation.disclosure_control import SUPPRESSION_RULE
from evaluation.plain_notes import plain_notes
from evaluation.report_csv import render_csv, render_raters_csv, render_subgroups_csv
from evaluation.report_drawing import ALL_SITES, ARM_LABELS, why_not
from evaluation.report_figures import package_figures, study_figures
from evaluation.report_pdf import PDF_FILE
from evaluation.report_seal import SEAL_FILE, SIGNED_FILES
from evaluation.report_tables import (
    bounded_p,
    budget_rows,
    mean_sd,
    median_iqr,
    p_value,
    percent,
    rater_matrices,
    release_rows,
    starred_sites,
    subgroup_tables,
)
from evaluation.reporting_checklists import CHECKLISTS, ItemState, answer, package_anchor
from evaluation.revision import REVISION_BIN_LABELS
from evaluation.svg_drawing import number

RESEARCH_USE_NOTICE = "Research use only, not a medical device"

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
    "*": (
        "the adapted model's Dice differs from that of direct use: paired t test per hospital, "
        "Holm over hospitals, p < 0.05."
    ),
    "p of rank tests": (
        "the sign test and Wilcoxon's signed ranks are computed from counts on a public scale, so "
        "p is known within bounds: the upper one is shown (≤), the lower one (≥) where that is 1."
    ),
    "Not known closely": (
        "a pooled median or p value whose bounds are too wide to say anything, since counts were "
        "merged until no bin tells of few patients; the bounds are in study.json."
    ),
    "I²": "share of the variation between hospitals' differences that is not chance.",
    "Share of the way": (
        "how far the adapted weights that were tested lie from the package's (0) to those at the "
        "end of adaptation (1)."
    ),
    "All sites": (
        "patient-weighted mean over the sites that gave the figure; the SD combines the spread "
        "within and between sites. Medians and quartiles are estimates from counts of patients on "
        "a public scale; their bounds, which hold for certain, are in study.json."
    ),
}

YARDSTICK_RULE = (
    "A patient is measured against the reference contour that came in with the images; where there "
    "is none, against the reviewed contour, which a reviewer made by editing the adapted model's."
)
YARDSTICK_WARNING = (
    "not every patient there was measured against a reference contour, or it is not said. A "
    "reviewed contour was edited from the adapted model's: it favours “Adapted” over the other "
    "models, and with it the gap closed."
)


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
        mean_sd=mean_sd,
        median_iqr=median_iqr,
        percent=percent,
        number=number,
        p_value=p_value,
        bounded_p=bounded_p,
        gap=_gap_text,
        yardstick=_yardstick_text,
        why_not=why_not,
    )
    template = files("evaluation").joinpath("report_template.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        report=report,
        title=title,
        generated_at=generated_at,
        notice=RESEARCH_USE_NOTICE,
        all_sites=ALL_SITES,
        anchor=package_anchor,
        simulated_annotators=_simulated_annotators(report),
        simulated_reviewers=_simulated_reviewers(report),
        notes=[plain_notes(package) for package in report.packages],
        drawings=[package_figures(package, f"p{i}") for i, package in enumerate(report.packages)],
        curves=study_figures(report),
        stars=[starred_sites(package) for package in report.packages],
        subgroups=[subgroup_tables(package) for package in report.packages],
        matrices=[rater_matrices(package) for package in report.packages],
        budgets=budget_rows(report),
        releases=release_rows(report),
        checklists=[(checklist, answer(checklist, report)) for checklist in CHECKLISTS],
        states=ItemState,
        arm_labels=ARM_LABELS,
        arm_definitions=ARM_DEFINITIONS,
        metric_definitions=METRIC_DEFINITIONS,
        bin_labels=REVISION_BIN_LABELS,
        empty_mask_policy=EMPTY_MASK_POLICY,
        suppression_rule=SUPPRESSION_RULE,
        yardstick_rule=YARDSTICK_RULE,
        yardstick_warning=YARDSTICK_WARNING,
        other_yardsticks=[_other_yardsticks(package) for package in report.packages],
    )


def render_json(report: StudyReport) -> str:
    """Render a study report as canonical JSON, which `StudyReport.model_validate_json` reads."""
    return canonical_json(report.model_dump(mode="json")).decode("utf-8")


def report_files(report: StudyReport, *, title: str, generated_at: str) -> dict[str, bytes]:
    """Render everything that a signature covers: name -> bytes, in the order of `SIGNED_FILES`."""
    made = (
        render_json(report),
        render_html(report, title=title, generated_at=generated_at),
        render_csv(report),
        render_subgroups_csv(report),
        render_raters_csv(report),
    )
    return {name: text.encode("utf-8") for name, text in zip(SIGNED_FILES, made, strict=True)}


def write_report(
    folder: Path,
    contents: Mapping[str, bytes],
    *,
    seal: Callable[[Mapping[str, bytes]], bytes] | None,
) -> list[Path]:
    """Write a report's files, and their signature where somebody seals it; return their paths.

    What an earlier report left in the folder beside them, a signature or a print, is taken away
    first: it is none of this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SEAL_FILE, PDF_FILE):
        (folder / name).unlink(missing_ok=True)
    written = dict(contents) | ({SEAL_FILE: seal(contents)} if seal is not None else {})
    for name, content in written.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in written]


def _simulated_annotators(report: StudyReport) -> list[str]:
    return sorted({r.site for r in _site_reports(report) if r.annotation.simulated})


def _simulated_reviewers(report: StudyReport) -> list[str]:
    return sorted({r.site for r in _site_reports(report) if r.revision and r.revision.simulated})


def _site_reports(report: StudyReport) -> list[SiteReport]:
    return [site.report for package in report.packages for site in package.sites]


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


def _other_yardsticks(package: PackageResult) -> list[str]:
    """Name the hospitals that do not say that every patient has a reference contour."""
    return [
        site.report.site
        if any(arm.dsc.mean is not None for arm in site.report.arms)
        else f"{site.report.site} (in no figure)"
        for site in package.sites
        if site.report.arms
        and (site.report.yardstick is None or site.report.yardstick.reviewed_contour != 0)
    ]
