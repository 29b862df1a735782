"""Writes and signs the study's report, from what the coordinator's store and home hold."""

from collections import Counter
from pathlib import Path

from coordinator.config import CoordinatorHome
from coordinator.study_store import StudyStore
from evaluation.aggregate_report import StudyReport, aggregate
from evaluation.report_files import made_from, read_signer
from evaluation.report_pdf import PDF_FILE, render_pdf
from evaluation.report_rendering import report_files, write_report
from evaluation.study_record import ModelLineage, SiteTraffic, StudyRecord, read_lineage


def publish_report(
    home: CoordinatorHome, store: StudyStore, output: Path, *, pdf: bool = False
) -> StudyReport:
    """Make the report from the sites' reports, sign it with the study's key and write it.

    The page names the reports by their hash instead of the time: while the store is the same, so
    are the bytes.

    Raises:
        DataError: when the signing key is gone.
        ProtocolError: before any report has arrived.
    """
    reports = [one for row in store.packages() for one in store.reports(row.package_id)]
    study = aggregate(
        reports, expected_sites=home.config.target_sites, record=study_record(home, store)
    )
    contents = report_files(
        study, title=f"Study {home.config.study}", generated_at=made_from(reports)
    )
    printed = render_pdf(contents["study.html"].decode("utf-8")) if pdf else None
    write_report(output, contents, seal=read_signer(home.signing_key).seal(home.config.study))
    if printed is not None:
        (output / PDF_FILE).write_bytes(printed)
    return study


def study_record(home: CoordinatorHome, store: StudyStore) -> StudyRecord:
    """Gather the lineage of the study's packages, and how much every site sent."""
    packages = store.packages()
    lineage: list[ModelLineage] = []
    for row in packages:
        folder = home.packages / row.package_id
        if folder.is_dir():
            lineage.append(read_lineage(folder, from_site=row.from_site or None))
    reported = Counter(r.site for row in packages for r in store.reports(row.package_id))
    traffic = (
        SiteTraffic(
            site=site.site,
            role=site.role,
            bytes_from_site=site.bytes_from_site,
            bytes_to_site=site.bytes_to_site,
            packages_offered=sum(row.from_site == site.site for row in packages),
            reports=reported[site.site],
        )
        for site in store.sites()
    )
    return StudyRecord(
        lineage=tuple(lineage), traffic=tuple(sorted(traffic, key=lambda one: one.site))
    )
