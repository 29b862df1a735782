"""Rows and reports for the tests of what comes after the measuring."""

import math

from algorithms.contracts.site_report import AnnotationSummary, SiteReport
from evaluation.case_metrics import CaseMetrics
from evaluation.site_summary import (
    PatientRow,
    RaterRow,
    ReportSubject,
    RevisionRow,
    summarise_site,
)

PACKAGE = "ab" * 32


def metrics(dsc: float, hd95_mm: float = 5.0) -> CaseMetrics:
    """A row whose distances are undefined when the tumour was missed."""
    distance = math.nan if dsc == 0 else hd95_mm
    return CaseMetrics(
        dsc=dsc,
        jaccard=dsc / (2 - dsc),
        hd_mm=2 * distance,
        hd95_mm=distance,
        asd_predicted_to_reference_mm=distance / 4,
        asd_reference_to_predicted_mm=distance / 5,
        assd_mm=distance / 4.5,
        nsd={1.0: dsc, 2.0: dsc},
        nsd_voxel={1.0: dsc, 2.0: dsc},
        volume_reference_ml=10.0,
        volume_predicted_ml=10.0 * dsc,
    )


def subject(site: str = "north", **changes: object) -> ReportSubject:
    values = {
        "study": "npc-gtvp",
        "site": site,
        "package_id": PACKAGE,
        "model_version": "v1",
        "adapted_model_sha256": "cd" * 32,
        "code_version": "0.1.0",
        "seed": 7,
        "vendors": ("siemens",),
    }
    return ReportSubject(**(values | changes))


def annotation(*, simulated: bool = True) -> AnnotationSummary:
    return AnnotationSummary(
        strategy="stdr",
        training_patients=20,
        training_slices=400,
        selected_slices=80,
        patients_with_selected_slices=15,
        simulated=simulated,
    )


def rows(
    arm: str, dscs: list[float], hd95_mm: float = 5.0, *, against_reviewed: bool = False
) -> list[PatientRow]:
    return [PatientRow(arm, metrics(dsc, hd95_mm), against_reviewed) for dsc in dscs]


def report(
    site: str = "north",
    *,
    direct: list[float] | None = None,
    adapted: list[float] | None = None,
    target_trained: list[float] | None = None,
    degrees: list[float] | None = None,
    raters: list[RaterRow] | None = None,
    simulated: bool = True,
    against_reviewed: bool = False,
    minimum_group_size: int = 2,
    **changes: object,
) -> SiteReport:
    arms = {"direct": direct, "adapted": adapted, "target_trained": target_trained}
    return summarise_site(
        [
            row
            for arm, dscs in arms.items()
            for row in rows(arm, dscs or [], against_reviewed=against_reviewed)
        ],
        subject=subject(site, **changes),
        annotation=annotation(simulated=simulated),
        revisions=[RevisionRow(d, 90.0 + d, simulated) for d in degrees or []],
        raters=raters or [],
        minimum_group_size=minimum_group_size,
    )
