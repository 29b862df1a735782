"""One run of the study: short, idempotent, and safe to repeat; the file that speaks Flower.

A tick asks every connected site for its status, publishes the source hospital's package once it is
ready, delivers it and the signed plan where they are missing, and collects the hospitals'
signatures under the plan and the reports that are ready. People take days
between these steps, so no run waits for them: a run repeats ticks only up to a goal, for a bounded
time, and everything it learned is in the study database.
"""

import os
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.messages import SiteStatus
from coordinator.config import CoordinatorHome, open_home
from coordinator.package_delivery import deliver, publish_when_ready
from coordinator.package_publisher import SignedPackage
from coordinator.plan_delivery import deliver_plan
from coordinator.plan_records import PlanRecords
from coordinator.report_collection import collect
from coordinator.sites import Answer, Question, Silence, Sites, parse_answer
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal, goal_reached

# Names in the records on the wire; `site_agent/message_check.py` has the same ones.
ADDRESS, MESSAGE, PACKAGE, QUESTION, FILES = "address", "message", "package", "question", "files"
PLAN = "plan"
POLL_S = 0.2
PAUSE_BETWEEN_TICKS_S = 1.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run ticks up to the goal that the run configuration names."""
    home = open_home(Path(str(context.run_config["coordinator-home"])))
    goal = Goal(str(context.run_config.get("until", Goal.ONE_TICK.value)))
    patience_s = float(str(context.run_config.get("patience-s", 60)))
    tick_id = str(context.run_config.get("tick-id", ""))
    with StudyStore(home.database_url, home.config) as store:
        sites = FlowerSites(grid, home)
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


def tick(home: CoordinatorHome, store: StudyStore, sites: Sites) -> None:
    """Do whatever can be done now; a silent or failing site never stops the others."""
    statuses = _ask_statuses(home, store, sites)
    publish_when_ready(home, store, sites, statuses)
    deliver(home, store, sites, statuses)
    deliver_plan(home, store, sites, statuses)
    collect(home, store, sites, statuses)


def _ask_statuses(home: CoordinatorHome, store: StudyStore, sites: Sites) -> dict[str, SiteStatus]:
    revoked = store.revoked_sites()
    online = [site for site in sites.online() if site in home.config.sites and site not in revoked]
    for site in set(home.config.sites) - set(online):
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


class FlowerSites:
    """The sites behind a Flower grid, by the name they were registered with."""

    def __init__(self, grid: Grid, home: CoordinatorHome) -> None:
        self._grid = grid
        self._study = home.config.study
        self._ttl_s = home.config.message_ttl_s
        self._received = home.received if home.config.record_received else None
        self.bytes_to_site: Counter[str] = Counter()
        self.bytes_from_site: Counter[str] = Counter()

    def online(self) -> tuple[str, ...]:
        """Return the names of the sites that are connected."""
        return tuple(sorted(self._nodes()))

    def ask(
        self,
        question: Question,
        sites: Collection[str],
        *,
        package: SignedPackage | None = None,
        package_id: str | None = None,
        signed_plan: bytes | None = None,
    ) -> dict[str, Answer | Silence]:
        """Ask several sites at once and wait for them until the messages expire.

        Only connected sites are asked: polling for a disconnected one would consume the message.
        """
        nodes = self._nodes()
        answers: dict[str, Answer | Silence] = {site: Silence("offline") for site in sites}
        messages = {}
        for site in filter(nodes.__contains__, sites):
            content = _question(package, package_id, signed_plan)
            content[ADDRESS] = ConfigRecord({"study": self._study, "site": site})
            messages[site] = Message(content, nodes[site], question.value, ttl=self._ttl_s)
        pushed = self._grid.push_messages(list(messages.values()))
        # A grid that refuses a push says None in its place, or nothing at all.
        waiting = {key: site for key, site in zip(pushed, messages, strict=False) if key}
        for site, message in messages.items():
            answers[site] = Silence("no_answer")
            self.bytes_to_site[site] += sum(map(len, _wire_bytes(message)))
        end = time.monotonic() + self._ttl_s
        while waiting and time.monotonic() < end:
            for reply in self._grid.pull_messages(list(waiting)):
                # Flower's own error replies come from itself: only this id says whom they concern.
                site = waiting.pop(reply.metadata.reply_to_message_id, "")
                if site:
                    answers[site] = self._receive(site, question, reply)
            if waiting:
                time.sleep(POLL_S)
        return answers

    def _nodes(self) -> dict[str, int]:
        return {n.name: n.node_id for n in self._grid.get_nodes() if n.status == "online"}

    def _receive(self, site: str, question: Question, reply: Message) -> Answer | Silence:
        if reply.has_error():
            reason = reply.error.reason or ""
            return Silence(reason if reason.isidentifier() else f"error_{reply.error.code}")
        objects = _wire_bytes(reply)
        self.bytes_from_site[site] += sum(map(len, objects))
        if self._received is not None:
            self._received.mkdir(parents=True, exist_ok=True)
            name = f"{time.time_ns()}-{site}-{question.value}.bin"
            (self._received / name).write_bytes(b"".join(objects))
        return _answer(reply.content)


def _question(
    package: SignedPackage | None, package_id: str | None, signed_plan: bytes | None
) -> RecordDict:
    content = RecordDict()
    if package is not None:
        content[PACKAGE] = ConfigRecord(
            {"manifest": package.manifest, "signature": package.signature}
        )
        arrays = {n: Array("uint8", (len(d),), "raw", d) for n, d in package.files.items()}
        content[FILES] = ArrayRecord(arrays)
    if package_id is not None:
        content[QUESTION] = ConfigRecord({"package_id": package_id})
    if signed_plan is not None:
        content[PLAN] = ConfigRecord({"signed": signed_plan})
    return content


def _answer(content: RecordDict) -> Answer | Silence:
    record = content.config_records.get(MESSAGE)
    message = record.get("json") if record is not None else None
    if not isinstance(message, bytes):
        return Silence("no_message")
    arrays = content.array_records.get(FILES) or ArrayRecord()
    return Answer(message, {name: bytes(array.data) for name, array in arrays.items()})


def _wire_bytes(message: Message) -> list[bytes]:
    """Return the objects of a message as Flower puts them on the wire."""
    return [item.deflate() for item in get_all_nested_objects(message).values()]
