"""Writes and signs the study's report, from what the coordinator's store and home hold."""

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
    package_id = store.current_package()
    reports = store.reports(package_id) if package_id is not None else []
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
    """Gather the lineage of the study's package, and how much every site sent."""
    package_id = store.current_package()
    origins = {
        str(event.detail["package_id"]): event.site
        for event in store.events()
        if event.event == "package_published"
    }
    lineage: tuple[ModelLineage, ...] = ()
    if package_id is not None and (home.packages / package_id).is_dir():
        origin = origins.get(package_id)
        lineage = (read_lineage(home.packages / package_id, from_site=origin),)
    reported = {report.site for report in store.reports(package_id)} if package_id else set()
    traffic = (
        SiteTraffic(
            site=site.site,
            role=site.role,
            bytes_from_site=site.bytes_from_site,
            bytes_to_site=site.bytes_to_site,
            packages_offered=sum(origin == site.site for origin in origins.values()),
            reports=int(site.site in reported),
        )
        for site in store.sites()
    )
    return StudyRecord(lineage=lineage, traffic=tuple(sorted(traffic, key=lambda one: one.site)))
