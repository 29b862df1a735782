"""A round with an air-gapped site: a bundle is written, carried, answered, carried and read.

What a bundle asks follows from what the site said last and what it may have got ready since, so
that nothing waits in a queue: a bundle that got lost is simply written again, under the next
number. The site's status is always asked last, so that it tells what became of all else.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from algorithms.contracts.bundle import (
    COORDINATOR,
    VALID_DAYS,
    BundleHeader,
    BundleRefused,
    Direction,
    check_expiry,
)
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState, SiteStatus
from algorithms.sealed_bundle import SealedBundle, SealedWriter
from coordinator.bundle_mailbox import BundleMailbox
from coordinator.bundle_records import BundleRecords
from coordinator.config import CoordinatorHome
from coordinator.package_publisher import public_key_hex, read_signing_key
from coordinator.plan_records import PlanRecords
from coordinator.server_app import FlowerSites, act_on, tick
from coordinator.sites import Question
from coordinator.study_keys import encryption_key
from coordinator.study_store import StudyStore


@dataclass(frozen=True)
class WrittenBundle:
    """A bundle for a site: its number and how many questions are in it."""

    sequence: int
    questions: int


@dataclass(frozen=True)
class ReadBundle:
    """An answer that was acted on, and how many questions follow from it for the next bundle."""

    site: str
    sequence: int
    questions: int


def write_bundle(
    home: CoordinatorHome,
    store: StudyStore,
    site: str,
    output: Path,
    *,
    now: datetime,
    valid_days: int = VALID_DAYS,
    after: int = 0,
) -> WrittenBundle:
    """Write all that there is to ask of an air-gapped site into one file.

    Args:
        home: of the coordinator.
        store: the study database.
        site: by name.
        output: file to write; it appears when it is whole.
        now: UTC with its zone.
        valid_days: after which the site takes it in no more.
        after: a number that the new one is to be greater than, when the study database was
            restored and knows less than the site.

    Raises:
        DataError: the site is not air-gapped or not enrolled, or the file exists.
    """
    _check_air_gapped(home, site)
    key = store.site_key(site)
    if key is None:
        raise DataError(f"{site}: not enrolled: run 'fedgtv-coordinator enrol' with its request")
    if output.exists():
        raise DataError(f"{output}: exists already: give another name")
    records = BundleRecords(store)
    header = BundleHeader(
        study=home.config.study,
        direction=Direction.TO_SITE,
        sender=COORDINATOR,
        receiver=site,
        sequence=records.reserve(site, after=after, now=now),
        created_at=now,
        expires_at=now + timedelta(days=valid_days),
        answers_sha256=None,
        signing_key_hex=public_key_hex(home),
        encryption_key_hex=key.encryption_public_key_hex,
    )
    signing = read_signing_key(home)
    part = output.with_name(f".{output.name}.part")
    with part.open("wb") as file:
        writer = SealedWriter(file, header, lambda data: signing.sign(data).hex())
        mailbox = BundleMailbox(site, outgoing=writer)
        with _spoken_to(home, store, mailbox) as sites:
            act_on(home, store, sites, {site: _hoped_for(site, store, records)})
            sites.ask(Question.STATUS, [site])
        sha256 = writer.finish()
        file.flush()
        os.fsync(file.fileno())
    # Known before it can be carried away: its answer must never be a stranger's.
    records.record_written(site, header.sequence, sha256, now=now)
    part.replace(output)
    return WrittenBundle(header.sequence, mailbox.unanswered)


def read_bundle(
    home: CoordinatorHome, store: StudyStore, file: Path, *, now: datetime
) -> ReadBundle:
    """Take a site's answer in and act on it; after a kill, the same file goes on.

    Args:
        home: of the coordinator.
        store: the study database.
        file: as the site wrote it.
        now: UTC with its zone.

    Raises:
        DataError: there is no such file.
        BundleRefused: naming the rule; the event is in the study database.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such bundle: give the file that the site wrote")
    records = BundleRecords(store)
    site = ""
    with file.open("rb") as stream:
        try:
            bundle = SealedBundle.open(stream)
            header = bundle.header
            site = header.site if header.site in home.config.sites else ""
            _check_origin(home, store, bundle)
            check_expiry(header, now)
            mailbox = BundleMailbox(
                site,
                answers=bundle.unseal(encryption_key(home)),
                largest_answer_bytes=home.config.largest_reply_bytes,
            )
            answers = header.answers_sha256 or ""
            records.begin_answer(site, header.sequence, answers, bundle.sha256, now=now)
            with _spoken_to(home, store, mailbox) as sites:
                tick(home, store, sites, among=[site])
        except BundleRefused as refusal:
            records.record_refusal(site, refusal.rule, now=now)
            raise
    records.end_answer(site, header.sequence)
    return ReadBundle(site, header.sequence, mailbox.unanswered)


def _hoped_for(site: str, store: StudyStore, records: BundleRecords) -> SiteStatus:
    """Return where a site may stand by now, so that all that may be ready is asked for at once.

    Of what the coordinator would act on, the packages held, only what the site said counts.
    """
    said = records.last_status(site)
    package_id = store.current_package()
    plan = PlanRecords(store).current(package_id)
    return SiteStatus(
        site=site,
        code_version=version("fedgtv"),
        source_package_ready=True,
        packages_held=said.packages_held if said is not None else (),
        current_package=package_id,
        round_state=RoundState.REPORTED,
        open_annotation_tasks=0,
        report_ready=True,
        plan_held=said.plan_held if said is not None else None,
        plan_approved=plan.plan_sha256 if plan is not None else None,
    )


def _check_origin(home: CoordinatorHome, store: StudyStore, bundle: SealedBundle) -> None:
    header = bundle.header
    if header.study != home.config.study:
        raise BundleRefused("wrong_study", "it is of another study")
    coming = header.direction is Direction.TO_COORDINATOR and header.receiver == COORDINATOR
    if not coming or header.sender not in home.config.air_gapped_sites:
        raise BundleRefused("wrong_site", "it is not from an air-gapped site to this coordinator")
    key = store.site_key(header.sender)
    if key is None or header.signing_key_hex != key.signing_public_key_hex:
        raise BundleRefused(
            "unknown_key", f"{header.sender} is not enrolled with the key that it is signed with"
        )
    bundle.verify()


def _check_air_gapped(home: CoordinatorHome, site: str) -> None:
    if site not in home.config.sites:
        raise DataError(f"{site}: not in this study; its sites are {', '.join(home.config.sites)}")
    if site not in home.config.air_gapped_sites:
        raise DataError(
            f"{site}: reached over the network: put it into air_gapped_sites in coordinator.toml"
        )


@contextmanager
def _spoken_to(
    home: CoordinatorHome, store: StudyStore, mailbox: BundleMailbox
) -> Iterator[FlowerSites]:
    """Speak through a mailbox, and count what crossed."""
    sites = FlowerSites(mailbox, home)
    yield sites
    store.record_traffic(sites.bytes_to_site, sites.bytes_from_site)
