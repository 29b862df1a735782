"""Fetches the source hospital's package, and brings the signed one to the target hospitals."""

import time
from collections.abc import Mapping

from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.messages import PackageReceipt, SiteStatus, SourcePackageOffer
from coordinator.config import CoordinatorHome
from coordinator.lease_holder import new_holder
from coordinator.package_publisher import PublishedPackage, open_package, publish
from coordinator.sites import (
    IN_BUNDLE,
    Answer,
    Conversation,
    PackagePart,
    Question,
    Request,
    Silence,
    Sites,
    parse_answer,
)
from coordinator.study_store import StudyStore
from coordinator.study_workflow import SiteEvent, Step, next_step, status_event

FIRST_PART_BYTES, SMALLEST_PART_BYTES = 4 * 2**20, 64 * 2**10
PART_S = 10.0
TURN_S = 60.0  # no new part is begun in this tick after so long
LEASE_MARGIN_S = 30.0  # beyond the life of a message
_ACCEPTED, _REFUSED = SiteEvent.RECEIPT_ACCEPTED, SiteEvent.RECEIPT_REFUSED


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
    package = open_package(home, package_id)
    deliveries = [_Delivery(home, store, package, package_id, site) for site in lacking]
    # Whoever has no lease is being served by another tick.
    mine = [delivery for delivery in deliveries if delivery.begin()]
    try:
        sites.converse({delivery.site: delivery.conversation() for delivery in mine})
    finally:
        for delivery in mine:
            delivery.end()


class _Delivery:
    """A package to one site, part after part, as long as this tick has the lease for it.

    The manifest goes first, alone: the site says whether it wants the rest, and from where. A
    delivery that takes long is left to the next tick, which goes on where it was: the other sites
    are asked for what they have in between.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        store: StudyStore,
        package: PublishedPackage,
        package_id: str,
        site: str,
    ) -> None:
        self.site = site
        self._store, self._package, self._package_id = store, package, package_id
        self._holder = new_holder()
        self._lease_s = home.config.message_ttl_s + LEASE_MARGIN_S
        self._largest_bytes = home.config.largest_part_bytes
        self._part_bytes = self._held = 0

    def begin(self) -> bool:
        """Take the lease; False when another tick has it."""
        row = self._store.take_lease(
            self.site, self._package_id, self._holder, lease_s=self._lease_s
        )
        if row is None:
            return False
        self._part_bytes = min(row.part_bytes or FIRST_PART_BYTES, self._largest_bytes)
        self._held = row.bytes_held
        return True

    def end(self) -> None:
        """Give the lease back."""
        self._store.end_lease(self.site, self._package_id, self._holder)

    def conversation(self) -> Conversation:
        """Send what the site says it lacks; whatever ends this early is recorded by its rule."""
        part = PackagePart(self._package, offset=0, size_bytes=0)
        bare_s = 0.0
        leave_to_next_tick_at = time.monotonic() + TURN_S
        while True:
            answer = yield Request(Question.RECEIVE_PACKAGE, part=part)
            if answer == IN_BUNDLE:
                yield from self._into_bundle()
            try:
                receipt = self._receipt(answer, part)
            except ProtocolError as error:
                self._store.record_failure(self.site, str(error))
                if isinstance(answer, Silence) and part.size_bytes:
                    self._learn(self._part_bytes // 2)
                return
            if receipt.accepted or receipt.refused_by_rule is not None:
                event = _ACCEPTED if receipt.accepted else _REFUSED
                self._store.apply(self.site, self._package_id, event, rule=receipt.refused_by_rule)
                return
            self._held = receipt.bytes_held
            took_s = answer.took_s if isinstance(answer, Answer) else 0.0
            if not part.size_bytes:
                bare_s = took_s  # what any message takes, however little it carries
            elif part.size_bytes == self._part_bytes:
                self._part_bytes = next_part_bytes(self._part_bytes, took_s - bare_s)
            if not self._learn(self._part_bytes) or time.monotonic() > leave_to_next_tick_at:
                return
            left = self._package.size_bytes - self._held
            part = PackagePart(self._package, self._held, min(self._part_bytes, left))

    def _into_bundle(self) -> Conversation:
        """Send all parts by disk, where no receipt comes between them, and the manifest once more.

        The receipt for the last manifest says what became of all of them.
        """
        size, step = self._package.size_bytes, min(FIRST_PART_BYTES, self._largest_bytes)
        for offset in range(0, size, step):
            part = PackagePart(self._package, offset, min(step, size - offset))
            yield Request(Question.RECEIVE_PACKAGE, part=part)
        yield Request(Question.RECEIVE_PACKAGE, part=PackagePart(self._package, 0, 0))

    def _receipt(self, answer: Answer | Silence, part: PackagePart) -> PackageReceipt:
        receipt = parse_answer(answer, PackageReceipt)
        if receipt.site != self.site or receipt.package_id != self._package_id:
            raise ProtocolError("wrong_receipt")
        if not receipt.accepted and receipt.refused_by_rule is None:
            if receipt.bytes_held >= self._package.size_bytes:
                raise ProtocolError("wrong_receipt")
            if part.size_bytes and receipt.bytes_held <= part.offset:
                raise ProtocolError("part_not_kept")
        return receipt

    def _learn(self, part_bytes: int) -> bool:
        self._part_bytes = min(max(part_bytes, SMALLEST_PART_BYTES), self._largest_bytes)
        return self._store.keep_lease(
            self.site,
            self._package_id,
            self._holder,
            lease_s=self._lease_s,
            bytes_held=self._held,
            part_bytes=self._part_bytes,
        )


def next_part_bytes(part_bytes: int, travel_s: float) -> int:
    """Return how much to send next, after a part of `part_bytes` travelled for so long.

    A part shall travel for about ten seconds: that much is lost at most when the link is cut, and
    a good link is not held up by questions.

    >>> next_part_bytes(1000, 0.1), next_part_bytes(1000, 8.0), next_part_bytes(1000, 60.0)
    (4000, 1250, 500)
    """
    return int(part_bytes * min(max(PART_S / max(travel_s, 0.1), 0.5), 4.0))
