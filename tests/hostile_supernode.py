"""A SuperNode that keeps to no rule: it speaks the Fleet API with a hospital's key, and lies."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message, RecordDict
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import Metadata as Asked
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from coordinator.loopback_deployment import LoopbackDeployment

SUPERLINK_ID = 1
ONLINE_S = 1800.0


class HostileSuperNode:
    """Connects with the node key in `folder`, and does what it is told.

    Args:
        deployment: whose SuperLink it is.
        folder: has `node.key`.
    """

    def __init__(self, deployment: LoopbackDeployment, folder: Path) -> None:
        key = load_ssh_private_key((folder / "node.key").read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._public_key = public_key_to_bytes(key.public_key())
        self.client = FleetHttpClient.from_server_address(
            f"127.0.0.1:{deployment.port}",
            insecure=False,
            root_certificates=str(deployment.ca_certificate),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )
        self.node = Node()

    def activate(self) -> int:
        """Become online for half an hour, and return the node's id."""
        request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=ONLINE_S)
        self.node = Node(node_id=self.client.ActivateNode(request).node_id)
        return self.node.node_id

    def asked(self) -> list[Asked]:
        """Return what the coordinator asks now."""
        messages = self.client.PullMessages(PullMessagesRequest(node=self.node)).messages_list
        return [message.metadata for message in messages]

    def reply(self, asked: Asked, content: RecordDict, **lies: Any) -> Message:
        """Make a reply; `lies` stand in its envelope in place of the truth."""
        now = time.time()
        truth: dict[str, Any] = {
            "run_id": asked.run_id,
            "message_id": "",
            "src_node_id": self.node.node_id,
            "dst_node_id": SUPERLINK_ID,
            "reply_to_message_id": asked.message_id,
            "group_id": "",
            "created_at": now,
            "ttl": asked.created_at + asked.ttl - now,
            "message_type": asked.message_type,
        }
        message = make_message(metadata=Metadata(**(truth | lies)), content=content)
        message.metadata.__dict__["_message_id"] = message.object_id
        return message

    def send(self, message: Message) -> list[bool]:
        """Send a message as a SuperNode does; return of each object whether it was stored."""
        objects = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
        begun = self.begin(message, get_object_tree(message))
        return self.push(message, begun.session_id, (objects[n] for n in begun.objects_to_push))

    def send_objects(self, message: Message, chain: Iterable[bytes]) -> list[bool]:
        """Send a message with objects of one's own for content, each in the next."""
        contents = list(chain)
        body = message.deflate().partition(b"\x00")[2]
        contents.append(wire_object("Message", body, [object_id(contents[-1])]))
        tree: ObjectTree | None = None
        for content in contents:
            tree = ObjectTree(object_id=object_id(content), children=[tree] if tree else [])
        assert tree is not None
        return self.push(message, self.begin(message, tree).session_id, contents)

    def begin(self, message: Message, tree: ObjectTree) -> PushMessagesResponse:
        """Send the envelope of a message and the ids of what shall follow."""
        envelope = message_to_proto(remove_content_from_message(message))
        envelope.metadata.message_id = tree.object_id
        return self.client.PushMessages(
            PushMessagesRequest(
                node=self.node, messages_list=[envelope], message_object_trees=[tree]
            )
        )

    def push(self, message: Message, session_id: str, contents: Iterable[bytes]) -> list[bool]:
        """Send objects; return of each whether it was stored."""
        return [
            self.client.PushObject(
                PushObjectRequest(
                    node=self.node,
                    run_id=message.metadata.run_id,
                    session_id=session_id,
                    object_id=object_id(content),
                    object_content=content,
                )
            ).stored
            for content in contents
        ]


def object_id(content: bytes) -> str:
    """Name an object as Flower does."""
    return hashlib.sha256(content).hexdigest()


def wire_object(kind: str, body: bytes, children: Iterable[str] = ()) -> bytes:
    """Write an object as Flower does, whatever is in it."""
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\x00" + body


def random_chunk(size_bytes: int) -> bytes:
    """Write a piece of an array; no two are the same."""
    return wire_object("ArrayChunk", os.urandom(size_bytes))


class Answering:
    """Answers whatever a node is asked, beside the test, for as long as it is entered."""

    def __init__(self, node: HostileSuperNode, answer: Callable[[Asked], None]) -> None:
        self._node, self._answer = node, answer
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.failures: list[Exception] = []

    def __enter__(self) -> "Answering":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.1):
            for asked in self._node.asked():
                try:
                    self._answer(asked)
                except Exception as failure:  # the test looks at them
                    self.failures.append(failure)
