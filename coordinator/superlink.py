"""Starts Flower's SuperLink so that no hospital can fill its disk or speak for another.

    python -m coordinator.superlink --largest-reply-bytes BYTES OPTIONS OF flower-superlink

Flower 1.41 takes a reply of any size: first its envelope with the ids of its objects, then each
object by itself; it lets a node send messages under the coordinator's id, and reply under another
node's; and it refuses an object of which somebody said before that it has other children. Here four
of its functions are replaced: what takes an envelope, what takes an object, what takes questions of
the ServerApp and what gives it the replies. The rest is `flower-superlink`.

Of a reply that becomes too large nothing is kept, and an error with the name of the rule stands in
its place. The SuperNode is told that an object was not stored; it gives the reply up and goes on.
"""

import argparse
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from logging import WARNING
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from fastapi import HTTPException
from flwr.app import Error
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest, PushObjectResponse
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore import log
from flwr.supercore.inflatable.inflatable_object import (
    get_object_children_ids_from_object_content,
    get_object_tree,
    is_valid_sha256_hash,
    iterate_object_tree,
)
from flwr.supercore.utils import int64_to_uint64
from flwr.superlink.cli import flower_superlink
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers

from coordinator.sites import TOO_LARGE, most_reply_bytes

ERROR_CODE = 100  # Flower's own lie below
SUPERLINK_ID = 1
MOST_ENVELOPE_BYTES = 64 * 2**10  # names nine hundred objects, each of up to 5 MiB
REMEMBERED_S = 3600.0  # of a reply that was begun, and of a refusal; a question lives some minutes


@dataclass
class _Reply:
    """A reply that was begun."""

    node_id: int
    run_id: int
    question: str  # id of the message that it answers
    root: str  # id of the reply
    limit_bytes: int
    children: dict[str, set[str]]  # of each object, as the envelope says
    missing: int = 0  # objects to come
    bytes_kept: int = 0
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Refusal:
    run_id: int
    rule: str
    at: float = field(default_factory=time.monotonic)


class ReplyGate:
    """What takes replies from the SuperNodes, within limits, and gives them to the ServerApp.

    Args:
        largest_reply_bytes: as in `coordinator.toml`.
    """

    def __init__(self, largest_reply_bytes: int) -> None:
        self._largest_reply_bytes = largest_reply_bytes
        self._lock = threading.Lock()  # of what follows
        self._envelopes = threading.Lock()  # of who begins a message; taken before the other
        self._replies: dict[str, _Reply] = {}  # by the session in which their objects come
        self._refusals: dict[str, _Refusal] = {}  # by the id of the message that was answered

    def install(self) -> None:
        """Put this in place of Flower's own functions, in this process."""
        self._push_messages = fleet_handlers.push_messages
        self._push_object = fleet_handlers.push_object
        self._push_questions = runtime_handlers.push_messages
        self._pull_messages = runtime_handlers.pull_messages
        fleet_handlers.push_messages = self.push_messages
        fleet_handlers.push_object = self.push_object
        runtime_handlers.push_messages = self.push_questions
        runtime_handlers.pull_messages = self.pull_messages

    def push_messages(self, request: PushMessagesRequest, state: Any) -> PushMessagesResponse:
        """Take the envelope of a reply.

        Raises:
            HTTPException: it is no reply of this node's own to what it was asked.
        """
        node_id = request.node.node_id
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise self._rejected(state, node_id, "malformed_reply")
        [message], [tree] = request.messages_list, request.message_object_trees
        question = message.metadata.reply_to_message_id
        if message.metadata.src_node_id != node_id or not question:
            raise self._rejected(state, node_id, "another_sender")
        if not _is_well_formed(message.metadata, tree):
            raise self._rejected(state, node_id, "malformed_reply")
        asked = state.get_valid_message_ins(question)
        if asked is None or question in self._refusals:
            # Too late, or sent again. Flower would write what stands for the question into its log.
            return PushMessagesResponse(results={tree.object_id: 0})
        if int64_to_uint64(asked["dst_node_id"]) != node_id:
            raise self._rejected(state, node_id, "another_sender")
        if int64_to_uint64(asked["run_id"]) != message.metadata.run_id:
            raise self._rejected(state, node_id, "malformed_reply")
        reply = _Reply(
            node_id=node_id,
            run_id=message.metadata.run_id,
            question=question,
            root=tree.object_id,
            limit_bytes=most_reply_bytes(asked["message_type"], self._largest_reply_bytes),
            children=_children([tree]),
        )
        if request.ByteSize() > MOST_ENVELOPE_BYTES:
            self._refuse(state, reply, TOO_LARGE)
            return PushMessagesResponse(results={reply.root: 0})
        with self._envelopes:
            self._make_way(state, reply.children)
            response = self._push_messages(request=request, state=state)
            self._begin(reply, response)
        return response

    def _begin(self, reply: _Reply, response: PushMessagesResponse) -> None:
        with self._lock:
            self._forget_old()
            for session_id, before in list(self._replies.items()):
                if before.root == reply.root:  # sent again: Flower has ended the first session
                    reply.bytes_kept = before.bytes_kept
                    del self._replies[session_id]
            if response.objects_to_push:
                reply.missing = len(response.objects_to_push)
                self._replies[response.session_id] = reply

    def push_object(self, request: PushObjectRequest, state: Any) -> PushObjectResponse:
        """Take an object of a reply that has begun, or say that it was not stored."""
        size_bytes = len(request.object_content)
        with self._lock:
            reply = self._replies.get(request.session_id)
            if reply is None or reply.node_id != request.node.node_id:
                return PushObjectResponse(stored=False)
            reply.bytes_kept += size_bytes  # before it is stored: others may come meanwhile
        if reply.bytes_kept > reply.limit_bytes:
            self._give_up(state, request.session_id, TOO_LARGE)
            return PushObjectResponse(stored=False)
        if not _is_as_announced(reply, request):
            self._give_up(state, request.session_id, "malformed_reply")
            return PushObjectResponse(stored=False)
        response = self._push_object(request=request, state=state)
        with self._lock:
            if response.stored:
                reply.missing -= 1
            else:
                reply.bytes_kept -= size_bytes
            if reply.missing == 0:
                self._replies.pop(request.session_id, None)
        return response

    def pull_messages(
        self, request: PullAppMessagesRequest, state: Any, task: Any
    ) -> PullAppMessagesResponse:
        """Give the ServerApp the replies that are there, and an error for each that was refused."""
        with self._lock:
            refused = {
                question: self._refusals.pop(question)
                for question in request.message_ids
                if question in self._refusals and self._refusals[question].run_id == task.run_id
            }
        others = [question for question in request.message_ids if question not in refused]
        rest = PullAppMessagesRequest()
        rest.CopyFrom(request)
        del rest.message_ids[:]
        rest.message_ids.extend(others)
        response = self._pull_messages(rest, state, task)
        state.delete_messages(set(refused))
        for question, refusal in refused.items():
            error = _error(question, refusal)
            state._store_generated_message(error)
            response.messages_list.append(message_to_proto(error))
            response.message_object_trees.append(get_object_tree(error))
        return response

    def push_questions(
        self, request: PushAppMessagesRequest, state: Any, task: Any
    ) -> PushAppMessagesResponse:
        """Take what the ServerApp asks; no reply that is under way stands in its way."""
        with self._envelopes:
            self._make_way(state, _children(request.message_object_trees))
            return self._push_questions(request, state, task)

    def _make_way(self, state: Any, children: Mapping[str, set[str]]) -> None:
        """Give up every reply that says of one of these objects that it has other children.

        Flower would refuse who comes second, and it may be a question. What an object holds is easy
        to guess, such as whom the coordinator speaks to; the children that it has are in it, but
        who announces others need not send it.
        """
        with self._lock:
            in_the_way = [
                session_id
                for session_id, reply in self._replies.items()
                if any(reply.children.get(name, said) != said for name, said in children.items())
            ]
        for session_id in in_the_way:
            self._give_up(state, session_id, "contested_reply")

    def _give_up(self, state: Any, session_id: str, rule: str) -> None:
        with self._lock:
            reply = self._replies.pop(session_id, None)
        if reply is not None:
            state._cleanup_push_session(session_id, cleanup_messages=True)
            self._refuse(state, reply, rule)

    def _refuse(self, state: Any, reply: _Reply, rule: str) -> None:
        with self._lock:
            self._refusals[reply.question] = _Refusal(reply.run_id, rule)
        self._say(state, reply.node_id, rule)

    def _rejected(self, state: Any, node_id: int, rule: str) -> HTTPException:
        self._say(state, node_id, rule)
        return HTTPException(status_code=400, detail=rule)

    def _say(self, state: Any, node_id: int, rule: str) -> None:
        [node] = state.get_node_info(node_ids=[node_id])
        log(WARNING, "Refused a reply of site %s, node %s: %s", node.name, node_id, rule)

    def _forget_old(self) -> None:
        oldest = time.monotonic() - REMEMBERED_S
        self._replies = {key: r for key, r in self._replies.items() if r.at > oldest}
        self._refusals = {key: r for key, r in self._refusals.items() if r.at > oldest}


def _is_well_formed(metadata: ProtoMetadata, tree: ObjectTree) -> bool:
    """Say whether Flower can store this, and give it to the ServerApp.

    SQLite keeps no NaN: what comes back in its place ends the run, for every site.
    """
    ids = (part.object_id for part in iterate_object_tree(tree))
    return (
        metadata.message_id == tree.object_id
        and math.isfinite(metadata.created_at)
        and math.isfinite(metadata.ttl)
        and all(is_valid_sha256_hash(object_id) for object_id in ids)
    )


def _children(trees: Iterable[ObjectTree]) -> dict[str, set[str]]:
    parts = (part for tree in trees for part in iterate_object_tree(tree))
    return {part.object_id: {child.object_id for child in part.children} for part in parts}


def _is_as_announced(reply: _Reply, request: PushObjectRequest) -> bool:
    try:
        children = get_object_children_ids_from_object_content(request.object_content)
    except ValueError:
        return False
    return reply.children.get(request.object_id) == set(children)


def _error(question: str, refusal: _Refusal) -> Any:
    metadata = Metadata(
        run_id=refusal.run_id,
        message_id="",
        src_node_id=SUPERLINK_ID,
        dst_node_id=SUPERLINK_ID,
        reply_to_message_id=question,
        group_id="",
        message_type="system",
        created_at=time.time(),
        ttl=0,
    )
    message = make_message(metadata=metadata, error=Error(ERROR_CODE, refusal.rule))
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def main() -> None:
    """Run the SuperLink until it is ended."""
    parser = argparse.ArgumentParser(
        prog="python -m coordinator.superlink", add_help=False, allow_abbrev=False
    )
    parser.add_argument("--largest-reply-bytes", type=int, required=True)
    ours, flowers = parser.parse_known_args()
    ReplyGate(ours.largest_reply_bytes).install()
    sys.argv = ["flower-superlink", *flowers]
    flower_superlink()


if __name__ == "__main__":
    main()
