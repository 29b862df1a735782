"""Both parties in one process: for demonstrations and fast tests, without a socket.

Every message goes through Flower's own serialisation, byte for byte, so that nothing crosses here
that could not cross a network. Flower's simulation engine is not used: it needs Ray and cannot give
each site its own configuration.
"""

import importlib
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from algorithms.contracts.errors import DataError
from coordinator.config import CoordinatorHome
from coordinator.server_app import app as server_app
from coordinator.study_workflow import Goal
from coordinator.transport import TickSummary, summarise

FIRST_NODE_ID = 1001
ClientAppCall = Callable[[Message, Context], Message]


class InProcessGrid(Grid):
    """A Flower grid whose nodes are function calls; one message at a time per site.

    Args:
        client_app: the sites' ClientApp.
        homes: home directory of each site by name.
    """

    def __init__(self, client_app: ClientAppCall, homes: Mapping[str, Path]) -> None:
        self._client_app = client_app
        self._nodes = dict(enumerate(homes, FIRST_NODE_ID))
        self._homes = dict(homes)
        self._run = Run.create_empty(uuid.uuid4().int >> 65)
        # One worker per site: like a SuperNode, a site answers one message after another.
        self._workers = {node: ThreadPoolExecutor(1) for node in self._nodes}
        self._replies: dict[str, Future[Message]] = {}
        # Flower's Message() asks this process-wide object who is speaking.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self._run.run_id, 1, 1

    def close(self) -> None:
        """Wait for the sites and stop their threads."""
        for worker in self._workers.values():
            worker.shutdown()

    def set_run(self, run: Run) -> None:
        """Set the run; part of Flower's interface."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run, part of Flower's interface."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message; part of Flower's interface."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all sites."""
        return list(self._nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all sites, which are always online."""
        return [NodeInfo(node_id=i, name=n, status="online") for i, n in self._nodes.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages to the sites and return their ids."""
        ids = []
        for message in messages:
            message_id = message.object_id
            message.metadata.__dict__["_message_id"] = message_id
            node = message.metadata.dst_node_id
            delivered = _through_the_wire(message)
            self._replies[message_id] = self._workers[node].submit(self._answer, delivered)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        here = [i for i in message_ids if i in self._replies and self._replies[i].done()]
        return [self._replies.pop(i).result() for i in here]

    def is_arriving(self, message_id: str) -> bool:
        """Say that no reply is under way: it is there, or not."""
        return False

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and wait for all replies; part of Flower's interface."""
        return [self._replies.pop(i).result(timeout) for i in self.push_messages(messages)]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = Context(
            run_id=self._run.run_id,
            node_id=node,
            node_config={"home": str(self._homes[self._nodes[node]])},
            state=RecordDict(),
            run_config={},
        )
        try:
            reply = self._client_app(message, context)
        except Exception as error:  # as a SuperNode does, but without the exception's text
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            reply = Message(Error(code, type(error).__name__), reply_to=message)
        return _through_the_wire(reply)


class EmbeddedTransport:
    """Ticks in this process.

    Args:
        home: the coordinator's home.
        sites: home directory of each site by name.
        site_app: where the sites' ClientApp is, as "module:object"; imported when the transport is
            entered, so that this party's code never names the other's.
    """

    def __init__(self, home: CoordinatorHome, sites: Mapping[str, Path], *, site_app: str) -> None:
        self._home, self._sites, self._site_app = home, sites, site_app

    def __enter__(self) -> Self:
        """Load the sites' app."""
        module, _, name = self._site_app.partition(":")
        try:
            client_app = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            raise DataError(
                f"{self._site_app}: no such app is installed: install fedgtv[site], or use the "
                "flower transport"
            ) from None
        self._grid = InProcessGrid(client_app, self._sites)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the sites' threads."""
        self._grid.close()

    def tick(self, goal: Goal = Goal.ONE_TICK, *, patience_s: float = 60.0) -> TickSummary:
        """Run the ServerApp here."""
        context = Context(
            run_id=self._grid.run.run_id,
            node_id=1,
            node_config={},
            state=RecordDict(),
            run_config={
                "coordinator-home": str(self._home.folder),
                "until": goal.value,
                "patience-s": patience_s,
            },
        )
        server_app(self._grid, context)
        return summarise(self._home)


def _through_the_wire(message: Message) -> Message:
    """Serialise a message as Flower does and read it back."""
    message_id = message.object_id
    objects = {key: item.deflate() for key, item in get_all_nested_objects(message).items()}
    copy = inflate_object_from_contents(message_id, objects)
    if not isinstance(copy, Message):
        raise TypeError("a message became something else on the wire")
    copy.metadata.__dict__["_message_id"] = message_id
    return copy
