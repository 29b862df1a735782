"""A disk as the mailbox of one site: what is asked goes into a bundle, answers come out of one.

Messages are those of the network, content for content: `FlowerSites` speaks to a disk as it speaks
to a grid, so that whatever can be asked online can be asked here.
"""

import os
from collections.abc import Iterable
from typing import BinaryIO

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from algorithms.contracts.bundle import CarriedMessage
from algorithms.contracts.unfolded_size import is_too_large
from algorithms.sealed_bundle import SealedWriter, read_message, read_messages
from coordinator.config import LARGEST_REPLY_BYTES
from coordinator.sites import IN_BUNDLE

NOT_ASKED = "not_asked_yet"  # the next bundle will
TOO_LARGE = -1  # in place of a position
NODE_ID, ERROR_CODE = 1, 100


class BundleMailbox:
    """The mailbox of an air-gapped site.

    Args:
        site: its name.
        outgoing: takes what is asked and not answered; None when nothing is being written.
        answers: content of the bundle that came from the site; each answer is given once.
        largest_answer_bytes: a larger one is not read.

    Raises:
        BundleRefused: the content is not messages, here or when one of them is asked for.
    """

    def __init__(
        self,
        site: str,
        *,
        outgoing: SealedWriter | None = None,
        answers: BinaryIO | None = None,
        largest_answer_bytes: int = LARGEST_REPLY_BYTES,
    ) -> None:
        self._site, self._outgoing, self._content = site, outgoing, answers
        self._largest_answer_bytes = largest_answer_bytes
        self._answers: dict[tuple[str, str], int] = {}
        if answers is not None:
            # Where something was asked twice, the last answer counts.
            for position, answer in read_messages(answers):
                too_large = answer.size_bytes > largest_answer_bytes
                self._answers[answer.type, answer.asked] = TOO_LARGE if too_large else position
        self._replies: dict[str, Message] = {}
        self.unanswered = 0
        # Flower's Message() asks this process-wide object who is speaking.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, NODE_ID, 1

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the site, which is here as long as its bundle is."""
        return [NodeInfo(node_id=NODE_ID, name=self._site, status="online")]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Look up what the site answered; what it was not asked yet goes into the next bundle."""
        ids = []
        for message in messages:
            ids.append(message.object_id)
            message.metadata.__dict__["_message_id"] = ids[-1]
            self._replies[ids[-1]] = self._reply(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def is_arriving(self, message_id: str) -> bool:
        """Say that no reply is under way: it is on the disk, or not."""
        return False

    def _reply(self, message: Message) -> Message:
        kind, asked = message.metadata.message_type, message.content.object_id
        position = self._answers.pop((kind, asked), None)
        if position is None or self._content is None:
            self.unanswered += 1
            if self._outgoing is None:
                return _error(message, NOT_ASKED)
            _put(self._outgoing, kind, message.content)
            return _error(message, IN_BUNDLE.reason)
        if position == TOO_LARGE:
            return _error(message, "oversized_answer")
        answer, objects = read_message(self._content, position)
        if answer.error is not None:
            return _error(message, answer.error)
        try:
            if is_too_large(objects, self._largest_answer_bytes):
                return _error(message, "oversized_answer")
            content = inflate_object_from_contents(answer.objects[-1][0], objects)
        except (DecodeError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return _error(message, "malformed_answer")
        if not isinstance(content, RecordDict):
            return _error(message, "malformed_answer")
        return Message(content, reply_to=message)


def _put(outgoing: SealedWriter, kind: str, content: RecordDict) -> None:
    objects = {name: item.deflate() for name, item in get_all_nested_objects(content).items()}
    sizes = tuple((name, len(item)) for name, item in objects.items())
    outgoing.add(CarriedMessage(type=kind, asked=sizes[-1][0], objects=sizes), objects)


def _error(message: Message, reason: str) -> Message:
    return Message(Error(ERROR_CODE, reason), reply_to=message)
