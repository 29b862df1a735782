"""A SuperNode's own Runtime API on a free port, with a coordinator that is the test."""

import itertools
import threading
from types import TracebackType
from typing import Any, Self

import uvicorn
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from algorithms.contracts.canonical_json import sha256_hex

NODE_ID, COORDINATOR_ID = 7, 1


class SimulatedSuperNode:
    """What `flower-supernode --isolation process` serves while it is entered.

    Args:
        secret: what executors must know to take a task.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        store_factory = ObjectStoreFactory()
        factory = NodeStateFactory(objectstore_factory=store_factory)
        self.state, self._store = factory.state(), store_factory.store()
        self.state.set_node_id(NODE_ID)
        self._runs = itertools.count(100)
        app = create_app(state_factory=factory, superexec_auth_secret=secret)
        self._server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error")
        )
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)
            assert self._thread.is_alive()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join()

    @property
    def address(self) -> str:
        port: int = self._server.servers[0].sockets[0].getsockname()[1]
        return f"127.0.0.1:{port}"

    def deliver(
        self,
        content: RecordDict,
        message_type: str,
        *,
        bundle: bytes,
        node_id: int = NODE_ID,
        without_message: bool = False,
        task_type: str = TaskType.CLIENT_APP,
    ) -> int:
        """Do what a SuperNode does with a message from the SuperLink; return the number of its run.

        `without_message` sends the mere content where a message belongs.
        """
        run_id = next(self._runs)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, COORDINATOR_ID, 1
        message = Message(content, node_id, message_type)
        sent = content if without_message else message
        message.metadata.__dict__["_message_id"] = sent.object_id
        run = Run.create_empty(run_id)
        run.fab_hash, run.series_id = sha256_hex(bundle), run_id
        self.state.store_run(run)
        self.state.store_fab(Fab(run.fab_hash, bundle, {}))
        context = Context(run_id, NODE_ID, {"home": "/nowhere"}, RecordDict(), {}, run_id)
        self.state.set_run_series_context(run_id, context)
        assert self.state.create_task(task_type, run_id, fab_hash=run.fab_hash) is not None
        self._store.preregister(run_id, get_object_tree(sent))
        for part_id, part in get_all_nested_objects(sent).items():
            self._store.put(part_id, part.deflate())
        message.__dict__["_content"] = RecordDict()
        self.state.store_message(message)
        return run_id

    def reply(self, run_id: int) -> Message | None:
        """Return what goes back to the coordinator in answer to a run's message."""
        replies = self.state.get_messages_legacy(run_ids=[run_id], is_reply=True)
        if not replies:
            return None
        message_id = replies[0].metadata.message_id
        tree = self._store.get_object_tree(message_id)
        parts = {part_id: self._store.get(part_id) for part_id in _ids(tree)}
        message = inflate_object_from_contents(message_id, parts)  # type: ignore[arg-type]
        assert isinstance(message, Message)
        return message

    def held_parts(self) -> int:
        """Return how many parts of messages are still kept."""
        return len(self._store)

    def finished(self, run_id: int) -> bool:
        """Say whether the run's task ended well."""
        tasks = [task for task in self.state.get_tasks() if task.run_id == run_id]
        return [task.status.sub_status for task in tasks] == [SubStatus.COMPLETED]


def _ids(tree: Any) -> list[str]:
    return [tree.object_id, *(part for child in tree.children for part in _ids(child))]
