"""The mailbox of all connected sites: a SuperLink, as the ServerApp of a run sees it.

Flower's own grid waits, for hours if need be, for a reply that has begun, unfolds whatever came and
believes what a reply says of itself; what it cannot read ends the run for every site. Here a reply
is taken when it is whole, in no more memory than its question allows, and is told apart by its
envelope, which the SuperLink has checked. One that cannot be read is its own site's failure.

It stands on the inner functions of the pinned Flower; `tests/journeys/test_flower_contract.py`
says so when a new version changes them.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Error, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.common.serde import message_from_proto
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.superlink.grid import HttpGrid

from algorithms.contracts.unfolded_size import is_too_large
from coordinator.sites import TOO_LARGE, most_reply_bytes

ERROR_CODE = 100  # Flower's own lie below


class SuperLinkMailbox:
    """Sends questions through a grid, and takes the replies.

    Args:
        grid: of the run.
        largest_reply_bytes: as in `coordinator.toml`.
    """

    def __init__(self, grid: HttpGrid, *, largest_reply_bytes: int) -> None:
        self._grid, self._largest_reply_bytes = grid, largest_reply_bytes
        self._limits: dict[str, int] = {}
        self._arriving: dict[str, _Arriving] = {}

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all sites."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return their ids."""
        asked = list(messages)
        ids = list(self._grid.push_messages(asked))
        for message_id, message in zip(ids, asked, strict=False):  # none when all are refused
            kind = message.metadata.message_type
            self._limits[message_id] = most_reply_bytes(kind, self._largest_reply_bytes)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are whole; what nobody asks for any more is thrown away."""
        asked = set(message_ids)
        for question in self._arriving.keys() - asked:
            self._drop(question)
        if new := asked - self._arriving.keys():
            self._look_for(new)
        return [reply for question in asked if (reply := self._take(question)) is not None]

    def is_arriving(self, message_id: str) -> bool:
        """Say whether a reply to this message has begun and is not whole."""
        return message_id in self._arriving

    def _look_for(self, questions: set[str]) -> None:
        request = PullAppMessagesRequest(message_ids=sorted(questions))
        response = self._grid._runtime_client.PullMessages(request)
        found = zip(response.messages_list, response.message_object_trees, strict=True)
        for proto, tree in found:
            envelope = message_from_proto(proto)
            parts = dict.fromkeys(part.object_id for part in iterate_object_tree(tree))
            self._arriving[envelope.metadata.reply_to_message_id] = _Arriving(envelope, list(parts))

    def _take(self, question: str) -> Message | None:
        reply = self._arriving.get(question)
        if reply is None or not self._fetch(question, reply):
            return None
        self._drop(question)
        metadata = reply.envelope.metadata
        try:
            content = _content(metadata.message_id, reply.parts, self._limits[question])
        except Exception:  # whatever these bytes do, they are one site's
            content = Error(ERROR_CODE, "malformed_reply")
        if isinstance(content, Error):
            return make_message(metadata=metadata, error=content)
        return make_message(metadata=metadata, content=content)

    def _fetch(self, question: str, reply: "_Arriving") -> bool:
        """Fetch the parts that are there, and say whether these are all."""
        run_id = self._grid.run.run_id
        pull = make_pull_object_fn_protobuf(
            self._grid._runtime_client.PullObject, self._grid.node, run_id
        )
        while reply.missing:
            try:
                content = pull(reply.missing[0])
            except ObjectUnavailableError:
                return False
            except ObjectPullError:  # taken back, or given up: the SuperLink has a word about it
                del self._arriving[question]
                return False
            reply.parts[reply.missing.pop(0)] = content
        return True

    def _drop(self, question: str) -> None:
        """Have the SuperLink delete a reply."""
        reply = self._arriving.pop(question)
        confirm = make_confirm_message_received_fn_protobuf(
            self._grid._runtime_client.ConfirmMessageReceived,
            self._grid.node,
            self._grid.run.run_id,
        )
        confirm(reply.envelope.metadata.message_id)


@dataclass
class _Arriving:
    envelope: Message  # without its content
    missing: list[str]  # in the order in which a SuperNode sends them
    parts: dict[str, bytes] = field(default_factory=dict)


def _content(message_id: str, parts: dict[str, bytes], limit_bytes: int) -> RecordDict | Error:
    if is_too_large(parts, limit_bytes):
        return Error(ERROR_CODE, TOO_LARGE)
    whole = inflate_object_from_contents(message_id, parts)
    if not isinstance(whole, Message):
        raise TypeError("not a message")
    if whole.has_error():
        return whole.error
    if not isinstance(whole.content, RecordDict):
        raise TypeError("not a record")
    return whole.content
