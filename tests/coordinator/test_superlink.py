"""What one hospital pushes into the SuperLink takes nothing from the others: Flower's own state."""

import math
import secrets
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.federation.noop_federation_manager import NOOP_FEDERATION_ID
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers

from algorithms.contracts.unfolded_size import MOST_WORDS_BYTES
from coordinator.superlink import SUPERLINK_ID, ReplyGate

TTL_S = 60.0
MOST_BYTES = 8 * 2**20


class Run:
    """A run, two hospitals, and Flower's functions behind the gate."""

    def __init__(self, database: Path) -> None:
        self._database, self.study = database, ""
        objects = ObjectStoreFactory(str(database))
        self.state = LinkStateFactory(str(database), NoOpFederationManager(), objects).state()
        self.honest, self.hostile = self._register("hospital-b"), self._register("hospital-c")
        run_id = self.state.create_run(
            "fedgtv/study", "1", "0" * 64, {}, NOOP_FEDERATION_ID, None, "", TaskType.SERVER_APP
        )
        task_id = self.state.get_run_info(run_ids=[run_id])[0].primary_task_id
        assert task_id is not None
        assert self.state.claim_task(task_id)
        assert self.state.activate_task(task_id)
        self.task = Task(run_id=run_id, task_id=task_id)

    def _register(self, name: str) -> int:
        node = self.state.create_node("", "", secrets.token_bytes(20), TTL_S, name=name)
        assert self.state.activate_node(node, 1000)
        return node

    def ask(self, node: int) -> Message:
        """Have the ServerApp ask a node; what it says to one node is the same each time."""
        address = ConfigRecord({"study": self.study, "site": str(node)})
        return self._sent(
            make_message(
                metadata=Metadata(
                    *(self.task.run_id, "", SUPERLINK_ID, node, "", "", time.time(), TTL_S),
                    "query.status",
                ),
                content=RecordDict({"address": address}),
            )
        )

    def _sent(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = message.object_id
        envelope = message_to_proto(remove_content_from_message(message))
        request = PushAppMessagesRequest(
            messages_list=[envelope], message_object_trees=[get_object_tree(message)]
        )
        begun = runtime_handlers.push_messages(request, self.state, self.task)
        for name, content in contents(message).items():
            if name in begun.objects_to_push:
                assert self.state.store_object(self.task.run_id, begun.session_id, name, content)
        return message

    def take(self, node: int, question: Message) -> None:
        """Have a node take a question, which is then deleted."""
        store, us = self.state.object_store, Node(node_id=node)
        fleet_handlers.pull_messages(PullMessagesRequest(node=us), self.state, store)
        taken = ConfirmMessageReceivedRequest(
            node=us, run_id=self.task.run_id, message_object_id=question.object_id
        )
        fleet_handlers.confirm_message_received(taken, self.state, store)

    def reply(self, node: int, question: Message, words: bytes = b"{}", **lies: Any) -> Message:
        """Make a reply; `lies` stand in its envelope in place of the truth."""
        asked, now = question.metadata, time.time()
        truth: dict[str, Any] = {
            "run_id": asked.run_id,
            "message_id": "",
            "src_node_id": node,
            "dst_node_id": SUPERLINK_ID,
            "reply_to_message_id": asked.message_id,
            "group_id": "",
            "created_at": now,
            "ttl": asked.created_at + asked.ttl - now,
            "message_type": asked.message_type,
        }
        content = RecordDict({"message": ConfigRecord({"json": words + self.study.encode()})})
        message = make_message(metadata=Metadata(**(truth | lies)), content=content)
        message.metadata.__dict__["_message_id"] = message.object_id
        return message

    def begin(
        self, node: int, message: Message, tree: ObjectTree | None = None
    ) -> PushMessagesResponse:
        """Push an envelope, with another tree than its own if one is given."""
        tree = get_object_tree(message) if tree is None else tree
        envelope = message_to_proto(remove_content_from_message(message))
        envelope.metadata.message_id = tree.object_id
        request = PushMessagesRequest(
            node=Node(node_id=node), messages_list=[envelope], message_object_trees=[tree]
        )
        return fleet_handlers.push_messages(request, self.state)

    def push(self, node: int, session_id: str, content: bytes, name: str) -> bool:
        """Push one object, and say whether it was stored."""
        request = PushObjectRequest(
            node=Node(node_id=node),
            run_id=self.task.run_id,
            session_id=session_id,
            object_id=name,
            object_content=content,
        )
        return fleet_handlers.push_object(request, self.state).stored

    def send(self, node: int, message: Message) -> list[bool]:
        """Push a whole reply as a SuperNode does."""
        begun, objects = self.begin(node, message), contents(message)
        session = begun.session_id
        return [self.push(node, session, objects[n], n) for n in begun.objects_to_push]

    def sessions(self) -> int:
        """Return how many replies Flower waits for."""
        with closing(sqlite3.connect(self._database)) as state:
            [count] = state.execute("SELECT count(*) FROM object_push_sessions").fetchone()
        return int(count)

    def heard(self, *questions: Message) -> dict[str, str]:
        """Return who is heard in answer to these, by the question's id: an error by its reason."""
        asked = PullAppMessagesRequest(message_ids=[q.object_id for q in questions])
        found = runtime_handlers.pull_messages(asked, self.state, self.task).messages_list
        return {
            reply.metadata.reply_to_message_id: reply.error.reason
            if reply.HasField("error")
            else str(reply.metadata.src_node_id)
            for reply in found
        }


def contents(message: Message) -> dict[str, bytes]:
    return {name: item.deflate() for name, item in get_all_nested_objects(message).items()}


@pytest.fixture(scope="module")
def open_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("superlink") / "state.db")  # takes Flower four seconds


@pytest.fixture
def run(open_run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    replaced = [(fleet_handlers, "push_messages"), (fleet_handlers, "push_object")]
    replaced += [(runtime_handlers, "push_messages"), (runtime_handlers, "pull_messages")]
    for module, name in replaced:
        monkeypatch.setattr(module, name, getattr(module, name))  # put back in the end
    ReplyGate(MOST_BYTES).install()
    open_run.study = secrets.token_hex()  # no test meets objects of another
    return open_run


@pytest.mark.parametrize("name", ["ttl", "created_at"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_no_database_keeps_does_not_silence_the_others(
    run: Run, name: str, number: float
) -> None:
    theirs, ours = run.ask(run.hostile), run.ask(run.honest)
    with pytest.raises(HTTPException, match="malformed_reply"):
        run.begin(run.hostile, run.reply(run.hostile, theirs, **{name: number}))
    assert all(run.send(run.honest, run.reply(run.honest, ours)))
    assert run.heard(theirs, ours) == {ours.object_id: str(run.honest)}


def test_nothing_that_a_hospital_names_stands_in_the_log(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    before = run.sessions()
    asked, planted = run.ask(run.hostile), "MUELLER^HANS\nWARNING: hospital-b"
    nothing = run.begin(run.hostile, run.reply(run.hostile, asked, reply_to_message_id=planted))
    assert not nothing.objects_to_push
    tree = ObjectTree(object_id="ab" * 32, children=[ObjectTree(object_id=planted)])
    with pytest.raises(HTTPException, match="malformed_reply"):
        run.begin(run.hostile, run.reply(run.hostile, asked), tree)
    assert "MUELLER" not in "".join(capfd.readouterr())
    assert run.sessions() == before  # nothing is kept of what is refused


def test_a_reply_that_was_refused_is_not_taken_in_another_shape(run: Run) -> None:
    asked = run.ask(run.hostile)
    too_large = run.reply(run.hostile, asked, b" " * (MOST_WORDS_BYTES + 1))
    assert not any(run.send(run.hostile, too_large))
    assert run.send(run.hostile, run.reply(run.hostile, asked)) == []
    assert run.heard(asked) == {asked.object_id: "reply_too_large"}


def test_a_reply_in_the_name_of_another_run_is_refused(run: Run) -> None:
    asked = run.ask(run.hostile)
    with pytest.raises(HTTPException, match="malformed_reply"):
        run.begin(run.hostile, run.reply(run.hostile, asked, run_id=asked.metadata.run_id + 1))


def other_children(name: str) -> ObjectTree:
    """Say of an object that it has a child, which it has not."""
    child = ObjectTree(object_id=secrets.token_hex(32))
    contested = ObjectTree(object_id=name, children=[child])
    return ObjectTree(object_id=secrets.token_hex(32), children=[contested])


def test_who_guesses_what_the_coordinator_will_ask_does_not_keep_it_from_asking(run: Run) -> None:
    theirs, ours = run.ask(run.hostile), run.ask(run.honest)
    run.take(run.honest, ours)
    address = ours.content["address"].object_id
    run.begin(run.hostile, run.reply(run.hostile, theirs), other_children(address))
    again = run.ask(run.honest)
    assert all(run.send(run.honest, run.reply(run.honest, again)))
    assert run.heard(theirs, again) == {
        theirs.object_id: "contested_reply",
        again.object_id: str(run.honest),
    }


def test_who_guesses_what_another_hospital_will_say_does_not_silence_it(run: Run) -> None:
    theirs, ours = run.ask(run.hostile), run.ask(run.honest)
    honest = run.reply(run.honest, ours)
    words = honest.content["message"].object_id
    run.begin(run.hostile, run.reply(run.hostile, theirs), other_children(words))
    assert run.send(run.honest, honest) == [True] * 3
    assert run.heard(theirs, ours) == {
        theirs.object_id: "contested_reply",
        ours.object_id: str(run.honest),
    }


def test_an_object_with_other_children_than_announced_is_not_kept(run: Run) -> None:
    asked = run.ask(run.hostile)
    message = run.reply(run.hostile, asked, b"words")
    words = message.content["message"]
    begun = run.begin(run.hostile, message, other_children(words.object_id))
    assert not run.push(run.hostile, begun.session_id, words.deflate(), words.object_id)
    assert run.heard(asked) == {asked.object_id: "malformed_reply"}
