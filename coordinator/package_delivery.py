"""Fetches the source hospital's package, and brings the signed one to the target hospitals."""

from collections.abc import Mapping

from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.messages import PackageReceipt, SiteStatus, SourcePackageOffer
from coordinator.config import CoordinatorHome
from coordinator.package_publisher import publish, read_package
from coordinator.sites import Answer, Question, Sites, parse_answer
from coordinator.study_store import StudyStore
from coordinator.study_workflow import SiteEvent, Step, next_step, status_event


def publish_when_ready(
    home: CoordinatorHome, store: StudyStore, sites: Sites, statuses: Mapping[str, SiteStatus]
) -> None:
    """Sign the source hospital's package, once it is ready and none is published yet.

    A study has one package: what the source hospital makes after it is never asked for.
    """
    source = home.config.source_site
    status = statuses.get(source)
    if status is None or not status.source_package_ready or store.current_package() is not None:
        return
    answer = sites.ask(Question.SOURCE_PACKAGE, [source])[source]
    try:
        offer = parse_answer(answer, SourcePackageOffer)
        if offer.site != source:
            raise ProtocolError("wrong_site")
        publish(home, offer.manifest, answer.files if isinstance(answer, Answer) else {})
    except ProtocolError as error:
        store.record_failure(source, str(error))
        return
    store.add_package(offer.manifest, from_site=source)


def deliver(
    home: CoordinatorHome, store: StudyStore, sites: Sites, statuses: Mapping[str, SiteStatus]
) -> None:
    """Send the study's package to every reachable target site whose status does not confirm it."""
    package_id = store.current_package()
    if package_id is None:
        return
    lacking = []
    for site in store.progress(package_id):
        if site in statuses:
            progress = store.apply(site, package_id, status_event(statuses[site], package_id))
            if next_step(progress, statuses[site], package_id) is Step.DELIVER:
                lacking.append(site)
    if not lacking:
        return
    package = read_package(home, package_id)
    for site, answer in sites.ask(Question.RECEIVE_PACKAGE, lacking, package=package).items():
        try:
            receipt = parse_answer(answer, PackageReceipt)
            if receipt.site != site or receipt.package_id != package_id:
                raise ProtocolError("wrong_receipt")
        except ProtocolError as error:
            store.record_failure(site, str(error))
            continue
        accepted = SiteEvent.RECEIPT_ACCEPTED if receipt.accepted else SiteEvent.RECEIPT_REFUSED
        store.apply(site, package_id, accepted, rule=receipt.refused_by_rule)
