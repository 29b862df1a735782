"""Delivery to sites that keep, lose, refuse or invent: plain objects, no Flower."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from algorithms.contracts.messages import PackageReceipt, RoundState, SiteStatus
from algorithms.contracts.package_stream import stream_bytes
from coordinator import package_delivery
from coordinator.config import CoordinatorHome, open_home
from coordinator.package_delivery import deliver, next_part_bytes
from coordinator.package_publisher import publish
from coordinator.sites import Answer, Conversation, Question, Request, Silence, Sites
from coordinator.study_store import DELIVERY_STALLED, DeliveryRow, StudyStore, TransferRow
from coordinator.study_workflow import SiteEvent, SiteProgress
from tests.simulated_site import make_coordinator, tiny_package

MANIFEST, FILES = tiny_package()
STREAM = b"".join(data for _, data in sorted(FILES.items()))
PACKAGE = MANIFEST.package_id
TARGETS = ("hospital-b", "hospital-c")


def _receipt(site: object, **changes: object) -> Answer:
    fields = {"site": site, "package_id": PACKAGE, "accepted": False}
    receipt = PackageReceipt.model_validate(fields | changes)
    return Answer(receipt.model_dump_json().encode())


@dataclass
class StreamSites(Sites):
    """Sites that keep what continues their stream; `spoil` may change what one of them does."""

    spoil: Callable[[str, Request], Answer | Silence | None] = lambda _site, _request: None
    streams: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int, int]] = field(default_factory=list)  # site, offset, bytes

    def online(self) -> tuple[str, ...]:
        return TARGETS

    def converse(self, conversations: Mapping[str, Conversation]) -> None:
        speaking = {site: next(talk) for site, talk in conversations.items()}
        while speaking:  # in turns, as over a network
            for site, request in list(speaking.items()):
                try:
                    speaking[site] = conversations[site].send(self._answer(site, request))
                except StopIteration:
                    del speaking[site]

    def _answer(self, site: str, request: Request) -> Answer | Silence:
        assert request.question is Question.RECEIVE_PACKAGE
        assert request.part is not None
        part = request.part
        self.asked.append((site, part.offset, part.size_bytes))
        if (spoilt := self.spoil(site, request)) is not None:
            return spoilt
        stream = self.streams.get(site, b"")
        if part.offset <= len(stream):
            stream = stream[: part.offset] + part.package.read(part.offset, part.size_bytes)
        self.streams[site] = max(stream, self.streams.get(site, b""), key=len)
        if self.streams[site] == STREAM:
            return _receipt(site, accepted=True)
        return _receipt(site, bytes_held=len(self.streams[site]))


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    made = make_coordinator(tmp_path / "c", targets=TARGETS)
    file = made.folder / "coordinator.toml"
    file.write_text(file.read_text("utf-8") + "largest_part_bytes = 4096\n", encoding="utf-8")
    publish(made, MANIFEST, FILES)
    return open_home(made.folder)


@pytest.fixture
def store(home: CoordinatorHome) -> StudyStore:
    store = StudyStore(home.database_url, home.config)
    store.add_package(MANIFEST, from_site="hospital-a")
    return store


def _deliver(home: CoordinatorHome, store: StudyStore, sites: Sites) -> dict[str, SiteProgress]:
    statuses = {
        site: SiteStatus(
            site=site,
            code_version="0.1.0",
            source_package_ready=False,
            packages_held=(),
            round_state=RoundState.NONE,
            open_annotation_tasks=0,
            report_ready=False,
        )
        for site in TARGETS
    }
    deliver(home, store, sites, statuses)
    return store.progress(PACKAGE)


def test_the_manifest_goes_first_then_every_byte_once(
    home: CoordinatorHome, store: StudyStore
) -> None:
    sites = StreamSites()
    assert set(_deliver(home, store, sites).values()) == {SiteProgress.DELIVERED}
    for site in TARGETS:
        parts = [(offset, size) for name, offset, size in sites.asked if name == site]
        assert parts[0] == (0, 0)
        assert all(size <= 4096 for _, size in parts)
        assert [offset for offset, _ in parts[1:]] == list(range(0, len(STREAM), 4096))
        assert sum(size for _, size in parts) == stream_bytes(MANIFEST.files)


def test_a_silent_site_does_not_stop_the_others_and_goes_on_where_it_was(
    home: CoordinatorHome, store: StudyStore
) -> None:
    sites = StreamSites()
    sites.spoil = lambda site, request: (
        Silence("message_expired")
        if site == "hospital-b" and request.part and request.part.offset >= 8192
        else None
    )
    progress = _deliver(home, store, sites)
    assert progress == {"hospital-b": SiteProgress.PENDING, "hospital-c": SiteProgress.DELIVERED}
    record = store.sites()[1]
    assert (record.last_failure, record.bytes_held) == ("message_expired", 8192)
    before = len(sites.asked)
    sites.spoil = lambda _site, _request: None
    assert _deliver(home, store, sites)["hospital-b"] is SiteProgress.DELIVERED
    # hospital-c is asked too: this test's statuses never say that it holds the package
    again = [offset for site, offset, _ in sites.asked[before:] if site == "hospital-b"]
    assert again[:2] == [0, 8192]


def test_a_refusal_is_kept_by_its_rule(home: CoordinatorHome, store: StudyStore) -> None:
    refusing = StreamSites(lambda site, _request: _receipt(site, refused_by_rule="unknown_key"))
    assert set(_deliver(home, store, refusing).values()) == {SiteProgress.REFUSED}
    assert len(refusing.asked) == len(TARGETS)


@pytest.mark.parametrize(
    ("receipt", "rule"),
    [
        ({"site": "hospital-a"}, "wrong_receipt"),
        ({"package_id": "0" * 64, "accepted": True}, "wrong_receipt"),
        ({"bytes_held": len(STREAM)}, "wrong_receipt"),
        ({"bytes_held": 0}, "part_not_kept"),
    ],
)
def test_a_site_that_invents_receipts_is_left_alone(
    home: CoordinatorHome, store: StudyStore, receipt: dict[str, object], rule: str
) -> None:
    sites = StreamSites(
        lambda site, _request: (
            _receipt(**{"site": site} | receipt) if site == "hospital-b" else None
        )
    )
    progress = _deliver(home, store, sites)
    assert progress == {"hospital-b": SiteProgress.PENDING, "hospital-c": SiteProgress.DELIVERED}
    assert store.sites()[1].last_failure == rule
    assert len([site for site, *_ in sites.asked if site == "hospital-b"]) <= 2


def test_two_ticks_at_once_do_not_begin_a_delivery_twice(
    home: CoordinatorHome, store: StudyStore
) -> None:
    meanwhile = StreamSites()

    def another_tick(site: str, request: Request) -> None:
        if site == "hospital-b" and request.part and request.part.size_bytes == 0:
            _deliver(home, store, meanwhile)

    assert set(_deliver(home, store, StreamSites(another_tick)).values()) == {
        SiteProgress.DELIVERED
    }
    assert meanwhile.asked == []
    store.apply("hospital-b", PACKAGE, SiteEvent.RESEND_REQUESTED)
    _deliver(home, store, meanwhile)  # the lease was given back
    assert meanwhile.asked


def test_a_tick_that_lost_its_lease_stops(home: CoordinatorHome, store: StudyStore) -> None:
    def take_over(site: str, request: Request) -> None:
        if site == "hospital-b" and request.part and request.part.offset == 4096:
            _end_every_lease(store)

    sites = StreamSites(take_over)
    assert _deliver(home, store, sites)["hospital-b"] is SiteProgress.PENDING
    assert len(sites.streams["hospital-b"]) == 8192


def _end_every_lease(store: StudyStore) -> None:
    with Session(store._engine) as session, session.begin():
        session.execute(update(TransferRow).values(holder="another-machine/1/1/ab"))


def test_leases(store: StudyStore) -> None:
    gone = "another-machine/1/1/"  # as of a machine that cannot be asked
    take = store.take_lease
    assert take("hospital-b", PACKAGE, gone + "a", lease_s=60.0) is not None
    assert take("hospital-b", PACKAGE, gone + "b", lease_s=60.0) is None
    assert take("hospital-c", PACKAGE, gone + "b", lease_s=-1.0) is not None
    assert take("hospital-c", PACKAGE, gone + "c", lease_s=60.0) is not None  # was over
    store.end_lease("hospital-b", PACKAGE, gone + "b")  # not theirs
    assert take("hospital-b", PACKAGE, gone + "b", lease_s=60.0) is None
    store.end_lease("hospital-b", PACKAGE, gone + "a")
    row = take("hospital-b", PACKAGE, gone + "b", lease_s=60.0)
    assert row is not None
    assert row.holder == gone + "b"


def test_a_delivery_that_takes_long_is_left_to_the_next_tick(
    home: CoordinatorHome, store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_delivery, "TURN_S", -1.0)
    sites, ticks = StreamSites(), 0
    while SiteProgress.PENDING in _deliver(home, store, sites).values():
        ticks += 1
        assert store.sites()[1].last_failure is None  # no failure: it goes on
        monkeypatch.setattr(package_delivery, "TURN_S", 60.0 if ticks == 3 else -1.0)
    assert ticks == 3


@given(st.integers(1, 2**30), st.floats(-1.0, 1e6))
def test_parts_grow_and_shrink_by_bounded_steps(part_bytes: int, travel_s: float) -> None:
    fitted = next_part_bytes(part_bytes, travel_s)
    assert part_bytes // 2 <= fitted <= 4 * part_bytes


@pytest.mark.parametrize("bytes_per_s", [2e4, 1e6, 1e9])
def test_on_a_steady_link_parts_settle_at_ten_seconds_of_travel(bytes_per_s: float) -> None:
    size = 4 * 2**20
    for _ in range(30):
        size = min(max(next_part_bytes(size, size / bytes_per_s), 2**16), 2**24)
    assert size == pytest.approx(min(max(10.0 * bytes_per_s, 2**16), 2**24), rel=0.01)


# -- the watchdog ---------------------------------------------------------------------------------


def _made_older(store: StudyStore, seconds: float) -> None:
    """Let the time pass in which nothing came further."""
    with Session(store.engine) as session, session.begin():
        for row in session.scalars(select(DeliveryRow)):
            row.changed_at -= timedelta(seconds=seconds)


def _named(store: StudyStore, event: str) -> list[str]:
    return [row.site for row in store.events() if row.event == event]


def test_a_delivery_that_stalls_is_noticed_once_and_goes_on_with_the_site(
    home: CoordinatorHome, store: StudyStore
) -> None:
    sites = StreamSites()
    sites.spoil = lambda site, request: (
        Silence("message_expired")
        if site == "hospital-b" and request.part and request.part.offset >= 4096
        else None
    )
    _deliver(home, store, sites)
    assert store.note_stalled() == []
    limit_s = home.config.delivery_stalled_after_s
    _made_older(store, limit_s - 60)
    assert store.note_stalled() == []
    _made_older(store, 120)
    _deliver(home, store, sites)  # tries, and comes no further
    (record,) = store.note_stalled()  # hospital-c has it and is waited for by nobody
    assert (record.site, record.bytes_held) == ("hospital-b", 4096)
    assert record.last_failure == "message_expired"
    assert record.no_progress_since is not None
    assert store.note_stalled() == []
    assert store.sites()[1].stalled
    (noticed,) = [row for row in store.events() if row.event == DELIVERY_STALLED]
    assert noticed.detail["since"] == record.no_progress_since.isoformat()

    sites.spoil = lambda site, request: (  # one part more, and silent again
        Silence("message_expired")
        if site == "hospital-b" and request.part and request.part.offset > 4096
        else None
    )
    _deliver(home, store, sites)
    record = store.sites()[1]
    assert (record.stalled, record.bytes_held) == (False, 8192)
    assert _named(store, "delivery_goes_on") == ["hospital-b"]
    _made_older(store, limit_s + 60)  # a second time is told a second time
    assert [one.site for one in store.note_stalled()] == ["hospital-b"]
    sites.spoil = lambda _site, _request: None
    assert _deliver(home, store, sites)["hospital-b"] is SiteProgress.DELIVERED
    record = store.sites()[1]
    assert (record.stalled, record.no_progress_since) == (False, None)


def test_who_was_never_reached_is_noticed_and_a_disk_is_waited_for(
    home: CoordinatorHome, store: StudyStore
) -> None:
    _made_older(store, home.config.delivery_stalled_after_s + 1)
    config = home.config.model_copy(update={"air_gapped_sites": ("hospital-c",)})
    with StudyStore(home.database_url, config) as other:
        assert [one.site for one in other.note_stalled()] == ["hospital-b"]
        assert other.sites()[2].no_progress_since is not None
    store.apply("hospital-c", PACKAGE, SiteEvent.RECEIPT_REFUSED, rule="unknown_key")
    assert store.note_stalled() == []  # a rule names it, and a person has to act
