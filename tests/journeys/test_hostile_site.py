"""One hospital keeps to no rule: it is refused by name, and the study goes on with the others.

A real SuperLink and real SuperNodes of the source, "hospital-a", and of "hospital-b". In place of
"hospital-c" a script of the test's own speaks the Fleet API with that hospital's key.
"""

import json
import math
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import Metadata as Asked
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from pydantic import BaseModel
from safetensors.numpy import save

from algorithms.contracts.messages import RoundState, SiteReportMessage, SiteStatus
from algorithms.contracts.model_package import MANIFEST_FILE, MODEL_FILE
from algorithms.contracts.unfolded_size import MOST_WORDS_BYTES
from coordinator import plans
from coordinator.config import CoordinatorHome
from coordinator.config import open_home as open_coordinator_home
from coordinator.flower_transport import start_site
from coordinator.loopback_deployment import LoopbackDeployment, free_port
from coordinator.loopback_keys import write_node_key
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal, SiteProgress
from site_agent.config import open_home
from site_agent.database import open_database
from tests.hostile_supernode import (
    Answering,
    HostileSuperNode,
    object_id,
    random_chunk,
    wire_object,
)
from tests.simulated_site import (
    file_entry,
    finish_round,
    make_study,
    prepare_source_package,
    refusals,
    tiny_package,
    tiny_report,
)
from tests.simulated_update import TERMS

pytestmark = [pytest.mark.journey, pytest.mark.xdist_group("hostile site")]

LIMIT_BYTES = 8 * 2**20
PART_BYTES = 2**18
PARTS = 400  # twelve times the limit
TTL_S = 30
SITE_EXECUTOR = "site_agent.site_executor"
Attack = Callable[["HostileHospital", Asked], None]


@dataclass
class HostileHospital:
    """Answers honestly, but for the attacks that it still has, one at a time."""

    node: HostileSuperNode
    package: str
    victim: int  # the node of hospital-b
    attacks: deque[tuple[str, Attack]] = field(default_factory=deque)
    plan: str | None = None
    reports: bool = False
    updates: bool = False
    stored: list[bool] = field(default_factory=list)
    largest_state_bytes: int = 0
    state: Path = Path()
    asked: list[str] = field(default_factory=list)

    def answer(self, asked: Asked) -> None:
        self.asked.append(asked.message_type)
        if self.attacks and self.attacks[0][0] == asked.message_type:
            self.attacks.popleft()[1](self, asked)
        elif asked.message_type == "query.status":
            self.say(asked, self.status())
        elif asked.message_type == "query.site_report":
            self.say(asked, SiteReportMessage(report=tiny_report("hospital-c", self.package)))
        else:
            self.say_bytes(asked, b"{}")

    def status(self, **changes: Any) -> SiteStatus:
        fields: dict[str, Any] = {
            "site": "hospital-c",
            "code_version": "0.1.0",
            "source_package_ready": False,
            "packages_held": (self.package,),
            "current_package": self.package,
            "round_state": RoundState.REPORTED,
            "open_annotation_tasks": 0,
            "report_ready": self.reports and "query.status" not in dict(self.attacks),
            "plan_held": self.plan,
            "plan_approved": self.plan if self.updates else None,
            "model_update_ready": self.updates,
        }
        return SiteStatus(**(fields | changes))

    def say(self, asked: Asked, message: BaseModel) -> None:
        self.say_bytes(asked, message.model_dump_json().encode())

    def say_bytes(self, asked: Asked, message: bytes) -> None:
        self.node.send(self.node.reply(asked, words(message)))


def words(message: bytes) -> RecordDict:
    return RecordDict({"message": ConfigRecord({"json": message})})


# -- what it does -------------------------------------------------------------------------------


def speak_for_hospital_b(site: HostileHospital, asked: Asked) -> None:
    site.say(asked, site.status(site="hospital-b"))


def say_nothing_but_an_envelope(site: HostileHospital, asked: Asked) -> None:
    tree = ObjectTree(object_id="ab" * 32, children=[ObjectTree(object_id="cd" * 32)])
    site.node.begin(site.node.reply(asked, words(b"")), tree)


def announce_ten_gigabytes(site: HostileHospital, asked: Asked) -> None:
    chunks = [ObjectTree(object_id=secrets.token_hex(32)) for _ in range(10 * 2**30 // (5 * 2**20))]
    tree = ObjectTree(object_id=secrets.token_hex(32), children=chunks)
    begun = site.node.begin(site.node.reply(asked, words(b"")), tree)
    assert not begun.objects_to_push


def say_too_many_words(site: HostileHospital, asked: Asked) -> None:
    message = site.node.reply(asked, words(b" " * (MOST_WORDS_BYTES + 1)))
    assert False in site.node.send(message)


def push_for_ever(site: HostileHospital, asked: Asked) -> None:
    """What would be a reply of gigabytes; it goes on when it is refused."""
    parts = [random_chunk(PART_BYTES) for _ in range(PARTS)]
    tree = ObjectTree(
        object_id="ef" * 32, children=[ObjectTree(object_id=object_id(part)) for part in parts]
    )
    message = site.node.reply(asked, words(b""))
    session = site.node.begin(message, tree).session_id
    for part in parts:
        site.stored += site.node.push(message, session, [part])
        size = sum(file.stat().st_size for file in site.state.parent.glob(f"{site.state.name}*"))
        site.largest_state_bytes = max(site.largest_state_bytes, size)


def unfold(site: HostileHospital, asked: Asked) -> None:
    """One megabyte, a hundred thousand times: a hundred gigabytes in whoever reads it."""
    chunk = random_chunk(2**20)
    shape = {"dtype": "uint8", "shape": [1], "stype": "raw", "arraychunk_ids": [0] * 100_000}
    array = wire_object("Array", json.dumps(shape).encode(), [object_id(chunk)])
    arrays = wire_object("ArrayRecord", _names("large", array), [object_id(array)])
    record = wire_object("RecordDict", _names("files", arrays), [object_id(arrays)])
    message = site.node.reply(asked, words(b""))
    assert all(site.node.send_objects(message, [chunk, array, arrays, record]))


def send_what_nobody_can_read(site: HostileHospital, asked: Asked) -> None:
    config = wire_object("ConfigRecord", b"\xff\xff no message at all")
    record = wire_object("RecordDict", _names("message", config), [object_id(config)])
    message = site.node.reply(asked, words(b""))
    assert all(site.node.send_objects(message, [config, record]))


def _names(name: str, content: bytes) -> bytes:
    return json.dumps({name: object_id(content)}).encode()


def lie_in_the_envelope(site: HostileHospital, asked: Asked) -> None:
    """Pose as the coordinator before hospital-b, and as hospital-b before the coordinator."""
    victim = site.victim
    order: dict[str, Any] = {"src_node_id": 1, "dst_node_id": victim, "reply_to_message_id": ""}
    for lies in (order, {"src_node_id": victim}):
        with pytest.raises(httpx.HTTPStatusError, match="400"):
            site.node.send(site.node.reply(asked, words(b"{}"), **lies))
    site.say(asked, site.status())


def report(change: Callable[[dict[str, Any]], object]) -> Attack:
    """Report something else than what was measured."""

    def attack(site: HostileHospital, asked: Asked) -> None:
        honest = SiteReportMessage(report=tiny_report("hospital-c", site.package))
        said = json.loads(honest.model_dump_json())
        change(said["report"])
        site.say_bytes(asked, json.dumps(said).encode())

    return attack


def _dsc(report: dict[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = report["arms"][0]["dsc"]
    return figures


NO_REPORT = "not_a_SiteReportMessage"
ATTACKS: list[tuple[str, Attack, str | None]] = [
    ("query.status", lie_in_the_envelope, None),  # in the SuperLink's log alone: it fools nobody
    ("query.status", speak_for_hospital_b, "wrong_site"),
    # The same failure twice in a row is one event.
    ("query.status", announce_ten_gigabytes, "reply_too_large"),
    ("query.status", send_what_nobody_can_read, "malformed_reply"),
    ("query.status", say_too_many_words, "reply_too_large"),
    ("query.status", say_nothing_but_an_envelope, "message_expired"),
    ("query.status", push_for_ever, "reply_too_large"),
    ("query.status", speak_for_hospital_b, "wrong_site"),
    ("query.status", unfold, "reply_too_large"),
    ("query.site_report", report(lambda r: r.update(site="hospital-b")), "wrong_site"),
    ("query.site_report", report(lambda r: r.update(package_id="0" * 64)), "wrong_package"),
    ("query.site_report", report(lambda r: _dsc(r).update(mean=math.nan)), NO_REPORT),
    ("query.site_report", report(lambda r: r["arms"][0].update(patients=-6)), NO_REPORT),
    ("query.site_report", report(lambda r: r["arms"][0].update(patients=10**12)), NO_REPORT),
    ("query.site_report", report(lambda r: _dsc(r).update(n=7)), NO_REPORT),  # of six patients
]


# -- what becomes of it -------------------------------------------------------------------------


@dataclass
class Study:
    """What runs."""

    coordinator: CoordinatorHome
    homes: dict[str, Path]
    deployment: LoopbackDeployment
    nodes: dict[str, int]
    hostile: HostileSuperNode

    def run(self, goal: Goal = Goal.ONE_TICK, *, patience_s: float = 0.0) -> None:
        self.deployment.client.run_study(self.coordinator, goal, patience_s=patience_s)

    def store(self) -> StudyStore:
        return StudyStore(self.coordinator.database_url, self.coordinator.config)

    def failures(self, site: str) -> list[str]:
        """Return why a site gave no usable answer, oldest first."""
        with self.store() as store:
            events = [e for e in store.events() if (e.event, e.site) == ("site_failed", site)]
        return [event.detail["failure"] for event in events]

    def memory_bytes(self) -> int:
        """Return the most memory that the SuperLink has had."""
        status = Path(f"/proc/{self.deployment.superlink.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return 1024 * int(line.split()[1])

    def is_alive(self, site: str) -> bool:
        """Say whether the node of a site is connected."""
        return self.nodes[site] in self.deployment.online()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    folder = tmp_path_factory.mktemp("hostile")
    coordinator, homes = make_study(folder, "hospital-b", "hospital-c")
    with (coordinator.folder / "coordinator.toml").open("a") as settings:
        settings.write(f"largest_reply_bytes = {LIMIT_BYTES}\nmessage_ttl_s = {TTL_S}\n")
    coordinator = open_coordinator_home(coordinator.folder)
    with ExitStack() as stack:
        deployment = stack.enter_context(
            LoopbackDeployment(
                coordinator.flower / "loopback",
                largest_reply_bytes=coordinator.config.largest_reply_bytes,
            )
        )
        deployment.client.write_app()
        nodes = {
            site: start_site(deployment, site, homes[site], site_executor=SITE_EXECUTOR)
            for site in ("hospital-a", "hospital-b")
        }
        write_node_key(homes["hospital-c"])
        nodes["hospital-c"] = deployment.register("hospital-c", homes["hospital-c"] / "node.pub")
        honest = {nodes["hospital-a"], nodes["hospital-b"]}
        deployment.wait_for("not every site connected", lambda: deployment.online() == honest)
        hostile = HostileSuperNode(deployment, homes["hospital-c"])
        yield Study(coordinator, homes, deployment, nodes, hostile)


def test_an_honest_site_that_says_too_much_at_once_is_heard_when_it_says_less(
    study: Study,
) -> None:
    home = study.homes["hospital-a"]
    rng = np.random.default_rng(0)
    _, files = tiny_package()
    files[MODEL_FILE] = save({"large": rng.normal(size=LIMIT_BYTES // 4).astype(np.float32)})
    manifest, _ = tiny_package(files={name: file_entry(data) for name, data in files.items()})
    folder = home / "source-package"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST_FILE).write_bytes(manifest.signed_bytes())
    study.run()
    assert study.failures("hospital-a") == ["reply_too_large"]
    assert "Refused a reply of site hospital-a" in study.deployment.log.read_text()
    assert study.is_alive("hospital-a")

    shutil.rmtree(folder)
    offered = prepare_source_package(home)
    study.run(Goal.PUBLISHED, patience_s=30)
    with study.store() as store:
        assert store.current_package() == offered.package_id
    assert study.failures("hospital-a") == ["reply_too_large"]


def test_a_hospital_that_keeps_to_no_rule_is_refused_by_name_and_the_study_goes_on(
    study: Study,
) -> None:
    assert study.hostile.activate() == study.nodes["hospital-c"]
    with study.store() as store:
        package = store.current_package()
        assert package is not None
    site = HostileHospital(study.hostile, package, study.nodes["hospital-b"])
    site.state = study.deployment.folder / "state.db"
    with Answering(study.hostile, site.answer) as answering:
        study.run(Goal.DELIVERED, patience_s=30)
        with study.store() as store:
            now = datetime.now(UTC).replace(tzinfo=None)
            draft = plans.draft_plan(
                study.coordinator,
                store,
                valid_days=9,
                minimum_patients=1,
                minimum_group_size=5,
                model_updates=TERMS,
                now=now,
            )
            site.plan = plans.sign_plan(study.coordinator, store, draft, now=now).plan_sha256
        engine = open_database(open_home(study.homes["hospital-b"]).database_url)
        honest = finish_round(engine, "hospital-b", package)

        assert study.failures("hospital-c") == ["offline"]  # until now
        before, site.reports = study.memory_bytes(), True
        site.attacks += [(question, attack) for question, attack, _ in ATTACKS]
        study.run(Goal.REPORTED, patience_s=480)
        assert not answering.failures
        assert not site.attacks
        refused = study.failures("hospital-c")[1:]
        assert refused == [rule for _, _, rule in ATTACKS if rule is not None]
        assert study.deployment.log.read_text().count(": another_sender") == 2
        assert refusals(engine) == []  # nothing of it came to the honest hospital
        with study.store() as store:
            # Whoever was refused is heard again: in the end it reported as it should.
            assert set(store.progress(package).values()) == {SiteProgress.REPORTED}
            assert store.reports(package)[0] == honest
            reports = store.reports(package)
        most = MOST_WORDS_BYTES // len(random_chunk(PART_BYTES))
        assert site.stored == [True] * most + [False] * (PARTS - most)

        # It has reported: another report in its place is not asked for, nor the same one again.
        asked = site.asked.count("query.site_report")
        study.run()
        assert site.asked.count("query.site_report") == asked

        # Files may be larger, up to the limit.
        site.stored.clear()
        site.updates = True
        site.attacks.append(("query.model_update", push_for_ever))
        study.run()
    assert not answering.failures
    most = LIMIT_BYTES // len(random_chunk(PART_BYTES))
    assert site.stored == [True] * most + [False] * (PARTS - most)
    assert study.failures("hospital-c")[-1] == "reply_too_large"
    assert site.largest_state_bytes < 4 * LIMIT_BYTES  # with the write-ahead log
    assert study.memory_bytes() - before < 64 * 2**20
    with study.store() as store:
        assert store.reports(package) == reports
    assert study.is_alive("hospital-a")
    assert study.is_alive("hospital-b")


def test_who_has_no_registered_key_or_says_anothers_name_is_refused(
    study: Study, tmp_path: Path
) -> None:
    write_node_key(tmp_path)
    stranger = HostileSuperNode(study.deployment, tmp_path)
    with pytest.raises(httpx.HTTPStatusError):
        stranger.activate()
    victim = Node(node_id=study.nodes["hospital-b"])
    for somebody in (stranger, study.hostile):
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            somebody.client.PullMessages(PullMessagesRequest(node=victim))
    online = study.deployment.online()
    name = ("--node-config", 'site="hospital-b"')
    supernode = study.deployment.start_supernode(tmp_path, *name, port=free_port())
    assert supernode.wait(60) != 0
    assert "No SuperNode found with the given public key" in study.deployment.log.read_text()
    assert study.deployment.online() == online
