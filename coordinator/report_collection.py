"""Collects the sites' reports: aggregates over patients, checked before they are kept."""

from collections.abc import Mapping

from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.messages import SiteReportMessage, SiteStatus
from algorithms.contracts.site_report import SiteReport
from coordinator.config import CoordinatorHome
from coordinator.sites import Question, Sites, parse_answer
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Step, next_step


def collect(
    home: CoordinatorHome, store: StudyStore, sites: Sites, statuses: Mapping[str, SiteStatus]
) -> None:
    """Fetch the report of every reachable site that has one ready for the study's package."""
    package_id = store.current_package()
    if package_id is None:
        return
    ready = [
        site
        for site, progress in store.progress(package_id).items()
        if site in statuses and next_step(progress, statuses[site], package_id) is Step.COLLECT
    ]
    if not ready:
        return
    model_version = store.model_version(package_id)
    for site, answer in sites.ask(Question.SITE_REPORT, ready, package_id=package_id).items():
        try:
            report = parse_answer(answer, SiteReportMessage).report
            _check_report(report, home.config.study, site, package_id, model_version)
        except ProtocolError as error:
            store.record_failure(site, str(error))
            continue
        store.add_report(report)


def _check_report(
    report: SiteReport, study: str, site: str, package_id: str, model_version: str
) -> None:
    """Refuse a report about anything but what was asked for, or that the study's cannot use.

    A report that is refused is not kept: the site is asked again by the next tick.

    Raises:
        ProtocolError: naming the rule, without a word of the site's.
    """
    from evaluation.aggregate_report import check_arms  # with scipy.stats: most ticks do without

    if report.study != study:
        raise ProtocolError("wrong_study")
    if report.site != site:
        raise ProtocolError("wrong_site")
    if report.package_id != package_id:
        raise ProtocolError("wrong_package")
    if report.model_version != model_version:
        raise ProtocolError("wrong_model_version")
    try:
        check_arms(report)
    except ProtocolError:
        raise ProtocolError("wrong_arms") from None
