"""Enrols a site of a test as people would: request, two fingerprints, answer."""

from datetime import UTC, datetime

from algorithms.contracts.enrolment import Enrolment, fingerprint
from coordinator.config import CoordinatorHome
from coordinator.enrolment import enrol
from coordinator.study_store import StudyStore
from site_agent.config import SiteHome
from site_agent.database import open_database
from site_agent.enrolment import Asking, accept_answer, request_enrolment

NOW = datetime.now(UTC).replace(microsecond=0)


def enrol_site(
    coordinator: CoordinatorHome,
    site: SiteHome,
    *,
    asking: Asking = Asking.FIRST,
    now: datetime = NOW,
) -> Enrolment:
    """Enrol a site, or renew its enrolment, and return the coordinator's answer."""
    engine = open_database(site.database_url)
    request = request_enrolment(site, engine, asking, actor="test", now=now)
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        typed = fingerprint(request.sha256)
        answer = enrol(coordinator, store, request, typed_fingerprint=typed, now=now)
    typed = fingerprint(answer.sha256)
    accept_answer(site, engine, answer, typed_fingerprint=typed, actor="test", now=now)
    engine.dispose()
    return answer
