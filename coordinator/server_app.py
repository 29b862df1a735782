"""One run of the study: short, idempotent, and safe to repeat; the file that speaks Flower.

A tick asks every connected site for its status, publishes the source hospital's package once it is
ready, delivers it and the signed plan where they are missing, and collects the hospitals'
signatures under the plan, the reports that are ready and, where the plan asks for them, the model
updates. People take days between these steps, so no run waits for them: a run repeats ticks only up
to a goal, for a bounded time, and everything it learned is in the study database.
"""

import os
import re
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.superlink.grid import HttpGrid

from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.messages import SiteStatus
from coordinator.config import CoordinatorHome, open_home
from coordinator.package_delivery import deliver, publish_when_ready
from coordinator.plan_delivery import deliver_plan
from coordinator.plan_records import PlanRecords
from coordinator.report_collection import collect
from coordinator.sites import (
    BRING_FILES,
    LONGEST_ARRIVAL_S,
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
from coordinator.study_workflow import Goal, goal_reached
from coordinator.superlink_mailbox import SuperLinkMailbox
from coordinator.update_collection import collect_updates

# Names in the records on the wire; `site_agent/message_check.py` has the same ones.
ADDRESS, MESSAGE, QUESTION, PLAN = "address", "message", "question", "plan"
PACKAGE, FILES, PART = "package", "files", "part"
SHORTEST_POLL_S, POLL_S = 0.02, 0.2
PAUSE_BETWEEN_TICKS_S = 1.0
MOST_UNDER_WAY_BYTES = 64 * 2**20
MOST_FILES_AT_ONCE = (
    4  # sites that are asked for files, whose replies are held until they are whole
)
SLOW_S = 10.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run ticks up to the goal that the run configuration names."""
    home = open_home(Path(str(context.run_config["coordinator-home"])))
    goal = Goal(str(context.run_config.get("until", Goal.ONE_TICK.value)))
    patience_s = float(str(context.run_config.get("patience-s", 60)))
    tick_id = str(context.run_config.get("tick-id", ""))
    with StudyStore(home.database_url, home.config) as store:
        sites = FlowerSites(_mailbox(grid, home), home)
        end = time.monotonic() + patience_s
        while True:
            tick(home, store, sites)
            store.record_traffic(sites.bytes_to_site, sites.bytes_from_site)
            sites.bytes_to_site.clear()
            sites.bytes_from_site.clear()
            package_id = store.current_package()
            progress = store.progress(package_id) if package_id is not None else {}
            agreed = PlanRecords(store).is_agreed(package_id)
            done = goal_reached(goal, package_id is not None, progress.values(), agreed=agreed)
            if done or time.monotonic() > end:
                store.record_run(tick_id, goal, reached=done)
                return
            time.sleep(PAUSE_BETWEEN_TICKS_S)


def _mailbox(grid: Grid, home: CoordinatorHome) -> "Mailbox":
    if not isinstance(grid, HttpGrid):
        return cast("Mailbox", grid)  # of the embedded transport
    return SuperLinkMailbox(grid, largest_reply_bytes=home.config.largest_reply_bytes)


def tick(
    home: CoordinatorHome,
    store: StudyStore,
    sites: Sites,
    *,
    among: Collection[str] | None = None,
) -> None:
    """Do whatever can be done now; a silent or failing site never stops the others.

    `among` are the sites that it is about: without it, all that are reached over a network.
    """
    among = home.config.connected_sites if among is None else among
    act_on(home, store, sites, _ask_statuses(store, sites, among))


def act_on(
    home: CoordinatorHome, store: StudyStore, sites: Sites, statuses: Mapping[str, SiteStatus]
) -> None:
    """Do what follows from where sites said they stand."""
    publish_when_ready(home, store, sites, statuses)
    deliver(home, store, sites, statuses)
    deliver_plan(home, store, sites, statuses)
    collect(home, store, sites, statuses)
    collect_updates(home, store, sites, statuses)


def _ask_statuses(store: StudyStore, sites: Sites, among: Collection[str]) -> dict[str, SiteStatus]:
    revoked = store.revoked_sites()
    online = [site for site in sites.online() if site in among and site not in revoked]
    for site in set(among) - set(online):
        store.record_failure(site, "revoked" if site in revoked else "offline")
    statuses = {}
    for site, answer in sites.ask(Question.STATUS, online).items():
        try:
            status = parse_answer(answer, SiteStatus)
            if status.site != site:
                raise ProtocolError("wrong_site")
        except ProtocolError as error:
            store.record_failure(site, str(error))
            continue
        store.record_status(status)
        statuses[site] = status
    return statuses


class Mailbox(Protocol):
    """What is needed of a Flower grid: a disk has it too."""

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all sites."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return their ids."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""

    def is_arriving(self, message_id: str) -> bool:
        """Say whether a reply to this message has begun and is not whole."""


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")  # of a rule, or of a class of Python


class FlowerSites(Sites):
    """The sites behind a Flower grid, by the name they were registered with."""

    def __init__(self, grid: Mailbox, home: CoordinatorHome) -> None:
        self._grid = grid
        self._study = home.config.study
        self._ttl_s = home.config.message_ttl_s
        self._received = home.received if home.config.record_received else None
        self.bytes_to_site: Counter[str] = Counter()
        self.bytes_from_site: Counter[str] = Counter()

    def online(self) -> tuple[str, ...]:
        """Return the names of the sites that are connected."""
        return tuple(sorted(self._nodes()))

    def converse(self, conversations: Mapping[str, Conversation]) -> None:
        """Hold one conversation with each site until all have ended; none waits for another.

        Only connected sites are asked: polling for a disconnected one would consume the message.
        An answer that does not come while its message lives is the silence "message_expired"; files
        that have begun by then have some minutes more.
        """
        nodes = self._nodes()
        queue: deque[tuple[str, Request]] = deque()
        waiting: dict[str, _Sent] = {}
        pause_s = SHORTEST_POLL_S

        def go_on(site: str, answer: Answer | Silence) -> None:
            try:
                queue.append((site, conversations[site].send(answer)))
            except StopIteration:
                return

        for site, conversation in conversations.items():
            queue.extend((site, request) for request in _first(conversation))
        while queue or waiting:
            for site, silence in self._send(queue, waiting, nodes):
                go_on(site, silence)
            for reply in self._grid.pull_messages(list(waiting)) if waiting else ():
                # Flower's own error replies come from itself: only this id says whom they concern.
                sent = waiting.pop(reply.metadata.reply_to_message_id, None)
                if sent is not None:
                    pause_s = SHORTEST_POLL_S
                    took_s = time.monotonic() - sent.at
                    go_on(sent.site, self._receive(sent.site, sent.request.question, reply, took_s))
            for key, sent in list(waiting.items()):
                if time.monotonic() > sent.at + self._patience_s(key, sent):
                    del waiting[key]
                    go_on(sent.site, Silence("message_expired"))
            if waiting:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, POLL_S)

    def _send(
        self,
        queue: deque[tuple[str, Request]],
        waiting: dict[str, "_Sent"],
        nodes: Mapping[str, int],
    ) -> list[tuple[str, Silence]]:
        """Send what there is room for, and return who cannot be reached.

        Parts under way, and files that are asked for, take memory in every process that they pass,
        so few are at any time. One that has been for long belongs to a slow site: it keeps no room
        from the others.
        """
        now = time.monotonic()
        room = MOST_UNDER_WAY_BYTES - sum(
            _room_bytes(sent.request) for sent in waiting.values() if now - sent.at < SLOW_S
        )
        unreachable, sending, messages = [], [], []
        while queue and (room == MOST_UNDER_WAY_BYTES or _room_bytes(queue[0][1]) <= room):
            site, request = queue.popleft()
            if site not in nodes:
                unreachable.append((site, Silence("offline")))
                continue
            room -= _room_bytes(request)
            content = _content(request)
            content[ADDRESS] = ConfigRecord({"study": self._study, "site": site})
            message = Message(content, nodes[site], request.question.value, ttl=self._ttl_s)
            self.bytes_to_site[site] += sum(map(len, _wire_bytes(message)))
            sending.append(_Sent(site, request, now))
            messages.append(message)
        pushed = list(self._grid.push_messages(messages)) if messages else []
        # A grid that refuses a push says None in its place, or nothing at all.
        pushed += [""] * (len(messages) - len(pushed))
        for key, sent in zip(pushed, sending, strict=True):
            if key:
                waiting[key] = sent
            else:
                unreachable.append((sent.site, Silence("push_refused")))
        return unreachable

    def _patience_s(self, message_id: str, sent: "_Sent") -> float:
        bring_files = sent.request.question in BRING_FILES
        longer = bring_files and self._grid.is_arriving(message_id)
        return self._ttl_s + (LONGEST_ARRIVAL_S if longer else 0)

    def _nodes(self) -> dict[str, int]:
        return {n.name: n.node_id for n in self._grid.get_nodes() if n.status == "online"}

    def _receive(
        self, site: str, question: Question, reply: Message, took_s: float
    ) -> Answer | Silence:
        if reply.has_error():
            reason = reply.error.reason or ""
            return Silence(reason if _NAME.fullmatch(reason) else f"error_{reply.error.code}")
        objects = _wire_bytes(reply)
        self.bytes_from_site[site] += sum(map(len, objects))
        if self._received is not None:
            self._received.mkdir(parents=True, exist_ok=True)
            name = f"{time.time_ns()}-{site}-{question.value}.bin"
            (self._received / name).write_bytes(b"".join(objects))
        return _answer(reply.content, took_s)


@dataclass(frozen=True)
class _Sent:
    site: str
    request: Request
    at: float  # on the monotonic clock


def _first(conversation: Conversation) -> list[Request]:
    try:
        return [next(conversation)]
    except StopIteration:
        return []


def _room_bytes(request: Request) -> int:
    if request.question in BRING_FILES:  # how large they will be is not known yet
        return MOST_UNDER_WAY_BYTES // MOST_FILES_AT_ONCE
    return request.part.size_bytes if request.part is not None else 0


def _content(request: Request) -> RecordDict:
    content = RecordDict()
    if request.part is not None:
        _add_part(content, request.part)
    if request.package_id is not None:
        content[QUESTION] = ConfigRecord({"package_id": request.package_id})
    if request.signed_plan is not None:
        content[PLAN] = ConfigRecord({"signed": request.signed_plan})
    return content


def _add_part(content: RecordDict, part: PackagePart) -> None:
    package = part.package
    content[PACKAGE] = ConfigRecord(
        {"manifest": package.manifest, "signature": package.signature, "offset": part.offset}
    )
    if data := package.read(part.offset, part.size_bytes):
        content[FILES] = ArrayRecord({PART: Array("uint8", (len(data),), "raw", data)})


def _answer(content: RecordDict, took_s: float) -> Answer | Silence:
    record = content.config_records.get(MESSAGE)
    message = record.get("json") if record is not None else None
    if not isinstance(message, bytes):
        return Silence("no_message")
    arrays = content.array_records.get(FILES) or ArrayRecord()
    return Answer(message, {name: bytes(array.data) for name, array in arrays.items()}, took_s)


def _wire_bytes(message: Message) -> list[bytes]:
    """Return the objects of a message as Flower puts them on the wire."""
    return [item.deflate() for item in get_all_nested_objects(message).values()]
